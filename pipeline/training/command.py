"""``python -m pipeline train STAGE``: the arguments that every training shares, and the way to the stage's own module.

Only the stage that was named is imported, so ``--help`` of this command and of its stages answers without torch.
Runs on several GPUs are started by ``torchrun --nproc-per-node N -m pipeline train ...`` (or ``accelerate launch``)
and take the same arguments.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import NamedTuple

from pipeline.console import Parser, complain
from pipeline.labels import FOLDS
from pipeline.training.memory import keep_freed_memory


class Stage(NamedTuple):
    """The module and function that train a stage, and a line of help."""

    module: str
    function: str
    summary: str


STAGES: dict[str, Stage] = {
    "landmarks": Stage("pipeline.landmarks.command", "run_sagittal", "the level landmarks on sagittal series"),
    "axial": Stage("pipeline.landmarks.command", "run_axial", "the subarticular points on axial slices"),
    "severity": Stage("pipeline.severity.command", "run", "the grades, one classifier a condition"),
    "all": Stage("pipeline.training.everything", "run", "both stages, all folds, calibration: a weights folder"),
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
    module = importlib.import_module(stage.module)
    parser = Parser(prog=f"python -m pipeline train {name}", description=f"Train {stage.summary}.")
    add_common_arguments(parser, name)
    module.add_arguments(parser)
    try:
        options = parser.parse_args(args.rest)
    except SystemExit as stop:
        return int(stop.code or 0)
    train = getattr(module, stage.function)
    keep_freed_memory()
    try:
        from pipeline.training.folder import check_run, claim_run

        check_run(options.out)
        if name == "all" or options.folds != "all":
            return int(train(options))
        out = options.out
        for fold in range(FOLDS):
            check_run(out / f"fold{fold}")
        claim_run(out)
        for fold in range(FOLDS):
            options.fold, options.out = fold, out / f"fold{fold}"
            if status := int(train(options)):
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
