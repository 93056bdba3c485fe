"""A NIfTI file gives the stack that its DICOM series gives; what the format loses is said."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from pipeline.intake import open_data
from pipeline.labels import SeriesKind
from pipeline.volumes import Volume, read_series, read_study
from tests.volumes.oracle import AXIAL, SAGITTAL, X, reference, turned, write_series


def write_nifti(volume: Volume, path: Path, order: tuple[int, int, int] = (0, 1, 2)) -> None:
    """The stack as a converter writes it, its axes (slice, row, column) in any order."""
    first = volume.affines[0]
    gap = volume.affines[1].origin_mm - first.origin_mm if len(volume.pixels) > 1 else first.normal * 4.0
    steps = [gap, first.matrix[:3, 1], first.matrix[:3, 0]]
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.pixels.transpose(order)))
    axes = [steps[axis] for axis in reversed(order)]
    image.SetSpacing([float(np.linalg.norm(step)) for step in axes])
    image.SetDirection(np.column_stack([step / np.linalg.norm(step) for step in axes]).ravel().tolist())
    image.SetOrigin(first.origin_mm.tolist())
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


@pytest.mark.parametrize("axes", [SAGITTAL, AXIAL, turned(AXIAL, X, 14)], ids=["sagittal", "axial", "tilted"])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_the_stack_is_that_of_the_dicom_series_whatever_the_order_of_its_axes(axes, order, tmp_path):
    (expected,) = read_series(reference(write_series(tmp_path / "dicom", axes), SeriesKind.SAGITTAL_T2)).volumes
    write_nifti(expected, tmp_path / "data" / "x_T2.nii.gz", order)
    (found,) = read_study(open_data(tmp_path / "data").studies[0]).volumes
    assert found.plane is expected.plane
    assert found.kind is (SeriesKind.SAGITTAL_T2 if axes is SAGITTAL else SeriesKind.AXIAL_T2)
    assert found.pixels == pytest.approx(expected.pixels, abs=1e-4)
    assert found.affines.matrix == pytest.approx(expected.affines.matrix, abs=1e-4)
    assert sorted(found.instance_numbers) == [1, 2, 3, 4]


@pytest.fixture
def converted(tmp_path) -> Path:
    (volume,) = read_series(reference(write_series(tmp_path / "dicom", SAGITTAL), SeriesKind.SAGITTAL_T1)).volumes
    write_nifti(volume, tmp_path / "data" / "scan.nii.gz")
    return tmp_path / "data"


def test_times_in_the_file_beside_it_tell_the_kind_and_without_them_it_is_said_to_be_unknown(converted):
    competition = open_data(converted)
    assert [problem.what for problem in competition.problems] == ["layout", "study-assumed"]
    volumes = read_study(competition.studies[0])
    assert [volume.kind for volume in volumes.volumes] == [SeriesKind.UNKNOWN]
    assert [problem.what for problem in volumes.problems] == ["kind-unknown"]
    (converted / "scan.json").write_text(json.dumps({"EchoTime": 0.1, "RepetitionTime": 3.5}))
    volumes = read_study(open_data(converted).studies[0])
    assert [volume.kind for volume in volumes.volumes] == [SeriesKind.SAGITTAL_T2]
    assert volumes.problems == ()


def test_subjects_of_bids_in_one_folder_are_studies_of_their_own(converted):
    for subject in ("sub-01", "sub-02"):
        for name in ("T1w", "T2w"):
            (converted / f"{subject}_{name}.nii.gz").write_bytes((converted / "scan.nii.gz").read_bytes())
    (converted / "scan.nii.gz").unlink()
    assert [len(study.series) for study in open_data(converted).studies] == [2, 2]


@pytest.mark.parametrize(
    ("at", "value", "what"),
    [
        (0, b"\x00\x00\x00\x00", "unreadable-file"),
        (42, (32000).to_bytes(2, "little") * 3, "too-large"),
        (40, (4).to_bytes(2, "little") + (8).to_bytes(2, "little") * 4, "unsupported-pixels"),
        (40, (2).to_bytes(2, "little"), "unsupported-pixels"),
        (344, b"ni1", "unreadable-file"),
        (252, bytes(4), "missing-orientation"),
        (80, struct.pack("<f", 3.0), "bad-header"),
        (292, struct.pack("<f", float("nan")), "bad-header"),
    ],
    ids=[
        "no header",
        "bomb",
        "four dimensions",
        "two dimensions",
        "Analyze",
        "no orientation",
        "two spacings",
        "no place",
    ],
)
def test_a_header_that_cannot_be_is_refused_before_the_pixels_are_unpacked(converted, at, value, what):
    content = bytearray(gzip.decompress((converted / "scan.nii.gz").read_bytes()))
    content[at : at + len(value)] = value
    (converted / "scan.nii.gz").write_bytes(gzip.compress(bytes(content)))
    volumes = read_study(open_data(converted).studies[0])
    assert volumes.volumes == ()
    assert [problem.what for problem in volumes.problems] == [what, "no-volume"]


def test_a_damaged_file_costs_itself_alone(converted):
    content = (converted / "scan.nii.gz").read_bytes()
    (converted / "t1.nii.gz").write_bytes(content)
    (converted / "scan.nii.gz").write_bytes(content[: len(content) // 2])
    volumes = read_study(open_data(converted).studies[0])
    assert len(volumes.volumes) == 1
    assert [problem.what for problem in volumes.problems] == ["unreadable-file", "no-volume"]
