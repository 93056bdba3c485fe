"""What the commands ``train landmarks``, ``train axial`` and ``train severity`` share: arguments, folds, the start.

torch is imported where a training starts, so ``--help`` answers without it. Runs on several GPUs are started by
``torchrun --nproc-per-node N -m pipeline train ...`` (or ``accelerate launch``) and take the same arguments. Without
it, several folds are trained one a GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pipeline.labels import FOLDS

if TYPE_CHECKING:
    from pipeline.weights.recipe import LoopSettings


@dataclass
class TrainOptions(argparse.Namespace):
    """What every training is told, by the command line or by ``train all``.

    Attributes:
        data: competition folders.
        out: folder of the run.
        cache: folder for what is made from the images once.
        workers: processes that fill the cache; 0 for one a core.
        preset: name or path of a preset; None for the defaults.
        set: settings to change, as ``key=value``.
        fold: that is held out; None for none.
        folds: ``all`` to train every fold in turn, each in ``out/foldK``; None to train ``fold``.
        restart: start over instead of continuing the run in ``out``.
        sweep: file that says which settings are tried, each in a folder of ``out``; None for those of ``set`` alone.
        verbose: of the command line, where it was heeded.
    """

    data: list[Path]
    out: Path
    cache: Path
    workers: int = 0
    preset: str | None = None
    set: list[str] = field(default_factory=list)
    fold: int | None = 0
    folds: str | None = None
    restart: bool = False
    sweep: Path | None = None
    verbose: bool = False


@dataclass
class SeverityOptions(TrainOptions):
    """What the training of a classifier is told besides; see ``train severity --help``."""

    condition: str = ""
    recipe: str = ""
    landmarks: list[Path] = field(default_factory=list)
    landmark_errors: Path | None = None
    readings: list[Path] = field(default_factory=list)
    split: Path | None = None
    oof: Path | None = None


Options = TypeVar("Options", bound=TrainOptions)


def train_points(task: str, options: TrainOptions) -> None:
    """Train the point network ``landmarks`` or ``axial``.

    Raises:
        CompetitionError, ConfigError, BackboneError, ResumeError: a folder or a setting is wrong.
        RefusedError: a folder that would be written holds what this program did not write.
    """
    from pipeline.landmarks.train import load_train_settings, train
    from pipeline.training.folder import in_turn

    def check(one: TrainOptions) -> LoopSettings:
        return load_train_settings(task, one.preset, one.set, len(one.data)).loop

    for one in _sweep(options, check):
        for run in in_turn(_side_by_side(partial(train_points, task), _runs(one), check(one))):
            train(task, run)


def train_classifier(options: SeverityOptions) -> None:
    """Train the classifier of one condition family; raises what :func:`train_points` raises."""
    from pipeline.preset import load_settings
    from pipeline.severity.settings import SeveritySettings
    from pipeline.severity.train import train

    def check(one: TrainOptions) -> LoopSettings:
        return load_settings(SeveritySettings, one.preset, options.condition, one.set, options.recipe).loop

    for one in _sweep(options, check):
        train(*_side_by_side(train_classifier, _runs(one), check(one)))


def _side_by_side(train: Callable[[Options], object], runs: list[Options], settings: LoopSettings) -> list[Options]:
    """Where there are several folds and several GPUs, train one fold a GPU; returns what is left to do in turn."""
    from pipeline.training.side_by_side import train_side_by_side, visible_gpus

    gpus = visible_gpus() if len(runs) > 1 and settings.device != "cpu" else []
    if len(gpus) < 2:
        return runs
    train_side_by_side(train, [replace(run, folds=None) for run in runs], gpus)
    return [replace(run, restart=False) for run in runs]  # each is complete, and what they gave is joined


def _sweep(options: Options, check: Callable[[TrainOptions], object]) -> Iterator[Options]:
    """The options themselves, or in turn all that ``options.sweep`` names, and at the end how they compare.

    Every setting is checked before the first training starts.
    """
    if options.sweep is None:
        yield options
        return
    from pipeline.commands import runs
    from pipeline.console import say
    from pipeline.training.folder import check_run, claim_run
    from pipeline.training.processes import is_main_process
    from pipeline.training.sweep import read_sweep

    tries = [
        replace(options, set=[*options.set, *overrides], out=options.out / name, sweep=None)
        for name, overrides in read_sweep(options.sweep).items()
    ]
    for one in tries:
        check(one)
        check_run(one.out)
    check_run(options.out)
    claim_run(options.out)
    for number, one in enumerate(tries):
        say(f"sweep {number + 1} of {len(tries)}: {one.out.name}")
        yield one
    if is_main_process():
        say(*runs.lines(runs.compare([runs.read_recipe(one.out) for one in tries])))


def _runs(options: Options) -> list[Options]:
    """The options of every run that these ask for, whose folders may be written."""
    from pipeline.training.folder import check_run, claim_run
    from pipeline.training.memory import keep_freed_memory

    keep_freed_memory()
    check_run(options.out)
    if options.folds != "all":
        return [options]
    folds = [replace(options, fold=fold, out=options.out / f"fold{fold}") for fold in range(FOLDS)]
    for fold in folds:
        check_run(fold.out)
    claim_run(options.out)
    return folds


def add_point_arguments(task: str, parser: argparse.ArgumentParser) -> None:
    """Arguments of ``train landmarks`` and ``train axial``."""
    add_common_arguments(parser, task)
    add_fold_arguments(parser)
    add_cache_arguments(parser, "decoded slices")


def run_points(task: str, args: argparse.Namespace) -> int:
    """``train landmarks`` and ``train axial``."""
    train_points(task, TrainOptions(**vars(args)))
    return 0


def add_common_arguments(parser: argparse.ArgumentParser, stage: str, setting: str = "loop.epochs=3") -> None:
    """Data, settings and output, the same for every ``train`` command."""
    parser.add_argument(
        "--data",
        type=Path,
        nargs="+",
        required=True,
        metavar="DIR",
        help="competition folders (train_images and their tables), real or synthetic; their studies are pooled",
    )
    parser.add_argument("--preset", metavar="NAME", help="settings: cpu, kaggle, winner, or a YAML file of your own")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"change one setting, e.g. {setting}; repeatable",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs") / stage,
        metavar="DIR",
        help="folder for the run (default: %(default)s)",
    )
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--restart", action="store_true", help="delete the run in OUT and start over")
    again.add_argument(
        "--resume",
        action="store_false",
        dest="restart",
        default=False,
        help="continue the run in OUT if there is one (the default)",
    )


def add_fold_arguments(parser: argparse.ArgumentParser) -> None:
    """Which studies are held out, and which settings are tried: of one network, not of ``train all``."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--fold", type=_fold, default=0, metavar="K", help=f"hold out fold K, 0 to {FOLDS - 1}, or none (default: 0)"
    )
    which.add_argument("--folds", choices=["all"], help="train every fold in turn, each in OUT/foldK")
    parser.add_argument(
        "--sweep",
        type=Path,
        metavar="YAML",
        help="train several settings, each in OUT/NAME, and compare them with the first; the file holds grid: "
        "{KEY: [VALUES]} for every combination, or list: {NAME: {KEY: VALUE}}",
    )


def add_cache_arguments(parser: argparse.ArgumentParser, content: str) -> None:
    """Where what is made from the images once is kept, and how many processes make it."""
    parser.add_argument(
        "--cache", type=Path, default=Path("cache"), metavar="DIR", help=f"folder for {content} (default: %(default)s)"
    )
    parser.add_argument(
        "--workers", type=int, default=0, metavar="N", help="processes that fill the cache (default: one a core)"
    )


def _fold(text: str) -> int | None:
    if text == "none":
        return None
    if not text.isdigit() or int(text) >= FOLDS:
        raise argparse.ArgumentTypeError(f"found {text}, expected 0 to {FOLDS - 1} or none")
    return int(text)
