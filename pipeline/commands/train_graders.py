"""The classifiers of ``train all``: every recipe on every fold, and a second round by what the first one found.

Where a recipe has ``label_noise``, all recipes together say out of fold which labels they all but rule out, and where
it has ``pseudo_labels``, which grade a cell without one surely has. Each such recipe is trained again without the
former cells and with the latter, into ``OUT/second``; that changes training alone, never what is held out. Of a
recipe's two rounds the networks of the worse one are deleted, for the disk's sake; what they said of every study stays.
What the first networks say of a cell comes from networks that had not seen its study, but had seen those that the
second ones hold out; that reaches these only through which cells are missing or added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.commands.train import SeverityOptions, train_classifier
from pipeline.console import WorkError, say
from pipeline.ensemble.out_of_fold import even_blend
from pipeline.labels import FAMILY_COLUMNS, FOLDS
from pipeline.scoring.figures import family_score
from pipeline.scoring.oof import read_oof, write_oof
from pipeline.severity.recipes import Recipe
from pipeline.severity.task import starting_point
from pipeline.training.folder import claim_run, clear_run
from pipeline.training.processes import is_main_process, wait_for_everyone

SECOND = "second"
"""Folder of the runs of the second round."""


def train_rounds(
    recipes: Sequence[Recipe], options_of: Callable[[Recipe], SeverityOptions], out: Path
) -> dict[str, Path]:
    """Train every recipe, once or twice.

    Args:
        recipes: to train.
        options_of: what the first round is told of each; its ``out`` is ``out/NAME``.
        out: folder of all runs.

    Returns:
        By recipe the folder of its better round, with runs of all folds and ``oof.csv``.
    """
    chosen: dict[str, Path] = {}
    for recipe in recipes:
        options = options_of(recipe)
        _train(options, f"the {recipe.name} classifiers", recipe.rounds)
        chosen[recipe.name] = options.out
    again = [recipe for recipe in recipes if recipe.rounds > 1]
    table = out / SECOND / "oof.csv"
    if again and is_main_process():
        _write_blend(chosen, table)
    wait_for_everyone()
    for recipe in again:
        options = replace(options_of(recipe), out=table.parent / recipe.name, oof=table)
        _train(options, f"the {recipe.name} classifiers again, by what the first round found", recipe.rounds)
        wait_for_everyone()
        rounds = [chosen[recipe.name], options.out]
        scores = [family_score(*_graded(recipe, folder)) for folder in rounds]
        better, worse = rounds[::-1] if scores[1] < scores[0] else rounds
        chosen[recipe.name] = better
        if is_main_process():
            for file in worse.glob("fold*/*.safetensors"):
                file.unlink()
        text = f"scores {scores[1]:.4f} out of fold after the second round, {scores[0]:.4f} after the first"
        say(f"train all: {recipe.name} {text}; the better one is packed")
    return chosen


def _train(options: SeverityOptions, what: str, rounds: int) -> None:
    """Train the classifiers of all folds, unless an earlier call did and deleted them for those of the other round."""
    runs = [options.out / f"fold{fold}" for fold in range(FOLDS)]
    complete = (
        rounds > 1 and (options.out / "oof.csv").is_file() and all((run / "complete.ckpt").is_file() for run in runs)
    )
    if complete and not options.restart and not any((run / "last.safetensors").exists() for run in runs):
        say(f"train all: {what} in {options.out} are trained, and those of the other round are better")
        return
    say(f"train all: {what}, into {options.out}")
    train_classifier(options)


def _write_blend(folders: Mapping[str, Path], path: Path) -> None:
    """What the first round says together. Where that has changed, what was trained by it before is deleted."""
    blend = even_blend({name: read_oof(folder / "oof.csv") for name, folder in folders.items()})
    if path.is_file():
        before = read_oof(path)
        if np.array_equal(before.cell, blend.cell) and np.allclose(before.log_p, blend.log_p, rtol=1e-4, atol=1e-4):
            return
        say(f"train all: the first round's answers have changed, so the second one in {path.parent} starts over")
        for name in folders:
            for fold in range(FOLDS):
                if (run := path.parent / name / f"fold{fold}").is_dir():
                    clear_run(run)
    claim_run(path.parent)
    write_oof(blend, path.parent)


def learnt(recipes: Sequence[Recipe], folders: Mapping[str, Path], force: bool) -> list[Recipe]:
    """The recipes to pack: those that beat the best answer that is the same for every cell, where a family has such.

    Raises:
        WorkError: a family has none, and it is not to go on.
    """
    faults: dict[str, str] = {}
    for recipe in recipes:
        if fault := _worse_than_nothing(recipe, folders[recipe.name]):
            faults[recipe.name] = fault
    good = {recipe.family for recipe in recipes if recipe.name not in faults}
    refuse(force, [faults[recipe.name] for recipe in recipes if recipe.family not in good])
    spare = [recipe for recipe in recipes if recipe.name in faults and recipe.family in good]
    say(*(f"train all: WARNING: {faults[recipe.name]}; they are left out of the set" for recipe in spare))
    return [recipe for recipe in recipes if recipe not in spare]


def refuse(force: bool, faults: Sequence[str]) -> None:
    """Say what is wrong, and end the run there unless it is to go on.

    Raises:
        WorkError: something is wrong, and it is not to go on.
    """
    if faults and not force:
        raise WorkError(f"{'; '.join(faults)} (--force goes on all the same; what is trained is kept)")
    say(*(f"train all: WARNING: {fault}" for fault in faults))


def _graded(recipe: Recipe, folder: Path) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """What a recipe says out of fold of the graded cells of its own family, (N, 3), and their grades, (N,)."""
    table = read_oof(folder / "oof.csv")
    own = np.isin(table.cell, FAMILY_COLUMNS[recipe.family]) & (table.grade >= 0)
    return table.log_p[own], table.grade[own]


def _worse_than_nothing(recipe: Recipe, folder: Path) -> str:
    """A line if the networks score worse out of fold than the best constant answer; else nothing."""
    log_p, grades = _graded(recipe, folder)
    score, constant = family_score(log_p, grades), starting_point(grades, "weighted")[1]
    if constant is None or score <= constant:
        return ""
    return (
        f"the {recipe.name} networks score {score:.3f} out of fold, worse than class frequencies ({constant:.3f}): "
        f"look at {folder}"
    )
