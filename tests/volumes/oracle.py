"""The linear oracle: series whose pixel value is a linear function of patient position.

Whatever is read, oriented, resampled, projected or cropped must return that function: ``value == gradient @ point`` to
0.01 (mm, for a gradient of length 1). Stored values are multiples of 0.01 above a per-slice intercept, so every slice
also exercises slope and intercept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from pipeline.competition import SeriesRef
from pipeline.labels import SeriesKind
from pipeline.volumes import SeriesReading, StudyVolumes, Volume

QUANTUM = 0.01
TOLERANCE = 0.01
X, Y, Z = np.eye(3)
SLANTED = np.array([2.0, -1.0, 2.0]) / 3.0
"""A gradient that no confusion of axes leaves unchanged."""

SAGITTAL = np.array([[0.0, 1, 0], [0, 0, -1]])
AXIAL = np.array([[1.0, 0, 0], [0, 1, 0]])
CORONAL = np.array([[1.0, 0, 0], [0, 0, -1]])

Change = Callable[[Dataset], object]


def turned(axes: np.ndarray, about: np.ndarray, degrees: float) -> np.ndarray:
    """The (2, 3) directions rotated about an axis (Rodrigues)."""
    angle, unit = np.radians(degrees), np.asarray(about) / np.linalg.norm(about)
    cross = np.cross(np.broadcast_to(unit, axes.shape), axes)
    return axes * np.cos(angle) + cross * np.sin(angle) + np.outer(axes @ unit, unit) * (1 - np.cos(angle))


def positions(axes: np.ndarray, centre: Sequence[float], steps: Sequence[float], shape=(12, 16), spacing=(0.5, 0.8)):
    """ImagePositionPatient of slices at ``steps`` mm along the normal from ``centre``, the middle of the image."""
    corner = axes[0] * spacing[1] * (shape[1] - 1) / 2 + axes[1] * spacing[0] * (shape[0] - 1) / 2
    normal = np.cross(axes[0], axes[1])
    return [np.asarray(centre) + normal * step - corner for step in steps]


def slice_dataset(
    axes: np.ndarray,
    position: np.ndarray,
    instance: int,
    shape: tuple[int, int] = (12, 16),
    spacing: tuple[float, float] = (0.5, 0.8),
    gradient: np.ndarray = SLANTED,
) -> FileDataset:
    """One slice of the oracle, uncompressed 16 bit, about as few tags as the competition's files."""
    rows, cols = np.indices(shape)
    points = position + axes[0] * (cols * spacing[1])[..., None] + axes[1] * (rows * spacing[0])[..., None]
    values = points @ gradient
    intercept = round(float(values.min()) - 1, 1)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4.1"  # Enhanced MR, as the competition's files claim
    meta.MediaStorageSOPInstanceUID = f"1.2.3.{instance}"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPInstanceUID = f"1.2.3.{instance}"
    data.InstanceNumber = instance
    data.ImagePositionPatient = [f"{value:.10g}" for value in position]
    data.ImageOrientationPatient = [f"{value:.12f}"[:16] for value in axes.ravel()]
    data.PixelSpacing = list(spacing)
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = shape
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 0
    data.RescaleSlope, data.RescaleIntercept = QUANTUM, intercept
    data.PixelData = np.round((values - intercept) / QUANTUM).astype("<u2").tobytes()
    return data


def write_series(
    folder: Path,
    axes: np.ndarray = SAGITTAL,
    places: Sequence[np.ndarray] | None = None,
    *,
    first_instance: int = 1,
    change: Change | None = None,
    **options,
) -> Path:
    """Write slices 1.dcm, 2.dcm, ... of the oracle; ``change`` edits each data set before it is saved."""
    folder.mkdir(parents=True, exist_ok=True)
    if places is None:
        size = {key: options[key] for key in ("shape", "spacing") if key in options}
        places = positions(axes, (5.0, -7.0, 11.0), [-6.0, -2.0, 2.0, 6.0], **size)
    for instance, position in enumerate(places, start=first_instance):
        data = slice_dataset(axes, np.asarray(position), instance, **options)
        if change is not None:
            change(data)
        data.save_as(folder / f"{instance}.dcm", enforce_file_format=True)
    return folder


def stored_values(data: Dataset) -> np.ndarray:
    """The (rows, cols) stored values of an uncompressed slice of the oracle."""
    return np.frombuffer(data.PixelData, "<u2").reshape(data.Rows, data.Columns)


def rewrite(path: Path, change: Change) -> None:
    """Edit a file that was written."""
    data = pydicom.dcmread(path)
    change(data)
    data.save_as(path)


def reference(folder: Path, description: SeriesKind | None = None, study_id: str = "100") -> SeriesRef:
    """The series of a folder."""
    return SeriesRef(study_id, folder.name, folder, description)


def codes(reading: SeriesReading | StudyVolumes) -> list[str]:
    """What was wrong with the files, problem by problem."""
    return [problem.what for problem in reading.problems]


def at(volume: Volume, index, col, row) -> np.ndarray:
    """(N, 3) LPS mm of the pixels (N,) of slices (N,)."""
    index, col, row = np.broadcast_arrays(np.atleast_1d(index), col, row)
    return volume.affines[index] @ np.column_stack([col, row, np.zeros(len(index))])


def assert_linear(volume: Volume, gradient: np.ndarray = SLANTED, tolerance: float = TOLERANCE) -> None:
    """Every pixel of the volume is the linear function of its place in the patient."""
    index, row, col = (grid.ravel() for grid in np.indices(volume.shape))
    expected = (at(volume, index, col, row) @ gradient).reshape(volume.shape)
    assert np.abs(volume.pixels - expected).max() <= tolerance
