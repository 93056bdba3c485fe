"""A whole competition folder: tables, geometry of the coordinates, determinism."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
import pydicom
import pytest

from pipeline.competition import open_competition
from pipeline.labels import CELL_COLUMNS, CELLS, GRADE_NAMES, SeriesKind, row_id
from pipeline.phantom import make_phantom


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_phantom(tmp_path_factory.mktemp("phantom"), 2, seed=4, size="small")


def _table(folder, name):
    return pd.read_csv(folder / name, dtype={"study_id": str, "series_id": str})


def test_tables_have_the_competitions_columns(folder):
    labels = _table(folder, "train.csv")
    assert labels.columns.tolist() == ["study_id", *CELL_COLUMNS]
    assert set(labels[list(CELL_COLUMNS)].fillna("").to_numpy().ravel()) <= {*GRADE_NAMES, ""}
    series = _table(folder, "train_series_descriptions.csv")
    assert series.columns.tolist() == ["study_id", "series_id", "series_description"]
    assert set(series["series_description"]) == {str(kind) for kind in SeriesKind if kind is not SeriesKind.UNKNOWN}
    for study in labels["study_id"]:
        on_disk = {path.name for path in (folder / "train_images" / study).iterdir()}
        assert on_disk == set(series.loc[series["study_id"] == study, "series_id"])


def test_every_coordinate_lies_on_its_slice_where_the_point_is(folder):
    coordinates = _table(folder, "train_label_coordinates.csv")
    assert len(coordinates) >= 40
    for row in coordinates.itertuples():
        path = folder / "train_images" / row.study_id / row.series_id / f"{row.instance_number}.dcm"
        header = pydicom.dcmread(path, stop_before_pixels=True)
        position = np.array([float(value) for value in header.ImagePositionPatient])
        right, down = np.array([float(value) for value in header.ImageOrientationPatient]).reshape(2, 3)
        on_slice = position + (row.x * right + row.y * down) * float(header.PixelSpacing[0])
        offset = np.array([row.x_mm, row.y_mm, row.z_mm]) - on_slice
        assert abs(offset @ right) < 0.01
        assert abs(offset @ down) < 0.01
        assert np.linalg.norm(offset) <= 0.5 * float(header.SpacingBetweenSlices) + 0.01
        assert 0 <= row.x < header.Columns
        assert 0 <= row.y < header.Rows


def test_sides_are_the_patients(folder):
    coordinates = _table(folder, "train_label_coordinates.csv")
    for _, level in coordinates[coordinates["condition"].str.contains("Subarticular")].groupby(["study_id", "level"]):
        by_side = level.set_index(level["condition"].str.split().str[0])["x_mm"]
        assert by_side["Left"] > by_side["Right"]


def test_the_files_are_the_same_on_any_number_of_workers(folder, tmp_path):
    again = make_phantom(tmp_path, 2, seed=4, size="small", workers=2)
    assert _digests(again) == _digests(folder)


def test_the_sample_is_of_the_test_studies_whichever_split_is_written_last(tmp_path):
    make_phantom(tmp_path, 2, seed=4, split="test", size="small", defects=["single_slice"])
    make_phantom(tmp_path, 1, seed=4, split="train", size="small", defects=["single_slice"])
    labels = _table(tmp_path, "test_truth.csv")
    sample = pd.read_csv(tmp_path / "sample_submission.csv")
    assert sample.columns.tolist() == ["row_id", "normal_mild", "moderate", "severe"]
    expected = [
        row_id(study, cell)
        for study in sorted(labels["study_id"])
        for cell in sorted(CELLS, key=lambda cell: cell.column)
    ]
    assert sample["row_id"].tolist() == expected
    assert {study.study_id for study in open_competition(tmp_path).studies} == set(labels["study_id"])
    assert open_competition(tmp_path).problems == ()


def test_studies_of_another_call_are_not_mixed_in(folder, tmp_path):
    make_phantom(tmp_path, 1, seed=4, size="small", defects=["single_slice"])
    with pytest.raises(ValueError, match=r"train_images already holds 1 other studies .*choose another folder"):
        make_phantom(tmp_path, 1, seed=5, size="small", defects=["single_slice"])
    # The same call once more, or one that goes on from it, is no stranger to what lies there.
    make_phantom(tmp_path, 2, seed=4, size="small", defects=["single_slice"])
    assert len(list((tmp_path / "train_images").iterdir())) == 2
    labels = _table(tmp_path, "train.csv")
    assert labels["study_id"].tolist() == _table(folder, "train.csv")["study_id"].tolist()


def _digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"split": "valid"}, "unknown split 'valid'"),
        ({"defects": ["rust"]}, "unknown defect 'rust'"),
        ({"studies": 0}, "at least one study"),
        ({"size": "huge"}, "unknown size 'huge'"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        make_phantom(tmp_path, **{"studies": 1, **wrong})
