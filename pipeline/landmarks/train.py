"""``python -m pipeline train landmarks|axial``: train a point network on competition folders, real and synthetic.

Each folder has a weight: the share of the drawn examples that come from it. Folds are by study within each folder;
studies of the held-out fold are never drawn, and the hashes of those that were are saved with the weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.competition import Competition, CompetitionError, open_competition
from pipeline.config import ConfigError, to_dict
from pipeline.console import say
from pipeline.folds import studies_in_fold
from pipeline.landmarks.model import AXIAL_CHANNELS, SAGITTAL_CHANNELS
from pipeline.landmarks.prepare import Kind, build_examples
from pipeline.landmarks.task import LandmarkTrainSettings, PointTask
from pipeline.preset import load_settings
from pipeline.training.ladder import check_sides
from pipeline.training.loop import fit
from pipeline.training.processes import main_process_first
from pipeline.weights.seen import seen_studies


def train(task: str, args: argparse.Namespace) -> int:
    """Train ``landmarks`` or ``axial`` as the command line says; returns the exit status.

    Each folder of ``--data`` is split by :func:`pipeline.folds.make_folds`; the held-out fold is scored after
    each epoch and its studies are in no batch.
    """
    settings = load_train_settings(task, args.preset, args.set, len(args.data))
    kind: Kind = "axial" if task == "axial" else "sagittal"
    competitions = [open_competition(path, split="train") for path in args.data]
    with main_process_first():
        table = build_examples(competitions, kind, args.cache, settings.examples, args.workers)
    table = once_each(table, competitions)
    if table.empty:
        raise CompetitionError(f"no labelled {kind} slices below {', '.join(map(str, args.data))}")
    held_out = held_out_studies(competitions, args.fold)
    is_held_out = np.array(
        [study in held_out[number] for number, study in zip(table["competition"], table["study_id"], strict=True)]
    )
    training, testing = table[~is_held_out], table[is_held_out]
    check_sides(set(training["study_id"]), set(testing["study_id"]))
    say(
        f"train {task}: {len(training)} slices of {training['study_id'].nunique()} studies, "
        f"held out (fold {args.fold}): {len(testing)} slices of {testing['study_id'].nunique()} studies"
    )
    out = Path(args.out)
    seen = seen_studies(training["study_id"], settings.start_from, testing["study_id"].unique())
    point_task = PointTask(task, settings, training, testing)
    result = fit(point_task, settings.loop, out, config=to_dict(settings), seen=seen, resume=not args.restart)
    say(f"{task}: best score {result.best_score:.3f} mm at epoch {result.epoch}; wrote {result.weights}")
    return 0


def load_train_settings(
    task: str, preset: str | Path | None, overrides: Sequence[str], folders: int
) -> LandmarkTrainSettings:
    """The settings of ``landmarks`` or ``axial``, with the channels of that task.

    Args:
        task: one of the two.
        preset, overrides: see :func:`pipeline.preset.load_settings`.
        folders: of ``--data``.

    Raises:
        ConfigError: a setting does not exist or has a wrong value, or there are not as many shares as folders.
    """
    settings = load_settings(LandmarkTrainSettings, preset, task, overrides)
    if len(settings.data_weights) not in (0, folders):
        raise ConfigError(f"data_weights has {len(settings.data_weights)} shares for {folders} folders of --data")
    channels = AXIAL_CHANNELS if task == "axial" else SAGITTAL_CHANNELS
    return replace(settings, model=replace(settings.model, channels=channels))


def once_each(table: pd.DataFrame, competitions: Sequence[Competition]) -> pd.DataFrame:
    """The examples without those of studies that an earlier folder has too: folds are made folder by folder."""
    first: dict[str, int] = {}
    for number, competition in enumerate(competitions):
        for study in competition.studies:
            first.setdefault(study.study_id, number)
    return table[table["study_id"].map(first).to_numpy() == table["competition"].to_numpy()]


def held_out_studies(competitions: Sequence[Competition], fold: int | None) -> list[set[str]]:
    """The held-out studies of each folder; none where ``fold`` is None.

    Raises:
        CompetitionError: if a folder has no labels to make folds of.
    """
    if fold is None:
        return [set() for _ in competitions]
    return [studies_in_fold(competition, fold) for competition in competitions]
