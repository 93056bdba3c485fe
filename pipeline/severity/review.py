"""Before the first epoch: what the data holds, what was dropped and why, and whether the network can learn at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.console import say
from pipeline.files import write_text
from pipeline.labels import CELLS, GRADES, LEVELS, level_title
from pipeline.pictures import contact_sheet, save_png
from pipeline.scoring.oof import OofTable
from pipeline.severity.data import SeverityData
from pipeline.severity.items import CellTable, dropped_rows
from pipeline.severity.settings import SeveritySettings, view_name
from pipeline.severity.task import SeverityTask
from pipeline.training.ladder import climb

_SHOWN = 48


def review(
    task: SeverityTask, data: SeverityData, fold: int | None, out: Path, taught: Mapping[str, int] | None = None
) -> None:
    """Print and save the report, draw augmented cubes, and run the sanity ladder.

    Args:
        task: that is to be trained.
        data: of all folds.
        fold: that is held out.
        out: where the report goes.
        taught: how many training cells an earlier run has changed, by what it did.

    Raises:
        LadderError: a rung failed; the message says which and what to look at.
    """
    folds = data.folds.value_counts().sort_index()
    report: dict[str, Any] = {
        "task": task.name,
        "training": class_balance(task.train_table),
        "held_out": class_balance(task.held_out),
        "dropped": dropped_rows(data.cells),
        "by_an_earlier_run": dict(taught or {}),
        "studies_per_fold": {str(k): int(v) for k, v in folds.items()},
        "held_out_fold": fold,
        "points": {
            "labelled": int(data.cells.true.sum()),
            "predicted": int(data.cells.predicted.sum()),
            "scored_at_labelled_points": int((~task.held_out.predicted).sum()),
        },
    }
    save_png(out / "augmented.png", augmented_sheet(task))
    report["ladder"] = str(
        climb(
            task,
            task.settings.loop,
            training_studies=_studies(task, task.train_table),
            held_out_studies=_studies(task, task.held_out) if fold is not None else (),
            # Weighted batches have another mix of grades each; sampling by grade has the prior's.
            prior_loss=task.prior_loss,
            predict=lambda model, batch: model(*task.inputs(batch))[:, 0],
        )
    )
    write_text(out / "review.json", json.dumps(report, indent=1))
    say(*review_lines(report))


def _studies(task: SeverityTask, table: CellTable) -> set[str]:
    return {task.cache.study_ids[study] for study in np.unique(table.study)}


def class_balance(table: CellTable) -> dict[str, dict[str, int]]:
    """Cells by level and grade."""
    return {
        level_title(level): {
            grade: int(((table.level == number) & (table.grade == k)).sum()) for k, grade in enumerate(GRADES)
        }
        for number, level in enumerate(LEVELS)
    }


def review_lines(report: dict[str, Any]) -> list[str]:
    """The report for people."""
    lines = [f"{report['task']}: {' / '.join(GRADES)} by level, training | held out"]
    for level, counts in report["training"].items():
        other = report["held_out"][level]
        lines.append(f"  {level}  {' / '.join(map(str, counts.values()))} | {' / '.join(map(str, other.values()))}")
    lines.append("  dropped: " + "; ".join(f"{count} {reason}" for reason, count in report["dropped"].items()))
    lines.append(f"  studies per fold: {', '.join(f'{k}: {v}' for k, v in report['studies_per_fold'].items())}")
    at_labelled = report["points"]["scored_at_labelled_points"]
    if at_labelled:
        lines.append(f"  note: {at_labelled} held-out cells are scored at their labelled points, not at predicted ones")
    lines.append(f"  {report['ladder']}")
    return lines


def augmented_sheet(task: SeverityTask) -> NDArray[np.uint8]:
    """Middle slices of augmented training windows, every view, as (rows, cols, 3) uint8."""
    generator = np.random.default_rng(0)
    items = len(task.train_set)
    chosen = generator.choice(items, min(-(-_SHOWN // task.cells), items), replace=False)
    pixels, *_ = task.inputs(task.augment(task.train_set.fetch(chosen), torch.Generator().manual_seed(0)))
    tiles, titles = [], []
    for n, index in enumerate((chosen[:, None] * task.cells + np.arange(task.cells)).ravel()):
        cell = CELLS[task.cache.cells[int(task.train_table.cell[index])]]
        for view in task.views:
            tiles.append(pixels[view_name(view.kind)][n, view.slices // 2].cpu().numpy())
            titles.append(f"{cell.level} {int(task.train_table.grade[index])}")
    return contact_sheet(tiles, titles)


def taught_grades(data: SeverityData, oof: OofTable, settings: SeveritySettings) -> NDArray[np.int64]:
    """(cells,) the grade that training is told of each cell once earlier networks spoke out of fold; -1 for none.

    Its own, unless they all but rule it out (1 - p(grade) above ``label_noise``); of a cell without one, what they give
    at least ``pseudo_labels``. Either is printed by level and grade. The networks that speak of a cell have learnt from
    the studies of all other folds, so what it is told holds a little of their labels; it is never scored by it.
    """
    own = data.cells.grade
    log_p = oof.array(data.cache.study_ids)[data.cells.study, np.array(data.cache.cells)[data.cells.cell]]
    p = np.where(np.isfinite(log_p).all(1, keepdims=True), np.exp(log_p), np.nan)
    taught = own.copy()
    if settings.label_noise > 0:
        taught[(own >= 0) & (1 - p[np.arange(len(own)), own] > settings.label_noise)] = -1
    removed = (own >= 0) & (taught < 0)
    balance = class_balance(data.cells.rows(removed))
    say(f"label noise: {removed.sum()} of {len(own)} cells removed (1 - p(label) > {settings.label_noise}): {balance}")
    if settings.pseudo_labels > 0:
        sure = (own < 0) & (np.nan_to_num(p).max(1) >= settings.pseudo_labels)
        taught[sure] = p[sure].argmax(1)
        balance = class_balance(replace(data.cells, grade=taught).rows(sure))
        count = f"{sure.sum()} of {(own < 0).sum()} cells without a grade"
        say(f"pseudo-labels: {count} get one (p >= {settings.pseudo_labels}): {balance}")
    return taught
