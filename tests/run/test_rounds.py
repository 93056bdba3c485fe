"""The run over studies: what fails, dies, hangs or is too slow falls back with a reason, and nothing else does."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from pipeline.competition import open_competition
from pipeline.ensemble.prior import read_prior
from pipeline.labels import CELLS, Family
from pipeline.run.board import Board
from pipeline.run.pace import Schedule
from pipeline.run.plan import make_plan
from pipeline.run.result import Reason, Source, StudyResult
from pipeline.run.rounds import Run
from pipeline.run.study import grade_study
from pipeline.run.task import Workbench
from pipeline.run.work import WorkFolder
from pipeline.submission import probabilities_of, read_submission
from pipeline.volumes import ReadLimits
from tests.run.studies import FakeNetworks, write_studies


class Setup:
    """A folder of studies, fake networks and a run over them."""

    def __init__(
        self,
        tmp_path,
        names,
        workers=1,
        copies=1,
        minutes=None,
        seconds=30.0,
        grading=0.0,
        families=tuple(Family),
        **bench,
    ):
        self.out = tmp_path / "submission.csv"
        self.competition = open_competition(write_studies(tmp_path / "data", names))
        (tmp_path / "scratch").mkdir()
        self.networks = FakeNetworks.make(tmp_path / "scratch", copies, grading, families)
        (tmp_path / "work").mkdir()
        self.work = WorkFolder.of(tmp_path / "work", {})
        self.bench = Workbench(self.work, "run", self.networks, device="cpu", **bench)
        self.schedule = Schedule(time.monotonic(), minutes)
        self.plan = make_plan(self.competition.studies, self.networks, minutes is not None, False, seconds)
        self.board = Board([s.study_id for s in self.competition.studies], read_prior(), self.out, None)
        self.run = Run.open(self.bench, self.schedule, workers, self.take, quiet=True)

    def take(self, result):
        self.board.update(result)
        self.board.write()

    def go(self):
        self.run.rounds(self.plan.rounds)
        self.board.write(force=True)
        return self

    def result(self, name) -> StudyResult:
        found = self.work.load(self.competition.study(name))
        assert found is not None
        return found

    def rows(self, name) -> np.ndarray:
        return probabilities_of(read_submission(self.out), [name], self.out)[0]


def test_every_study_is_graded_and_a_faulty_one_falls_back_alone(tmp_path):
    setup = Setup(tmp_path, ["1", "2-raises", "3-blind", "4-nothing", "5"]).go()
    for name in ("1", "5"):
        assert setup.rows(name) == pytest.approx(np.tile([0.2, 0.3, 0.5], (25, 1)), abs=1e-6)
        assert set(setup.result(name).source) == {Source.MODEL}
    for name, reason in (
        ("2-raises", Reason.STUDY_FAILED),
        ("3-blind", Reason.LEVEL_NOT_FOUND),
        ("4-nothing", Reason.NOT_SHOWN),
    ):
        assert setup.rows(name) == pytest.approx(read_prior(), abs=1e-6)
        assert set(setup.result(name).reason) == {reason}
    (problem,) = setup.result("2-raises").problems
    assert "RuntimeError" in problem.detail
    assert "not well" in problem.detail
    assert setup.board.sources() == {"model": 50, "context": 0, "prior": 75}


def test_a_network_that_fails_costs_its_own_rows_alone(tmp_path):
    setup = Setup(tmp_path, ["1-canalfails"]).go()
    result = setup.result("1-canalfails")
    assert set(result.reason[:5]) == {Reason.MODEL_FAILED}
    assert set(result.source[5:]) == {Source.MODEL}
    assert [problem.what for problem in result.problems] == ["network-failed"]


def test_a_family_without_a_network_says_so(tmp_path):
    """Not "level on no slice": its levels are to be seen, only nobody looks."""
    setup = Setup(tmp_path, ["1", "2-blind"], families=(Family.FORAMINAL,)).go()
    result = setup.result("1")
    for index, cell in enumerate(CELLS):
        graded = cell.condition.family is Family.FORAMINAL
        assert result.reason[index] is (None if graded else Reason.NO_NETWORK)
    assert set(setup.result("2-blind").reason) == {Reason.LEVEL_NOT_FOUND}


def test_a_study_over_its_seconds_falls_back(tmp_path):
    setup = Setup(tmp_path, ["1", "2-hangs"], seconds=1.0).go()
    assert set(setup.result("2-hangs").reason) == {Reason.STUDY_TOO_SLOW}
    assert set(setup.result("1").source) == {Source.MODEL}


@pytest.mark.slow
def test_a_worker_that_dies_costs_only_the_study_that_kills_it(tmp_path):
    names = ["1", "2-dies", "3", "4"]
    setup = Setup(tmp_path, names, workers=2).go()
    assert set(setup.result("2-dies").reason) == {Reason.WORKER_DIED}
    for name in ("1", "3", "4"):
        assert set(setup.result(name).source) == {Source.MODEL}, name


@pytest.mark.slow
def test_workers_that_need_too_much_memory_together_become_fewer(tmp_path):
    names = [f"{number}-crowded" for number in range(6)]
    setup = Setup(tmp_path, names, workers=2).go()
    for name in names:
        assert set(setup.result(name).source) == {Source.MODEL}, name
    assert sum(setup.networks.times_found(name) for name in names) == 6 + 2
    assert setup.run.pace.workers == 1


@pytest.mark.slow
def test_a_worker_that_dies_in_a_later_round_leaves_what_earlier_rounds_gave(tmp_path):
    setup = Setup(tmp_path, ["1", "2-later"], workers=2, copies=2, minutes=5.0).go()
    assert len(setup.plan.rounds) == 2
    for name, networks in (("1", 2), ("2-later", 1)):
        assert set(setup.result(name).source) == {Source.MODEL}, name
        assert {len(members) for members in setup.result(name).members} == {networks}, name
    assert [problem.what for problem in setup.result("2-later").problems] == ["worker-died"]
    assert setup.rows("2-later") == pytest.approx(np.tile([0.2, 0.3, 0.5], (25, 1)), abs=1e-6)


@pytest.mark.slow
def test_a_worker_that_no_signal_ends_costs_only_its_study(tmp_path):
    setup = Setup(tmp_path, ["1", "2-wedged", "3"], workers=2, seconds=5.0, hang_seconds=1.0).go()
    assert set(setup.result("2-wedged").reason) == {Reason.WORKER_DIED}
    for name in ("1", "3"):
        assert set(setup.result(name).source) == {Source.MODEL}, name


def test_a_reader_that_hangs_does_not_have_all_of_the_studys_seconds(tmp_path, monkeypatch):
    setup = Setup(tmp_path, ["1"], seconds=600.0)
    given = []
    monkeypatch.setattr("faulthandler.dump_traceback_later", lambda seconds, exit, file: given.append(seconds))
    bench = replace(setup.bench, main_process=-1, limits=ReadLimits(study_seconds=20.0), hang_seconds=7.0)
    assert grade_study(setup.plan.rounds[0][0], bench).finished
    assert given == [607.0, 27.0, 607.0]


def test_a_time_budget_helps_every_study_before_a_second_network_helps_any(tmp_path):
    setup = Setup(tmp_path, ["1", "2", "3"], copies=3, minutes=10).go()
    assert [len(tasks) for tasks in setup.plan.rounds] == [3, 3, 3]
    assert setup.plan.rounds[0][0].names == ("canal-0", "foraminal-0", "subarticular-0")
    result = setup.result("2")
    assert result.members[0] == ("canal-0", "canal-1", "canal-2")
    marks = sorted(setup.networks.scratch.glob("*.graded"), key=lambda path: path.stat().st_mtime_ns)
    copies = [path.name.split("-")[1][0] for path in marks]
    assert copies == sorted(copies)
    assert setup.networks.times_found("2") == 1  # later rounds use the cubes that were kept
    expected = np.array([0.2, 0.3, 0.5]) ** 3
    assert setup.rows("2")[0] == pytest.approx(expected / expected.sum(), abs=1e-6)


def test_the_time_ends_in_time_and_says_what_it_could_not_do(tmp_path):
    names = [str(number) for number in range(40)]  # a minute's work
    setup = Setup(tmp_path, names, minutes=10 / 60, grading=0.5).go()
    assert time.monotonic() - setup.schedule.started < 20
    assert setup.run.ended_by is not None
    setup.board.unreached(setup.run.ended_by.reason)
    finished = [study for study in setup.competition.studies if (kept := setup.work.load(study)) and kept.finished]
    assert len(finished) < 40
    assert setup.board.reasons()["time over"] == 25 * 40 - setup.board.sources()["model"]
    assert len(read_submission(setup.out)) == 40 * 25


def test_at_the_deadline_a_study_keeps_what_its_first_networks_gave(tmp_path):
    setup = Setup(tmp_path, ["1"], grading=1.0)
    result = grade_study(replace(setup.plan.rounds[0][0], deadline=time.monotonic() + 1.9), setup.bench)
    assert 0 < len(result.done) < 3
    assert set(result.source) == {Source.MODEL, Source.PRIOR}
    assert set(result.reason) == {None, Reason.TIME_OVER}


def test_a_run_out_of_time_goes_on_with_the_networks_that_were_left(tmp_path):
    setup = Setup(tmp_path, ["1"], copies=2, minutes=10)
    first, second = setup.plan.rounds
    over = grade_study(replace(first[0], deadline=time.monotonic() - 9, seconds=30), setup.bench)
    assert over.done == ()
    assert set(over.reason) == {Reason.TIME_OVER}
    assert not over.finished
    setup.run.rounds([first, second])
    result = setup.result("1")
    assert result.finished
    assert len(result.done) == 6


def test_a_disk_that_is_nearly_full_keeps_no_cubes_and_the_study_is_read_again(tmp_path):
    setup = Setup(tmp_path, ["1"], copies=2, minutes=10, keep_gib=1e9).go()
    assert setup.networks.times_found("1") == 2
    assert len(setup.result("1").done) == 6


def test_results_are_kept_for_the_same_inputs_only(tmp_path):
    setup = Setup(tmp_path, ["1", "2"]).go()
    study = setup.competition.study("1")
    assert setup.work.load(study) is not None
    (study.series[0].path / "1.dcm").unlink()
    assert setup.work.load(study) is None
    assert WorkFolder.of(setup.work.folder, {"weights": "others"}).load(setup.competition.study("2")) is None


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"\0" * 100])
def test_a_damaged_result_is_made_again(tmp_path, damage):
    setup = Setup(tmp_path, ["1"]).go()
    (kept,) = setup.work.folder.rglob("*.result")
    kept.write_bytes(damage(kept.read_bytes()))
    assert setup.work.load(setup.competition.study("1")) is None


def test_a_result_survives_the_disk(tmp_path):
    setup = Setup(tmp_path, ["1"])
    result = grade_study(setup.plan.rounds[0][0], setup.bench)
    kept = setup.result("1")
    assert kept.probabilities == pytest.approx(result.probabilities)
    for name in ("source", "reason", "members", "series", "done", "problems", "landmarks", "landmark_members"):
        assert getattr(kept, name) == getattr(result, name), name
    assert kept.predictions.keys() == result.predictions.keys()
    assert result.series[0] == ("1-1",)


def test_a_row_names_the_series_that_its_networks_looked_at_whoever_they_are_and_whenever_they_did(tmp_path):
    setup = Setup(tmp_path, ["across"])
    (task,) = setup.plan.rounds[0]
    canal, others = (tuple(one for one in task.graders if ("canal" in one.name) is own) for own in (True, False))
    grade_study(replace(task, graders=canal, later=tuple(one.name for one in others)), setup.bench)
    result = grade_study(replace(task, graders=others), setup.bench)
    found = {cell.condition.family: set(ids) for cell, ids in zip(CELLS, result.series, strict=True)}
    t1, t2, axial = "across-0", "across-1", "across-2"
    assert found == {Family.CANAL: {t1, t2, axial}, Family.FORAMINAL: {t1}, Family.SUBARTICULAR: {axial}}


def test_a_task_is_made_when_it_can_be_started(tmp_path):
    setup = Setup(tmp_path, ["1", "2", "3", "4"])
    made, came = [], []

    class Watched(tuple):
        def __iter__(self):
            for task in super().__iter__():
                made.append(task.study.study_id)
                yield task

    def take(result):
        came.append(result.study_id)
        assert len(made) <= len(came) + 1

    setup.run.take = take
    setup.run._round(Watched(setup.plan.rounds[0]), "studies")
    assert came == made == ["1", "2", "3", "4"]


def test_a_full_disk_costs_the_resume_and_nothing_else(tmp_path, monkeypatch):
    setup = Setup(tmp_path, ["1"])

    def full(self, path, fingerprint):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(StudyResult, "save", full)
    setup.go()
    assert setup.rows("1")[0] == pytest.approx([0.2, 0.3, 0.5], abs=1e-6)
    assert [problem.what for problem in setup.run.unsaved["1"].problems] == ["result-not-kept"]


def test_a_result_that_is_no_distribution_keeps_the_prior(tmp_path):
    board = Board(["1"], read_prior(), tmp_path / "s.csv", None)
    values = np.full((25, 3), 1 / 3)
    values[3], values[4], values[5] = -1, np.inf, 0
    board.update(StudyResult("1", values, (Source.MODEL,) * 25, (None,) * 25))
    board.write(force=True)
    rows = probabilities_of(read_submission(tmp_path / "s.csv"), ["1"], "s.csv")[0]
    assert rows[3:6] == pytest.approx(read_prior()[3:6], abs=1e-6)
    assert board.sources() == {"model": 22, "context": 0, "prior": 3}
