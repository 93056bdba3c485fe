"""``python -m pipeline train all``: both stages, all folds, and a weights folder that ``submit.py`` takes.

The steps are the commands that a person would give one after the other; each is resumed or skipped where its result is
there, so a run that was stopped continues with the same command:

1. ``train landmarks`` and ``train axial``, every fold, into ``OUT/landmarks`` and ``OUT/axial``;
2. ``evaluate landmarks`` by the networks that did not see each study: out-of-fold points, and the distribution of their
   errors, which sets the jitter of stage four;
3. ``train severity`` for every family, every fold, at those points;
4. the ensemble's calibration and study context, fitted on the out-of-fold predictions.

A step for which no folder has labels (axial points without an axial series, say) is left out, and a line says so.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from pipeline.competition import Competition, open_competition
from pipeline.config import ConfigError
from pipeline.console import Parser, say
from pipeline.labels import Condition, Family
from pipeline.landmarks.errors import ERRORS_FILE, store_errors
from pipeline.names import shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the steps take beside the common arguments; settings name their section first: landmarks.loop.epochs=3."""
    parser.add_argument("--cache", type=Path, default=Path("cache"), help="folder of the caches (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="processes that fill the caches (default: %(default)s)")
    parser.add_argument("--set-name", default="own", help="name of the set of weights (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Run the steps; the first that fails ends the run with its status.

    Raises:
        CompetitionError: a folder of ``--data`` is none.
        RefusedError: a folder of ``--out`` holds what this program did not write.
        ConfigError, BackboneError: a setting of any step is wrong, which is said before the first begins.
    """
    from pipeline.training.processes import is_main_process, wait_for_everyone

    competitions = [open_competition(path, split="train") for path in args.data]
    sections = _by_section(args.set)
    _check_settings(args.preset, sections, len(args.data))
    known = _labelled_families(competitions)
    weights = args.out / "weights"
    points = args.out / "points"
    _check_folders(args.out, weights, points)
    networks = ["landmarks", *(["axial"] if Family.SUBARTICULAR in known else [])]
    families = [family for family in Family if family in known]
    for left_out in set(Family) - known:
        say(f"train all: no folder has {left_out} points, so its networks are left out")

    for task in networks:
        if status := _train(args, task, args.out / task, sections, []):
            return status
    if is_main_process():
        _store_landmarks(args, networks, weights)
        if not _newer(points / "errors.csv", [args.out / task for task in networks]):
            command = ["evaluate", "landmarks", "--data", *map(str, args.data), "--weights", str(weights)]
            if status := _call([*command, "--out", str(points), "--workers", str(args.workers)]):
                return status
        store_errors(points / "errors.csv", weights)
    wait_for_everyone()
    for family in families:
        own = ["--condition", family.value, "--landmarks", str(points / "label_coordinates.csv")]
        if family.value in json.loads((weights / ERRORS_FILE).read_text(encoding="utf-8")):
            own += ["--landmark-errors", str(weights / ERRORS_FILE)]
        else:
            say(f"train all: the localiser found no {family} point, so the preset's jitter stands")
        if status := _train(args, "severity", args.out / family.value, sections, own, family.value):
            return status
    if is_main_process():
        _store_classifiers(args, families, weights)
        command = ["ensemble", "--weights", str(weights), "--data", *map(str, args.data), "--oof"]
        command += [f"{family.value}={args.out / family.value / 'oof.csv'}" for family in families]
        if status := _call([*command, *(["--preset", str(args.preset)] if args.preset else [])]):
            return status
        say(f"train all: wrote {weights}; python submit.py --data DIR --weights {weights} uses it")
    wait_for_everyone()
    return 0


def _check_folders(out: Path, weights: Path, points: Path) -> None:
    """Find out before the first step that the last could not write its result.

    Raises:
        RefusedError: one of the folders holds what this program did not write.
        WeightsError: the weights' manifest is none.
    """
    from pipeline.labels import FOLDS
    from pipeline.landmarks.errors import EVALUATION
    from pipeline.owned import check_claim
    from pipeline.training.folder import check_run, claim_run
    from pipeline.weights.manifest import MANIFEST_NAME, Manifest

    for name in ("landmarks", "axial", *(family.value for family in Family)):
        for folder in (out / name, *(out / name / f"fold{fold}" for fold in range(FOLDS))):
            check_run(folder)
    check_claim(points, EVALUATION)
    if (weights / MANIFEST_NAME).exists():
        Manifest.load(weights)
    else:
        check_claim(weights, "weights")
    claim_run(out)


def _train(
    args: argparse.Namespace,
    task: str,
    out: Path,
    sections: dict[str, list[str]],
    own: Sequence[str],
    section: str | None = None,
) -> int:
    command = ["train", task, "--data", *map(str, args.data), "--folds", "all", "--out", str(out), *own]
    command += ["--cache", str(args.cache), "--workers", str(args.workers)]
    command += ["--preset", str(args.preset)] if args.preset else []
    command += ["--restart"] if args.restart else []
    for setting in sections.get(section or task, []):
        command += ["--set", setting]
    return _call(command)


def _call(command: Sequence[str]) -> int:
    from pipeline.commands import ensemble, evaluate, train

    say("train all: " + " ".join(command))
    module = {"train": train, "evaluate": evaluate, "ensemble": ensemble}[command[0]]
    parser = Parser(prog=f"python -m pipeline {command[0]}")
    module.add_arguments(parser)  # type: ignore[attr-defined]
    return int(module.run(parser.parse_args(command[1:])))  # type: ignore[attr-defined]


def _store_landmarks(args: argparse.Namespace, tasks: Sequence[str], weights: Path) -> None:
    from pipeline.labels import FOLDS
    from pipeline.landmarks.store import store_run
    from pipeline.weights.manifest import Manifest

    Manifest.open(weights, args.set_name, shown(f"trained on {', '.join(path.name for path in args.data)}"))
    for task in tasks:
        for fold in range(FOLDS):
            store_run([args.out / task / f"fold{fold}"], weights, task, f"{task}-fold{fold}", fold)


def _store_classifiers(args: argparse.Namespace, families: Sequence[Family], weights: Path) -> None:
    from pipeline.labels import FOLDS
    from pipeline.severity.store import store_run

    for family in families:
        for fold in range(FOLDS):
            store_run([args.out / family.value / f"fold{fold}"], weights, family, f"{family.value}-fold{fold}", fold)


def _labelled_families(competitions: Sequence[Competition]) -> set[Family]:
    """The families of which some folder has coordinates."""
    tables = [c.coordinates for c in competitions if c.coordinates is not None]
    return {Condition(name).family for table in tables for name in table["condition"].unique()}


def _by_section(settings: Sequence[str]) -> dict[str, list[str]]:
    """``landmarks.loop.epochs=3`` to {"landmarks": ["loop.epochs=3"]}.

    Raises:
        ConfigError: a setting that does not start with a section.
    """
    names = ["landmarks", "axial", *(family.value for family in Family)]
    result: dict[str, list[str]] = {name: [] for name in names}
    for setting in settings:
        section, dot, rest = setting.partition(".")
        if not dot or section not in result:
            raise ConfigError(f"override {setting!r} of train all must start with one of {', '.join(names)} and a dot")
        result[section].append(rest)
    return result


def _check_settings(preset: str | None, sections: dict[str, list[str]], folders: int) -> None:
    """Read what every step will read, so that a slip of the pen costs a second and not the night before that step.

    Raises:
        ConfigError: a setting that does not exist or has a wrong value.
        BackboneError: a network that timm does not have, or a file of weights that is not there.
    """
    from pipeline.config import load_settings
    from pipeline.ensemble.context import ContextSettings
    from pipeline.landmarks.train import load_train_settings
    from pipeline.severity.settings import SeveritySettings
    from pipeline.weights.backbones import check_backbone

    for task in ("landmarks", "axial"):
        points = load_train_settings(task, preset, sections[task], folders)
        check_backbone(points.model.backbone, points.model.initial)
    for family in Family:
        network = load_settings(SeveritySettings, preset, family.value, sections[family.value]).network
        check_backbone(network.backbone, network.initial)
    load_settings(ContextSettings, preset, "context")


def _newer(result: Path, runs: Sequence[Path]) -> bool:
    """Whether a result is there that was made after the weights of all folds of some runs."""
    weights = [file.stat().st_mtime for run in runs for file in run.glob("fold*/last.safetensors")]
    return result.is_file() and result.stat().st_mtime >= max(weights, default=0.0)
