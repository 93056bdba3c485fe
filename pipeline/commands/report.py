"""``python -m pipeline report RUN_DIR``: pages that show what a run did, to be opened from the disk.

A RUN_DIR holds the ``run.json`` of ``submit.py``; or it is the folder of a training, of its folds, or of ``train all``.
Several trainings are compared, those of one task with the first of them.

Exit status: 0 the pages are written, 1 a package is missing or a page could not be written, 2 the call was wrong.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.console import CallError, say

if TYPE_CHECKING:
    from pipeline.commands.runs import Recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument(
        "run", type=Path, nargs="+", metavar="RUN_DIR", help="folder of run.json, or folders of trainings to compare"
    )
    parser.add_argument("--truth", type=Path, metavar="DIR", help="folder with train.csv, or such a table")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the pages (default: RUN_DIR/report)")
    parser.add_argument("--stages", type=Path, metavar="DIR", help="what submit.py --stages wrote, if not found")
    parser.add_argument("--data", type=Path, metavar="DIR", help="the images (default: where the run had them)")
    parser.add_argument("--weights", type=Path, metavar="DIR", help="the networks (default: where the run had them)")
    parser.add_argument("--workers", type=int, default=-1, metavar="N", help="processes (default: one per core)")


def run(args: argparse.Namespace) -> int:
    """Write the pages and say where.

    Raises:
        CallError: a folder holds neither a run of ``submit.py`` nor a training.
    """
    first = args.run[0]
    out = args.out or first / "report"
    is_run = len(args.run) == 1 and (first / "run.json").exists()
    recipes = {} if is_run else {folder: _recipes(folder) for folder in args.run}
    if len(args.run) > 1 or recipes.get(first):
        write_trainings(recipes, out, args.data)
    else:
        write_report(first, out, args.stages, args.truth, args.data, args.weights, args.workers)
    return 0


def write_trainings(read: Mapping[Path, Sequence[Recipe]], out: Path, data: Path | None) -> None:
    """As :func:`pipeline.report.training.write_training`, of what was read of some folders; says what was made.

    Raises:
        CallError, TableError, CompetitionError, RefusedError, WorkError, OSError: as there.
    """
    from pipeline.report.site import check_packages

    check_packages()
    from pipeline.commands.runs import compare
    from pipeline.report.training import ERRORS_TABLE, Training, write_training

    began = time.monotonic()
    found: list[tuple[str, Recipe]] = []
    for folder, recipes in read.items():
        if not recipes:
            raise CallError(f"{folder}: holds no training (no config.yaml in it, in fold0, ..., or a folder of such)")
        found += [(re.sub(r" fold \w+$", "", next(iter(one.folds.values())).task), one) for one in recipes]
    common = os.path.commonpath([Path(recipe.name).parent for _, recipe in found])
    trainings = [
        Training(
            os.path.relpath(recipe.name, common),
            task,
            {fold: run.path for fold, run in recipe.folds.items()},
            {fold: run.history for fold, run in recipe.folds.items()},
            recipe.oof,
            str(next(iter(recipe.folds.values())).settings.get("sampling", "uniform")),
        )
        for task, recipe in found
    ]
    rows: list[dict[str, Any]] = []
    for task in dict.fromkeys(task for task, _ in found):
        for row in compare([recipe for other, recipe in found if other == task]):
            scores = [score for score in row["scores"].values() if score is not None]
            row["run"] = os.path.relpath(row["run"], common)
            rows.append({**row, "task": task, "mean": sum(scores) / len(scores) if scores else None})
    places = [folder / name / ERRORS_TABLE for folder in read for name in ("", "points")]
    errors = next((path for path in places if path.is_file()), None)
    thumbnails = None
    if data is not None:
        from pipeline.competition import open_competition
        from pipeline.report.thumbnails import Thumbnails

        competition = open_competition(data, split="train")
        if competition.coordinates is None:
            raise CallError(f"--data {data}: has no train_label_coordinates.csv, so no cell can be shown")
        thumbnails = Thumbnails(competition, competition.coordinates)
    index = write_training(out, trainings, rows, errors, thumbnails)
    say(f"report: {len(trainings)} trainings; {time.monotonic() - began:.1f} s; open {index}")


def _recipes(folder: Path) -> list[Recipe]:
    """The training in a folder, or those in its folders."""
    from pipeline.commands.runs import read_recipe

    for places in ([folder], sorted(path for path in folder.glob("*") if path.is_dir())):
        found = []
        for place in places:
            try:
                found.append(read_recipe(place))
            except CallError:
                if (place / "config.yaml").is_file():
                    raise
        if found:
            return found
    return []


def write_report(
    run: Path,
    out: Path,
    stages: Path | None = None,
    truth: Path | None = None,
    data: Path | None = None,
    weights: Path | None = None,
    workers: int = -1,
    seconds: float | None = None,
) -> None:
    """As :func:`pipeline.report.build.build_report`, of the run in a folder; says what was made.

    Raises:
        CallError, TableError, CompetitionError, RefusedError, WorkError, OSError: as there.
    """
    from pipeline.report.site import check_packages

    check_packages()
    from pipeline.report.build import build_report
    from pipeline.report.record import read_run

    began = time.monotonic()
    made = build_report(read_run(run, stages, truth), out, data, weights, workers, seconds)
    say(*(f"report: {note}" for note in made.notes))
    poor = f", {made.poor} without a page or without all pictures" if made.poor else ""
    say(f"report: {made.pages} studies{poor}; {time.monotonic() - began:.1f} s; open {made.index}")
