"""The time budget without waiting: workers that take what a test says, on a clock that the test moves."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.competition import StudyRef
from pipeline.ensemble.prior import read_prior
from pipeline.run.board import Board
from pipeline.run.pace import HEADROOM, LEAST_MEASURED, RESERVE_SECONDS, RESERVE_STARTS, Pace, Schedule
from pipeline.run.pool import Finished
from pipeline.run.result import Reason, Source, StudyResult
from pipeline.run.rounds import Run
from pipeline.run.task import Grader, StudyTask
from pipeline.submission import probabilities_of, read_submission

BUDGET = 420.0


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class SlowPool:
    """So many workers; a study takes ``load(now)`` times what is expected of it, or never ends."""

    clock: Clock
    load: object
    workers: int = 2
    under_way: list[tuple[float, float, StudyTask]] = field(default_factory=list)
    started: list[tuple[float, StudyTask]] = field(default_factory=list)
    killed: list[str] = field(default_factory=list)

    @property
    def free(self):
        return self.workers - len(self.under_way)

    @property
    def busy(self):
        return len(self.under_way)

    def start(self, task):
        seconds = self.load(self.clock.now) * task.expected
        self.started.append((self.clock.now, task))
        self.under_way.append((self.clock.now + seconds, self.clock.now, task))

    def finished(self, seconds):
        if not self.under_way:
            return []
        first = min(self.under_way, key=lambda item: item[0])
        if first[0] > self.clock.now + max(seconds, 0):
            self.clock.now += max(seconds, 0)
            return []
        self.clock.now = max(first[0], self.clock.now)
        self.under_way.remove(first)
        task = first[2]
        values = np.full((25, 3), 1 / 3)
        result = StudyResult(task.study.study_id, values, (Source.MODEL,) * 25, (None,) * 25, done=task.names)
        return [Finished(task, result, first[0] - first[1])]

    def kill(self):
        self.killed = [task.study.study_id for _, _, task in self.under_way]
        self.under_way.clear()


def rounds_of(studies, rounds=10):
    """The first round costs 3 s a study, each further one 1.5 s."""
    return [
        [
            StudyTask(StudyRef(str(number), None, ()), graders=(Grader(f"network-{turn}", 1.0),), base_cost=base)
            for number in range(studies)
        ]
        for turn, base in enumerate([2.0] + [0.5] * (rounds - 1))
    ]


@dataclass
class Setup:
    """A run of 60 studies and 10 rounds (495 s of work for two idle workers), with a budget of 420 s."""

    folder: Path
    load: object
    start_seconds: float = 2.0
    minutes: float | None = BUDGET / 60
    studies: int = 60

    def __post_init__(self):
        self.clock = Clock(self.start_seconds)
        self.pool = SlowPool(self.clock, self.load)
        self.board = Board([str(n) for n in range(self.studies)], read_prior(), self.folder / "s.csv", None)
        self.board.write(force=True)
        self.pace = Pace(Schedule(0.0, self.minutes, self.start_seconds), 2, self.clock)
        self.run = Run(SimpleNamespace(), self.pace, self.pool, self.take, quiet=True)

    def take(self, result):
        self.board.update(result)
        self.board.write()

    def go(self):
        self.run.rounds(rounds_of(self.studies))
        self.board.write(force=True)
        table = read_submission(self.folder / "s.csv")
        assert len(table) == 25 * self.studies
        probabilities_of(table, self.board.study_ids, "s.csv")
        return self


def loaded_from(moment, before, after):
    return lambda now: before if now < moment else after


LOADS = {
    "idle": loaded_from(0, 1, 1),
    "loaded": loaded_from(0, 10, 10),
    "starved": loaded_from(0, 60, 60),
    "loaded in the middle": loaded_from(150, 1, 12),
    "loaded near the end": loaded_from(330, 1, 30),
    "free in the middle": loaded_from(200, 15, 1),
    "a GPU": loaded_from(0, 0.1, 0.1),
    "hung": loaded_from(0, 1e9, 1e9),
    "hung in the middle": loaded_from(100, 1, 1e9),
}


@pytest.mark.parametrize("load", LOADS)
def test_no_load_makes_a_run_late_and_what_was_begun_is_killed(tmp_path, load):
    setup = Setup(tmp_path, LOADS[load]).go()
    assert setup.clock.now <= BUDGET - RESERVE_SECONDS - 0.02 * BUDGET
    assert setup.pool.busy == 0
    graded = setup.board.sources()["model"] // 25
    if load == "a GPU":
        assert (setup.run.ended_by, graded) == (None, 60)
    else:
        assert setup.run.ended_by.reason is Reason.TIME_OVER
        assert graded == 60 or "hung" in load or load in ("loaded", "starved")
    assert graded or load == "hung"


@pytest.mark.parametrize("multiple", [1, 3, 10])
def test_on_an_evenly_loaded_machine_nothing_is_begun_that_is_not_finished(tmp_path, multiple):
    setup = Setup(tmp_path, loaded_from(0, multiple, multiple)).go()
    assert setup.run.ended_by.reason is Reason.TIME_OVER
    assert setup.pool.killed == []
    ends = [began + multiple * task.expected for began, task in setup.pool.started]
    assert max(ends) <= setup.pace.schedule.workers_deadline(setup.pace.slowness)
    # And not by idling: no more than one study's headroom and the reserve are left unused.
    last = setup.pool.started[-1][1]
    unused = setup.pace.schedule.workers_deadline(setup.pace.slowness) - max(ends)
    assert unused <= 2 * HEADROOM * multiple * last.expected


@pytest.mark.parametrize("multiple", [1, 3, 10])
def test_the_time_kept_back_for_the_end_grows_with_the_measured_slowness(tmp_path, multiple):
    setup = Setup(tmp_path, loaded_from(0, multiple, multiple)).go()
    assert setup.pace.slowness == pytest.approx(multiple)
    kept_back = BUDGET - setup.pace.schedule.deadline(setup.pace.slowness)
    assert kept_back == pytest.approx(RESERVE_SECONDS * multiple + 0.02 * BUDGET)
    assert setup.clock.now <= BUDGET - kept_back


def test_a_slow_start_is_slowness_too_and_half_of_the_budget_is_always_for_the_studies():
    assert Schedule(0.0, 10, 30.0).deadline() == pytest.approx(600 - RESERVE_STARTS * 30 - 12)
    assert Schedule(0.0, 10, 1.0).deadline(1e6) == pytest.approx(300)
    assert Schedule(0.0, None, 1.0).deadline() is None


def test_the_first_study_of_each_worker_is_not_measured_since_it_loads_the_networks():
    pace = Pace(Schedule(0.0, 7, 1.0), 2, Clock())
    task = rounds_of(1)[0][0]
    for seconds in (90.0, 80.0, *[6.0] * LEAST_MEASURED):
        pace.note(task, seconds)
    assert pace.slowness == pytest.approx(2.0)


def test_a_network_that_does_not_fit_is_not_begun_and_a_quicker_one_is():
    clock = Clock(0.0)
    pace = Pace(Schedule(0.0, 7, 1.0), 0, clock)
    slow, quick = (
        StudyTask(StudyRef("1", None, ()), graders=(Grader("a", cost),), base_cost=0.1) for cost in (20.0, 1.0)
    )
    for _ in range(LEAST_MEASURED):
        pace.note(quick, 1.1)
    clock.now = pace.schedule.workers_deadline(1.0) - 10
    assert pace.with_deadline(slow) is None
    given = pace.with_deadline(quick)
    assert given.deadline == pytest.approx(clock.now + 10)
    assert given.slowness == pytest.approx(HEADROOM)
    clock.now += 10
    assert pace.with_deadline(quick) is None


def test_without_a_budget_everything_is_done_and_the_end_is_foretold(tmp_path):
    setup = Setup(tmp_path, loaded_from(0, 2, 2), minutes=None)
    said = []
    setup.run.take = lambda result: said.append(setup.run._progress())
    setup.go()
    assert setup.run.ended_by is None
    assert len(setup.pool.started) == 10 * 60
    assert all(task.deadline is None for _, task in setup.pool.started)
    assert said[58].startswith("0/10 networks done, ends about ")
    assert said[59].startswith("1/10 networks done, ends about ")
    assert said[-1].startswith("10/10 networks done, ends about ")
    assert setup.run._expected == pytest.approx(0, abs=1e-6)
    assert setup.pace.seconds_to_go(10 * 3) == pytest.approx(2 * 10 * 3 / 2)
