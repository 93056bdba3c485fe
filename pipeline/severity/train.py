"""``python -m pipeline train severity``: train a family's classifier, fold by fold, and keep what it says out of fold.

Predictions are made at the points a localiser predicted without having seen the study, because that is what the
classifier will be given; without such tables the labelled points serve, and the log says so.
"""

from __future__ import annotations

import argparse
import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load

from pipeline.competition import CompetitionError, open_competition
from pipeline.config import to_dict
from pipeline.console import say
from pipeline.device import half_precision, own_gpu, working_gpu
from pipeline.files import write_text
from pipeline.folds import write_folds
from pipeline.labels import CELL_COLUMNS, FAMILY_COLUMNS, GRADES, LEVELS, Family
from pipeline.preset import load_settings
from pipeline.scoring.figures import family_score, level_figures, level_lines
from pipeline.scoring.oof import OofTable, read_oof, write_oof
from pipeline.severity.data import SeverityData, load_data
from pipeline.severity.items import CellTable
from pipeline.severity.jitter import fit_jitter
from pipeline.severity.predict import by_cell
from pipeline.severity.review import review, taught_grades
from pipeline.severity.settings import SeveritySettings
from pipeline.severity.task import SeverityTask
from pipeline.training.folder import claim_run, in_turn, is_begun
from pipeline.training.loop import fit
from pipeline.training.processes import is_main_process, main_process_first
from pipeline.weights.seen import seen_studies


def train(args: argparse.Namespace, *further: argparse.Namespace) -> int:
    """Run the command; returns the exit status.

    Args:
        args: of the command.
        further: the same for further folds, for which the data are made ready only once.
    """
    family = Family(args.condition)
    settings = load_settings(SeveritySettings, args.preset, family.value, args.set, args.recipe)
    if args.landmark_errors:
        settings = replace(settings, jitter=fit_jitter(settings.jitter, args.landmark_errors, family))
    competitions = [replace(open_competition(path, split="train"), readings=tuple(args.readings)) for path in args.data]
    tables, split = list(args.landmarks), args.split
    with main_process_first():
        data = load_data(competitions, family, settings, args.cache, tables, split, args.workers)
    taught = taught_grades(data, read_oof(args.oof), settings) if args.oof else None
    for run in in_turn((args, *further)):
        out = Path(run.out)
        claim_run(out)
        write_folds(data.folds, out / "folds.csv")
        train_fold(data, family, settings, run.fold, out, resume=not run.restart, taught=taught)
    if args.folds == "all" and is_main_process():
        _merge_folds(family, data, out.parent)
    return 0


def _merge_folds(family: Family, data: SeverityData, out: Path) -> None:
    """Join the out-of-fold tables of all folds, once the last of them is there."""
    files = [out / f"fold{fold}" / "oof.csv" for fold in sorted(data.folds.unique())]
    if not all(file.is_file() for file in files):
        return
    table = OofTable.concatenate([read_oof(file) for file in files])
    write_oof(table, out)
    lines: list[str] = []
    for one in Family:
        mine = np.isin(table.cell, FAMILY_COLUMNS[one]) & (table.grade >= 0)
        if mine.any():
            log_p, grades = table.log_p[mine], table.grade[mine]
            lines += [f"{one}: out-of-fold {family_score(log_p, grades):.4f} on {int(mine.sum())} cells"]
            lines += level_lines(level_figures(log_p, grades, table.cell[mine] % len(LEVELS)))
    write_text(out / "oof.txt", "\n".join(lines) + "\n")
    say(*lines)
    say(f"{family}: wrote {out / 'oof.csv'}")


def train_fold(
    data: SeverityData,
    family: Family,
    settings: SeveritySettings,
    fold: int | None,
    out: Path,
    *,
    resume: bool = True,
    taught: NDArray[np.int64] | None = None,
) -> OofTable | None:
    """Train with one fold held out and return what the network says of that fold; None on further processes.

    Args:
        fold: None trains on all studies; the score is then that of a sample of training cells and says little.
        taught: (cells,) the grades to learn (:func:`taught_grades`), -1 for none; None for those of the labels, by
            which held-out cells are always scored.

    Raises:
        CompetitionError: the fold has no cell to train on or to score.
        LadderError: a sanity check before training failed.
    """
    cells = data.cells
    held = data.in_fold(fold) if fold is not None else np.zeros(len(cells), dtype=bool)
    told = cells if taught is None else replace(cells, grade=taught)
    shown = cells.true | cells.predicted
    keep = (told.grade >= 0) & shown & ~held
    size = len(settings.one_item(family))
    train_cells, test_cells = told.items(keep, size), cells.items((cells.grade >= 0) & shown & held, size)
    if fold is None:
        say(f"{family}: trained on all studies; scores are those of training cells")
        number, items = np.arange(len(train_cells)) // size, len(train_cells) // size
        test_cells = train_cells.rows(number % max(1, items // max(1, 500 // size)) == 0)
    if not len(train_cells) or not len(test_cells):
        raise CompetitionError(
            f"{family} fold {fold}: {len(train_cells)} cells to train on, {len(test_cells)} to score"
        )
    claim_run(out)
    trained, tested = (
        [data.cache.study_ids[study] for study in np.unique(table.study)] for table in (train_cells, test_cells)
    )
    seen = seen_studies(trained, settings.start_from, tested if fold is not None else ())
    name = f"{family} fold {fold}"
    task = SeverityTask(family, settings, data.cache, train_cells, test_cells, out, name)
    if settings.loop.device != "cpu" and working_gpu():
        task.model.to(own_gpu())  # the ladder climbs where the training will run
    if is_main_process() and not (resume and is_begun(out)):
        changed = {
            "label ruled out": int((~keep & (cells.grade >= 0) & shown & ~held).sum()),
            "pseudo-label": int((keep & (cells.grade < 0)).sum()),
        }
        review(task, data, fold, out, {} if taught is None else changed)
    result = fit(task, settings.loop, out, config=to_dict(settings), seen=seen, resume=resume)
    if not is_main_process():
        return None
    return _predict_fold(task, data, cells.items(held & shown, size), fold, result.weights, out)


def _predict_fold(
    task: SeverityTask, data: SeverityData, cells: CellTable, fold: int | None, weights: Path, out: Path
) -> OofTable:
    device = own_gpu() if task.settings.loop.device != "cpu" and working_gpu() else torch.device("cpu")
    task.model.load_state_dict(load(weights.read_bytes()))
    model = task.model.to(device).eval()
    with half_precision(device) if task.settings.loop.precision != "fp32" else nullcontext():
        every = task.predict(model, device, cells)
    seen = cells.true | cells.predicted  # the others are of the same items as those
    cells, every = cells.rows(seen), every[seen]
    table = _by_study(task, data, cells, every, fold)
    write_oof(table, out)
    (_, log_p, grades, levels), *_ = task.by_family(cells, every)
    figures = level_figures(log_p, grades, levels)
    summary: dict[str, Any] = {
        "family": task.family.value,
        "fold": fold,
        "score": family_score(log_p, grades),
        "further": {
            str(family): family_score(table.log_p[mine], table.grade[mine])
            for family in task.families[1:]
            if (mine := np.isin(table.cell, FAMILY_COLUMNS[family]) & (table.grade >= 0)).any()
        },
        "cells": len(grades),
        "predicted_points": int(cells.predicted.sum()),
        "levels": figures,
    }
    write_text(out / "result.json", json.dumps(summary, indent=1))
    say(*level_lines(figures))
    say(f"{task.name}: {summary['score']:.4f} on {summary['cells']} held-out cells; wrote {weights}")
    return table


def _by_study(
    task: SeverityTask, data: SeverityData, cells: CellTable, log_p: NDArray[np.float64], fold: int | None
) -> OofTable:
    """The answers (N, families, 3) about held-out cells as a table with a row a cell of every family."""
    columns, place = list(CELL_COLUMNS), np.array(data.cache.cells)[cells.cell]
    grades = data.labels.loc[list(data.cache.study_ids), columns].to_numpy(dtype=float)
    rows: list[tuple[int, int]] = []
    answers, at_predicted = [], []
    for study in np.unique(cells.study):
        mine = cells.study == study
        values = by_cell(place[mine].tolist(), log_p[mine], task.settings.answers(task.family))
        for cell in np.flatnonzero(np.isfinite(values).all(1)):
            rows.append((int(study), int(cell)))
            answers.append(values[cell])
            at_predicted.append(bool(cells.predicted[mine].all()))
    study_rows, cell_rows = np.array(rows, dtype=np.int64).reshape(-1, 2).T
    known = grades[study_rows, cell_rows]
    return OofTable(
        study_id=np.array([data.cache.study_ids[study] for study in study_rows]),
        cell=cell_rows,
        fold=np.full(len(rows), -1 if fold is None else fold),
        grade=np.where(np.isfinite(known), known, -1).astype(np.int64),
        predicted_point=np.array(at_predicted, dtype=bool),
        log_p=np.array(answers).reshape(-1, len(GRADES)),
    )
