"""Out-of-fold tables of any origin become arrays by study, or an error that says which study or table is wrong."""

import numpy as np
import pandas as pd
import pytest

from pipeline.ensemble.out_of_fold import OutOfFold, even_blend, gather, gather_submissions, graded
from pipeline.labels import CELL_COLUMNS, GRADES
from pipeline.scoring.oof import OofTable

LABELS = pd.DataFrame(np.arange(50).reshape(2, 25) % 3.0, index=["s1", "s2"], columns=list(CELL_COLUMNS))
FOLDS = pd.Series([1, 0], index=["s2", "s1"], name="fold")


def submission(*names, values=(0.5, 0.25, 0.25)):
    return pd.DataFrame([values] * len(names), index=list(names), columns=list(GRADES))


def oof(study_id, fold):
    one = np.array([1])
    return OofTable(np.array([study_id]), one, one * fold, one, one == 1, np.log([[0.5, 0.25, 0.25]]))


def test_rows_of_submissions_are_found_whatever_their_order_and_scale():
    table = submission(f"s2_{CELL_COLUMNS[7]}", f"s1_{CELL_COLUMNS[3]}", f"s9_{CELL_COLUMNS[0]}", values=(2, 1, 1))
    made = gather_submissions({"a": table}, LABELS, FOLDS)
    p = np.exp(made.predictions["a"])
    np.testing.assert_allclose(p[[0, 1], [3, 7]], [[0.5, 0.25, 0.25]] * 2)
    assert np.isfinite(p).all(-1).sum() == 2, "cells without a row are not predicted"
    np.testing.assert_array_equal(made.folds, [0, 1])
    np.testing.assert_array_equal(made.grades, LABELS.to_numpy())


def test_the_even_blend_has_every_cell_once_and_averages_what_there_is():
    one = OofTable(
        np.array(["s2", "s1"]), np.array([4, 1]), np.array([1, 0]), np.array([2, 0]), np.array([True, True]),
        np.log([[0.5, 0.25, 0.25], [0.7, 0.2, 0.1]]),
    )  # fmt: skip
    other = OofTable(
        np.array(["s2", "s2"]), np.array([7, 4]), np.array([1, 1]), np.array([1, 2]), np.array([True, True]),
        np.log([[0.1, 0.1, 0.8], [0.125, 0.0625, 0.8125]]),
    )  # fmt: skip
    blended = even_blend({"one": one, "other": other})
    rows = list(zip(blended.study_id, blended.cell, blended.fold, blended.grade, strict=True))
    assert rows == [("s1", 1, 0, 0), ("s2", 4, 1, 2), ("s2", 7, 1, 1)]
    mean = np.sqrt(np.array([0.5, 0.25, 0.25]) * [0.125, 0.0625, 0.8125])
    np.testing.assert_allclose(np.exp(blended.log_p), [[0.7, 0.2, 0.1], mean / mean.sum(), [0.1, 0.1, 0.8]])


def test_a_probability_of_nothing_stays_finite():
    made = gather_submissions({"a": submission(f"s1_{CELL_COLUMNS[0]}", values=(1, 0, 0))}, LABELS, FOLDS)
    assert np.isfinite(made.predictions["a"][0, 0]).all()


def test_what_does_not_fit_together_is_said():
    with pytest.raises(ValueError, match=r"b: no row is of a study that has a fold, such as s1_spinal"):
        gather_submissions({"b": submission("s9_x")}, LABELS, FOLDS)
    table = submission(f"s1_{CELL_COLUMNS[0]}")
    with pytest.raises(ValueError, match=r"1 studies of the tables have no grades, the first is s2; see --truth"):
        gather_submissions({"a": table}, LABELS.loc[["s1"]], FOLDS)
    with pytest.raises(ValueError, match="study s1: fold 1 in b, 0 elsewhere"):
        gather({"a": oof("s1", 0), "b": oof("s1", 1)}, [LABELS])
    with pytest.raises(ValueError, match=r"the first is s3; see --data"):
        gather({"a": oof("s3", 0)}, [LABELS])


def test_the_pattern_of_a_study_is_who_answers_in_it():
    values = np.full((3, 25, 3), np.nan)
    first, second = values.copy(), values.copy()
    first[:2, 4], second[1, 9] = -1.0, -1.0
    made = OutOfFold({"b": first, "a": second}, np.zeros((3, 25)), np.arange(3))
    assert made.patterns.tolist() == ["b", "a+b", ""]
    assert made.named_patterns == ["a+b", "b"]
    assert made.rows(np.array([False, True, False])).patterns.tolist() == ["a+b"]


def test_graded_cells_have_a_prediction_and_a_grade():
    log_p = np.zeros((2, 2, 3))
    log_p[0, 1] = np.nan
    rows, grades = graded(log_p, np.array([[2.0, 1.0], [np.nan, 0.0]]))
    assert rows.shape == (2, 3)
    assert grades.tolist() == [2, 0]
