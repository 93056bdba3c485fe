"""``python -m pipeline evaluate landmarks``: predicted points against labelled ones, in millimetres.

Errors are measured in the plane of the labelled slice (patient millimetres), and the choice of slice apart from them:
that is how a grader meets them. A point is *shifted* if it lies nearer to the labelled point of another level of the same
condition than to its own; its *side* is wrong if it lies nearer to the other side's point in patient x.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.competition import Competition, StudyRef, make_folds, open_competition
from pipeline.labels import CELL_INDEX, LEVELS, Cell, Condition, Family
from pipeline.landmarks.landmarks import Landmarks

WITHIN_MM = (3.0, 5.0, 6.0, 10.0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``evaluate landmarks`` takes labelled folders and a weights folder."""
    parser.add_argument("what", choices=["landmarks"], help="what to evaluate")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="competition folders with coordinates")
    parser.add_argument("--weights", type=Path, default=Path("weights/default"), help="weights (default: %(default)s)")
    parser.add_argument("--fold", type=int, help="only this held-out fold, by networks that have not seen it")
    parser.add_argument("--out", type=Path, default=Path("landmarks_evaluation"), help="folder for results")
    parser.add_argument("--workers", type=int, default=1, help="processes (default: %(default)s)")
    parser.add_argument("--limit", type=int, help="at most so many studies a folder")


def run(args: argparse.Namespace) -> int:
    """Predict, compare, print and write ``label_coordinates.csv``, ``errors.csv``, ``landmarks.json``, ``worst.png``."""
    from joblib import Parallel, delayed
    from tqdm import tqdm

    args.out.mkdir(parents=True, exist_ok=True)
    comparisons, tables = [], []
    for path in args.data:
        competition = open_competition(path, split="train")
        studies = _studies(competition, args.fold, args.limit)
        parallel = Parallel(n_jobs=args.workers, return_as="generator")
        jobs = [
            delayed(predict_and_compare)(batch, competition.coordinates, args.weights)
            for batch in np.array_split(np.array(studies, dtype=object), max(1, len(studies) // 20))
        ]
        for predicted, errors in tqdm(parallel(jobs), total=len(jobs), desc=path.name):
            tables.append(predicted)
            comparisons.append(errors.assign(folder=path.name))
    pd.concat(tables).to_csv(args.out / "label_coordinates.csv", index=False)
    errors = pd.concat(comparisons, ignore_index=True)
    errors.to_csv(args.out / "errors.csv", index=False)
    summary = {str(folder): summarise(group) for folder, group in errors.groupby("folder")}
    (args.out / "landmarks.json").write_text(json.dumps(summary, indent=1))
    for folder, figures in summary.items():
        print(f"{folder}\n{_text(figures)}")
    if worst_cases(errors, [open_competition(path, split="train") for path in args.data], args.out / "worst.png"):
        print(f"worst cases: {args.out / 'worst.png'}")
    print(f"wrote {args.out}")
    return 0


def predict_and_compare(
    studies: Sequence[StudyRef], coordinates: pd.DataFrame, weights: Path
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predict some studies with networks that have not seen them and compare; see :func:`compare`."""
    import torch

    from pipeline.landmarks.load import load_predictor
    from pipeline.volumes import read_study

    torch.set_num_threads(1)
    predicted, errors = [], []
    for study in studies:
        volumes = read_study(study)
        landmarks = load_predictor(weights, unseen=study.study_id).predict(volumes)
        predicted.append(landmarks.to_frame())
        errors.append(compare(landmarks, volumes, coordinates))
    return pd.concat(predicted), pd.concat(errors)


def compare(landmarks: Landmarks, volumes: object, coordinates: pd.DataFrame) -> pd.DataFrame:
    """One row a labelled point of the study.

    Args:
        landmarks: predicted.
        volumes: the study's :class:`pipeline.volumes.StudyVolumes`.
        coordinates: labelled points, all studies.

    Returns:
        ``study_id, series_id, instance_number, condition, level, in_plane_mm, along_normal_mm, slices, shifted,
        wrong_side, confidence``; distances NaN where the point was not found.
    """
    from pipeline.landmarks.examples import labelled_points
    from pipeline.volumes import StudyVolumes

    assert isinstance(volumes, StudyVolumes)
    truth = labelled_points(volumes, coordinates)
    rows = []
    by_cell = {Cell(Condition(r.condition), r.level): np.array([r.x_mm, r.y_mm, r.z_mm]) for r in truth.itertuples()}
    for row in truth.itertuples(index=False):
        condition = Condition(row.condition)
        i = CELL_INDEX[Cell(condition, row.level)]
        volume, index = _slice_of(volumes, row.series_id, row.instance_number)
        own = by_cell[Cell(condition, row.level)]
        point = landmarks.points_mm[i]
        offset = point - own
        along = float(offset @ volume.normal)
        in_plane = float(np.linalg.norm(offset - along * volume.normal))
        slices = np.nan
        if landmarks.found[i] and landmarks.series_id[i] == volume.series_id:
            predicted = np.nonzero(volume.instance_numbers == landmarks.instance_number[i])[0]
            slices = float(abs(int(predicted[0]) - index)) if len(predicted) else np.nan
        shifted, wrong_side = False, False
        if landmarks.found[i]:
            others = {level: by_cell.get(Cell(condition, level)) for level in LEVELS}
            distances = {
                level: _in_plane(point - other, volume.normal) for level, other in others.items() if other is not None
            }
            shifted = min(distances, key=distances.__getitem__) != row.level
            wrong_side = _on_other_side(point, own, condition, row.level, by_cell)
        rows.append(
            (
                landmarks.study_id,
                row.series_id,
                row.instance_number,
                condition.value,
                row.level,
                in_plane,
                abs(along),
                slices,
                shifted,
                wrong_side,
                float(landmarks.confidence[i]),
                *point,
                *own,
            )
        )
    names = "study_id series_id instance_number condition level in_plane_mm along_normal_mm slices shifted wrong_side"
    return pd.DataFrame(
        rows, columns=[*names.split(), "confidence", "x_mm", "y_mm", "z_mm", "true_x", "true_y", "true_z"]
    )


def summarise(errors: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Figures by family, and by family and level, from the rows of :func:`compare`."""
    family = errors["condition"].map(lambda name: Condition(name).family.value)
    figures = {}
    for name in Family:
        rows = errors[family == name.value]
        if len(rows):
            figures[name.value] = _figures(rows)
            for level in LEVELS:
                if (rows["level"] == level).any():
                    figures[f"{name.value} {level}"] = _figures(rows[rows["level"] == level])
    figures["all"] = _figures(errors)
    return figures


def error_distribution(errors: pd.DataFrame) -> dict[str, dict[str, object]]:
    """What stage four's jitter reads: per family the spread in plane and the frequencies of slice offsets.

    Returns:
        Per family ``in_plane_sd_mm`` (robust: median distance / 1.1774, exact for a round Gaussian), ``p95_mm``,
        and ``slice_offsets`` {"0": share, "1": share, ...} of the distance in slices.
    """
    family = errors["condition"].map(lambda name: Condition(name).family.value)
    result: dict[str, dict[str, object]] = {}
    for name, rows in errors[errors["in_plane_mm"].notna()].groupby(family):
        counts = rows["slices"].dropna().clip(upper=3).astype(int).value_counts(normalize=True).sort_index()
        result[str(name)] = {
            "in_plane_sd_mm": round(float(rows["in_plane_mm"].median()) / 1.1774, 3),
            "p95_mm": round(float(rows["in_plane_mm"].quantile(0.95)), 3),
            "slice_offsets": {str(k): round(float(v), 4) for k, v in counts.items()},
            "points": len(rows),
        }
    return result


def worst_cases(errors: pd.DataFrame, competitions: Sequence[Competition], path: Path, count: int = 12) -> bool:
    """A contact sheet of the studies with the largest errors: truth green, prediction red, on the labelled slice."""
    import cv2

    from pipeline.report.overlay import slice_picture
    from pipeline.volumes import read_study

    found = errors[errors["in_plane_mm"].notna()].sort_values("in_plane_mm", ascending=False)
    found = found.drop_duplicates(["study_id", "condition"]).head(count)
    tiles = []
    for row in found.itertuples(index=False):
        competition = next(c for c in competitions if row.study_id in {s.study_id for s in c.studies})
        volumes = read_study(competition.study(row.study_id))
        volume, index = _slice_of(volumes, row.series_id, row.instance_number)
        same = errors[(errors["study_id"] == row.study_id) & (errors["condition"] == row.condition)]
        tiles.append(
            slice_picture(
                volume,
                index,
                points=[
                    (same[["true_x", "true_y", "true_z"]].to_numpy(), (0, 220, 0)),
                    (same[["x_mm", "y_mm", "z_mm"]].dropna().to_numpy(), (230, 60, 60)),
                ],
                caption=f"{row.study_id} {row.level} {row.in_plane_mm:.0f} mm",
            )
        )
    if not tiles:
        return False
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % 4)
    sheet = np.vstack([np.hstack(tiles[k : k + 4]) for k in range(0, len(tiles), 4)])
    return bool(cv2.imwrite(str(path), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR)))


def _studies(competition: Competition, fold: int | None, limit: int | None) -> list[StudyRef]:
    if competition.coordinates is None:
        raise ValueError(f"{competition.root}: no label coordinates to compare with")
    labelled = set(competition.coordinates["study_id"])
    if fold is not None:
        assert competition.labels is not None
        folds = make_folds(competition.labels)
        labelled &= set(folds.index[folds == fold])
    return [study for study in competition.studies if study.study_id in labelled][:limit]


def _slice_of(volumes: object, series_id: str, instance_number: int) -> tuple[object, int]:
    for volume in volumes.volumes:  # type: ignore[attr-defined]
        if volume.series_id == series_id and instance_number in volume.instance_numbers:
            return volume, int(np.nonzero(volume.instance_numbers == instance_number)[0][0])
    raise KeyError(f"no slice {instance_number} in series {series_id}")


def _in_plane(offset: np.ndarray, normal: np.ndarray) -> float:
    return float(np.linalg.norm(offset - (offset @ normal) * normal))


def _on_other_side(
    point: np.ndarray, own: np.ndarray, condition: Condition, level: str, by_cell: dict[Cell, np.ndarray]
) -> bool:
    if condition.side is None:
        return False
    swap = {"left": "right", "right": "left"}[condition.side.value]
    other = by_cell.get(Cell(Condition(condition.value.replace(condition.side.value, swap)), level))
    return other is not None and abs(point[0] - other[0]) < abs(point[0] - own[0])


def _figures(rows: pd.DataFrame) -> dict[str, float]:
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
    figures["slice_off_by_more_than_1"] = float((rows["slices"] > 1).mean())
    figures["same_slice"] = float((rows["slices"] == 0).mean())
    return figures


def _text(figures: dict[str, dict[str, float]]) -> str:
    frame = pd.DataFrame(figures).T
    return frame.round(3).to_string()
