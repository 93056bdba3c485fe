"""Where studies are graded: in worker processes, on a cluster, or, for one worker and no end in sight, in this process.

A pool holds at most one study a worker. What waits, waits in the main process, so nothing that was started has to be
taken back when the time is over, and the seconds of every study are its own.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from pipeline.competition import StudyRef
from pipeline.parallel import open_executor
from pipeline.run.result import Reason, StudyResult, fall_back
from pipeline.run.study import grade_away, grade_study, keep
from pipeline.run.task import StudyNetworks, StudyTask, Workbench
from pipeline.run.work import count_files
from pipeline.versions import program
from pipeline.weights.manifest import WeightsError

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


class ClusterPool:
    """The workers of a Dask cluster, see :mod:`pipeline.cluster`. Results are kept here, in the run's own work folder.

    Args:
        bench: as for other pools; what is kept between rounds lies on the workers' own disks.
        address: of the scheduler.
        sample: a study that each worker must find.

    Raises:
        WorkError: as :class:`pipeline.cluster.Cluster`.
    """

    def __init__(self, bench: Workbench, address: str, sample: StudyRef | None) -> None:
        from pipeline.cluster import Cluster

        self._work = bench.work
        facts = functools.partial(worker_facts, bench.networks, sample)
        self._cluster = Cluster(address, facts, functools.partial(_begin_away, bench))

    @property
    def free(self) -> int:
        return self._cluster.slots - self._cluster.busy

    @property
    def busy(self) -> int:
        return self._cluster.busy

    def start(self, task: StudyTask) -> None:
        # Clocks of other machines say something else, so the worker is told what is left.
        left = None if task.deadline is None else task.deadline - time.monotonic()
        self._cluster.submit(task, _grade_away, replace(task, deadline=None), left, self._work.kept(task.study))

    def finished(self, seconds: float) -> list[Finished]:
        found = []
        for task, answer, took, lost in self._cluster.finished(max(seconds, 0.0)):
            if lost:
                kept = self._work.kept(task.study)
                previous, mark = kept or (None, self._work.fingerprint(task.study))
                answer = fall_back(previous, task.study.study_id, Reason.WORKER_DIED, lost), mark
            result = keep(self._work, task.study, *answer)
            found.append(Finished(task, result, took))
        return found

    def halve(self) -> int:
        return self._cluster.slots

    def kill(self) -> None:
        self._cluster.close()


def worker_facts(networks: StudyNetworks | None, sample: StudyRef | None) -> dict[str, str]:
    """What has to be the same on every machine, for the numbers to be: code, packages, weights, and the data."""
    facts = program()
    if networks is not None:
        manifest = networks.manifest
        for name in manifest.files:
            facts[name] = _reading(functools.partial(manifest.file, name))
        for member in networks.members:
            facts[member.file] = _reading(functools.partial(member.read, manifest.folder))
    if sample is not None:
        facts[f"study {sample.study_id}"] = f"{count_files(sample)} files"
    return facts


def _reading(read: Callable[[], object]) -> str:
    try:
        read()
    except WeightsError as error:
        return str(error)
    return "as recorded"


_bench: Workbench | None = None
"""Of this worker process: with the networks that it has loaded, so a study brings only its task."""


def _begin(bench: Workbench) -> None:
    global _bench  # a process is given what it works with once, and this is where it can be kept
    _bench = bench


def _grade(task: StudyTask) -> StudyResult:
    assert _bench is not None, "open_executor calls _begin first"
    return grade_study(task, _bench)


def _begin_away(bench: Workbench, folder: Path) -> None:
    """In a process of a cluster's worker: no process id of the main machine counts, nor its work folder."""
    _begin(replace(bench, work=replace(bench.work, folder=folder), threads=1, main_process=-1))


def _grade_away(
    task: StudyTask, seconds_left: float | None, kept: tuple[StudyResult, str] | None
) -> tuple[StudyResult, str]:
    assert _bench is not None, "the process was begun with _begin_away"
    deadline = None if seconds_left is None else time.monotonic() + seconds_left
    return grade_away(replace(task, deadline=deadline), _bench, kept)
