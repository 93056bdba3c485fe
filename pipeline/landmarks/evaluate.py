"""``python -m pipeline evaluate landmarks``: predicted points against labelled ones, in millimetres.

Errors are measured in the plane of the labelled slice (patient millimetres), and the choice of slice apart from them:
that is how a grader meets them. A point is *shifted* if it lies nearer to the labelled point of another level of the
same condition than to its own (on sagittal slices in their plane, because slice positions may be nominal); its *side*
is wrong if it lies nearer to the other side's point in patient x.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipeline.competition import Competition, CompetitionError, StudyRef, open_competition
from pipeline.console import complain, say
from pipeline.files import write_atomically, write_text
from pipeline.folds import studies_in_fold
from pipeline.labels import CELL_INDEX, LEVELS, Cell, Condition, Family
from pipeline.landmarks.landmarks import Landmarks
from pipeline.names import file_name, plain_id
from pipeline.owned import RefusedError, claim
from pipeline.tables import TableError, guarded_frame

if TYPE_CHECKING:
    from pipeline.volumes import StudyVolumes, Volume

WITHIN_MM = (3.0, 5.0, 6.0, 10.0)
STUDIES_A_JOB = 20
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``evaluate landmarks`` takes labelled folders and a weights folder."""
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="competition folders with coordinates")
    parser.add_argument("--weights", type=Path, default=Path("weights/default"), help="weights (default: %(default)s)")
    parser.add_argument("--fold", type=int, help="only this held-out fold, by networks that have not seen it")
    parser.add_argument(
        "--out", type=Path, default=Path("landmarks_evaluation"), help="folder for results (default: %(default)s)"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes (default: %(default)s)")
    parser.add_argument("--limit", type=int, help="at most so many studies a folder")


def run(args: argparse.Namespace) -> int:
    """Predict, compare, print; write ``label_coordinates.csv``, ``errors.csv``, ``landmarks.json`` and ``worst.png``.

    Returns:
        1 where the weights cannot be used, 2 where a folder has nothing to compare with.
    """
    from pipeline.weights.manifest import Manifest, WeightsError

    try:
        Manifest.load(args.weights)
        competitions = [open_competition(path, split="train") for path in args.data]
        studies = [_studies(competition, args.fold, args.limit) for competition in competitions]
        claim(args.out, EVALUATION)
        _evaluate(competitions, studies, args)
    except (CompetitionError, RefusedError, TableError) as error:
        complain(f"evaluate landmarks: {error}")
        return 2
    except WeightsError as error:
        complain(f"evaluate landmarks: {error}")
        return 1
    return 0


def _evaluate(
    competitions: Sequence[Competition], studies: Sequence[Sequence[StudyRef]], args: argparse.Namespace
) -> None:
    from tqdm import tqdm

    from pipeline.parallel import in_processes

    comparisons, tables = [], []
    for name, competition, chosen in zip(_names(competitions), competitions, studies, strict=True):
        jobs = [
            (chosen[start : start + STUDIES_A_JOB], competition, args.weights)
            for start in range(0, len(chosen), STUDIES_A_JOB)
        ]
        answers = in_processes(predict_and_compare, jobs, args.workers)
        for predicted, errors in tqdm(answers, total=len(jobs), desc=name):
            tables.append(predicted)
            comparisons.append(errors.assign(folder=name))
    errors = pd.concat(comparisons, ignore_index=True)
    for file, table in (("label_coordinates.csv", pd.concat(tables)), ("errors.csv", errors)):
        write_atomically(args.out / file, functools.partial(guarded_frame(table).to_csv, index=False))
    summary = {str(folder): summarise(group) for folder, group in errors.groupby("folder")}
    write_text(args.out / "landmarks.json", json.dumps(summary, indent=1))
    for folder, figures in summary.items():
        say(folder, *_text(figures).splitlines())
    if worst_cases(errors, competitions, args.out / "worst.png"):
        say(f"worst cases: {args.out / 'worst.png'}")
    say(f"wrote {args.out}")


def _names(competitions: Sequence[Competition]) -> list[str]:
    """The folders' names; their paths where two have the same name."""
    names = [competition.root.name for competition in competitions]
    chosen = [n if names.count(n) == 1 else str(c.root) for n, c in zip(names, competitions, strict=True)]
    return [plain_id(file_name(name)) for name in chosen]


def predict_and_compare(
    studies: Sequence[StudyRef], competition: Competition, weights: Path
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predict some studies with networks that have not seen them and compare; see :func:`compare`.

    Raises:
        CompetitionError: the folder has no coordinates.
    """
    from pipeline.device import torch_threads, working_gpu
    from pipeline.landmarks.load import load_predictor
    from pipeline.volumes import read_study

    if competition.coordinates is None:
        raise CompetitionError(f"{competition.root}: no label coordinates to compare with")
    device = "cuda" if working_gpu() else "cpu"
    predicted, errors = [], []
    with torch_threads(1):
        for study in studies:
            volumes = read_study(study)
            landmarks = load_predictor(weights, device=device, unseen=study.study_id).predict(volumes)
            predicted.append(landmarks.to_frame())
            errors.append(compare(landmarks, volumes, competition.coordinates))
    return pd.concat(predicted), pd.concat(errors)


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
    from pipeline.landmarks.labelled import labelled_points, mislabelled

    truth = labelled_points(volumes, coordinates)
    cells = [Cell(Condition(str(row.condition)), str(row.level)) for row in truth.itertuples(index=False)]
    places = truth[["x_mm", "y_mm", "z_mm"]].to_numpy(float)
    by_cell = dict(zip(cells, places, strict=True))
    rows = []
    labels = zip(cells, places, truth["series_id"], truth["instance_number"], mislabelled(volumes, truth), strict=True)
    for cell, own, series_id, number, doubt in labels:
        i = CELL_INDEX[cell]
        volume, index = _slice_of(volumes, str(series_id), int(number))
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


def worst_cases(errors: pd.DataFrame, competitions: Sequence[Competition], path: Path, count: int = 12) -> bool:
    """A contact sheet of the studies with the largest errors: truth green, prediction red, on the labelled slice.

    Args:
        errors: of :func:`compare`, with the ``folder`` of each row.
        competitions: the folders.
        path: of the picture.
        count: at most so many cases.

    Returns:
        Whether there was anything to draw.
    """
    from pipeline.landmarks.overlay import slice_picture
    from pipeline.pictures import save_png
    from pipeline.volumes import read_study

    found = errors[errors["in_plane_mm"].notna()].sort_values("in_plane_mm", ascending=False)
    found = found.drop_duplicates(["study_id", "condition"]).head(count)
    by_folder = dict(zip(_names(competitions), competitions, strict=True))
    tiles = []
    for _, row in found.iterrows():
        volumes = read_study(by_folder[row["folder"]].study(row["study_id"]))
        volume, index = _slice_of(volumes, row["series_id"], row["instance_number"])
        same = errors[(errors["study_id"] == row["study_id"]) & (errors["condition"] == row["condition"])]
        tiles.append(
            slice_picture(
                volume,
                index,
                points=[
                    (same[["true_x", "true_y", "true_z"]].to_numpy(float), (0, 220, 0)),
                    (same[["x_mm", "y_mm", "z_mm"]].dropna().to_numpy(float), (230, 60, 60)),
                ],
                caption=f"{row['study_id']} {row['level']} {row['in_plane_mm']:.0f} mm",
            )
        )
    if not tiles:
        return False
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % 4)
    save_png(path, np.vstack([np.hstack(tiles[k : k + 4]) for k in range(0, len(tiles), 4)]))
    return True


def _studies(competition: Competition, fold: int | None, limit: int | None) -> list[StudyRef]:
    """The labelled studies of a folder, or of its held-out fold.

    Raises:
        CompetitionError: there is none, or no table to tell.
    """
    if competition.coordinates is None:
        raise CompetitionError(f"{competition.root}: no label coordinates to compare with")
    labelled = set(competition.coordinates["study_id"])
    if fold is not None:
        labelled &= studies_in_fold(competition, fold)
    chosen = [study for study in competition.studies if study.study_id in labelled][:limit]
    if not chosen:
        raise CompetitionError(f"{competition.root}: no labelled study{'' if fold is None else f' in fold {fold}'}")
    return chosen


def _slice_of(volumes: StudyVolumes, series_id: str, instance_number: int) -> tuple[Volume, int]:
    for volume in volumes.volumes:
        if volume.series_id == series_id and instance_number in volume.instance_numbers:
            return volume, int(np.nonzero(volume.instance_numbers == instance_number)[0][0])
    raise KeyError(f"study {volumes.study_id}: no slice {instance_number} in series {series_id}")


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


def _text(figures: dict[str, dict[str, float]]) -> str:
    frame = pd.DataFrame(figures).T
    return frame.round(3).to_string()
