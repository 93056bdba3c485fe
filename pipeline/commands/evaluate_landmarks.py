"""``python -m pipeline evaluate landmarks``: predicted points against labelled ones, in millimetres."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from pipeline.commands.evaluate import add_common_arguments
from pipeline.competition import Competition, CompetitionError, StudyRef, open_competition
from pipeline.console import say
from pipeline.files import write_atomically, write_text
from pipeline.folds import studies_in_fold
from pipeline.landmarks.errors import EVALUATION, compare, slice_of, summarise
from pipeline.names import file_name, plain_id
from pipeline.owned import claim
from pipeline.tables import guarded_frame

STUDIES_A_JOB = 20


add_arguments = partial(add_common_arguments, stage="landmarks")


def run(args: argparse.Namespace) -> int:
    """Measure what the arguments name; see :func:`evaluate`."""
    evaluate(args.data, args.weights, args.out, args.fold, args.workers, args.limit, args.cluster)
    return 0


def evaluate(
    data: Sequence[Path],
    weights: Path,
    out: Path,
    fold: int | None = None,
    workers: int = 1,
    limit: int | None = None,
    cluster: str | None = None,
) -> None:
    """Predict, compare, print; write ``label_coordinates.csv``, ``errors.csv``, ``landmarks.json`` and ``worst.png``.

    Args:
        data: competition folders with coordinates.
        weights: a weights folder with localisers.
        out: folder for the results; new, empty or of an earlier evaluation.
        fold: only this held-out fold; None for every labelled study.
        workers: processes that predict.
        limit: at most so many studies a folder.
        cluster: the address of a Dask scheduler whose workers predict instead.

    Raises:
        CompetitionError: a folder has nothing to compare with.
        RefusedError: ``out`` holds other things.
        WeightsError: the weights cannot be used.
    """
    from pipeline.weights.manifest import Manifest

    weights = Manifest.load(weights).folder
    competitions = [open_competition(path, split="train") for path in data]
    studies = [_studies(competition, fold, limit) for competition in competitions]
    claim(out, EVALUATION)
    _evaluate(competitions, studies, weights, out, workers, cluster)


def predict_and_compare(
    studies: Sequence[StudyRef], competition: Competition, weights: Path
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predict some studies with networks that have not seen them and compare; see :func:`compare`.

    Raises:
        CompetitionError: the folder has no coordinates.
    """
    from pipeline.device import own_gpu, torch_threads, working_gpu
    from pipeline.landmarks.load import load_predictor
    from pipeline.volumes import read_study

    if competition.coordinates is None:
        raise CompetitionError(f"{competition.root}: no label coordinates to compare with")
    device = str(own_gpu()) if working_gpu() else "cpu"
    predicted, errors = [], []
    with torch_threads(1):
        for study in studies:
            volumes = read_study(study)
            landmarks = load_predictor(weights, device=device, unseen=study.study_id).predict(volumes)
            predicted.append(landmarks.to_frame())
            errors.append(compare(landmarks, volumes, competition.coordinates))
    return pd.concat(predicted), pd.concat(errors)


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
    from pipeline.pictures import grid, save_png
    from pipeline.volumes import read_study

    found = errors[errors["in_plane_mm"].notna()].sort_values("in_plane_mm", ascending=False)
    found = found.drop_duplicates(["study_id", "condition"]).head(count)
    by_folder = dict(zip(_names(competitions), competitions, strict=True))
    tiles = []
    for _, row in found.iterrows():
        volumes = read_study(by_folder[row["folder"]].study(row["study_id"]))
        volume, index = slice_of(volumes, row["series_id"], row["instance_number"])
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
    save_png(path, grid(tiles, 4))
    return True


def _evaluate(
    competitions: Sequence[Competition],
    studies: Sequence[Sequence[StudyRef]],
    weights: Path,
    out: Path,
    workers: int,
    cluster: str | None,
) -> None:
    from tqdm import tqdm

    from pipeline.parallel import in_processes

    comparisons, tables = [], []
    for name, competition, chosen in zip(_names(competitions), competitions, studies, strict=True):
        jobs = [
            (chosen[start : start + STUDIES_A_JOB], competition, weights)
            for start in range(0, len(chosen), STUDIES_A_JOB)
        ]
        if cluster is not None:
            from pipeline.cluster import on_cluster

            answers = on_cluster(predict_and_compare, jobs, cluster)
        else:
            answers = in_processes(predict_and_compare, jobs, workers)
        for predicted, errors in tqdm(answers, total=len(jobs), desc=name):
            tables.append(predicted)
            comparisons.append(errors.assign(folder=name))
    errors = pd.concat(comparisons, ignore_index=True)
    for file, table in (("label_coordinates.csv", pd.concat(tables)), ("errors.csv", errors)):
        write_atomically(out / file, partial(guarded_frame(table).to_csv, index=False))
    summary = {str(folder): summarise(group) for folder, group in errors.groupby("folder")}
    write_text(out / "landmarks.json", json.dumps(summary, indent=1))
    for folder, figures in summary.items():
        say(folder, *_text(figures).splitlines())
    if worst_cases(errors, competitions, out / "worst.png"):
        say(f"worst cases: {out / 'worst.png'}")
    say(f"wrote {out}")


def _names(competitions: Sequence[Competition]) -> list[str]:
    """The folders' names; their paths where two have the same name."""
    names = [competition.root.name for competition in competitions]
    chosen = [n if names.count(n) == 1 else str(c.root) for n, c in zip(names, competitions, strict=True)]
    return [plain_id(file_name(name)) for name in chosen]


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


def _text(figures: dict[str, dict[str, float]]) -> str:
    frame = pd.DataFrame(figures).T
    return frame.round(3).to_string()
