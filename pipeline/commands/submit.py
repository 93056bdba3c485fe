"""``python submit.py``: the arguments, the order of things, and what the run says at its end.

The submission with the prior in every row is on the disk before the first heavy import. What follows can only make it
better: a fault from there on is counted and reported, and never takes the file away.

Exit status: 0 the table is written (rows that fell back are counted, not errors), 1 it could not be written, or another
run is writing it, 2 the call was wrong; nothing is then written or deleted. See :data:`pipeline.console.EXIT_STATUS`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.commands import DEFAULT_WEIGHTS, IS_CLONE, add_cluster_argument, on_request
from pipeline.competition import Competition, StudyRef, no_study
from pipeline.console import CallError, run_command
from pipeline.ensemble.prior import PRIOR_NAME, own_prior
from pipeline.files import read_bounded
from pipeline.folds import make_folds, read_folds
from pipeline.intake import SOURCE_COLUMNS, SOURCES_TABLE, open_data, place_of, write_sources
from pipeline.labels import GRADES
from pipeline.owned import check_apart, check_claim, check_table, first_line, hold, is_there
from pipeline.preset import load_settings
from pipeline.problem import Problem
from pipeline.remote import is_url, open_remote
from pipeline.run.board import Board
from pipeline.run.pace import Schedule
from pipeline.run.settings import DEVICES, RunSettings
from pipeline.run.tally import is_log
from pipeline.run.work import KIND, work_folder
from pipeline.submission import WIDE_COLUMNS
from pipeline.tables import TableError
from pipeline.volumes.limits import ReadLimits
from pipeline.weights.manifest import MANIFEST_NAME, Manifest, WeightsError

FOLDS_FILE = "folds.csv"
PROGRAM = "lumbar-grading" if Path(sys.argv[0]).stem == "lumbar-grading" else "submit.py"
"""What the user called: the command of the installed package, or the file of a clone."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``submit.py``."""
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data",
        type=lambda text: text if is_url(text) else Path(text),
        required=True,
        metavar="PATH",
        help="any folder of studies, a DICOMDIR, a zip, or a URL such as s3://bucket/studies (extra: cluster)",
    )
    data.add_argument("--series", type=Path, metavar="CSV", help="series descriptions, if not beside the images")
    data.add_argument("--split", choices=["train", "test"], help="images of a competition folder (default: test)")
    data.add_argument(
        "--studies", nargs="+", metavar="ID", help="only these studies, by their names (default: all of the folder)"
    )
    data.add_argument("--fold", type=int, metavar="K", help="dry run: grade held-out fold K and print the score")
    out = parser.add_argument_group("results")
    out.add_argument(
        "--out", type=Path, default=Path("submission.csv"), metavar="FILE", help="table to write (default: %(default)s)"
    )
    out.add_argument("--wide", type=Path, metavar="FILE", help="also write one row per study, 75 named columns")
    on_request.add_arguments(out)
    out.add_argument(
        "--work", type=Path, metavar="DIR", help="finished studies of an unfinished run (default: beside the table)"
    )
    out.add_argument("--quiet", action="store_true", help="do not show a progress bar")
    run = parser.add_argument_group("running")
    run.add_argument(
        "--weights", type=Path, metavar="DIR", help="set of weights (default: $LUMBAR_WEIGHTS, else weights/default)"
    )
    run.add_argument("--workers", type=int, metavar="N", help="processes (default: one per core)")
    add_cluster_argument(run, "grade")
    run.add_argument("--device", choices=DEVICES, help="default: a GPU if one works")
    run.add_argument(
        "--time-budget", type=float, metavar="MINUTES", help="finish in this time, whatever is graded by then"
    )
    run.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting, e.g. study_seconds=60"
    )


def main(argv: Sequence[str], started: float | None = None) -> int:
    """Parse, run, report; returns the exit status."""
    begin = time.monotonic() if started is None else started
    summary = "Grade lumbar spine MRI studies: five conditions at five levels, three probabilities each."
    return run_command(PROGRAM, summary, add_arguments, lambda args: run(args, begin), argv)


def run(args: argparse.Namespace, started: float) -> int:
    """Do what the arguments say.

    Raises:
        CallError, RefusedError, CompetitionError, ConfigError, TableError: the call was wrong.
        BusyError: another run writes the same table or works in the same folder.
        OSError: the table cannot be written.
    """
    _check(args)
    on_request.check(args)
    _check_paths(args)
    on_request.claim_report(args)
    split = args.split or ("train" if args.fold is not None else None)
    if is_url(args.data):
        competition = open_remote(args.data, args.series, split)
    else:
        competition = open_data(args.data, args.series, split, args.quiet)
    settings = load_settings(RunSettings, overrides=args.set)
    problems = list(competition.problems)
    manifest = _manifest(args.weights, problems)
    prior = _prior(manifest, problems)
    studies, labels = competition.studies, None
    if args.fold is not None:
        studies, labels = _held_out(competition, manifest, args.fold, settings.folds)
    if not studies:
        raise CallError(no_study(competition))
    if args.studies:
        studies, labels = _named(studies, labels, args.studies)
    check_apart({"the table of the data,": competition.root / "sample_submission.csv"}, {"--out": args.out}, {})
    if competition.sources is not None:
        check_table("the table of sources", args.out.with_name(SOURCES_TABLE), SOURCE_COLUMNS)
    for path in (args.out, args.wide):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        if why := held.enter_context(hold(args.out.with_name(f".{args.out.name}.lock"), str(args.out))):
            detail = f"{why}; a second run that writes it would not be noticed"
            problems.append(Problem("", None, args.out.name, "not-locked", detail))
        work = held.enter_context(work_folder(args.work, _default_work(args.out), problems))
        board = Board([study.study_id for study in studies], prior, args.out, args.wide)
        board.write(force=True)
        if competition.sources is not None:
            write_sources(args.out.with_name(SOURCES_TABLE), competition.sources)

        # From here on a complete submission is on the disk.
        from pipeline.run.session import Request, run_session

        request = Request(
            competition=competition,
            studies=studies,
            labels=labels,
            manifest=manifest,
            settings=replace(settings, workers=args.workers or settings.workers, device=args.device or settings.device),
            limits=ReadLimits(),
            schedule=Schedule(started, args.time_budget, time.monotonic() - started),
            stages=args.stages,
            quiet=args.quiet,
            verbose=args.verbose,
            exports=on_request.exports(args),
            cluster=args.cluster,
            command={name: None if value is None else str(value) for name, value in vars(args).items()},
        )
        status = run_session(request, board, work, problems)
    if args.report is not None and status == 0:
        truth = None if labels is None or is_url(args.data) else competition.root
        on_request.write_report(args, truth, request.schedule)
    return status


def _default_work(out: Path) -> Path:
    return out.with_name(f"{out.stem}.work")


def _check(args: argparse.Namespace) -> None:
    if args.workers is not None and args.workers < 1:
        raise CallError(f"--workers {args.workers}: expected 1 or more")
    if args.cluster is not None and args.workers is not None:
        raise CallError(
            "--workers and --cluster exclude each other: a cluster has the workers that were started for it"
        )
    if args.time_budget is not None and not args.time_budget > 0:
        raise CallError(f"--time-budget {args.time_budget}: expected minutes above 0")
    if args.weights is not None and not (args.weights / MANIFEST_NAME).is_file():
        raise CallError(f"--weights {args.weights}: no {MANIFEST_NAME} there; expected a set such as weights/default")
    if args.weights is None and not IS_CLONE and not (DEFAULT_WEIGHTS / MANIFEST_NAME).is_file():
        raise CallError(
            f"no weights: {DEFAULT_WEIGHTS} has no {MANIFEST_NAME}, and the installed package brings none; name a set "
            "with --weights DIR or LUMBAR_WEIGHTS=DIR, such as the folder weights/default of a clone of the repository"
        )


def _check_paths(args: argparse.Namespace) -> None:
    """Whatever the run will write over, empty or delete must be its own, and no two of its paths may meet.

    Raises:
        CallError, RefusedError: something else is there.
    """
    for option, path in (("--out", args.out), ("--wide", args.wide)):
        if path is not None:
            is_there(option, path)  # only a file's name gives the names beside it
    log, report = args.out.with_suffix(".log"), args.out.with_name("run.json")
    writes = {"--out": args.out, "--wide": args.wide, "the log": log, "the report": report}
    reads = {
        "--data": None if is_url(args.data) else place_of(args.data),
        "--series": args.series,
        "--weights": args.weights or DEFAULT_WEIGHTS,
    }
    work = {"the work folder" if args.work is None else "--work": args.work or _default_work(args.out)}
    check_apart(reads, writes | on_request.writes(args), work | {"--report": args.report})
    if args.work is not None:
        check_claim(args.work, KIND)
    check_table("--out", args.out, ("row_id", *GRADES))
    if args.wide is not None:
        check_table("--wide", args.wide, ("study_id", *WIDE_COLUMNS))
    on_request.check_paths(args)
    if is_there("the log", log) and first_line(log) and not is_log(log):
        raise CallError(
            f"{log}: exists and is no log of submit.py; it is left as it is, name another --out or remove it"
        )
    if is_there("the report", report) and not _is_report(report):
        raise CallError(
            f"{report}: exists and is no report of submit.py; it is left as it is, name another --out or remove it"
        )


def _is_report(path: Path) -> bool:
    try:
        text = read_bounded(path, 64 * 2**20)
        return not text or "rows_by_source" in json.loads(text)
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def _manifest(weights: Path | None, problems: list[Problem]) -> Manifest | None:
    """The manifest; a damaged one is reported and the run goes on without networks, for a table beats none."""
    folder = weights or DEFAULT_WEIGHTS
    if not (folder / MANIFEST_NAME).is_file():
        return None
    try:
        return Manifest.load(folder)
    except WeightsError as error:
        problems.append(Problem("", None, MANIFEST_NAME, "weights-refused", str(error)))
        return None


def _prior(manifest: Manifest | None, problems: list[Problem]) -> np.ndarray:
    """The weights' own prior if they have one that is in order, else the package's."""
    try:
        return own_prior(manifest)
    except (WeightsError, TableError) as error:
        problems.append(Problem("", None, PRIOR_NAME, "weights-refused", f"{error}; the package's prior is used"))
        return own_prior(None)


def _named(
    studies: tuple[StudyRef, ...], labels: pd.DataFrame | None, names: Sequence[str]
) -> tuple[tuple[StudyRef, ...], pd.DataFrame | None]:
    """Those of the studies and grades that ``--studies`` names.

    Raises:
        CallError: a name is none of them.
    """
    if strange := sorted(set(names) - {study.study_id for study in studies}):
        raise CallError(f"--studies {strange[0]}: not one of the {len(studies)} studies, e.g. {studies[0].study_id}")
    chosen = tuple(study for study in studies if study.study_id in names)
    return chosen, None if labels is None else labels.loc[[study.study_id for study in chosen]]


def _held_out(
    competition: Competition, manifest: Manifest | None, fold: int, count: int
) -> tuple[tuple[StudyRef, ...], pd.DataFrame]:
    """The studies of a fold and their grades; folds as stored with the weights, else made anew from the labels."""
    labels = competition.labels
    if labels is None:
        raise CallError(f"--fold {fold}: {competition.root} has no {competition.split or 'train'}.csv to score against")
    try:
        stored = None if manifest is None else manifest.file(FOLDS_FILE)
        folds = read_folds(Path(FOLDS_FILE), stored) if stored is not None else None
        if folds is None or not labels.index.isin(folds.index).any():
            folds = make_folds(labels, count)
    except ValueError as error:  # too few studies, or the folds that lie with the weights are damaged
        raise CallError(f"--fold {fold}: {error}") from error
    if fold not in set(folds):
        raise CallError(f"--fold {fold}: expected one of {', '.join(map(str, sorted(set(folds))))}")
    wanted = set(folds.index[folds == fold]) & set(labels.index)
    studies = tuple(study for study in competition.studies if study.study_id in wanted)
    return studies, labels.loc[[study.study_id for study in studies]]
