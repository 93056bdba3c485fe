"""Every defect does what its name says, and only that."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest

from pipeline.labels import SeriesKind
from pipeline.phantom.acquisition import SeriesPlan, SlicePlane
from pipeline.phantom.competition_writer import _save_series
from pipeline.phantom.contrast import Weighting
from pipeline.phantom.defects import DEFECTS, SeriesFiles, apply_defect
from pipeline.phantom.dicom_writer import build_dataset

_SLICES = 6


def _series(series_id: str) -> SeriesFiles:
    right, down = np.array([0.0, 1, 0]), np.array([0.0, 0, -1])
    planes = tuple(SlicePlane(np.array([4.0 * i, 0, 0]), right, down, 1.0, 20, 16, 4.0) for i in range(_SLICES))
    plan = SeriesPlan(SeriesKind.SAGITTAL_T1, Weighting.T1, planes, 4.0)
    rng = np.random.default_rng(int(series_id))
    datasets = [
        build_dataset(rng.integers(0, 4096, (20, 16)).astype(np.uint16), plane, plan, "9", series_id, i + 1)
        for i, plane in enumerate(planes)
    ]
    return SeriesFiles(series_id, SeriesKind.SAGITTAL_T1, datasets)


@pytest.fixture
def damaged(tmp_path):
    def make(name):
        folder = tmp_path / name
        folder.mkdir()
        apply_defect(name, folder, [_series("1"), _series("2")], _save_series, np.random.default_rng(0))
        return folder

    return make


def _read(folder):
    return [
        pydicom.dcmread(path)
        for path in sorted(folder.glob("*/*.dcm"), key=lambda path: (path.parent.name, int(path.stem)))
    ]


@pytest.mark.parametrize("name", DEFECTS)
def test_every_defect_leaves_a_study_folder(damaged, name):
    assert any(damaged(name).iterdir())


def test_missing_and_empty_series(damaged):
    assert len(list(damaged("missing_series").iterdir())) == 1
    counts = sorted(len(list(series.iterdir())) for series in damaged("empty_series").iterdir())
    assert counts == [0, _SLICES]


def test_files_that_are_not_whole(damaged):
    sizes = [path.stat().st_size for path in damaged("zero_byte").glob("*/*.dcm")]
    assert sizes.count(0) == 1
    assert any(path.read_bytes().startswith(b"This is not") for path in damaged("text_file").glob("*/*.dcm"))
    whole = len(list(damaged("signed").glob("*/*.dcm")))
    assert whole == 2 * _SLICES
    broken = 0
    for path in damaged("truncated").glob("*/*.dcm"):
        try:
            broken += pydicom.dcmread(path).pixel_array.shape != (20, 16)
        except Exception:
            broken += 1
    assert broken == 1


def test_single_slice_and_gaps(damaged):
    assert len(_read(damaged("single_slice"))) == 2
    gapped = _read(damaged("gaps"))[: _SLICES - 2]
    steps = np.diff([float(dataset.ImagePositionPatient[0]) for dataset in gapped])
    assert steps.max() == pytest.approx(12.0)


def test_positions_that_repeat_or_jump(damaged):
    places = [tuple(dataset.ImagePositionPatient) for dataset in _read(damaged("duplicate_position"))[:_SLICES]]
    assert len(set(places)) == _SLICES - 1
    heights = [float(dataset.ImagePositionPatient[2]) for dataset in _read(damaged("motion"))[:_SLICES]]
    assert len(set(heights)) == 2


def test_pixel_oddities_keep_the_picture(damaged):
    plain = _series("1").datasets[0].pixel_array
    inverted = _read(damaged("monochrome1"))[0]
    assert inverted.PhotometricInterpretation == "MONOCHROME1"
    np.testing.assert_array_equal(4095 - inverted.pixel_array, plain)
    signed = _read(damaged("signed"))[0]
    assert signed.pixel_array.dtype == np.int16
    np.testing.assert_array_equal(signed.pixel_array + int(signed.RescaleIntercept), plain)
    assert {dataset.Rows for dataset in _read(damaged("mixed_sizes"))} == {12, 20}


def test_headers_without_what_is_needed(damaged):
    assert all("ImageOrientationPatient" not in dataset for dataset in _read(damaged("no_orientation")))
    assert all("PixelData" not in dataset for dataset in _read(damaged("no_pixels")))
