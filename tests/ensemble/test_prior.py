"""Reweighted class frequencies."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.__main__ import main
from pipeline.ensemble.prior import PRIOR_FILE, make_prior, read_prior
from pipeline.labels import CELL_INDEX, Cell, Condition
from pipeline.scoring.metric import score_arrays
from pipeline.tables import TableError, read_labels


def test_frequencies_are_weighted_one_two_four(write_labels):
    grades = np.zeros((10, 25))
    grades[:3, 0], grades[3:5, 0] = 1, 2
    row = make_prior(read_labels(write_labels(grades)).strict()).iloc[0]
    assert (row["condition"], row["level"], row["graded"]) == ("spinal_canal_stenosis", "l1_l2", 10)
    assert row[["normal_mild", "moderate", "severe"]].to_list() == pytest.approx([5 / 19, 6 / 19, 8 / 19])


def test_a_grade_never_seen_is_not_impossible(write_labels):
    table = make_prior(read_labels(write_labels(np.zeros((10, 25)))).strict())
    assert (table[["normal_mild", "moderate", "severe"]] > 0).all(axis=None)


@pytest.mark.parametrize("kind", ["text", "link", "labels"])
def test_a_file_that_is_no_such_table_is_left_as_it_is(write_labels, tmp_path, capsys, kind):
    labels, theirs, out = write_labels(np.zeros((10, 25))), tmp_path / "thesis.csv", tmp_path / "prior.csv"
    theirs.write_text("years of work")
    if kind == "text":
        out = theirs
    elif kind == "link":
        out.symlink_to(theirs)
    else:
        out = labels
    before = labels.read_bytes()
    assert main(["prior", str(labels), "--out", str(out)]) == 2
    assert "prior: --out" in capsys.readouterr().err
    assert theirs.read_text() == "years of work"
    assert labels.read_bytes() == before


def test_it_is_the_best_constant_answer(write_labels):
    rng = np.random.default_rng(0)
    grades = rng.choice(3, (200, 25), p=[0.7, 0.2, 0.1]).astype(float)
    table = make_prior(read_labels(write_labels(grades)).strict())[["normal_mild", "moderate", "severe"]].to_numpy()
    best = score_arrays(grades, np.repeat(table[None], 200, 0)).foraminal
    for _ in range(20):
        other = table * rng.uniform(0.8, 1.25, table.shape)
        assert score_arrays(grades, np.repeat(other[None], 200, 0)).foraminal > best


def test_the_package_has_one_that_knows_where_stenosis_is():
    severe = read_prior()[:, 2]
    at = {level: severe[CELL_INDEX[Cell(Condition.CANAL, level)]] for level in ("l1_l2", "l4_l5")}
    assert at["l4_l5"] > 3 * at["l1_l2"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [("severe", "grave", "'severe'"), ("l1_l2", "l1_l3", "row 2"), ("l2_l3", "l1_l2", "second time")],
)
def test_a_damaged_table_is_refused(tmp_path, old, new, message):
    path = tmp_path / "prior.csv"
    path.write_text(PRIOR_FILE.read_text().replace(old, new, 1))
    with pytest.raises(TableError, match=message):
        read_prior(path)
