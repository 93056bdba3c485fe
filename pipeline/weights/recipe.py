"""How a network is trained: the settings that its weights carry, so that they are read without ``training``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from pipeline.config import check_range

Schedule = Literal["cosine", "onecycle", "constant"]
Precision = Literal["auto", "fp32", "fp16", "bf16"]
Device = Literal["auto", "cpu", "cuda", "mps"]


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
        keep_best: write the weights of the best evaluation too; what is measured and packed are those of the last.
        checkpoint_minutes: between resume states inside an epoch.
        device: ``auto`` takes a GPU if one works.
        threads: of PyTorch on the CPU; 0 leaves its choice.
        channels_last: memory format of the network; 1.1 to 1.6 times faster on a CPU.
        compile: let torch.compile make one program of the network that is trained, which takes a minute at the start.
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
    keep_best: bool = True
    checkpoint_minutes: float = 2.0
    device: Device = "auto"
    threads: int = 0
    channels_last: bool = True
    compile: bool = False
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
class AugmentSettings:
    """Changes of whole stacks (``training.augment``): strengths, 0 turns one off, and the share of stacks that get it.

    Attributes:
        rotation: largest angle in the plane, degrees.
        scale: largest change of size, as log factor (0.15: 0.86 to 1.16 times).
        aspect: largest change of the ratio of the axes, as log factor.
        shear: largest shear.
        shift: largest shift, as share of the side.
        outside: what is beyond the edge.
        anisotropy, anisotropy_share: largest factor by which one axis is coarser.
        blur, blur_share: largest sigma, px.
        ghosting, ghosting_share: largest strength of a displaced copy.
        bias, bias_share: standard deviation of the log of a smooth field.
        gamma, gamma_share: largest log exponent.
        inversion_share: of stacks whose tissue contrast is inverted; air stays dark.
        contrast, contrast_share: largest change of gain; half of it of offset.
        noise, noise_share: largest standard deviation of Gaussian noise.
    """

    rotation: float = 10.0
    scale: float = 0.15
    aspect: float = 0.05
    shear: float = 0.05
    shift: float = 0.05
    outside: Literal["zeros", "border", "reflection"] = "zeros"
    anisotropy: float = 2.5
    anisotropy_share: float = 0.15
    blur: float = 1.0
    blur_share: float = 0.15
    ghosting: float = 0.2
    ghosting_share: float = 0.1
    bias: float = 0.3
    bias_share: float = 0.5
    gamma: float = 0.3
    gamma_share: float = 0.5
    inversion_share: float = 0.0
    contrast: float = 0.2
    contrast_share: float = 0.5
    noise: float = 0.05
    noise_share: float = 0.3

    def __post_init__(self) -> None:
        if self.outside not in ("zeros", "border", "reflection"):
            raise ValueError(f"AugmentSettings: outside is {self.outside!r}, expected zeros, border or reflection")
        names = [name for name in vars(self) if name != "outside"]
        check_range(self, *names, least=0)
        check_range(self, *(name for name in names if name.endswith("_share")), most=1)


NO_CHANGE = AugmentSettings(
    rotation=0, scale=0, aspect=0, shear=0, shift=0, anisotropy_share=0, blur_share=0, ghosting_share=0,
    bias_share=0, gamma_share=0, contrast_share=0, noise_share=0,
)  # fmt: skip
"""Settings that leave a stack as it is; a base for ``dataclasses.replace``."""


@dataclass(frozen=True)
class InPlaneSettings:
    """Changes of a stack's plane by albumentations (``training.in_plane``): strengths, 0 turns one off.

    Attributes:
        rotation: largest angle, degrees.
        scale: largest relative change of size.
        shift: largest shift, as share of the side.
        shear: largest shear, degrees.
        affine_share: of stacks that are moved.
        holes, hole_size, holes_share: most blanked rectangles, and their largest side as share of the image's.
        blur, blur_share: largest sigma of a Gaussian, px.
        gain, gain_share: largest relative change of contrast; half of it of brightness.
    """

    rotation: float = 15.0
    scale: float = 0.15
    shift: float = 0.05
    shear: float = 5.0
    affine_share: float = 0.8
    holes: int = 4
    hole_size: float = 0.15
    holes_share: float = 0.3
    blur: float = 1.0
    blur_share: float = 0.1
    gain: float = 0.2
    gain_share: float = 0.5

    def __post_init__(self) -> None:
        names = list(vars(self))
        check_range(self, *names, least=0)
        check_range(self, "hole_size", *(name for name in names if name.endswith("_share")), most=1)
        check_range(self, "scale", below=1)
