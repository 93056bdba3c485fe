"""The run over all studies: rounds of workers, a file that is valid at any moment, an end that always comes.

Round after round: the first helps every study with the best networks per second, later ones add further networks on
cubes kept from the first. A worker that dies (a decoder crash, the kernel's memory killer) takes its pool with it;
what it had not finished is run again alone, and a study that kills its worker then falls back. The deadline, SIGTERM
and Ctrl-C end the run early and cleanly; what is still going on at the deadline is killed.
"""

from __future__ import annotations

import contextlib
import itertools
import signal
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from tqdm import tqdm

from pipeline.competition import StudyRef
from pipeline.console import complain, end_signals
from pipeline.parallel import ClusterLostError, how_lost, why_no_workers
from pipeline.run.pace import Pace, Schedule
from pipeline.run.pool import ClusterPool, Pool, SameProcess, WorkerPool
from pipeline.run.result import Reason, StudyResult, fall_back
from pipeline.run.task import StudyTask, Workbench
from pipeline.run.work import WorkFolder


class Stop(BaseException):
    """The run has to end now. Not an ``Exception``, so that no handler of a study's faults takes it for one."""

    def __init__(self, reason: Reason, number: int | None = None) -> None:
        super().__init__(str(reason))
        self.reason = reason
        self.signal = number


@dataclass
class Run:
    """One run: give it rounds of tasks, it hands every result to ``take`` and remembers how it ended.

    ``unsaved`` are the results that could not be kept in the work folder.
    """

    work: WorkFolder
    pace: Pace
    pool: Pool
    take: Callable[[StudyResult], None]
    quiet: bool = False
    ended_by: Stop | None = None
    unsaved: dict[str, StudyResult] = field(default_factory=dict)
    _left: Counter[str] = field(default_factory=Counter)
    _networks: int = 0
    _expected: float = 0.0

    @classmethod
    def open(
        cls,
        bench: Workbench,
        schedule: Schedule,
        workers: int,
        take: Callable[[StudyResult], None],
        quiet: bool = False,
        cluster: str | None = None,
        sample: StudyRef | None = None,
    ) -> Run:
        """A run on so many workers. One alone needs no process, unless the end of the time may have to end it.

        Where the system has none, it does without: what hangs in compiled code is then not ended. With the address of
        a ``cluster`` it runs on all of that's workers, which must find the study ``sample``.

        Raises:
            WorkError: the cluster cannot be used.
        """
        if cluster is not None:
            pool = ClusterPool(bench, cluster, sample)
            return cls(bench.work, Pace(schedule, pool.free), pool, take, quiet)
        alone = workers == 1 and (schedule.minutes is None or why_no_workers() is not None)
        here = SameProcess(bench) if alone else WorkerPool(bench, workers)
        return cls(bench.work, Pace(schedule, workers), here, take, quiet)

    def rounds(self, rounds: Sequence[Collection[StudyTask]]) -> None:
        """Run every round, or as many as the time allows; returns when all is done or the end was called."""
        self._left = Counter(name for tasks in rounds for task in tasks for name in task.names)
        self._networks = len(self._left)
        self._expected = sum(task.expected for tasks in rounds for task in tasks)
        try:
            with _signals():
                for number, tasks in enumerate(rounds):
                    self._round(tasks, f"round {number + 1}/{len(rounds)}" if len(rounds) > 1 else "studies")
        except Stop as stop:
            self.ended_by = stop
        except ClusterLostError as error:
            complain(str(error))
            self.ended_by = Stop(Reason.CLUSTER_LOST)
        finally:
            self.pool.kill()

    def _round(self, tasks: Collection[StudyTask], title: str) -> None:
        pending: dict[str, StudyTask] = {}  # begun, and not at their end

        def begin() -> Iterator[StudyTask]:
            for task in tasks:
                pending[task.study.study_id] = task
                yield task

        waiting, complete = begin(), False
        with tqdm(total=len(tasks), desc=title, unit="study", disable=self.quiet, mininterval=1.0) as bar:
            while not complete:
                try:
                    for result in self._results(itertools.chain(list(pending.values()), waiting)):
                        self._take(result, bar, pending.pop(result.study_id))
                    complete = True
                except BrokenProcessPool:
                    self._after_a_death(pending, bar)

    def _after_a_death(self, pending: dict[str, StudyTask], bar: tqdm[Any]) -> None:
        """Keep what was finished, and run the studies that were under way alone, one after the other."""
        work = self.work
        for study_id, task in list(pending.items()):
            result = work.load(task.study)
            if result is not None and set(task.names) <= set(result.done) and not work.was_started(task.study):
                self._take(result, bar, pending.pop(study_id))
        suspects = [task for task in pending.values() if work.was_started(task.study)]
        crowded = len(suspects) > 1
        if not suspects:  # it died between two studies, so no study can be blamed; the next may be
            suspects = list(pending.values())[:1]
        for task in suspects:
            try:
                results = list(self._results(iter([task])))
            except BrokenProcessPool as error:
                crowded = False
                detail = f"the process that read or graded the study alone {how_lost(error)}"
                results = [fall_back(work.load(task.study), task.study.study_id, Reason.WORKER_DIED, detail)]
                with contextlib.suppress(OSError):
                    work.save(task.study, results[0], work.fingerprint(task.study))
                work.mark_ended(task.study)
            for result in results:
                self._take(result, bar, pending.pop(result.study_id))
        if crowded:  # each can be graded alone, so together they need more memory than there is
            self.pace.workers = self.pool.halve()

    def _results(self, tasks: Iterator[StudyTask]) -> Iterator[StudyResult]:
        """Results as they come.

        Raises:
            Stop: the time is over, or too short for any of what is left.
            BrokenProcessPool: a worker died.
        """
        pool, following = self.pool, next(tasks, None)
        while following is not None or pool.busy:
            while following is not None and pool.free:
                task = self.pace.with_deadline(following)
                if task is None:
                    break
                pool.start(task)
                following = next(tasks, None)
            finished = pool.finished(self.pace.seconds_left) if pool.busy else []
            if not finished:
                raise Stop(Reason.TIME_OVER)
            for task, result, seconds in finished:
                self.pace.note(task, seconds)
                yield result

    def _take(self, result: StudyResult, bar: tqdm[Any], task: StudyTask) -> None:
        if any(problem.what == "result-not-kept" for problem in result.problems):
            self.unsaved[result.study_id] = result
        self._left.subtract(task.names)
        self._expected -= task.expected
        self.take(result)
        if not bar.disable:
            bar.set_postfix_str(self._progress(), refresh=False)
        bar.update()

    def _progress(self) -> str:
        done = sum(count <= 0 for count in self._left.values())
        parts = [f"{done}/{self._networks} networks done"] if self._networks else []
        if self.pace.schedule.minutes is not None:
            parts.append(f"{max(self.pace.seconds_left, 0) / 60:.1f} min of the budget left")
        end = time.time() + self.pace.seconds_to_go(self._expected)
        parts.append(time.strftime("ends about %H:%M", time.localtime(end)))
        return ", ".join(parts)


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Turn SIGTERM, Ctrl-C and the end of the terminal into :class:`Stop` while the body runs."""

    def end(number: int, _frame: FrameType | None) -> None:
        for which in end_signals():
            signal.signal(which, signal.SIG_IGN)  # the second one must not cut the writing of the files short
        raise Stop(Reason.STOPPED, number)

    try:
        before = {which: signal.signal(which, end) for which in end_signals()}
    except ValueError:  # called from another thread than the main one: signals are the caller's
        yield
        return
    try:
        yield
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)
