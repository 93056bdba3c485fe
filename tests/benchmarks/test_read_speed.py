"""Reading speed against SimpleITK's ImageSeriesReader and dicom2nifti, on the same files in one run.

``pytest tests/benchmarks --benchmark-enable`` prints the times; the test itself compares them in turns, so that a busy
machine slows all three alike. Only ours places every slice; it should still be no slower than the faster of the two.
The series is one that all three can read: 24 parallel slices of 320 x 320, RLE, as the competition ships them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import dicom2nifti
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom import uid

from pipeline.volumes import read_series
from tests.volumes.oracle import SAGITTAL, positions, reference, write_series

ROUNDS = 5
SHAPE = (320, 320)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A series with the tags that dicom2nifti insists on."""
    rng = np.random.default_rng(0)

    def change(data):
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
        data.Modality, data.Manufacturer, data.ImageType = "MR", "SIEMENS", ["ORIGINAL", "PRIMARY", "M"]
        data.StudyInstanceUID, data.SeriesInstanceUID = "1.2.3", "1.2.3.4"
        data.FrameOfReferenceUID = "1.2.3.5"
        data.RescaleSlope, data.RescaleIntercept = 1, 0
        smooth = np.add.outer(np.arange(SHAPE[0]), np.arange(SHAPE[1])) + rng.integers(0, 60, SHAPE)
        data.PixelData = smooth.astype("<u2").tobytes()
        data.compress(uid.RLELossless, generate_instance_uid=False)

    places = positions(SAGITTAL, (0, 0, 0), np.arange(24) * 4.0, SHAPE, (0.9, 0.9))
    path = tmp_path_factory.mktemp("speed") / "1"
    return write_series(path, SAGITTAL, places, shape=SHAPE, spacing=(0.9, 0.9), change=change)


def by_ours(folder: Path) -> np.ndarray:
    return read_series(reference(folder)).volumes[0].pixels


def by_simpleitk(folder: Path) -> np.ndarray:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return sitk.GetArrayFromImage(reader.Execute())


def by_dicom2nifti(folder: Path) -> np.ndarray:
    converted = dicom2nifti.convert_dicom.dicom_array_to_nifti(
        [pydicom.dcmread(path) for path in sorted(folder.iterdir())], None, reorient_nifti=False
    )
    return np.asarray(converted["NII"].dataobj)


READERS: dict[str, Callable[[Path], np.ndarray]] = {
    "ours": by_ours,
    "SimpleITK": by_simpleitk,
    "dicom2nifti": by_dicom2nifti,
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_time(benchmark, folder, reader):
    pixels = benchmark(reader, folder)
    assert pixels.size == 24 * SHAPE[0] * SHAPE[1]


def process_seconds(reader: Callable[[Path], np.ndarray], folder: Path) -> float:
    started = time.process_time()
    reader(folder)
    return time.process_time() - started


def ratios(folder: Path) -> dict[str, float]:
    """Process time of each reader over ours: the best of several rounds, in turns."""
    best = dict.fromkeys(READERS, float("inf"))
    for _ in range(ROUNDS):
        for name, reader in READERS.items():
            best[name] = min(best[name], process_seconds(reader, folder))
    return {name: best[name] / best["ours"] for name in READERS}


def test_no_slower_than_the_faster_of_simpleitk_and_dicom2nifti(folder, capsys):
    found = ratios(folder)
    with capsys.disabled():
        print(f"\nreading time over ours: SimpleITK {found['SimpleITK']:.2f}, dicom2nifti {found['dicom2nifti']:.2f}")
    assert min(found["SimpleITK"], found["dicom2nifti"]) >= 1.0


@pytest.mark.real
def test_a_whole_real_study_reads_in_under_a_second_and_faster_than_simpleitk(real_data, capsys):
    study = real_data / "rsna-full" / "train_images" / "100206310"
    series = sorted(study.iterdir())
    ours = min(sum(process_seconds(by_ours_all, folder) for folder in series) for _ in range(3))
    theirs = min(sum(process_seconds(by_simpleitk, folder) for folder in series) for _ in range(3))
    with capsys.disabled():
        print(f"\nstudy 100206310: ours {ours:.2f} s, SimpleITK {theirs:.2f} s, ratio {theirs / ours:.1f}")
    assert ours < 1.0
    assert ours <= theirs


def by_ours_all(folder: Path) -> np.ndarray:
    return np.concatenate([volume.pixels.ravel() for volume in read_series(reference(folder)).volumes])
