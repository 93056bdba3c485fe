"""``python -m pipeline train all``: every network on every fold, and a weights folder that ``submit.py`` takes.

The steps are the commands that a person would give one after the other; each is resumed, or skipped where its result is
there, so a run that was stopped continues with the same command:

0. the training cache: one decode of every series for all networks, once the disk has room for all that will be written;
1. ``train landmarks`` and ``train axial``, every fold, into ``OUT/landmarks`` and ``OUT/axial``;
2. ``evaluate landmarks`` by the networks that did not see each study: out-of-fold points, and the distribution of their
   errors, which sets the jitter of stage four;
3. ``train severity`` for every recipe of every family, every fold, at those points; where a recipe has ``label_noise``
   or ``pseudo_labels``, a second time by what the first round rules out or is sure of, into ``OUT/second``;
4. ``ensemble``: calibration and study context, fitted on the out-of-fold predictions.

A step for which no folder has labels (axial points without an axial series, say) is left out, and a line says so.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.commands import add_cluster_argument
from pipeline.commands.ensemble import fit_and_save
from pipeline.commands.evaluate_landmarks import evaluate
from pipeline.commands.train import (
    SeverityOptions,
    TrainOptions,
    add_cache_arguments,
    add_common_arguments,
    train_points,
)
from pipeline.competition import Competition, open_competition
from pipeline.config import ConfigError
from pipeline.console import say, say_json
from pipeline.labels import FOLDS, Condition, Family
from pipeline.landmarks.errors import ERRORS_FILE, store_errors
from pipeline.names import shown
from pipeline.weights.manifest import LANDMARK_TASKS, MANIFEST_NAME, TASKS, Manifest

if TYPE_CHECKING:
    from pipeline.landmarks.task import LandmarkTrainSettings
    from pipeline.severity.recipes import Recipe

EVERYWHERE = ("loop", "augment")
"""Settings that networks of every kind have."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command; there is no fold to choose."""
    add_common_arguments(parser, "all", "landmarks.loop.epochs=3")
    add_cache_arguments(parser, "what is kept of the images, for all networks")
    add_cluster_argument(parser, "fill the cache")
    parser.add_argument(
        "--force",
        action="store_true",
        help="go on where a localiser finds nothing, and pack networks that are worse than class frequencies",
    )
    parser.add_argument(
        "--plan",
        nargs="?",
        type=int,
        const=0,
        metavar="STUDIES",
        help="only say what would be done and what disk, memory and time that takes (from a short measurement on the "
        "device at hand), for the studies of --data or for so many",
    )
    parser.add_argument("--json", action="store_true", help="with --plan: print one JSON object")
    parser.add_argument("--set-name", default="own", metavar="NAME", help="name of the set (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Run the steps; the first that fails ends the run.

    Raises:
        CompetitionError: a folder of ``--data`` is no competition folder.
        RefusedError: a folder of ``--out`` holds what this program did not write.
        ConfigError, BackboneError: a setting of any step is wrong, which is said before the first begins.
        WorkError: a localiser finds none of its points, or classifiers are worse than no network at all.
    """
    from pipeline.commands.train_graders import learnt, refuse, train_rounds
    from pipeline.severity.recipes import load_recipes, recipe_keys
    from pipeline.training.processes import is_main_process, wait_for_everyone

    competitions = [open_competition(path, split="train") for path in args.data]
    settings = _by_section(args.set, recipe_keys(args.preset, list(Family)))
    _check_settings(args, settings)
    known = _labelled_families(competitions)
    if args.plan is not None:
        _say_plan(args, competitions, known, settings)
        return 0
    weights = args.out / "weights"
    points = args.out / "points"
    networks, families = _trained(known)
    recipes = load_recipes(args.preset, families, settings)
    _check_folders(args.out, weights, points, recipes)
    for left_out in (family for family in Family if family not in known):
        say(f"train all: no folder has {left_out} points, so its networks are left out")

    if is_main_process():
        _fill_cache(args, competitions, networks, recipes, settings)
    wait_for_everyone()
    for task in networks:
        say(f"train all: the {task} networks, into {args.out / task}")
        train_points(task, TrainOptions(**_common(args, task, settings)))
    if is_main_process():
        _store_landmarks(args, networks, weights)
        if not _is_newer(points / "errors.csv", [args.out / task for task in networks]):
            say(f"train all: points of the studies that each network has not seen, into {points}")
            evaluate(args.data, weights, points, workers=args.workers)
        store_errors(points / "errors.csv", weights)
    wait_for_everyone()
    measured = json.loads((weights / ERRORS_FILE).read_text(encoding="utf-8"))
    refuse(
        args.force,
        [
            f"of the labelled {family} points the localisers found none on studies that they have not seen: look at "
            f"{points / 'worst.png'}, and train them longer or on more studies"
            for family in families
            if family.value not in measured
        ],
    )

    def options_of(recipe: Recipe) -> SeverityOptions:
        return SeverityOptions(
            **_common(args, recipe.name, settings),
            condition=recipe.family.value,
            recipe=recipe.key,
            landmarks=[points / "label_coordinates.csv"],
            landmark_errors=weights / ERRORS_FILE if recipe.family.value in measured else None,
        )

    folders = train_rounds(recipes, options_of, args.out)
    if is_main_process():
        packed = learnt(recipes, folders, args.force)
        tables = {recipe.name: [folders[recipe.name] / "oof.csv"] for recipe in packed}
        manifest = _store_classifiers(packed, folders, weights)
        graders = {member.recipe for member in manifest.of_task(*Family)}
        say(f"train all: calibration and study context, into {weights}")
        # Networks of an earlier call that this one does not train stay in the set and are not used.
        unused = dict.fromkeys(sorted(graders - set(tables)), 0.0)
        fit_and_save(weights, args.data, tables, fixed=unused, overrides=settings["context"])
        say(f"train all: wrote {weights}; python submit.py --data DIR --weights {weights} uses it")
    wait_for_everyone()
    return 0


def _trained(known: set[Family]) -> tuple[list[str], list[Family]]:
    """The point networks and the families that can be trained."""
    networks = [task for task in LANDMARK_TASKS if task != "axial" or Family.SUBARTICULAR in known]
    return networks, [family for family in Family if family in known]


def _points(
    args: argparse.Namespace, networks: Sequence[str], settings: dict[str, list[str]]
) -> dict[str, LandmarkTrainSettings]:
    """The settings of the point networks."""
    from pipeline.landmarks.train import load_train_settings

    return {name: load_train_settings(name, args.preset, settings[name], len(args.data)) for name in networks}


def _say_plan(
    args: argparse.Namespace, competitions: Sequence[Competition], known: set[Family], settings: dict[str, list[str]]
) -> None:
    from pipeline.severity.plan import make_plan, plan_lines
    from pipeline.severity.recipes import load_recipes
    from pipeline.severity.space import Space

    networks, families = _trained(known)
    points, recipes = _points(args, networks, settings), load_recipes(args.preset, families, settings)
    plan = make_plan(Space.of(competitions, points, recipes, args.plan), points, recipes, args.workers)
    plan["left_out"] = [family.value for family in Family if family not in known]
    if args.json:
        say_json(plan, indent=1)
        return
    say(*plan_lines(plan), *(f"left out: {family}, of which no folder has points" for family in plan["left_out"]))


def _fill_cache(
    args: argparse.Namespace,
    competitions: Sequence[Competition],
    networks: Sequence[str],
    recipes: Sequence[Recipe],
    settings: dict[str, list[str]],
) -> None:
    """Decode every series once, for all networks; before that, see that the disks have room for the whole run.

    Raises:
        OSError: a disk is too small.
    """
    from pipeline.landmarks.prepare import prepare
    from pipeline.severity.space import Space

    space = Space.of(competitions, _points(args, networks, settings), recipes)
    space.check(args.cache, args.out)
    prepare(competitions, args.cache, space.examples, workers=args.workers, cluster=args.cluster)


def _common(args: argparse.Namespace, section: str, settings: dict[str, list[str]]) -> dict[str, Any]:
    """What the training of any section is told."""
    return {
        "data": args.data,
        "out": args.out / section,
        "cache": args.cache,
        "workers": args.workers,
        "preset": args.preset,
        "set": settings[section],
        "folds": "all",
        "restart": args.restart,
    }


def _check_folders(out: Path, weights: Path, points: Path, recipes: Sequence[Recipe]) -> None:
    """Refuse, before the first step, a folder in which a later one could not write its result.

    Raises:
        RefusedError: one of the folders holds what this program did not write.
        WeightsError: the weights' manifest cannot be read.
    """
    from pipeline.commands.train_graders import SECOND
    from pipeline.landmarks.errors import EVALUATION
    from pipeline.owned import check_claim
    from pipeline.training.folder import check_run, claim_run

    names = [recipe.name for recipe in recipes]
    check_run(out / SECOND)
    for run in (*(out / name for name in (*LANDMARK_TASKS, *names)), *(out / SECOND / name for name in names)):
        for folder in (run, *(run / f"fold{fold}" for fold in range(FOLDS))):
            check_run(folder)
    check_claim(points, EVALUATION)
    if (weights / MANIFEST_NAME).exists():
        Manifest.load(weights)
    else:
        check_claim(weights, "weights")
    claim_run(out)


def _store_landmarks(args: argparse.Namespace, tasks: Sequence[str], weights: Path) -> None:
    from pipeline.landmarks.store import store_run

    Manifest.open(weights, args.set_name, shown(f"trained on {', '.join(path.name for path in args.data)}"))
    for task in tasks:
        for fold in range(FOLDS):
            store_run([args.out / task / f"fold{fold}"], weights, task, f"{task}-fold{fold}", fold)


def _store_classifiers(recipes: Sequence[Recipe], folders: Mapping[str, Path], weights: Path) -> Manifest:
    from pipeline.severity.store import store_run

    for recipe in recipes:
        for fold in range(FOLDS):
            run = folders[recipe.name] / f"fold{fold}"
            store_run([run], weights, recipe.family, f"{recipe.name}-fold{fold}", fold)
    return Manifest.load(weights)


def _labelled_families(competitions: Sequence[Competition]) -> set[Family]:
    """The families of which some folder has coordinates."""
    tables = [c.coordinates for c in competitions if c.coordinates is not None]
    return {Condition(name).family for table in tables for name in table["condition"].unique()}


def _by_section(settings: Sequence[str], recipes: Mapping[str, tuple[Family, str]]) -> dict[str, list[str]]:
    """``landmarks.loop.epochs=3`` to {"landmarks": ["loop.epochs=3"]}.

    What is said of a family is for all its recipes, and ``loop.epochs=3`` for every network.

    Args:
        settings: as ``--set`` takes them.
        recipes: family and key by name.

    Raises:
        ConfigError: a setting that starts neither with a section nor with what networks of every kind have.
    """
    result: dict[str, list[str]] = {name: [] for name in (*LANDMARK_TASKS, *recipes, "context")}
    for setting in settings:
        section, dot, rest = setting.partition(".")
        of_family = [name for name, (family, _) in recipes.items() if section in (name, family.value)]
        if dot and (section in result or of_family):
            for name in of_family or [section]:
                result[name].append(rest)
        elif section in EVERYWHERE:
            for name in (*LANDMARK_TASKS, *recipes):
                result[name].append(setting)
        else:
            known = ", ".join(dict.fromkeys([*TASKS, *result]))
            raise ConfigError(
                f"--set {setting}: it must start with one of {known} and a dot, or, for all networks, with "
                f"{' or '.join(EVERYWHERE)}"
            )
    return result


def _check_settings(args: argparse.Namespace, sections: dict[str, list[str]]) -> None:
    """Read the settings of every step before the first, so that a typing error costs a second and not a night.

    Raises:
        ConfigError: a setting that does not exist or has a wrong value.
        BackboneError: a network that timm does not have, or a file of weights that is not there.
    """
    from pipeline.ensemble.context import ContextSettings
    from pipeline.preset import load_settings
    from pipeline.severity.recipes import load_recipes
    from pipeline.weights.backbones import check_backbone

    for own in _points(args, LANDMARK_TASKS, sections).values():
        check_backbone(own.model.backbone, own.model.initial)
    for recipe in load_recipes(args.preset, list(Family), sections):
        check_backbone(recipe.settings.network.backbone, recipe.settings.network.initial)
    load_settings(ContextSettings, overrides=sections["context"])


def _is_newer(result: Path, runs: Sequence[Path]) -> bool:
    """Whether the result exists and was made after the weights of every fold of these runs."""
    weights = [file.stat().st_mtime for run in runs for file in run.glob("fold*/last.safetensors")]
    return result.is_file() and result.stat().st_mtime >= max(weights, default=0.0)
