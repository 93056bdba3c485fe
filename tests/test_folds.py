"""Folds of studies."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pipeline.folds import make_folds, read_folds, write_folds
from pipeline.labels import CELL_COLUMNS, CELLS, Family
from pipeline.tables import TableError


def random_labels(count, seed=0):
    rng = np.random.default_rng(seed)
    grades = rng.choice(3, (count, 25), p=[0.85, 0.1, 0.05]).astype(float)
    grades[rng.random(grades.shape) < 0.02] = np.nan
    return pd.DataFrame(grades, columns=list(CELL_COLUMNS), index=[str(n) for n in rng.permutation(count)])


def test_folds_hold_every_study_once_and_the_same_mix():
    labels = random_labels(500)
    folds = make_folds(labels)
    assert folds.value_counts().to_dict() == dict.fromkeys(range(5), 100)
    for family in Family:
        columns = [cell.column for cell in CELLS if cell.condition.family is family]
        severe = labels.loc[folds.index, columns].max(axis=1).eq(2).groupby(folds.to_numpy()).mean()
        assert severe.max() - severe.min() < 0.06


def test_folds_do_not_depend_on_the_order():
    labels = random_labels(60)
    shuffled = labels.sample(frac=1, random_state=1)
    pd.testing.assert_series_equal(make_folds(labels), make_folds(shuffled))
    with pytest.raises(ValueError, match="cannot make 5 folds of 3 studies"):
        make_folds(labels[:3])


def test_folds_are_written_and_read(tmp_path):
    folds = make_folds(random_labels(20))
    write_folds(folds, tmp_path / "folds.csv")
    pd.testing.assert_series_equal(read_folds(tmp_path / "folds.csv"), folds)
    (tmp_path / "folds.csv").write_text("study_id,fold\n1,0\n2,first\n")
    with pytest.raises(TableError, match="row 3, column 'fold': found 'first'"):
        read_folds(tmp_path / "folds.csv")
