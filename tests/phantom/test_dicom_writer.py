"""Files as the competition ships them."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate

from pipeline.labels import SeriesKind
from pipeline.phantom.acquisition import SeriesPlan, SlicePlane
from pipeline.phantom.contrast import Weighting
from pipeline.phantom.dicom_writer import build_dataset, frame_of_reference, rle_encode, save_dataset

_PLANE = SlicePlane(np.array([1.5, -2.25, 3.0]), np.array([0.0, 1, 0]), np.array([0.0, 0, -1]), 0.75, 6, 9, 4.0)
_PLAN = SeriesPlan(SeriesKind.SAGITTAL_T2, Weighting.STIR, (_PLANE,), 4.4)


def _pictures():
    rng = np.random.default_rng(0)
    yield rng.integers(0, 4096, (6, 9)).astype(np.uint16)
    yield np.zeros((5, 300), np.uint16)
    yield np.repeat(rng.integers(0, 3, (7, 60)), 5, axis=1).astype(np.uint16) * 257
    yield np.arange(3 * 257, dtype=np.uint16).reshape(3, 257)
    yield np.full((1, 129), 4095, np.uint16)
    yield np.array([[1, 1, 2, 2, 2, 3, 3, 3, 3]], np.uint16)


@pytest.mark.parametrize("pixels", list(_pictures()), ids=lambda pixels: f"{pixels.shape[0]}x{pixels.shape[1]}")
def test_rle_decodes_to_the_same_pixels(pixels, tmp_path):
    dataset = build_dataset(pixels, _PLANE, _PLAN, "12", "34", 1)
    assert dataset.PixelData == encapsulate([rle_encode(pixels)])
    save_dataset(dataset, tmp_path / "1.dcm")
    np.testing.assert_array_equal(pydicom.dcmread(tmp_path / "1.dcm").pixel_array, pixels)


def test_tags_and_oddities_are_those_of_the_competition(tmp_path):
    save_dataset(build_dataset(np.ones((6, 9), np.uint16), _PLANE, _PLAN, "12", "34", 7), tmp_path / "7.dcm")
    read = pydicom.dcmread(tmp_path / "7.dcm")
    assert read.file_meta.TransferSyntaxUID == pydicom.uid.RLELossless
    assert read.file_meta.MediaStorageSOPClassUID.name == "Enhanced MR Image Storage"
    assert "Modality" not in read
    assert "SOPClassUID" not in read
    assert 24 <= len(list(read)) <= 30
    assert (read.InstanceNumber, read.SeriesDescription, read.PixelRepresentation) == (7, "STIR", 0)
    assert [float(value) for value in read.ImagePositionPatient] == [1.5, -2.25, 3.0]
    assert [float(value) for value in read.PixelSpacing] == [0.75, 0.75]


def test_frames_of_reference_differ_between_series_and_are_valid():
    first, second = frame_of_reference("1", "2"), frame_of_reference("1", "3")
    assert first != second
    assert len(first) <= 64
