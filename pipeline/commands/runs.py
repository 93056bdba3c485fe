"""``python -m pipeline runs RUN...``: what differs between training runs, how they score, and how sure that is.

A RUN is the folder of one training, or of one a fold (``fold0``, ``fold1``, ...). The first is what the others are
compared with: paired, cell by cell, where both have predictions out of fold; otherwise fold by fold.
"""

from __future__ import annotations

import argparse
import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from pipeline.console import CallError, say, say_json
from pipeline.files import read_bounded
from pipeline.labels import FAMILY_COLUMNS

if TYPE_CHECKING:
    from pipeline.scoring.oof import OofTable

MOST_BYTES = 16 * 2**20
_FOLD = re.compile(r"fold(\d+)")


@dataclass(frozen=True)
class RunFolder:
    """One training: its settings by dotted name and its rows of history.csv, an epoch each."""

    path: Path
    task: str
    settings: dict[str, Any]
    history: list[dict[str, float]]

    @property
    def scores(self) -> list[tuple[float, float]]:
        """(epoch, score) of the epochs that were evaluated; lower is better."""
        return [(row["epoch"], row["score"]) for row in self.history if not math.isnan(row.get("score", math.nan))]


@dataclass(frozen=True)
class Recipe:
    """One RUN of the command line: its trainings by fold, ``-`` for one that stands alone."""

    name: str
    folds: dict[str, RunFolder]

    @cached_property
    def oof(self) -> OofTable | None:
        """What its classifiers said out of fold; None where it has none."""
        from pipeline.scoring.oof import OofTable, read_oof

        files = [run.path / "oof.csv" for run in self.folds.values() if (run.path / "oof.csv").is_file()]
        return OofTable.concatenate([read_oof(file) for file in files]) if files else None

    def last(self, name: str) -> float:
        """The mean over folds of the last epoch's figure; NaN where none has it."""
        values = [run.history[-1].get(name, math.nan) for run in self.folds.values() if run.history]
        return sum(values) / len(values) if values else math.nan

    @property
    def minutes(self) -> float:
        """Of all trainings; NaN where they did not record it."""
        return sum(row.get("seconds", math.nan) for run in self.folds.values() for row in run.history) / 60


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="folder of a run or of its folds; the first is the reference"
    )
    parser.add_argument("--picture", type=Path, metavar="PNG", help="also draw the curves of loss and score")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def run(args: argparse.Namespace) -> int:
    """Print the comparison.

    Raises:
        CallError: a folder holds no run, or their tasks are not the same.
    """
    recipes = [read_recipe(path) for path in args.runs]
    tasks = {re.sub(r" fold \d+$", "", run.task) for recipe in recipes for run in recipe.folds.values()}
    if len(tasks) > 1:
        raise CallError(f"runs of {' and '.join(sorted(tasks))} cannot be compared with each other")
    rows = compare(recipes)
    if args.json:
        say_json(rows, indent=1)
    else:
        say(*lines(rows))
    if args.picture is not None:
        from pipeline.training.charts import draw_curves

        every = {recipe.name: [run.history for run in recipe.folds.values()] for recipe in recipes}
        draw_curves(every, args.picture)
    return 0


def read_recipe(path: Path) -> Recipe:
    """A run, or the runs of its folds.

    Raises:
        CallError: there is none.
    """
    folds = {match[1]: one for one in sorted(path.glob("fold*")) if (match := _FOLD.fullmatch(one.name))}
    folders = {fold: one for fold, one in folds.items() if (one / "config.yaml").is_file()}
    if not folders:
        if not (path / "config.yaml").is_file():
            raise CallError(f"{path}: holds no run (no config.yaml in it, nor in fold0, fold1, ...)")
        folders = {match[1] if (match := _FOLD.fullmatch(path.name)) else "-": path}
    return Recipe(str(path), {fold: _read_run(one) for fold, one in folders.items()})


def _read_run(path: Path) -> RunFolder:
    try:
        config = yaml.safe_load(read_bounded(path / "config.yaml", MOST_BYTES))
        task, settings = str(config["task"]), _flat(config["config"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise CallError(f"{path / 'config.yaml'}: is not the record of a run: {error}") from error
    history: list[dict[str, float]] = []
    if (path / "history.csv").is_file():
        with (path / "history.csv").open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                history.append({name: float(value) for name, value in row.items() if value})
    return RunFolder(path, task, settings, history)


def _flat(settings: Any, where: str = "") -> dict[str, Any]:
    if not isinstance(settings, dict):
        return {where: settings}
    return {
        name: value
        for key, inner in settings.items()
        for name, value in _flat(inner, f"{where}.{key}" if where else str(key)).items()
    }


def compare(recipes: Sequence[Recipe]) -> list[dict[str, Any]]:
    """One row a recipe: settings that differ, score by fold, difference to the first with its standard error."""
    every = [run.settings for recipe in recipes for run in recipe.folds.values()]
    names = dict.fromkeys(name for settings in every for name in settings)
    differing = [name for name in names if any(one.get(name) != every[0].get(name) for one in every)]
    rows = []
    for recipe in recipes:
        settings = {
            name: sorted({str(run.settings.get(name)) for run in recipe.folds.values()})
            for name in differing
            if name != "start_from"
        }
        scores = {fold: run.scores[-1][1] if run.scores else None for fold, run in recipe.folds.items()}
        rows.append(
            {
                "run": recipe.name,
                "settings": {name: " or ".join(values) for name, values in settings.items()},
                "scores": scores,
                "difference": None if recipe is recipes[0] else _difference(recipe, recipes[0]),
                "minutes": _or_none(recipe.minutes),
                "peak_mb": _or_none(recipe.last("peak_mb")),
                "images_per_s": _or_none(recipe.last("images_per_s")),
            }
        )
    return rows


def _difference(own: Recipe, first: Recipe) -> dict[str, dict[str, float | int | str | None]]:
    """By term, the difference to the first recipe and its standard error; of ``score`` without cells to pair."""
    from pipeline.scoring.paired import TERM_OF, differences

    result: dict[str, dict[str, float | int | str | None]] = {}
    if own.oof is not None and first.oof is not None:
        study_ids = sorted({*own.oof.study_id.tolist()} & {*first.oof.study_id.tolist()})
        answers = [table.array(study_ids) for table in (first.oof, own.oof)]
        both = np.asarray(np.isfinite(np.stack(answers)).all((0, -1)))
        grades = np.where(both, own.oof.grades(study_ids), np.nan)
        found = differences(grades, *(np.where(both[..., None], np.exp(one), 1 / 3) for one in answers))
        for term in TERM_OF:
            if not math.isnan(found[term].value):
                cells = int(np.isfinite(grades[:, FAMILY_COLUMNS[TERM_OF[term]]]).sum())
                error = _or_none(found[term].error)
                result[term] = {"difference": found[term].value, "standard_error": error, "over": f"{cells} cells"}
    if not result:
        pairs = [
            run.scores[-1][1] - first.folds[fold].scores[-1][1]
            for fold, run in own.folds.items()
            if fold in first.folds and run.scores and first.folds[fold].scores
        ]
        if pairs:
            mean, count = sum(pairs) / len(pairs), len(pairs)
            error = math.sqrt(sum((one - mean) ** 2 for one in pairs) / max(count - 1, 1) / count)
            result["score"] = {
                "difference": mean, "standard_error": error if count > 1 else None, "over": f"{count} folds",
            }  # fmt: skip
    return result


def lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The rows of :func:`compare` for people."""
    text = []
    for row in rows:
        scores = [score for score in row["scores"].values() if score is not None]
        mean = f"{sum(scores) / len(scores):.4f}" if scores else "not evaluated yet"
        by_fold = ", ".join(f"{fold}: {'-' if s is None else f'{s:.4f}'}" for fold, s in row["scores"].items())
        text += [f"{row['run']}", f"  score {mean} (fold {by_fold})"]
        if row["difference"] is not None:
            for name, one in row["difference"].items():
                error = "unknown" if one["standard_error"] is None else f"{one['standard_error']:.4f}"
                text.append(f"  {name} {one['difference']:+.4f} to the first, standard error {error}, {one['over']}")
            if not row["difference"]:
                text.append("  nothing that it shares with the first to compare")
        costs = (("minutes", "min"), ("peak_mb", "MB at most"), ("images_per_s", "images/s"))
        known = [f"{row[name]:.0f} {unit}" for name, unit in costs if row[name] is not None]
        text += [f"  {', '.join(known)}"] if known else []
        text += [f"  {name} = {value}" for name, value in row["settings"].items()]
    return text


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
