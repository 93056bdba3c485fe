"""One phantom study in every layout: what the networks see is the same, and so are the rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline import grade
from pipeline.commands.submit import main
from pipeline.competition import open_competition
from pipeline.intake import open_data
from pipeline.labels import GRADES
from pipeline.phantom.competition_writer import make_phantom
from pipeline.submission import read_submission
from pipeline.volumes import read_study
from tests.exports.validators import check_report
from tests.intake import layouts
from tests.intake.test_data import content
from tests.volumes.test_nifti import write_nifti

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def phantom(tmp_path_factory) -> Path:
    """The folder of one small study, whose table is not needed."""
    root = tmp_path_factory.mktemp("phantom") / "competition"
    make_phantom(root, 1, 11, "test", "small")
    return next((root / "test_images").iterdir())


def graded(data: Path, out: Path, *options: object) -> tuple[np.ndarray, dict, list[str]]:
    """The 25 rows, the report, and the names of what else was written."""
    arguments = ["--data", data, "--out", out / "submission.csv", "--weights", ROOT / "weights" / "phantom"]
    assert (
        main([*map(str, arguments), "--workers", "1", "--quiet", "--stages", str(out / "stages"), *map(str, options)])
        == 0
    )
    rows = read_submission(out / "submission.csv")
    assert len(rows) == 25
    report = json.loads((out / "run.json").read_text())
    return rows.to_numpy(), report, sorted(path.name for path in out.iterdir())


@pytest.fixture(scope="module")
def expected(phantom, tmp_path_factory) -> np.ndarray:
    rows, report, written = graded(phantom.parents[1], tmp_path_factory.mktemp("expected"))
    assert report["rows_by_source"]["model"] == 25
    assert "studies.csv" not in written
    return rows


def test_what_the_networks_see_is_the_same_in_every_layout(phantom, tmp_path):
    competition = content(read_study(open_competition(phantom.parents[1]).studies[0]))
    for layout in layouts.LAYOUTS:
        (study,) = open_data(layout(phantom, tmp_path / layout.__name__)).studies
        assert content(read_study(study)) == competition, layout.__name__


def test_a_zip_gives_the_rows_of_the_competitions_layout(phantom, expected, tmp_path):
    place = layouts.zipped(phantom, tmp_path / "zip")
    rows, report, written = graded(place, tmp_path / "out", "--dicom-sr", tmp_path / "out" / "sr")
    assert rows == pytest.approx(expected, abs=1e-6)
    assert report["problems"] == {"layout": 1, "uids-replaced": 1}
    assert written == ["run.json", "sr", "stages", "studies.csv", "submission.csv", "submission.log"]
    sources = pd.read_csv(tmp_path / "out" / "studies.csv", dtype=str)
    assert list(sources["study_id"]) == ["study1"] * 3
    problems = pd.read_csv(tmp_path / "out" / "stages" / "problems.csv")
    assert list(problems["what"]) == ["layout", "uids-replaced"]
    assert "a zip" in problems["detail"][0]
    check_report(tmp_path / "out" / "sr" / "study1.dcm")


def test_nifti_gives_these_rows_to_every_digit_that_counts_from_python_too(phantom, expected, tmp_path):
    """A stack of a NIfTI file has one affine of float32, which moves points by micrometres; nothing else is lost."""
    for number, volume in enumerate(read_study(open_competition(phantom.parents[1]).studies[0]).volumes):
        kind = volume.kind.value.lower().partition("/")[0].replace(" ", "_")
        write_nifti(volume, tmp_path / "data" / f"{number}_{kind}.nii.gz")
    grading = grade(tmp_path / "data", ROOT / "weights" / "phantom")
    assert grading.report["problems"] == {"layout": 1, "study-assumed": 1}
    assert set(grading.probabilities["source"]) == {"model"}
    rows = grading.probabilities[[f"weighted_{name}" for name in GRADES]]
    assert rows.to_numpy() == pytest.approx(expected, abs=1e-4)
    assert len(grading.points) == 25
