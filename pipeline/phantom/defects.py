"""Damage done to finished studies on purpose, for tests of everything that reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from pipeline.labels import SeriesKind
from pipeline.phantom.dicom_writer import set_pixels


@dataclass(frozen=True)
class SeriesFiles:
    """One series before it is written: the datasets of instances 1, 2, ..."""

    series_id: str
    kind: SeriesKind
    datasets: list[Dataset]


Save = Callable[[Path, SeriesFiles], None]
Edit = Callable[[list[Dataset], np.random.Generator], list[Dataset]]


def _motion(datasets: list[Dataset], rng: np.random.Generator) -> list[Dataset]:
    """The patient moves once in the middle: what follows lies 2 to 5 mm elsewhere, and the tags say so."""
    shift = rng.uniform(2, 5) * np.array([0.0, 0.6, 0.8])
    for dataset in datasets[len(datasets) // 2 :]:
        position = np.array([float(value) for value in dataset.ImagePositionPatient]) + shift
        dataset.ImagePositionPatient = [f"{value:.6f}" for value in position]
    return datasets


def _duplicate_position(datasets: list[Dataset], rng: np.random.Generator) -> list[Dataset]:
    """One slice claims the place of its neighbour."""
    at = int(rng.integers(1, len(datasets)))
    datasets[at].ImagePositionPatient = datasets[at - 1].ImagePositionPatient
    return datasets


def _gaps(datasets: list[Dataset], rng: np.random.Generator) -> list[Dataset]:
    """Two slices in the middle are missing."""
    at = max(1, min(len(datasets) // 2 + int(rng.integers(-1, 2)), len(datasets) - 3))
    return datasets[:at] + datasets[at + 2 :]


def _mixed_sizes(datasets: list[Dataset], _: np.random.Generator) -> list[Dataset]:
    """Half of the slices are cropped by a few rows and columns."""
    for dataset in datasets[::2]:
        set_pixels(dataset, dataset.pixel_array[:-8, :-6])
    return datasets


def _monochrome1(datasets: list[Dataset], _: np.random.Generator) -> list[Dataset]:
    """Black is the highest value."""
    for dataset in datasets:
        set_pixels(dataset, (4095 - dataset.pixel_array).astype(np.uint16))
        dataset.PhotometricInterpretation = "MONOCHROME1"
    return datasets


def _signed(datasets: list[Dataset], _: np.random.Generator) -> list[Dataset]:
    """Signed pixels about -1000, brought back by the rescale intercept."""
    for dataset in datasets:
        set_pixels(dataset, (dataset.pixel_array.astype(np.int32) - 1000).astype(np.int16))
        dataset.PixelRepresentation, dataset.BitsStored, dataset.HighBit = 1, 16, 15
        dataset.RescaleIntercept = "1000"
    return datasets


def _no_orientation(datasets: list[Dataset], _: np.random.Generator) -> list[Dataset]:
    """Neither orientation nor position."""
    for dataset in datasets:
        del dataset.ImageOrientationPatient
        del dataset.ImagePositionPatient
    return datasets


def _single_slice(datasets: list[Dataset], _: np.random.Generator) -> list[Dataset]:
    """Only the middle slice of every series is there."""
    return [datasets[len(datasets) // 2]]


def _no_pixels(datasets: list[Dataset], _: np.random.Generator) -> list[Dataset]:
    """Headers without PixelData."""
    for dataset in datasets:
        del dataset.PixelData
    return datasets


_EDITS: dict[str, Edit] = {
    "single_slice": _single_slice,
    "motion": _motion,
    "duplicate_position": _duplicate_position,
    "gaps": _gaps,
    "mixed_sizes": _mixed_sizes,
    "monochrome1": _monochrome1,
    "signed": _signed,
    "no_orientation": _no_orientation,
    "no_pixels": _no_pixels,
}
_FILE_DEFECTS = ("truncated", "zero_byte", "text_file", "missing_series", "empty_series")
DEFECTS: tuple[str, ...] = (*_FILE_DEFECTS, *_EDITS)
"""Names of all defects. Those of files damage one series of the study, the others every series."""


def apply_defect(name: str, folder: Path, files: list[SeriesFiles], save: Save, rng: np.random.Generator) -> None:
    """Write a study with one defect.

    Args:
        name: one of DEFECTS.
        folder: the study's folder, made already.
        save: writes one series under the folder.
    """
    if name in _EDITS:
        for series in files:
            save(folder, SeriesFiles(series.series_id, series.kind, _EDITS[name](series.datasets, rng)))
        return
    victim = int(rng.integers(len(files)))
    for index, series in enumerate(files):
        if index == victim and name == "missing_series":
            continue
        if index == victim and name == "empty_series":
            (folder / series.series_id).mkdir(parents=True, exist_ok=True)
            continue
        save(folder, series)
        if index == victim:
            _damage_files(name, folder / series.series_id, rng)


def _damage_files(name: str, folder: Path, rng: np.random.Generator) -> None:
    paths = sorted(folder.glob("*.dcm"))
    for index in rng.choice(len(paths), max(1, len(paths) // 4), replace=False):
        path = paths[int(index)]
        if name == "truncated":
            data = path.read_bytes()
            path.write_bytes(data[: int(len(data) * rng.uniform(0.3, 0.8))])
        elif name == "zero_byte":
            path.write_bytes(b"")
        else:
            path.write_text("This is not a DICOM file.\n")
