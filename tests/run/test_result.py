"""The rows of a study that no image gave are named beside the problems that cost them."""

from __future__ import annotations

from pipeline.labels import CELLS, Family
from pipeline.problem import Problem
from pipeline.run.result import NOTE, ROWS, Reason, with_rows

LOST = tuple(Reason.SERIES_MISSING if cell.condition.family is Family.FORAMINAL else None for cell in CELLS)
FAULT = Problem("1", "2", None, "other-modality", "Modality is 'CT'")


def test_the_rows_that_a_fault_costs_are_named():
    fault, rows = with_rows("1", (FAULT,), LOST)
    assert fault is FAULT
    assert rows.what == ROWS
    assert "left_neural_foraminal_narrowing L1/L2, L2/L3, L3/L4, L4/L5, L5/S1; right" in rows.detail
    assert "canal" not in rows.detail


def test_a_later_round_names_them_once():
    once = with_rows("1", (FAULT,), LOST)
    assert with_rows("1", once, LOST) == once
    assert with_rows("1", once, (None,) * 25) == (FAULT,)


def test_a_study_that_only_lacks_a_series_has_no_fault():
    note = Problem("1", None, None, NOTE, "canal points from sagittal T1")
    assert with_rows("1", (note,), LOST) == (note,)
    assert with_rows("1", (), (Reason.NO_NETWORK,) * 25) == ()
