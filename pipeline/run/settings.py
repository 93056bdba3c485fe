"""What ``--set`` may change of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from pipeline.config import check_range
from pipeline.labels import FOLDS
from pipeline.weights.runtime import Runtime, check_runtime

Device = Literal["auto", "cpu", "cuda", "mps"]
DEVICES: tuple[str, ...] = get_args(Device)


@dataclass(frozen=True)
class RunSettings:
    """How a run uses the machine.

    Attributes:
        study_seconds: after which a study falls back.
        workers: processes; 0 means one a core. They take the GPUs in turn, so with four cores and two GPUs one reads
            while the other computes.
        folds: number of folds where neither weights nor a file define them.
        keep_gib: cubes are kept for later rounds while the disk has this much space left.
        device: auto, cpu, cuda or mps.
        runtime: of networks on a CPU: torch, openvino, or auto: OpenVINO where it is installed and saves time (see
            :func:`pipeline.weights.runtime.choose_runtime`).
    """

    study_seconds: float = 600.0
    workers: int = 0
    folds: int = FOLDS
    keep_gib: float = 4.0
    device: Device = "auto"
    runtime: Runtime = "auto"

    def __post_init__(self) -> None:
        check_range(self, "study_seconds", above=0)
        check_range(self, "workers", "keep_gib", least=0)
        check_range(self, "folds", least=2)
        check_runtime(self.runtime)
