"""``from pipeline import grade``: the numbers of ``submit.py``, as tables, and a package that is imported at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import pipeline
from pipeline.commands.submit import main
from pipeline.competition import CompetitionError
from pipeline.console import CallError
from pipeline.labels import CELLS, GRADES
from pipeline.submission import read_submission
from tests.run.studies import write_studies


@pytest.fixture(autouse=True)
def _without_weights(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.commands.submit.DEFAULT_WEIGHTS", tmp_path / "none")


def test_the_tables_are_those_of_submit(tmp_path, capsys):
    write_studies(tmp_path / "data", ["9", "010"])
    with pytest.warns(UserWarning, match="50 of 50 rows are class frequencies .*; provenance says why"):
        grading = pipeline.grade(tmp_path / "data")
    assert capsys.readouterr().out == ""
    out = tmp_path / "out" / "s.csv"
    assert main(["--data", str(tmp_path / "data"), "--out", str(out), "--workers", "1", "--quiet"]) == 0
    expected = read_submission(out)
    found = grading.probabilities.reset_index()
    assert len(found) == 2 * len(CELLS)
    found.index = found["study_id"] + "_" + found["condition"] + "_" + found["level"]
    weighted = found[[f"weighted_{grade}" for grade in GRADES]].loc[expected.index]
    assert weighted.to_numpy() == pytest.approx(expected.to_numpy(), abs=2e-6)
    assert set(found["reason"]) == {"no network for this condition"}
    assert list(grading.provenance["row_id"]) == list(expected.index)
    assert grading.points.empty
    assert grading.sources is None
    assert grading.report["rows_by_source"]["prior"] == 50


def test_some_studies_and_other_layouts(tmp_path):
    write_studies(tmp_path / "data", ["9", "010"])
    with pytest.warns(UserWarning, match="25 of 25"):
        assert set(pipeline.grade(tmp_path / "data", studies=["010"]).provenance["study_id"]) == {"010"}
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, path in enumerate((tmp_path / "data" / "test_images" / "9").glob("*/*.dcm")):
        path.rename(flat / str(number))
    with pytest.warns(UserWarning, match="25 of 25"):
        grading = pipeline.grade(flat)
    assert isinstance(grading.sources, pd.DataFrame)
    assert grading.problems["what"][0] == "layout"


def test_a_wrong_call_is_an_exception_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(CompetitionError, match="does not exist"):
        pipeline.grade(tmp_path / "none")
    with pytest.raises(CallError, match="device 'tpu': expected one of auto, cpu, cuda, mps"):
        pipeline.grade(tmp_path, device="tpu")
    with pytest.raises(CallError, match="no manifest"):
        pipeline.grade(tmp_path, weights=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_package_is_imported_without_what_grading_needs():
    heavy = ("numpy", "pandas", "torch", "pydicom", "highdicom")
    code = f"import sys, pipeline; print([name for name in {heavy} if name in sys.modules])"
    command = [sys.executable, "-c", code]
    root = Path(__file__).parents[1]
    assert subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout == "[]\n"
    assert {"grade", "Grading"} <= set(pipeline.__all__)
    with pytest.raises(AttributeError, match="no attribute 'grades'"):
        _ = pipeline.grades
