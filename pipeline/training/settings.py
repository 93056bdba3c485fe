"""The settings of the shared training loop."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from pipeline.config import check_range
from pipeline.training.schedule import Schedule

Precision = Literal["auto", "fp32", "fp16", "bf16"]
Device = Literal["auto", "cpu", "cuda"]


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
    device: Device = "auto"
    threads: int = 0
    channels_last: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_range(self, "epochs", "batch_size", "accumulate", "evaluate_every", "batches_per_epoch", least=1)
        check_range(self, "weight_decay", "gradient_clip", "patience", "loader_workers", "threads", least=0)
        check_range(self, "checkpoint_minutes", least=0)
        check_range(self, "learning_rate", above=0)
        check_range(self, "warmup", "ema_decay", least=0, below=1)
        for name, kind in (("schedule", Schedule), ("precision", Precision), ("device", Device)):
            if getattr(self, name) not in get_args(kind):
                known = ", ".join(get_args(kind))
                raise ValueError(f"LoopSettings: {name} is {getattr(self, name)!r}, expected one of {known}")


@dataclass(frozen=True)
class FitResult:
    """What a run reached: the best score and its epoch (from 1), one row an epoch, and the last weights' file.

    The score is infinite if nothing was held out.
    """

    best_score: float
    epoch: int
    history: tuple[dict[str, float], ...]
    weights: Path
