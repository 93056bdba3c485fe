"""``python -m pipeline pack``: training runs into a weights folder that ``submit.py`` takes.

``train all`` packs what it trains; this command is for runs trained one by one, on different data or machines.
Networks are stored as bytes with a scale a channel, with their checksum, settings, measured score, and the hashes of
the studies they have seen.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.console import CallError, say
from pipeline.labels import FOLDS


class PackedRun(NamedTuple):
    """One ``TASK[.NAME]:FOLD=RUN`` of the command line; ``fold`` is None where no study was held out."""

    task: str
    name: str
    fold: int | None
    run: Path

    @property
    def member(self) -> str:
        """The member's name: task, name of the recipe where there are several, fold."""
        return "-".join(
            part for part in (self.task, self.name, "all" if self.fold is None else f"fold{self.fold}") if part
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The folder and the runs."""
    parser.add_argument(
        "weights",
        type=Path,
        metavar="DIR",
        help="weights folder to make or add to; a network of the same name is replaced",
    )
    parser.add_argument(
        "--runs",
        nargs="*",
        default=[],
        type=packed_run,
        metavar="TASK[.NAME]:FOLD=RUN",
        help="runs to add, e.g. landmarks:0=runs/landmarks/fold0 canal:none=runs/canal. TASK is landmarks, axial, "
        "canal, foraminal or subarticular, FOLD the fold that the run held out. Several networks of one task and fold "
        "need names, e.g. canal.wide:0; their answers are averaged. Several runs under one name (each started from "
        "another) become one network, the average of their weights",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="how the networks of --runs are used when they grade: beside, flip, worst or shift_mm of classifiers; "
        "canal_back_mm, axial.trust and the like of landmark networks. One kind of network per call; repeatable",
    )
    parser.add_argument(
        "--errors", type=Path, metavar="CSV", help="errors.csv of `evaluate landmarks`, for training classifiers"
    )
    parser.add_argument("--set-name", default="own", help="name of a new set of weights (default: %(default)s)")
    parser.add_argument("--seen", default="", metavar="TEXT", help="one line: the data a new set was trained on")


def packed_run(text: str) -> PackedRun:
    """Read ``TASK:FOLD=RUN`` or ``TASK.NAME:FOLD=RUN``.

    Raises:
        argparse.ArgumentTypeError: it is not of that form.
    """
    from pipeline.weights.manifest import TASKS

    what, equals, run = text.partition("=")
    who, colon, fold = what.partition(":")
    task, dot, name = who.partition(".")
    named = name.isascii() and name.isidentifier() if dot else True
    if not equals or not colon or task not in TASKS or not named or fold not in ("none", *map(str, range(FOLDS))):
        raise argparse.ArgumentTypeError(
            f"{text} is not TASK[.NAME]:FOLD=RUN with a task of {', '.join(TASKS)}, a name of letters, digits and _, "
            f"and a fold of 0 to {FOLDS - 1} or none"
        )
    return PackedRun(task, name, None if fold == "none" else int(fold), Path(run))


def run(args: argparse.Namespace) -> int:
    """Add the runs and print what the folder holds."""
    from pipeline.ensemble.combine import ENSEMBLE_FILE
    from pipeline.labels import Family
    from pipeline.landmarks.errors import ERRORS_FILE, store_errors
    from pipeline.landmarks.store import store_run as store_points
    from pipeline.severity.store import store_run as store_classifier
    from pipeline.training.store import check_runs
    from pipeline.weights.manifest import LANDMARK_TASKS, Manifest

    if not (args.runs or args.errors):
        raise CallError("nothing to pack: give --runs or --errors")
    members = _by_member(args.runs)
    for packed, *more in members.values():
        check_runs([packed.run, *(other.run for other in more)], packed.task, packed.fold)
    manifest = Manifest.open(args.weights, args.set_name, args.seen)
    files = [file for name in members for file in (f"{name}.safetensors", f"{name}.seen.txt")]
    manifest.check_free(*files, *([ERRORS_FILE] if args.errors else []))
    for name, (packed, *more) in members.items():
        runs = [packed.run, *(other.run for other in more)]
        if packed.task in LANDMARK_TASKS:
            store_points(runs, args.weights, packed.task, name, packed.fold, args.set)
        else:
            store_classifier(runs, args.weights, Family(packed.task), name, packed.fold, args.set)
        say(f"packed {name} from {' and '.join(map(str, runs))}")
    if args.errors:
        store_errors(args.errors, args.weights)
    graders = [name for name, (packed, *_) in members.items() if packed.task not in LANDMARK_TASKS]
    if graders and (args.weights / ENSEMBLE_FILE).is_file():
        say(f"{ENSEMBLE_FILE} was fitted without {', '.join(graders)}: run python -m pipeline ensemble again")
    size = sum(file.stat().st_size for file in args.weights.iterdir() if file.is_file())
    say(f"{args.weights}: {len(Manifest.load(args.weights).members)} networks, {size / 1e6:.1f} MB")
    return 0


def _by_member(runs: Sequence[PackedRun]) -> dict[str, list[PackedRun]]:
    members: dict[str, list[PackedRun]] = {}
    for packed in runs:
        members.setdefault(packed.member, []).append(packed)
    return members
