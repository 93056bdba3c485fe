"""Writing the table: whole or not at all."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pipeline.labels import CELL_INDEX, Cell, Condition
from pipeline.submission import WIDE_COLUMNS, write_submission, write_wide


def test_wide_table_holds_the_same_numbers(tmp_path):
    probabilities = np.random.default_rng(0).random((2, 25, 3))
    write_wide(tmp_path / "wide.csv", ["7", "12"], probabilities)
    wide = pd.read_csv(tmp_path / "wide.csv", dtype={"study_id": str}).set_index("study_id")
    assert list(wide.columns) == list(WIDE_COLUMNS)
    assert len(WIDE_COLUMNS) == 75
    cell = CELL_INDEX[Cell(Condition.RIGHT_SUBARTICULAR, "l3_l4")]
    found = wide.loc["12", [f"right_subarticular_stenosis_l3_l4_{g}" for g in ("normal_mild", "moderate", "severe")]]
    assert found.to_numpy(float) == pytest.approx(probabilities[1, cell] / probabilities[1, cell].sum(), abs=1e-7)


@pytest.mark.parametrize("bad", [np.nan, -0.1, np.inf])
def test_a_row_that_is_no_distribution_is_refused_and_the_old_file_stays(tmp_path, bad):
    path = tmp_path / "submission.csv"
    path.write_text("before")
    probabilities = np.full((1, 25, 3), 1 / 3)
    probabilities[0, 4, 1] = bad
    with pytest.raises(ValueError, match="7_spinal_canal_stenosis_l5_s1"):
        write_submission(path, ["7"], probabilities)
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["submission.csv"]


def test_ids_that_csv_would_split_are_quoted(tmp_path):
    write_submission(tmp_path / "s.csv", ['a,"b'], np.full((1, 25, 3), 1 / 3))
    assert pd.read_csv(tmp_path / "s.csv")["row_id"][0] == 'a,"b_left_neural_foraminal_narrowing_l1_l2'


def test_a_table_of_several_blocks_is_the_table_of_one(tmp_path, monkeypatch):
    ids, probabilities = [str(number) for number in range(7)], np.random.default_rng(0).random((7, 25, 3))
    for name in ("one", "several"):
        write_submission(tmp_path / f"{name}.csv", ids, probabilities)
        write_wide(tmp_path / f"{name}_wide.csv", ids, probabilities)
        monkeypatch.setattr("pipeline.submission.BLOCK", 3)
    for kind in ("", "_wide"):
        assert (tmp_path / f"one{kind}.csv").read_bytes() == (tmp_path / f"several{kind}.csv").read_bytes()
    assert len((tmp_path / "one.csv").read_text().splitlines()) == 1 + 7 * 25
    with pytest.raises(ValueError, match="shape"):
        write_submission(tmp_path / "one.csv", ids[:6], probabilities)
