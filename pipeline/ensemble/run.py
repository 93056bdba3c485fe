"""The run over all studies: rounds of workers, a file that is valid at any moment, an end that always comes.

Round after round: the first helps every study with the best networks per second, later ones add further networks on
cubes kept from the first. A worker that dies (a decoder crash, the kernel's memory killer) takes its pool with it;
what it had not finished is run again alone, and a study that kills its worker then falls back. The deadline, SIGTERM
and Ctrl-C end the run early and cleanly.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor
from tqdm import tqdm

from pipeline.competition import Problem
from pipeline.ensemble.board import Board
from pipeline.ensemble.result import Reason, StudyResult
from pipeline.ensemble.settings import Schedule
from pipeline.ensemble.stages import StudyTask, Workbench, grade_study


class Stop(BaseException):
    """The run has to end now. Not an ``Exception``, so that no handler of a study's faults takes it for one."""

    def __init__(self, reason: Reason, number: int | None = None) -> None:
        super().__init__(str(reason))
        self.reason = reason
        self.signal = number


@dataclass
class Run:
    """One run: give it rounds of tasks, it keeps the board up to date and remembers how it ended."""

    board: Board
    bench: Workbench
    schedule: Schedule
    workers: int
    quiet: bool = False
    ended_by: Stop | None = None
    unsaved: dict[str, StudyResult] = field(default_factory=dict)
    progress: Callable[[StudyResult], None] | None = None

    def rounds(self, rounds: Sequence[Sequence[StudyTask]]) -> None:
        """Run every round, or as many as the time allows; returns when all is done or the end was called."""
        try:
            with _signals(self.workers > 1, self.schedule):
                for number, tasks in enumerate(rounds, 1):
                    self._round(tasks, f"round {number}/{len(rounds)}" if len(rounds) > 1 else "studies")
        except Stop as stop:
            self.ended_by = stop
        finally:
            if self.workers > 1:
                with contextlib.suppress(Exception):
                    get_reusable_executor().shutdown(wait=False, kill_workers=True)

    def _round(self, tasks: Sequence[StudyTask], title: str) -> None:
        pending = {task.study.study_id: task for task in tasks}
        with tqdm(total=len(pending), desc=title, unit="study", disable=self.quiet, mininterval=1.0) as bar:
            while pending:
                try:
                    for result in self._parallel(list(pending.values()), self.workers):
                        del pending[result.study_id]
                        self._take(result, bar)
                    break  # what is left was held back: the time is over
                except BrokenProcessPool:
                    self._after_a_death(pending, bar)
        if pending:
            raise Stop(Reason.TIME_OVER)

    def _after_a_death(self, pending: dict[str, StudyTask], bar: tqdm[Any]) -> None:
        """Keep what was finished, and run the studies that were under way alone, one after the other."""
        work = self.bench.work
        for study_id, task in list(pending.items()):
            result = work.load(task.study)
            if result is not None and set(task.graders) <= set(result.done) and not work.was_started(task.study):
                del pending[study_id]
                self._take(result, bar)
        suspects = [task for task in pending.values() if work.was_started(task.study)]
        if not suspects:  # it died between two studies, so no study can be blamed; the next may be
            suspects = list(pending.values())[:1]
        for task in suspects:
            try:
                results = list(self._parallel([task], max(self.workers, 2)))
            except BrokenProcessPool:
                detail = "the process that read or graded the study alone was killed"
                problem = Problem(task.study.study_id, None, None, "worker-died", detail)
                results = [StudyResult.fallen_back(task.study.study_id, Reason.WORKER_DIED, (problem,))]
                with contextlib.suppress(OSError):
                    work.save(task.study, results[0])
                work.mark_ended(task.study)
            for result in results:
                del pending[result.study_id]
                self._take(result, bar)

    def _parallel(self, tasks: Sequence[StudyTask], workers: int) -> Iterator[StudyResult]:
        parallel = Parallel(n_jobs=workers, return_as="generator_unordered", pre_dispatch=workers + 1, batch_size=1)
        yield from parallel(delayed(grade_study)(task, self.bench) for task in self._while_there_is_time(tasks))

    def _while_there_is_time(self, tasks: Sequence[StudyTask]) -> Iterator[StudyTask]:
        for task in tasks:
            if self.schedule.seconds_left <= 0:
                return
            yield task

    def _take(self, result: StudyResult, bar: tqdm[Any]) -> None:
        self.board.update(result)
        if any(problem.what == "result-not-kept" for problem in result.problems):
            self.unsaved[result.study_id] = result
        if self.progress is not None:
            self.progress(result)
        self.board.write()
        if self.schedule.deadline is not None:
            bar.set_postfix_str(f"{max(self.schedule.seconds_left, 0) / 60:.1f} min of the budget left", refresh=False)
        bar.update()


@contextlib.contextmanager
def _signals(own_alarm: bool, schedule: Schedule) -> Iterator[None]:
    """Turn SIGTERM, Ctrl-C and the deadline into :class:`Stop` while the body runs.

    With worker processes the main process waits, so the alarm is free for the deadline; in a single process the
    study itself is under an alarm that knows the deadline (see ``stages``).
    """

    def end(number: int, _frame: FrameType | None) -> None:
        for which in (signal.SIGTERM, signal.SIGINT):
            signal.signal(which, signal.SIG_IGN)  # the second one must not cut the writing of the files short
        raise Stop(Reason.STOPPED, number)

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise Stop(Reason.TIME_OVER)

    try:
        before = {which: signal.signal(which, end) for which in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # called from another thread than the main one: signals are the caller's
        yield
        return
    if own_alarm and schedule.deadline is not None:
        before[signal.SIGALRM] = signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, max(schedule.seconds_left, 0.01))
    try:
        yield
    finally:
        if own_alarm:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for which, handler in before.items():
            signal.signal(which, handler)


def usable_cpus() -> int:
    """The cores this process may use, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0))
