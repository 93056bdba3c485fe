"""The run over all studies: rounds of workers, a file that is valid at any moment, an end that always comes.

Round after round: the first helps every study with the best networks per second, later ones add further networks on
cubes kept from the first. A worker that dies (a decoder crash, the kernel's memory killer) takes its pool with it;
what it had not finished is run again alone, and a study that kills its worker then falls back. The deadline, SIGTERM
and Ctrl-C end the run early and cleanly; what is still going on at the deadline is killed.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from tqdm import tqdm

from pipeline.console import end_signals
from pipeline.parallel import how_lost, why_no_workers
from pipeline.run.pace import Pace, Schedule
from pipeline.run.pool import Pool, SameProcess, WorkerPool
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
    _networks: int = 0
    _later: list[StudyTask] = field(default_factory=list)

    @classmethod
    def open(
        cls,
        bench: Workbench,
        schedule: Schedule,
        workers: int,
        take: Callable[[StudyResult], None],
        quiet: bool = False,
    ) -> Run:
        """A run on so many workers. One alone needs no process, unless the end of the time may have to end it.

        Where the system has none, it does without: what hangs in compiled code is then not ended.
        """
        alone = workers == 1 and (schedule.minutes is None or why_no_workers() is not None)
        pool = SameProcess(bench) if alone else WorkerPool(bench, workers)
        return cls(bench.work, Pace(schedule, workers), pool, take, quiet)

    def rounds(self, rounds: Sequence[Sequence[StudyTask]]) -> None:
        """Run every round, or as many as the time allows; returns when all is done or the end was called."""
        self._networks = len({name for tasks in rounds for task in tasks for name in task.names})
        try:
            with _signals():
                for number, tasks in enumerate(rounds):
                    self._later = [task for later in rounds[number + 1 :] for task in later]
                    self._round(tasks, f"round {number + 1}/{len(rounds)}" if len(rounds) > 1 else "studies")
        except Stop as stop:
            self.ended_by = stop
        finally:
            self.pool.kill()

    def _round(self, tasks: Sequence[StudyTask], title: str) -> None:
        pending = {task.study.study_id: task for task in tasks}
        with tqdm(total=len(pending), desc=title, unit="study", disable=self.quiet, mininterval=1.0) as bar:
            while pending:
                try:
                    for result in self._results(list(pending.values())):
                        del pending[result.study_id]
                        self._take(result, bar, pending)
                except BrokenProcessPool:
                    self._after_a_death(pending, bar)

    def _after_a_death(self, pending: dict[str, StudyTask], bar: tqdm[Any]) -> None:
        """Keep what was finished, and run the studies that were under way alone, one after the other."""
        work = self.work
        for study_id, task in list(pending.items()):
            result = work.load(task.study)
            if result is not None and set(task.names) <= set(result.done) and not work.was_started(task.study):
                del pending[study_id]
                self._take(result, bar, pending)
        suspects = [task for task in pending.values() if work.was_started(task.study)]
        crowded = len(suspects) > 1
        if not suspects:  # it died between two studies, so no study can be blamed; the next may be
            suspects = list(pending.values())[:1]
        for task in suspects:
            try:
                results = list(self._results([task]))
            except BrokenProcessPool as error:
                crowded = False
                detail = f"the process that read or graded the study alone {how_lost(error)}"
                results = [fall_back(work.load(task.study), task.study.study_id, Reason.WORKER_DIED, detail)]
                with contextlib.suppress(OSError):
                    work.save(task.study, results[0], work.fingerprint(task.study))
                work.mark_ended(task.study)
            for result in results:
                del pending[result.study_id]
                self._take(result, bar, pending)
        if crowded:  # each can be graded alone, so together they need more memory than there is
            self.pace.workers = self.pool.halve()

    def _results(self, tasks: Sequence[StudyTask]) -> Iterator[StudyResult]:
        """Results as they come.

        Raises:
            Stop: the time is over, or too short for any of what is left.
            BrokenProcessPool: a worker died.
        """
        waiting, pool = deque(tasks), self.pool
        while waiting or pool.busy:
            while waiting and pool.free:
                task = self.pace.with_deadline(waiting[0])
                if task is None:
                    break
                waiting.popleft()
                pool.start(task)
            finished = pool.finished(self.pace.seconds_left) if pool.busy else []
            if not finished:
                raise Stop(Reason.TIME_OVER)
            for task, result, seconds in finished:
                self.pace.note(task, seconds)
                yield result

    def _take(self, result: StudyResult, bar: tqdm[Any], pending: Mapping[str, StudyTask]) -> None:
        if any(problem.what == "result-not-kept" for problem in result.problems):
            self.unsaved[result.study_id] = result
        self.take(result)
        bar.set_postfix_str(self._progress(pending), refresh=False)
        bar.update()

    def _progress(self, pending: Mapping[str, StudyTask]) -> str:
        left = [*pending.values(), *self._later]
        waiting = {name for task in left for name in task.names}
        parts = [f"{self._networks - len(waiting)}/{self._networks} networks done"] if self._networks else []
        if self.pace.schedule.minutes is not None:
            parts.append(f"{max(self.pace.seconds_left, 0) / 60:.1f} min of the budget left")
        parts.append(time.strftime("ends about %H:%M", time.localtime(time.time() + self.pace.expected_seconds(left))))
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
