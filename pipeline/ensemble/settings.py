"""How a run goes: its limits in seconds and its end."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.config import check_range

RESERVE_SECONDS = 5.0
"""Kept back at the end of a time budget for the last writing of the files and for ending the workers."""
RESERVE_STARTS = 2.0
"""Where the start of the program took long, so will its end: this many times as long is kept back."""
WORKER_SECONDS = 2.0
"""By this much the workers end before the run does, so that what they have reached still arrives."""


@dataclass(frozen=True)
class EnsembleSettings:
    """Section ``ensemble`` of a preset.

    Attributes:
        study_seconds: after which a study falls back.
        workers: processes; 0 means one a core. They take the GPUs in turn, so with four cores and two GPUs one reads
            while the other computes.
        folds: number of folds where neither weights nor a file define them.
        keep_gib: cubes are kept for later rounds while the disk has this much space left.
    """

    study_seconds: float = 600.0
    workers: int = 0
    folds: int = 5
    keep_gib: float = 4.0

    def __post_init__(self) -> None:
        check_range(self, "study_seconds", above=0)
        check_range(self, "workers", "keep_gib", least=0)
        check_range(self, "folds", least=2)


@dataclass(frozen=True)
class Schedule:
    """When the run has to be over.

    Attributes:
        started: :func:`time.monotonic` when the program began; the time of day may be set while it runs.
        minutes: the budget, None for no end.
        start_seconds: what the program took until the first table was on the disk; on a loaded machine or a slow
            disk that is many times the usual second.
    """

    started: float
    minutes: float | None
    start_seconds: float = 0.0

    def deadline(self, slowness: float = 1.0) -> float | None:
        """When no more work may be going on, in seconds of :func:`time.monotonic`.

        Args:
            slowness: how many times as long as on an idle machine things take; the time kept back for the end grows
                with it.
        """
        if self.minutes is None:
            return None
        seconds = self.minutes * 60
        reserve = max(RESERVE_SECONDS * slowness, RESERVE_SECONDS, RESERVE_STARTS * self.start_seconds) + 0.02 * seconds
        return self.started + max(seconds - reserve, 0.5 * seconds)

    def workers_deadline(self, slowness: float = 1.0) -> float | None:
        """When a worker has to come to an end with what it has."""
        deadline = self.deadline(slowness)
        if deadline is None:
            return None
        return deadline - min(WORKER_SECONDS * max(slowness, 1.0), 0.1 * (deadline - self.started))
