"""Points for 3D Slicer, looked up by a reader that is not ours."""

from __future__ import annotations

import json

import pytest
import SimpleITK as sitk

from pipeline.exports.slicer import markups, write_markups
from pipeline.labels import CELLS
from tests.exports.graded import graded
from tests.intake.layouts import images
from tests.run.studies import write_studies
from tests.volumes.oracle import rewrite


def as_a_scanner_writes(data):
    """The competition's files claim to be Enhanced MR, in which SimpleITK looks for positions elsewhere."""
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"


def test_simpleitk_finds_each_point_on_the_slice_and_pixel_of_the_table(tmp_path):
    write_studies(tmp_path / "data", ["9"])
    for path in images(tmp_path / "data" / "test_images" / "9"):
        rewrite(path, as_a_scanner_writes)
    study = graded(tmp_path / "data")
    assert write_markups(tmp_path / "out", [study], None) == []
    content = json.loads((tmp_path / "out" / "9.mrk.json").read_text())
    (markup,) = content["markups"]
    assert (markup["type"], markup["coordinateSystem"], markup["coordinateUnits"]) == ("Fiducial", "LPS", "mm")
    points = study.points()
    found = [index for index in range(len(CELLS)) if points.found[index]]
    assert len(markup["controlPoints"]) == len(found) == 23
    folders = {ref.series_id: ref.path for ref in study.study.series}
    for index, control in zip(found, markup["controlPoints"], strict=True):
        reader = sitk.ImageSeriesReader()
        names = reader.GetGDCMSeriesFileNames(str(folders[points.series_id[index]]))
        reader.SetFileNames(names)
        x, y, slice_ = reader.Execute().TransformPhysicalPointToContinuousIndex(control["position"])
        assert (x, y) == pytest.approx((points.x[index], points.y[index]), abs=0.02)
        assert names[round(slice_)].endswith(f"/{points.instance_number[index]}.dcm")
        assert control["label"].startswith(CELLS[index].condition.title)


def test_a_study_without_points_has_no_file(tmp_path):
    write_studies(tmp_path / "data", ["9"])
    assert markups(graded(tmp_path / "data", without=25)) is None
