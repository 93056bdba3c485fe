"""Predicted points against labelled ones, in millimetres.

Errors are measured in the plane of the labelled slice (patient millimetres), and the choice of slice apart from them:
that is how a grader meets them. A point is *shifted* if it lies nearer to the labelled point of another level of the
same condition than to its own (on sagittal slices in their plane, because slice positions may be nominal); its *side*
is wrong if it lies nearer to the other side's point in patient x.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipeline.labels import CELL_INDEX, LEVELS, Cell, Condition, Family
from pipeline.landmarks.landmarks import Landmarks
from pipeline.tables import TableError, read_written
from pipeline.weights.manifest import Manifest

if TYPE_CHECKING:
    from pipeline.volumes import StudyVolumes, Volume

WITHIN_MM = (3.0, 5.0, 6.0, 10.0)
EVALUATION = "evaluation"
"""What the mark of a folder of results says."""
COMPARED = (
    "study_id",
    "series_id",
    "instance_number",
    "condition",
    "level",
    "in_plane_mm",
    "along_normal_mm",
    "slices",
    "shifted",
    "wrong_side",
    "confidence",
    "x_mm",
    "y_mm",
    "z_mm",
    "true_x",
    "true_y",
    "true_z",
    "field_mm",
    "doubt",
)
"""The columns of ``errors.csv``, see :func:`compare`."""
ERRORS_FILE = "landmark_errors.json"


def compare(landmarks: Landmarks, volumes: StudyVolumes, coordinates: pd.DataFrame) -> pd.DataFrame:
    """One row a labelled point of the study.

    Args:
        landmarks: predicted.
        volumes: the study.
        coordinates: labelled points, all studies.

    Returns:
        :data:`COMPARED`: the label, the distance in mm in the plane of its slice and along the normal, ``slices``
        between the predicted and the labelled slice (NaN where the prediction lies in another stack), ``shifted`` and
        ``wrong_side``, the predicted and the true place, and why the label cannot be right, if that is so. Distances
        are NaN where the point was not found.
    """
    from pipeline.landmarks.canvas import field_mm
    from pipeline.landmarks.labelled import find_mislabelled, labelled_points

    truth = labelled_points(volumes, coordinates)
    cells = [Cell(Condition(str(row.condition)), str(row.level)) for row in truth.itertuples(index=False)]
    places = truth[["x_mm", "y_mm", "z_mm"]].to_numpy(float)
    by_cell = dict(zip(cells, places, strict=True))
    rows = []
    labels = zip(
        cells, places, truth["series_id"], truth["instance_number"], find_mislabelled(volumes, truth), strict=True
    )
    for cell, own, series_id, number, doubt in labels:
        i = CELL_INDEX[cell]
        volume, index = slice_of(volumes, str(series_id), int(number))
        point = landmarks.points_mm[i]
        found = bool(landmarks.found[i])
        offset = point - own
        rows.append(
            (
                landmarks.study_id,
                series_id,
                number,
                cell.condition.value,
                cell.level,
                _in_plane(offset, volume.normal),
                abs(float(offset @ volume.normal)),
                _slices_apart(landmarks, i, volume, index),
                found and _nearest_level(point, cell.condition, by_cell, volume) != cell.level,
                found and _on_other_side(point, cell, by_cell),
                float(landmarks.confidence[i]),
                *point,
                *own,
                field_mm(volume),
                doubt,
            )
        )
    return pd.DataFrame(rows, columns=list(COMPARED))


def summarise(errors: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Figures by family, and by family and level, from the rows of :func:`compare`.

    Where the header's pixel spacing makes a field of view that no scanner has, a distance in mm means nothing, and
    where labels contradict each other (:mod:`pipeline.landmarks.labelled`), no point can be right: the family's
    figures are given with such points and without.
    """
    from pipeline.landmarks.canvas import WIDEST_FIELD_MM

    family = errors["condition"].map(lambda name: Condition(name).family.value)
    figures = {}
    for name in Family:
        rows = errors[family == name.value]
        if len(rows):
            figures[name.value] = _figures(rows)
            for what, kept in (
                ("pixel spacing plausible", rows["field_mm"] <= WIDEST_FIELD_MM),
                ("labels without contradiction", rows["doubt"] == ""),
            ):
                if not kept.all():
                    figures[f"{name.value}, {what}"] = _figures(rows[kept])
            for level in LEVELS:
                if (rows["level"] == level).any():
                    figures[f"{name.value} {level}"] = _figures(rows[rows["level"] == level])
    figures["all"] = _figures(errors)
    return figures


def error_distribution(errors: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """What stage four's jitter reads: per family the spread in plane and the frequencies of slice offsets.

    Returns:
        Per family ``in_plane_sd_mm`` (robust: median distance / 1.1774, exact for a round Gaussian), ``p95_mm``,
        and ``slice_offsets`` {"0": share, "1": share, ...} of the distance in slices.
    """
    family = errors["condition"].map(lambda name: Condition(name).family.value)
    result: dict[str, dict[str, Any]] = {}
    for name, rows in errors[errors["in_plane_mm"].notna()].groupby(family):
        counts = rows["slices"].dropna().clip(upper=3).astype(int).value_counts(normalize=True).sort_index()
        result[str(name)] = {
            "in_plane_sd_mm": round(float(rows["in_plane_mm"].median()) / 1.1774, 3),
            "p95_mm": round(float(rows["in_plane_mm"].quantile(0.95)), 3),
            "slice_offsets": {str(k): round(float(v), 4) for k, v in counts.items()},
            "points": len(rows),
        }
    return result


def slice_of(volumes: StudyVolumes, series_id: str, instance_number: int) -> tuple[Volume, int]:
    for volume in volumes.volumes:
        if volume.series_id == series_id and instance_number in volume.instance_numbers:
            return volume, int(np.nonzero(volume.instance_numbers == instance_number)[0][0])
    raise KeyError(f"study {volumes.study_id}: no slice {instance_number} in series {series_id}")


def store_errors(errors_csv: Path, weights: Path) -> None:
    """Write the localiser's error distribution, which sets stage four's jitter, into a weights folder.

    Raises:
        TableError: the file is not an ``errors.csv`` of ``evaluate landmarks``.
    """
    errors = read_written(errors_csv, ("condition",), ("in_plane_mm", "slices"), "evaluate landmarks")
    try:
        distribution = error_distribution(errors)
    except ValueError as error:
        raise TableError(errors_csv, None, "condition", str(error)) from error
    Manifest.load(weights).add_file(ERRORS_FILE, json.dumps(distribution, indent=1).encode())


def _slices_apart(landmarks: Landmarks, i: int, volume: Volume, index: int) -> float:
    """Slices between a predicted point and slice ``index`` of the label's stack; NaN where it is in another stack."""
    if not landmarks.found[i] or landmarks.series_id[i] != volume.series_id:
        return float("nan")
    predicted = np.nonzero(volume.instance_numbers == landmarks.instance_number[i])[0]
    return float(abs(int(predicted[0]) - index)) if len(predicted) else float("nan")


def _in_plane(offset: np.ndarray, normal: np.ndarray) -> float:
    return float(np.linalg.norm(offset - (offset @ normal) * normal))


def _nearest_level(point: np.ndarray, condition: Condition, by_cell: dict[Cell, np.ndarray], volume: Volume) -> str:
    """The level whose labelled point of this condition is nearest. Axial slices lie one behind the other, so there the
    distance in their plane tells nothing and the whole distance is taken."""
    axial = condition.family is Family.SUBARTICULAR
    distances = {
        level: float(np.linalg.norm(point - other)) if axial else _in_plane(point - other, volume.normal)
        for level in LEVELS
        if (other := by_cell.get(Cell(condition, level))) is not None
    }
    return min(distances, key=distances.__getitem__)


def _on_other_side(point: np.ndarray, cell: Cell, by_cell: dict[Cell, np.ndarray]) -> bool:
    if cell.condition.side is None:
        return False
    swap = {"left": "right", "right": "left"}[cell.condition.side.value]
    other = by_cell.get(Cell(Condition(cell.condition.value.replace(cell.condition.side.value, swap)), cell.level))
    return other is not None and abs(point[0] - other[0]) < abs(point[0] - by_cell[cell][0])


def _figures(rows: pd.DataFrame) -> dict[str, float]:
    """Shares are of all labelled points, found or not; distances of those found."""
    distance = rows["in_plane_mm"].to_numpy(float)
    found = np.isfinite(distance)
    known = distance[found]
    figures = {
        "points": float(len(rows)),
        "found": float(found.mean()),
        "median_mm": float(np.median(known)) if len(known) else float("nan"),
        "p95_mm": float(np.percentile(known, 95)) if len(known) else float("nan"),
    }
    figures |= {f"within_{limit:g}mm": float((known <= limit).sum() / len(rows)) for limit in WITHIN_MM}
    figures["shifted"] = float(rows["shifted"].mean())
    figures["wrong_side"] = float(rows["wrong_side"].mean())
    figures["same_slice"] = float((rows["slices"] == 0).mean())
    figures["slice_off_by_more_than_1"] = float((rows["slices"] > 1).mean())
    figures["other_stack"] = float((found & rows["slices"].isna()).mean())
    return figures
