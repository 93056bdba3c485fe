"""``python -m pipeline train all``: every network on every fold, and a weights folder that ``submit.py`` takes.

The steps are the commands that a person would give one after the other; each is resumed, or skipped where its result is
there, so a run that was stopped continues with the same command:

0. the training cache: one decode of every series for all networks, once the disk has room for all that will be written;
1. ``train landmarks`` and ``train axial``, every fold, into ``OUT/landmarks`` and ``OUT/axial``;
2. ``evaluate landmarks`` by the networks that did not see each study: out-of-fold points, and the distribution of their
   errors, which sets the jitter of stage four;
3. ``train severity`` for every family, every fold, at those points;
4. ``ensemble``: calibration and study context, fitted on the out-of-fold predictions.

A step for which no folder has labels (axial points without an axial series, say) is left out, and a line says so.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.commands import add_cluster_argument
from pipeline.commands.ensemble import fit_and_save
from pipeline.commands.evaluate_landmarks import evaluate
from pipeline.commands.train import (
    SeverityOptions,
    TrainOptions,
    add_cache_arguments,
    add_common_arguments,
    train_classifier,
    train_points,
)
from pipeline.competition import Competition, open_competition
from pipeline.config import ConfigError
from pipeline.console import WorkError, say, say_json
from pipeline.labels import FOLDS, Condition, Family
from pipeline.landmarks.errors import ERRORS_FILE, store_errors
from pipeline.names import shown
from pipeline.weights.manifest import LANDMARK_TASKS, MANIFEST_NAME, TASKS, Manifest

if TYPE_CHECKING:
    from pipeline.landmarks.task import LandmarkTrainSettings
    from pipeline.severity.settings import SeveritySettings

SECTIONS = (*TASKS, "context")
"""What ``--set`` names first: a section of a preset, or the study-context model."""
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
    from pipeline.training.processes import is_main_process, wait_for_everyone

    competitions = [open_competition(path, split="train") for path in args.data]
    settings = _by_section(args.set)
    _check_settings(args, settings)
    known = _labelled_families(competitions)
    if args.plan is not None:
        _say_plan(args, competitions, known, settings)
        return 0
    weights = args.out / "weights"
    points = args.out / "points"
    _check_folders(args.out, weights, points)
    networks, families = _trained(known)
    for left_out in (family for family in Family if family not in known):
        say(f"train all: no folder has {left_out} points, so its networks are left out")

    if is_main_process():
        _fill_cache(args, competitions, networks, families, settings)
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
    _refuse(
        args.force,
        [
            f"of the labelled {family} points the localisers found none on studies that they have not seen: look at "
            f"{points / 'worst.png'}, and train them longer or on more studies"
            for family in families
            if family.value not in measured
        ],
    )
    for family in families:
        say(f"train all: the {family} classifiers, into {args.out / family.value}")
        options = SeverityOptions(
            **_common(args, family.value, settings),
            condition=family.value,
            landmarks=[points / "label_coordinates.csv"],
            landmark_errors=weights / ERRORS_FILE if family.value in measured else None,
        )
        train_classifier(options)
    if is_main_process():
        tables = {family.value: [args.out / family.value / "oof.csv"] for family in families}
        _refuse(
            args.force, [line for family in families for line in _worse_than_nothing(family, *tables[family.value])]
        )
        _store_classifiers(args, families, weights)
        say(f"train all: calibration and study context, into {weights}")
        fit_and_save(weights, args.data, tables, overrides=settings["context"])
        say(f"train all: wrote {weights}; python submit.py --data DIR --weights {weights} uses it")
    wait_for_everyone()
    return 0


def _refuse(force: bool, faults: Sequence[str]) -> None:
    """Say what is wrong, and end the run there unless it is to go on.

    Raises:
        WorkError: something is wrong, and it is not to go on.
    """
    if faults and not force:
        raise WorkError(f"{'; '.join(faults)} (--force goes on all the same; what is trained is kept)")
    say(*(f"train all: WARNING: {fault}" for fault in faults))


def _worse_than_nothing(family: Family, oof: Path) -> list[str]:
    """A line if the networks score worse out of fold than the best answer that is the same for every cell."""
    from pipeline.labels import FAMILY_COLUMNS
    from pipeline.scoring.figures import family_score
    from pipeline.scoring.oof import read_oof
    from pipeline.severity.task import starting_point

    table = read_oof(oof)
    own = np.isin(table.cell, FAMILY_COLUMNS[family]) & (table.grade >= 0)
    score, constant = family_score(table.log_p[own], table.grade[own]), starting_point(table.grade[own], "weighted")[1]
    if constant is None or score <= constant:
        return []
    return [
        f"the {family} networks score {score:.3f} out of fold, worse than class frequencies ({constant:.3f}): look at "
        f"{oof.parent}"
    ]


def _trained(known: set[Family]) -> tuple[list[str], list[Family]]:
    """The point networks and the families that can be trained."""
    networks = [task for task in LANDMARK_TASKS if task != "axial" or Family.SUBARTICULAR in known]
    return networks, [family for family in Family if family in known]


def _settings(
    args: argparse.Namespace, networks: Sequence[str], families: Sequence[Family], settings: dict[str, list[str]]
) -> tuple[dict[str, LandmarkTrainSettings], dict[Family, SeveritySettings]]:
    """The settings of every network."""
    from pipeline.config import load_settings
    from pipeline.landmarks.train import load_train_settings
    from pipeline.severity.settings import SeveritySettings

    points = {name: load_train_settings(name, args.preset, settings[name], len(args.data)) for name in networks}
    graders = {one: load_settings(SeveritySettings, args.preset, one.value, settings[one.value]) for one in families}
    return points, graders


def _say_plan(
    args: argparse.Namespace, competitions: Sequence[Competition], known: set[Family], settings: dict[str, list[str]]
) -> None:
    from pipeline.severity.plan import make_plan, plan_lines
    from pipeline.severity.space import Space

    points, graders = _settings(args, *_trained(known), settings)
    plan = make_plan(Space.of(competitions, points, graders, args.plan), points, graders, args.workers)
    plan["left_out"] = [family.value for family in Family if family not in known]
    if args.json:
        say_json(plan, indent=1)
        return
    say(*plan_lines(plan), *(f"left out: {family}, of which no folder has points" for family in plan["left_out"]))


def _fill_cache(
    args: argparse.Namespace,
    competitions: Sequence[Competition],
    networks: Sequence[str],
    families: Sequence[Family],
    settings: dict[str, list[str]],
) -> None:
    """Decode every series once, for all networks; before that, see that the disks have room for the whole run.

    Raises:
        OSError: a disk is too small.
    """
    from pipeline.landmarks.prepare import prepare
    from pipeline.severity.space import Space

    space = Space.of(competitions, *_settings(args, networks, families, settings))
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


def _check_folders(out: Path, weights: Path, points: Path) -> None:
    """Refuse, before the first step, a folder in which a later one could not write its result.

    Raises:
        RefusedError: one of the folders holds what this program did not write.
        WeightsError: the weights' manifest cannot be read.
    """
    from pipeline.landmarks.errors import EVALUATION
    from pipeline.owned import check_claim
    from pipeline.training.folder import check_run, claim_run

    for name in TASKS:
        for folder in (out / name, *(out / name / f"fold{fold}" for fold in range(FOLDS))):
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


def _store_classifiers(args: argparse.Namespace, families: Sequence[Family], weights: Path) -> None:
    from pipeline.severity.store import store_run

    for family in families:
        for fold in range(FOLDS):
            store_run([args.out / family.value / f"fold{fold}"], weights, family, f"{family.value}-fold{fold}", fold)


def _labelled_families(competitions: Sequence[Competition]) -> set[Family]:
    """The families of which some folder has coordinates."""
    tables = [c.coordinates for c in competitions if c.coordinates is not None]
    return {Condition(name).family for table in tables for name in table["condition"].unique()}


def _by_section(settings: Sequence[str]) -> dict[str, list[str]]:
    """``landmarks.loop.epochs=3`` to {"landmarks": ["loop.epochs=3"]}; ``loop.epochs=3`` is for every network.

    Raises:
        ConfigError: a setting that starts neither with a section nor with what networks of every kind have.
    """
    result: dict[str, list[str]] = {name: [] for name in SECTIONS}
    for setting in settings:
        section, dot, rest = setting.partition(".")
        if dot and section in result:
            result[section].append(rest)
        elif section in EVERYWHERE:
            for name in TASKS:
                result[name].append(setting)
        else:
            raise ConfigError(
                f"--set {setting}: it must start with one of {', '.join(SECTIONS)} and a dot, "
                f"or, for all networks, with {' or '.join(EVERYWHERE)}"
            )
    return result


def _check_settings(args: argparse.Namespace, sections: dict[str, list[str]]) -> None:
    """Read the settings of every step before the first, so that a typing error costs a second and not a night.

    Raises:
        ConfigError: a setting that does not exist or has a wrong value.
        BackboneError: a network that timm does not have, or a file of weights that is not there.
    """
    from pipeline.config import load_settings
    from pipeline.ensemble.context import ContextSettings
    from pipeline.weights.backbones import check_backbone

    points, graders = _settings(args, LANDMARK_TASKS, tuple(Family), sections)
    for own in points.values():
        check_backbone(own.model.backbone, own.model.initial)
    for one in graders.values():
        check_backbone(one.network.backbone, one.network.initial)
    load_settings(ContextSettings, overrides=sections["context"])


def _is_newer(result: Path, runs: Sequence[Path]) -> bool:
    """Whether the result exists and was made after the weights of every fold of these runs."""
    weights = [file.stat().st_mtime for run in runs for file in run.glob("fold*/last.safetensors")]
    return result.is_file() and result.stat().st_mtime >= max(weights, default=0.0)
