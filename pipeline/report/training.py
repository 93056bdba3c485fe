"""The page of training runs: curves, figures a condition and level, calibration, errors of points, worst cases."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.ensemble.calibration import calibration_error, fit_calibration
from pipeline.files import read_bounded
from pipeline.labels import (
    CELLS,
    CONDITIONS,
    FAMILY_COLUMNS,
    GRADE_NAMES,
    GRADE_WEIGHTS,
    GRADES,
    LEVELS,
    Family,
    level_title,
)
from pipeline.report import charts
from pipeline.report.site import begin, write_page
from pipeline.report.thumbnails import Thumbnails
from pipeline.scoring.figures import level_figures
from pipeline.scoring.metric import cell_losses, unweighted
from pipeline.scoring.oof import OofTable
from pipeline.tables import read_written

ERRORS_TABLE = "errors.csv"
WORST = 24
BINS = 10
MOST_BYTES = 16 * 2**20


@dataclass(frozen=True, eq=False)
class Training:
    """One recipe of training: its runs a fold.

    Attributes:
        name: of its folder.
        task: e.g. ``canal``, ``landmarks``.
        folders: by fold.
        histories: by fold, the rows of ``history.csv``.
        oof: what its classifiers said out of fold; None for localisers.
        sampling: of a classifier, how cells were drawn.
    """

    name: str
    task: str
    folders: Mapping[str, Path]
    histories: Mapping[str, Sequence[Mapping[str, float]]]
    oof: OofTable | None
    sampling: str = "uniform"


def write_training(
    out: Path,
    trainings: Sequence[Training],
    comparisons: Sequence[Mapping[str, Any]],
    errors: Path | None,
    thumbnails: Thumbnails | None,
) -> Path:
    """Write the page; returns where.

    Args:
        out: folder of the pages; new, empty, or of an earlier report.
        trainings: what was trained.
        comparisons: rows of ``python -m pipeline runs``, of trainings of one task each.
        errors: ``errors.csv`` of ``evaluate landmarks``; None where there is none.
        thumbnails: cuts pictures of the worst cases; None without images.

    Raises:
        RefusedError, WorkError, OSError, TableError: as :func:`pipeline.report.site.begin`, or a table is damaged.
    """
    begin(out)
    sections = []
    for one in trainings:
        shown = _curves(one)
        section: dict[str, Any] = {"name": one.name, "task": one.task, "folds": len(one.folders), "figures": []}
        if one.oof is not None:
            graded = one.oof.grade >= 0
            figures = _figures(one.oof)
            for row in figures:
                if row["level"] == "all":
                    title = f"{row['condition']}: true and called"
                    shown.append(charts.confusion(np.array(row["confusion"]), title))
            shown += [*_reliability(one.oof), *_balance(one)]
            section |= {"figures": figures, "worst": _worst(one.oof, graded, thumbnails), "cells": int(graded.sum())}
        section["charts"] = shown
        sections.append(section)
    write_page(
        out / "training.html",
        "training.html",
        sections=sections,
        comparisons=comparisons,
        points=[] if errors is None else _point_errors(errors),
        grade_names=GRADE_NAMES,
        has_pictures=thumbnails is not None,
    )
    return out / "training.html"


def _curves(one: Training) -> list[charts.Chart]:
    """Loss and score over epochs, a line a fold."""
    found = []
    for kind in ("loss", "score"):
        curves = {
            f"fold {fold}": ([row["epoch"] for row in rows if kind in row], [row[kind] for row in rows if kind in row])
            for fold, rows in one.histories.items()
        }
        words = "mean error, at most 30 mm" if one.task in ("landmarks", "axial") and kind == "score" else kind
        found.append(charts.lines(curves, f"{kind.title()} by epoch", "epoch", words))
    return found


def _figures(oof: OofTable) -> list[dict[str, Any]]:
    """Rows of :func:`~pipeline.scoring.figures.level_figures` for each condition that was graded."""
    rows: list[dict[str, Any]] = []
    for condition in CONDITIONS:
        mine = np.isin(oof.cell, [n for n, cell in enumerate(CELLS) if cell.condition is condition]) & (oof.grade >= 0)
        if mine.any():
            found = level_figures(oof.log_p[mine], oof.grade[mine], oof.cell[mine] % len(LEVELS))
            rows += [{"condition": condition.title, **row} for row in found]
    return rows


def cross_fitted(
    log_p: NDArray[np.float64], grades: NDArray[np.int64], folds: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(N, 3) log-probabilities after the temperature and bias that the other folds ask for; of one fold, unchanged."""
    result = log_p.copy()
    names = np.unique(folds)
    for fold in names if len(names) > 1 else ():
        held = folds == fold
        result[held] = fit_calibration(log_p[~held], grades[~held]).apply(log_p[held])
    return result


def _reliability(oof: OofTable) -> list[charts.Chart]:
    """For each family how often what was called so probable was true, before and after a cross-fitted calibration."""
    found = []
    for family in Family:
        mine = np.isin(oof.cell, FAMILY_COLUMNS[family]) & (oof.grade >= 0)
        if not mine.any():
            continue
        log_p, grades = oof.log_p[mine], oof.grade[mine]
        curves: dict[str, tuple[Sequence[float], Sequence[float]]] = {}
        errors = []
        for when, values in (("before", log_p), ("after", cross_fitted(log_p, grades, oof.fold[mine]))):
            p = unweighted(values)
            errors.append(f"{calibration_error(values, grades).max():.3f}")
            for grade, name in enumerate(GRADE_NAMES):
                if grade:
                    curves[f"{name}, {when}"] = _shares(p[:, grade], grades == grade)
        title = f"{family.value.title()}: reliability, error {' → '.join(errors)} (dashed: perfect)"
        found.append(charts.lines(curves, title, "probability", "share that is so", shares=True))
    return found


def _shares(p: NDArray[np.float64], is_so: NDArray[np.bool_]) -> tuple[list[float], list[float]]:
    """Mean probability and share of truth in bins of equal width that hold anything."""
    place = np.minimum((p * BINS).astype(int), BINS - 1)
    bins = np.unique(place)
    return [float(p[place == n].mean()) for n in bins], [float(is_so[place == n].mean()) for n in bins]


def _balance(one: Training) -> list[charts.Chart]:
    """Grades of the training cells by level: as they were found, and as batches draw them."""
    total = np.zeros((len(LEVELS), len(GRADES)))
    for folder in one.folders.values():
        path = folder / "review.json"
        if path.is_file():
            found = json.loads(read_bounded(path, MOST_BYTES))["training"]
            total += [[found[level_title(level)][grade] for grade in GRADES] for level in LEVELS]
    if not total.any():
        return []
    drawn = total * (GRADE_WEIGHTS if one.sampling == "grade" else 1)
    if one.sampling == "condition_level":  # every grade of a level as often as any other
        drawn = (total > 0).astype(float)
    rows = {}
    for level, counts, weighted in zip(LEVELS, total, drawn, strict=True):
        rows[f"{level_title(level)}"] = (counts / total.sum()).tolist()
        rows[f"{level_title(level)} drawn"] = (weighted / drawn.sum()).tolist()
    return [charts.stacked(rows, f"Grades of training cells: found and drawn ({one.sampling})", "share of all cells")]


def _worst(oof: OofTable, graded: NDArray[np.bool_], thumbnails: Thumbnails | None) -> list[dict[str, Any]]:
    """The cells that cost most, the worst first."""
    loss = cell_losses(np.where(graded, oof.grade, np.nan), np.exp(oof.log_p))[:, 0]
    chosen = np.argsort(-loss, kind="stable")[:WORST]
    p = unweighted(oof.log_p)
    cases = [(str(oof.study_id[n]), int(oof.cell[n])) for n in chosen]
    pictures = {} if thumbnails is None else thumbnails.of(cases)
    return [
        {
            "study": study_id,
            "cell": f"{level_title(CELLS[cell].level)} {CELLS[cell].condition.title}",
            "truth": GRADE_NAMES[oof.grade[n]],
            "p": p[n].tolist(),
            "loss": float(loss[n]),
            "picture": pictures.get((study_id, cell), ""),
        }
        for n, (study_id, cell) in zip(chosen, cases, strict=True)
    ]


def _point_errors(path: Path) -> list[charts.Chart]:
    """Histograms of the distance in the plane of the labelled slice, and of how many slices a point is off."""
    table = read_written(path, ("condition",), ("in_plane_mm", "slices"), "evaluate landmarks")
    return [
        *_histograms(table, "in_plane_mm", "Points: distance in the slice", "mm", 0.5),
        *_histograms(table, "slices", "Points: slices off", "slices", 1.0),
    ]


def _histograms(table: pd.DataFrame, column: str, title: str, unit: str, width: float) -> list[charts.Chart]:
    found = table.groupby("condition")[column]
    values = {str(name).replace("_", " ").title(): numbers.dropna().tolist() for name, numbers in found}
    missing = int(table[column].isna().sum())
    return [charts.histograms(values, f"{title} ({missing} not found)", unit, width)] if any(values.values()) else []
