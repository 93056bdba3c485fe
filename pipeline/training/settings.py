"""The settings of the shared training loop."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from pipeline.training.schedule import Schedule

Precision = Literal["auto", "fp32", "fp16", "bf16"]


@dataclass(frozen=True)
class LoopSettings:
    """How a network is trained; the defaults suit a small network on a CPU.

    Attributes:
        epochs: passes over the training set.
        batch_size: items a micro-batch over all processes, so a recipe means the same on one GPU and on four.
        accumulate: micro-batches an optimiser step; a step sees batch_size * accumulate items.
        batches_per_epoch: optimiser steps an epoch; None for as many as draw about every item once.
        learning_rate: peak rate of AdamW.
        weight_decay: of parameters with two or more axes.
        schedule: of the learning rate over the whole run.
        warmup: share of the run in which the rate rises (``cosine`` and ``constant``).
        precision: ``auto`` is fp32 on a CPU, bf16 on a GPU that computes it, else fp16.
        ema_decay: of the averaged weights that are evaluated and saved; 0 for none.
        gradient_clip: largest norm of the gradient; 0 for none.
        patience: stop after this many evaluations without a better score; 0 for never.
        evaluate_every: epochs between evaluations; the last epoch is always evaluated.
        loader_workers: loading processes; 0 loads in the training process.
        checkpoint_minutes: between resume states inside an epoch.
        device: ``auto`` takes a GPU if one works.
        threads: of PyTorch on the CPU; 0 leaves its choice.
        channels_last: memory format of the network; 1.1 to 1.6 times faster on a CPU.
        seed: of order, augmentation and dropout.
    """

    epochs: int = 5
    batch_size: int = 32
    accumulate: int = 1
    batches_per_epoch: int | None = None
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    schedule: Schedule = "cosine"
    warmup: float = 0.05
    precision: Precision = "auto"
    ema_decay: float = 0.99
    gradient_clip: float = 1.0
    patience: int = 0
    evaluate_every: int = 1
    loader_workers: int = 0
    checkpoint_minutes: float = 2.0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 0
    channels_last: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("accumulate", 1), ("evaluate_every", 1)):
            _check(getattr(self, name) >= least, name, getattr(self, name), f">= {least}")
        for name in ("weight_decay", "gradient_clip", "patience", "loader_workers", "checkpoint_minutes", "threads"):
            _check(getattr(self, name) >= 0, name, getattr(self, name), ">= 0")
        _check(self.batches_per_epoch is None or self.batches_per_epoch >= 1, "batches_per_epoch", None, ">= 1")
        _check(self.learning_rate > 0, "learning_rate", self.learning_rate, "> 0")
        _check(0 <= self.warmup < 1, "warmup", self.warmup, "in [0, 1)")
        _check(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "in [0, 1)")
        for name, kind in (("schedule", Schedule), ("precision", Precision)):
            _check(getattr(self, name) in get_args(kind), name, getattr(self, name), f"one of {get_args(kind)}")
        _check(self.device in ("auto", "cpu", "cuda"), "device", self.device, "auto, cpu or cuda")


@dataclass(frozen=True)
class FitResult:
    """What a run reached: the best score and its epoch (from 1), one row an epoch, and the best weights' file.

    The score is infinite if nothing was held out.
    """

    best_score: float
    epoch: int
    history: tuple[dict[str, float], ...]
    weights: Path


def _check(good: bool, name: str, value: object, expected: str) -> None:
    if not good:
        raise ValueError(f"training setting {name}: found {value!r}, expected {expected}")
