"""A whole competition folder of phantoms: images and tables in the competition's own schemas."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import joblib
import numpy as np
from pydicom.dataset import Dataset
from tqdm import tqdm

from pipeline.files import write_atomically
from pipeline.labels import CELL_COLUMNS, CELLS, GRADE_NAMES, GRADES, Family, SeriesKind, level_title, row_id
from pipeline.owned import check_claim, claim
from pipeline.phantom.acquisition import SIZES, Pose, SeriesPlan, SlicePlane, plan_study, sample_pose
from pipeline.phantom.anatomy import Anatomy
from pipeline.phantom.artefacts import degrade, sample_artefacts
from pipeline.phantom.contrast import sample_contrast
from pipeline.phantom.defects import DEFECTS, SeriesFiles, apply_defect
from pipeline.phantom.dicom_writer import build_dataset, save_dataset
from pipeline.phantom.grades import LabelSettings, written_grades
from pipeline.phantom.rendering import render_slice
from pipeline.phantom.sampling import sample_anatomy
from pipeline.phantom.soft_tissue import surroundings

if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("train", "test")
_KIND_OF_FAMILY = {
    Family.CANAL: SeriesKind.SAGITTAL_T2,
    Family.FORAMINAL: SeriesKind.SAGITTAL_T1,
    Family.SUBARTICULAR: SeriesKind.AXIAL_T2,
}
_SPLIT_KEY = {"train": 0, "test": 1}


@dataclass(frozen=True)
class StudyRecord:
    """The rows one study adds to the tables."""

    labels: dict[str, object]
    coordinates: list[dict[str, object]]
    series: list[dict[str, object]]
    truth: dict[str, object]


def make_phantom(
    out: Path,
    studies: int,
    seed: int = 0,
    split: str = "train",
    size: str = "full",
    defects: Sequence[str] = (),
    workers: int = 1,
    labels: LabelSettings | None = None,
    progress: bool = False,
) -> Path:
    """Write a competition folder of phantoms.

    The same arguments give the same bytes on any number of workers: study ``i`` draws everything from a generator
    seeded by (seed, split, i).

    Args:
        out: folder to write to: a new or empty one, or one of phantoms.
        studies: how many.
        split: ``train`` (public labels) or ``test`` (labels go to ``test_truth.csv`` and
            ``test_truth_coordinates.csv``, which the competition does not have). ``sample_submission.csv`` asks for
            the rows of the test studies, so only ``test`` writes it and a folder may hold both splits.
        size: ``full`` (sagittal about 18 x 448 x 448, axial about 40 x 320 x 320) or ``small`` (half the pixels each
            way).
        defects: names from DEFECTS; study ``i`` gets defect ``i`` modulo their number.
        labels: label noise and missing labels.

    Returns:
        ``out``.

    Raises:
        ValueError: on an unknown split, size or defect, fewer than one study, or a folder that holds other studies or
            things that are no phantoms (RefusedError).
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; expected one of {', '.join(SPLITS)}")
    unknown = sorted(set(defects) - set(DEFECTS))
    if unknown:
        raise ValueError(f"unknown defect {unknown[0]!r}; expected some of {', '.join(DEFECTS)}")
    if size not in SIZES:
        raise ValueError(f"unknown size {size!r}; expected one of {', '.join(SIZES)}")
    if studies < 1:
        raise ValueError(f"at least one study is needed, found {studies}")
    out = Path(out)
    images = out / f"{split}_images"
    check_claim(out, "phantom")
    _refuse_other_studies(images, {_study_id(_generator(seed, split, index), index) for index in range(studies)})
    claim(out, "phantom")
    images.mkdir(exist_ok=True)
    settings = labels or LabelSettings()
    chosen = [defects[index % len(defects)] if defects else None for index in range(studies)]
    jobs = (
        joblib.delayed(write_study)(images, index, seed, split, size, defect, settings)
        for index, defect in enumerate(chosen)
    )
    parallel = joblib.Parallel(n_jobs=workers, return_as="generator")
    records = list(tqdm(parallel(jobs), total=studies, unit="study", desc="phantom", disable=not progress))
    _write_tables(out, split, records)
    return out


def _generator(seed: int, split: str, index: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_SPLIT_KEY[split], index)))


def _study_id(rng: np.random.Generator, index: int) -> str:
    """The first thing that is drawn from a study's fresh generator."""
    return str(10_000_000 + int(rng.integers(0, 89_999)) * 1000 + index % 1000 + 1_000_000_000 * (index // 1000))


def _refuse_other_studies(images: Path, study_ids: set[str]) -> None:
    others = sorted(path.name for path in images.iterdir() if path.name not in study_ids) if images.is_dir() else []
    if others:
        raise ValueError(
            f"{images} already holds {len(others)} other studies or files (such as {others[0]}) that the new tables "
            "would not name; remove them or choose another folder"
        )


def write_study(
    images: Path, index: int, seed: int, split: str, size: str, defect: str | None, settings: LabelSettings
) -> StudyRecord:
    """Draw study ``index`` and write its files under ``images``."""
    # Processes share the cores already; OpenCV's own threads would only be in their way.
    cv2.setNumThreads(1)
    rng = _generator(seed, split, index)
    study_id = _study_id(rng, index)
    anatomy, pose = sample_anatomy(rng), sample_pose(rng)
    plans = plan_study(anatomy, pose, size, rng)
    series_ids = [str(int(number)) for number in rng.choice(2_000_000_000, len(plans), replace=False) + 100_000_000]
    grades = written_grades(anatomy.grades, settings, rng)
    defect_rng = np.random.default_rng(rng.integers(2**63))
    files = []
    for plan, series_id in zip(plans, series_ids, strict=True):
        datasets = _draw_series(anatomy, pose, plan, study_id, series_id, rng)
        files.append(SeriesFiles(series_id, plan.kind, datasets))
    folder = images / study_id
    folder.mkdir(parents=True, exist_ok=True)
    if defect is None:
        for series in files:
            _save_series(folder, series)
    else:
        apply_defect(defect, folder, files, _save_series, defect_rng)
    return _record(anatomy, pose, plans, series_ids, study_id, grades)


def _draw_series(
    anatomy: Anatomy, pose: Pose, plan: SeriesPlan, study_id: str, series_id: str, rng: np.random.Generator
) -> list[Dataset]:
    contrast, artefacts = sample_contrast(plan.weighting, rng), sample_artefacts(plan, rng)
    around = surroundings(anatomy)
    seeds = rng.integers(0, 2**63, len(plan.planes))
    middle = pose.to_lps(np.zeros(3))
    datasets = []
    for number, (plane, seed) in enumerate(zip(plan.planes, seeds, strict=True), start=1):
        signal = render_slice(anatomy, around, pose, plane, contrast, int(seed))
        column, row = _reference_pixel(plan, plane, pose, anatomy, middle)
        pixels = degrade(signal, plan, artefacts, (column, row), plane.spacing, rng)
        datasets.append(build_dataset(pixels, plane, plan, study_id, series_id, number))
    return datasets


def _reference_pixel(
    plan: SeriesPlan, plane: SlicePlane, pose: Pose, anatomy: Anatomy, middle: np.ndarray
) -> tuple[float, float]:
    """Where the spine crosses the slice, about: coil and saturation band are placed from there."""
    if plan.kind is SeriesKind.AXIAL_T2:
        body = pose.rotation.T @ (plane.position - pose.shift)
        row = int(np.argmin(np.abs(anatomy.curve.centre[:, 2] - body[2])))
        middle = pose.to_lps(anatomy.curve.centre[row])
    column, line, _ = plane.project(middle)
    return column, line


def _save_series(folder: Path, series: SeriesFiles) -> None:
    target = folder / series.series_id
    target.mkdir(parents=True, exist_ok=True)
    for number, dataset in enumerate(series.datasets, start=1):
        save_dataset(dataset, target / f"{number}.dcm")


def _record(
    anatomy: Anatomy,
    pose: Pose,
    plans: tuple[SeriesPlan, ...],
    series_ids: list[str],
    study_id: str,
    grades: np.ndarray,
) -> StudyRecord:
    names = [GRADE_NAMES[grade] if grade >= 0 else None for grade in grades]
    coordinates: list[dict[str, object]] = []
    for index, cell in enumerate(CELLS):
        if grades[index] < 0:
            continue
        point = pose.to_lps(anatomy.landmarks[index])
        seen = [
            (plan.nearest(point), series_id, plan)
            for plan, series_id in zip(plans, series_ids, strict=True)
            if plan.kind is _KIND_OF_FAMILY[cell.condition.family]
        ]
        (number, x, y, distance), series_id, plan = min(seen, key=lambda item: item[0][3])
        if distance > max(plan.spacing_between, plan.planes[0].thickness):
            continue
        coordinates.append(
            {
                "study_id": study_id,
                "series_id": series_id,
                "instance_number": number,
                "condition": cell.condition.title,
                "level": level_title(cell.level),
                "x": x,
                "y": y,
                "x_mm": point[0],
                "y_mm": point[1],
                "z_mm": point[2],
            }
        )
    series: list[dict[str, object]] = [
        {"study_id": study_id, "series_id": series_id, "series_description": str(plan.kind)}
        for plan, series_id in zip(plans, series_ids, strict=True)
    ]
    measured = dict(zip(CELL_COLUMNS, anatomy.measurements.tolist(), strict=True))
    labels: dict[str, object] = {"study_id": study_id, **dict(zip(CELL_COLUMNS, names, strict=True))}
    return StudyRecord(labels, coordinates, series, {"study_id": study_id, **measured})


def _write_tables(out: Path, split: str, records: list[StudyRecord]) -> None:
    # Here, because the workers that draw the studies start without it a quarter of a second sooner.
    import pandas as pd

    from pipeline.tables import COORDINATE_COLUMNS, PATIENT_COLUMNS

    ordered = sorted(records, key=lambda record: str(record.labels["study_id"]))
    labels = pd.DataFrame([record.labels for record in ordered], columns=["study_id", *CELL_COLUMNS])
    rows = [row for record in ordered for row in record.coordinates]
    coordinates = pd.DataFrame(rows, columns=[*COORDINATE_COLUMNS, *PATIENT_COLUMNS])
    series = pd.DataFrame([row for record in ordered for row in record.series])
    truth = pd.DataFrame([record.truth for record in ordered])
    _write_table(series, out / f"{split}_series_descriptions.csv")
    label_name, point_name = ("train.csv", "train_label_coordinates.csv")
    if split == "test":
        label_name, point_name = ("test_truth.csv", "test_truth_coordinates.csv")
    _write_table(labels, out / label_name)
    _write_table(coordinates, out / point_name, "%.4f")
    _write_table(truth, out / f"{split}_measurements.csv", "%.3f")
    if split == "test":
        _write_table(_sample(labels["study_id"]), out / "sample_submission.csv")


def _write_table(table: pd.DataFrame, path: Path, float_format: str | None = None) -> None:
    write_atomically(path, functools.partial(table.to_csv, index=False, float_format=float_format))


def _sample(study_ids: Iterable[object]) -> pd.DataFrame:
    """Every row of these studies, thirds."""
    import pandas as pd

    ids = [row_id(str(study), cell) for study in study_ids for cell in sorted(CELLS, key=lambda item: item.column)]
    sample = pd.DataFrame({"row_id": ids})
    for grade in GRADES:
        sample[grade] = 1 / 3
    return sample
