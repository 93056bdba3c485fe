"""A call of submit.py that goes on where another ended holds what it takes over one result at a time."""

from __future__ import annotations

import weakref
from pathlib import Path

import numpy as np

from pipeline.competition import StudyRef
from pipeline.ensemble.prior import read_prior
from pipeline.run.board import Board
from pipeline.run.plan import make_plan
from pipeline.run.result import Reason, Source, StudyResult
from pipeline.run.session import _resume
from pipeline.run.tally import Log, Tally
from pipeline.run.work import WorkFolder
from tests.run.studies import FakeNetworks

FIRST = ("canal-0", "foraminal-0", "subarticular-0")
SECOND = ("canal-1", "foraminal-1", "subarticular-1")


def test_what_an_earlier_run_has_kept_is_taken_over_one_result_at_a_time(tmp_path):
    studies = [StudyRef(str(number), Path("nowhere"), ()) for number in range(20)]
    plan = make_plan(studies, FakeNetworks.make(tmp_path, copies=2), in_rounds=True, guard=False, seconds=60.0)
    (tmp_path / "work").mkdir()
    work = WorkFolder.of(tmp_path / "work", {})
    values, whole = np.full((25, 3), 1 / 3), (Source.PRIOR,) * 25
    for study in studies[:15]:
        done = FIRST if int(study.study_id) < 10 else FIRST + SECOND
        why = Reason.TIME_OVER if study.study_id == "0" else Reason.NOT_SHOWN
        result = StudyResult(study.study_id, values, whole, (why,) * 25, done=done)
        work.save(study, result, work.fingerprint(study))
    alive, most = weakref.WeakSet(), 0

    class Watched(Board):
        def update(self, result):
            nonlocal most
            alive.add(result)
            most = max(most, len(alive))
            super().update(result)

    board = Watched([study.study_id for study in studies], read_prior(), tmp_path / "s.csv", None)
    with Log(tmp_path / "s.log") as log:
        rounds, resumed = _resume(plan, work, board, Tally(board.index), log)
    left = [[int(task.study.study_id) for task in tasks] for tasks in rounds]
    assert left == [[0, *range(15, 20)], [*range(10), *range(15, 20)]]
    assert resumed == 14
    assert most <= 2
