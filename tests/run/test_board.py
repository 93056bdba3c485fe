"""The state of a run: the same table whether numbers lie in memory or on the disk, and memory for many studies."""

from __future__ import annotations

import tempfile
import tracemalloc

import numpy as np
import pytest

from pipeline.ensemble.prior import read_prior
from pipeline.run import board as module
from pipeline.run.board import Board
from pipeline.run.result import Reason, Source, StudyResult

IDS = [str(number) for number in range(40)]


def filled(folder):
    """Every fourth study graded, another fourth taken over with a reason, the rest never reached."""
    folder.mkdir()
    board = Board(IDS, read_prior(), folder / "s.csv", folder / "wide.csv")
    values = np.random.default_rng(0).dirichlet((5, 2, 1), (len(IDS), 25))
    for number in range(0, len(IDS), 4):
        board.update(StudyResult(IDS[number], values[number], (Source.MODEL,) * 25, (None,) * 25))
        board.update(StudyResult.fallen_back(IDS[number + 1], Reason.STUDY_FAILED))
    board.unreached(Reason.TIME_OVER)
    board.write(force=True)
    return board


def no_room(dir):
    raise OSError(28, "No space left on device", str(dir))


def test_numbers_on_the_disk_give_the_table_of_those_in_memory_and_leave_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 16)
    boards = [filled(tmp_path / "memory")]
    monkeypatch.setattr(module, "MEMORY_BYTES", 0)
    boards.append(filled(tmp_path / "disk"))
    monkeypatch.setattr(tempfile, "TemporaryFile", no_room)
    boards.append(filled(tmp_path / "full"))
    quarter = 25 * len(IDS) // 4
    for board in boards:
        assert board.sources() == {"model": quarter, "context": 0, "prior": 3 * quarter}
        assert board.reasons() == {"time over": 2 * quarter, "study failed": quarter}
        assert np.stack(list(board.probabilities)).tobytes() == boards[0].probabilities[:].tobytes()
        assert sorted(path.name for path in board.out.parent.iterdir()) == ["s.csv", "wide.csv"]
        for mine, first in ((board.out, boards[0].out), (board.wide, boards[0].wide)):
            assert mine.read_bytes() == first.read_bytes()


def test_many_studies_cost_memory_for_their_ids_alone(tmp_path):
    ids = [str(number) for number in range(100_000)]
    tracemalloc.start()
    board = Board(ids, read_prior(), tmp_path / "s.csv", None)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert board.probabilities[99_999:] == pytest.approx(read_prior()[None])
    assert held < 120 * len(ids)
