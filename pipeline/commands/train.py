"""``python -m pipeline train STAGE``: the arguments of all trainings and of each, and the start.

torch is imported where a training starts, so ``--help`` of this command and of its stages answers without it.
Runs on several GPUs are started by ``torchrun --nproc-per-node N -m pipeline train ...`` (or ``accelerate launch``)
and take the same arguments.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pipeline.console import Parser, complain
from pipeline.labels import FOLDS, Family
from pipeline.training.memory import keep_freed_memory


def add_point_arguments(parser: argparse.ArgumentParser) -> None:
    """What only the point networks take; the arguments common to all training are the dispatcher's."""
    parser.add_argument(
        "--cache", type=Path, default=Path("cache"), help="folder for the decoded slices (default: %(default)s)"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes that fill the cache (default: %(default)s)")


def train_landmarks(args: argparse.Namespace) -> int:
    """``train landmarks``."""
    from pipeline.landmarks.train import train

    return train("landmarks", args)


def train_axial(args: argparse.Namespace) -> int:
    """``train axial``."""
    from pipeline.landmarks.train import train

    return train("axial", args)


def add_severity_arguments(parser: argparse.ArgumentParser) -> None:
    """What only the classifiers take; the arguments common to all training are the dispatcher's."""
    parser.add_argument("--condition", choices=[f.value for f in Family], required=True, help="the condition family")
    parser.add_argument(
        "--landmarks",
        type=Path,
        nargs="+",
        default=[],
        metavar="CSV",
        help="tables of predicted points, each from networks that did not see its studies; without them the labelled "
        "points serve for evaluation too",
    )
    parser.add_argument(
        "--landmark-errors", type=Path, metavar="JSON", help="the localiser's errors, which set the jitter"
    )
    parser.add_argument(
        "--readings",
        type=Path,
        nargs="+",
        default=[],
        metavar="CSV",
        help="canal grades for studies without: study_id, level, grade 0 to 2 and, if some are not to be used, usable",
    )
    parser.add_argument("--split", type=Path, metavar="CSV", help="study_id,fold (default: made from the labels)")
    parser.add_argument("--oof", type=Path, metavar="CSV", help="out-of-fold table for the label-noise filter")
    parser.add_argument(
        "--cache", type=Path, default=Path("cache"), help="folder for the training cubes (default: %(default)s)"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes that fill the cache (default: %(default)s)")


def train_severity(args: argparse.Namespace) -> int:
    """``train severity``."""
    from pipeline.severity.train import train

    return train(args)


def add_all_arguments(parser: argparse.ArgumentParser) -> None:
    """What ``train all`` takes beside the common arguments."""
    from pipeline.commands import train_all

    train_all.add_arguments(parser)


def train_everything(args: argparse.Namespace) -> int:
    """``train all``."""
    from pipeline.commands import train_all

    return train_all.run(args)


class Stage(NamedTuple):
    """What a stage takes beside the common arguments, the function that trains it, and a line of help."""

    add_arguments: Callable[[argparse.ArgumentParser], None]
    train: Callable[[argparse.Namespace], int]
    summary: str


STAGES: dict[str, Stage] = {
    "landmarks": Stage(add_point_arguments, train_landmarks, "the level landmarks on sagittal series"),
    "axial": Stage(add_point_arguments, train_axial, "the subarticular points on axial slices"),
    "severity": Stage(add_severity_arguments, train_severity, "the grades, one classifier a condition"),
    "all": Stage(add_all_arguments, train_everything, "both stages, all folds, calibration: a weights folder"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The stage; everything after it is read by the stage's own parser."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "stages:\n" + "\n".join(f"  {name:<10} {stage.summary}" for name, stage in STAGES.items())
    parser.add_argument("stage", choices=STAGES, metavar="STAGE", help=f"one of {', '.join(STAGES)}")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="see: train STAGE --help")


def run(args: argparse.Namespace) -> int:
    """Train a stage, one fold or all; returns the exit status."""
    name, stage = args.stage, STAGES[args.stage]
    parser = Parser(prog=f"python -m pipeline train {name}", description=f"Train {stage.summary}.")
    add_common_arguments(parser, name)
    stage.add_arguments(parser)
    try:
        options = parser.parse_args(args.rest)
    except SystemExit as stop:
        return int(stop.code or 0)
    keep_freed_memory()
    try:
        from pipeline.training.folder import check_run, claim_run

        check_run(options.out)
        if name == "all" or options.folds != "all":
            return int(stage.train(options))
        out = options.out
        for fold in range(FOLDS):
            check_run(out / f"fold{fold}")
        claim_run(out)
        for fold in range(FOLDS):
            options.fold, options.out = fold, out / f"fold{fold}"
            if status := int(stage.train(options)):
                return status
    except Exception as error:
        code = _status(error)
        if code is None:
            raise
        complain(f"train {name}: {error}")
        return code
    return 0


def add_common_arguments(parser: argparse.ArgumentParser, stage: str) -> None:
    """Data, settings, fold and output, the same for every stage."""
    parser.add_argument(
        "--data",
        type=Path,
        nargs="+",
        required=True,
        metavar="DIR",
        help="competition folders (train_images and their tables), real or phantom, trained on together",
    )
    parser.add_argument("--preset", default=None, metavar="NAME", help="cpu, kaggle, winner, or a YAML file")
    if stage != "all":
        which = parser.add_mutually_exclusive_group()
        which.add_argument(
            "--fold", type=_fold, default=0, metavar="K", help=f"held-out fold, 0 to {FOLDS - 1}, or none (default: 0)"
        )
        which.add_argument("--folds", choices=["all"], help="train every fold in turn, each in OUT/foldK")
    parser.add_argument(
        "--out", type=Path, default=Path("runs") / stage, metavar="DIR", help="folder of the run (default: %(default)s)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"change a setting, e.g. {'landmarks.' if stage == 'all' else ''}loop.epochs=3; repeatable",
    )
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="continue the run in OUT if there is one (the default)")
    again.add_argument("--restart", action="store_true", help="start over, removing the run in OUT")


def _fold(text: str) -> int | None:
    if text == "none":
        return None
    if not text.isdigit() or int(text) >= FOLDS:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected 0 to {FOLDS - 1} or none")
    return int(text)


def _status(error: Exception) -> int | None:
    """2 for a call that was wrong, 1 for work that could not be done, None for a fault of the program."""
    from pipeline.competition import CompetitionError
    from pipeline.config import ConfigError
    from pipeline.owned import RefusedError
    from pipeline.tables import TableError
    from pipeline.training.checkpoint import ResumeError
    from pipeline.training.ladder import LadderError
    from pipeline.weights.backbones import BackboneError
    from pipeline.weights.manifest import WeightsError

    if isinstance(error, CompetitionError | ConfigError | BackboneError | RefusedError | ResumeError):
        return 2
    if isinstance(error, TableError | WeightsError | LadderError | FloatingPointError | MemoryError | OSError):
        return 1
    return None
