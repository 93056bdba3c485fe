"""How fast a run is, by its own measure, and what still fits into its time.

The manifest knows what each network costs on one idle CPU thread. A machine that is loaded, or slower, or has a GPU
takes another multiple of that, and the run learns it from every study that comes back. From this multiple follow
whether the next study can be finished in time, and how much time has to be kept back for the end, since a machine on
which studies take ten times as long takes ten times as long to write the last tables, too.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from pipeline.run.task import StudyTask

LEAST_MEASURED = 3
"""Studies from which on the measured multiple counts."""
WINDOW = 9
"""The multiple is the median over so many studies: a machine may become loaded, or free, while the run goes on."""
HEADROOM = 1.25
"""A study is started if this many times its expected seconds are left."""
RESERVE_SECONDS = 5.0
"""Kept back at the end of a time budget for the last writing of the files and for ending the workers."""
RESERVE_STARTS = 2.0
"""Where the start of the program took long, so will its end: this many times as long is kept back."""
WORKER_SECONDS = 2.0
"""By this much the workers end before the run does, so that what they have reached still arrives."""


class Pace:
    """The clock of one run.

    Args:
        schedule: what was asked for.
        workers: how many work at a time; the first study of each also loads the networks and is not measured.
        clock: seconds of the schedule; a test gives its own.
    """

    def __init__(self, schedule: Schedule, workers: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.schedule, self.workers, self.clock = schedule, workers, clock
        self._loading = workers
        self._multiples: deque[float] = deque(maxlen=WINDOW)

    @property
    def slowness(self) -> float:
        """Wall-clock seconds per second of :attr:`StudyTask.expected`; 1 before enough was measured."""
        return statistics.median(self._multiples) if self.measured else 1.0

    @property
    def measured(self) -> bool:
        """Whether enough studies came back to say what one takes."""
        return len(self._multiples) >= LEAST_MEASURED

    @property
    def seconds_left(self) -> float:
        """Until the run has to be over; infinite without a budget."""
        deadline = self.schedule.deadline(self.slowness)
        return float("inf") if deadline is None else deadline - self.clock()

    def note(self, task: StudyTask, seconds: float) -> None:
        """Learn from a study that took so long."""
        if self._loading:
            self._loading -= 1
        else:
            self._multiples.append(seconds / task.expected)

    def with_deadline(self, task: StudyTask) -> StudyTask | None:
        """The task with its deadline and the machine's slowness, or None if not even its first network would be done.

        Until enough is measured, everything is started that there is time for at all: there is nothing to lose by it.
        """
        deadline = self.schedule.workers_deadline(self.slowness)
        if deadline is None:
            return task
        left = deadline - self.clock()
        needed = HEADROOM * self.slowness * task.expected_first if self.measured else 0.0
        if left <= needed:
            return None
        return replace(task, deadline=deadline, slowness=HEADROOM * self.slowness if self.measured else 0.0)

    def seconds_to_go(self, expected: float) -> float:
        """Until the run will be over: so many seconds of :attr:`StudyTask.expected` are done, or the time is up."""
        seconds = self.slowness * expected / self.workers
        return min(seconds, max(self.seconds_left, 0.0))


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


class StageClock:
    """Adds up the seconds of each stage of a study; ``seconds`` are those of earlier rounds."""

    def __init__(self, seconds: dict[str, float] | None = None) -> None:
        self.seconds = seconds or {}
        self._last = time.monotonic()

    def lap(self, stage: str) -> None:
        """Count the time since the last lap as the stage's."""
        now = time.monotonic()
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + now - self._last, 4)
        self._last = now
