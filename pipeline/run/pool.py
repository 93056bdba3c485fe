"""Where studies are graded: in worker processes, or, for one worker and no end in sight, in this one.

A pool holds at most one study a worker. What waits, waits in the main process, so nothing that was started has to be
taken back when the time is over, and the seconds of every study are its own.
"""

from __future__ import annotations

import contextlib
import functools
import time
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, NamedTuple, Protocol

from pipeline.parallel import open_executor
from pipeline.run.result import StudyResult
from pipeline.run.study import grade_study
from pipeline.run.task import StudyTask, Workbench

if TYPE_CHECKING:
    from joblib.externals.loky.process_executor import ProcessPoolExecutor


class Finished(NamedTuple):
    """A study that came back from its worker, and the wall-clock seconds it was there."""

    task: StudyTask
    result: StudyResult
    seconds: float


class Pool(Protocol):
    """Grades studies; the run asks for nothing else."""

    @property
    def free(self) -> int:
        """How many more studies can be started."""

    @property
    def busy(self) -> int:
        """How many are under way."""

    def start(self, task: StudyTask) -> None:
        """Begin a study."""

    def finished(self, seconds: float) -> list[Finished]:
        """What is done, as soon as something is; nothing after so many seconds.

        Raises:
            BrokenProcessPool: a worker died, and with it all that was under way.
        """

    def halve(self) -> int:
        """Use half as many workers from now on; returns how many."""

    def kill(self) -> None:
        """End the workers now, whatever they do."""


class WorkerPool:
    """Worker processes. They stay from round to round, with their networks loaded, and come anew after a death."""

    def __init__(self, bench: Workbench, workers: int) -> None:
        self.workers = workers
        self._threads, self._begin = bench.threads, functools.partial(_begin, bench)
        self._running: dict[Future[StudyResult], tuple[StudyTask, float]] = {}
        self._executor: ProcessPoolExecutor | None = None

    @property
    def free(self) -> int:
        return self.workers - len(self._running)

    @property
    def busy(self) -> int:
        return len(self._running)

    def start(self, task: StudyTask) -> None:
        self._executor = open_executor(self.workers, self._threads, self._begin)
        future = self._executor.submit(_grade, task)
        self._running[future] = task, time.monotonic()

    def finished(self, seconds: float) -> list[Finished]:
        done, _ = wait(self._running, None if seconds == float("inf") else max(seconds, 0.0), FIRST_COMPLETED)
        now = time.monotonic()
        found = []
        try:
            for future in done:
                task, began = self._running[future]
                found.append(Finished(task, future.result(), now - began))
                del self._running[future]
        except BrokenProcessPool:
            self._running.clear()
            raise
        return found

    def halve(self) -> int:
        self.workers = max(self.workers // 2, 1)
        return self.workers

    def kill(self) -> None:
        # Of this very executor: asking loky for one again could first wait for what is under way.
        if self._executor is not None:
            with contextlib.suppress(Exception):
                self._executor.shutdown(wait=False, kill_workers=True)
        self._executor = None
        self._running.clear()


class SameProcess:
    """No workers: a study is graded where it is started. Nothing can end it from outside."""

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench
        self._found: list[Finished] = []

    @property
    def free(self) -> int:
        return 1 - len(self._found)

    @property
    def busy(self) -> int:
        return len(self._found)

    def start(self, task: StudyTask) -> None:
        began = time.monotonic()
        result = grade_study(task, self._bench)
        self._found.append(Finished(task, result, time.monotonic() - began))

    def finished(self, seconds: float) -> list[Finished]:  # noqa: ARG002  # there is nothing to wait for
        found, self._found = self._found, []
        return found

    def halve(self) -> int:
        return 1

    def kill(self) -> None:
        self._found.clear()


_bench: Workbench | None = None
"""Of this worker process: with the networks that it has loaded, so a study brings only its task."""


def _begin(bench: Workbench) -> None:
    global _bench  # a process is given what it works with once, and this is where it can be kept
    _bench = bench


def _grade(task: StudyTask) -> StudyResult:
    assert _bench is not None, "open_executor calls _begin first"
    return grade_study(task, _bench)
