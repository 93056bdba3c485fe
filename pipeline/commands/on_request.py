"""What ``submit.py`` writes only on request: tables of the stages, pages, structured reports, points for 3D Slicer."""

from __future__ import annotations

import argparse
import importlib.util
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.console import CallError, complain
from pipeline.exports.results import FORMAT, RESULTS_FILE, write_results
from pipeline.exports.slicer import write_markups
from pipeline.landmarks import COLUMNS
from pipeline.owned import check_claim, check_table, claim, first_line, is_there
from pipeline.report.site import KIND as REPORT_KIND
from pipeline.run.pace import Schedule
from pipeline.run.report import GRADES_COLUMNS, PROBLEM_COLUMNS, PROVENANCE_COLUMNS, STAGE_TABLES

if TYPE_CHECKING:
    from pipeline.run.session import Export

REPORTS, MARKUPS = "structured-reports", "markups"
"""What the marks of the folders of ``--dicom-sr`` and ``--slicer`` say."""


def add_arguments(out: argparse._ArgumentGroup) -> None:
    """Arguments that ask for it."""
    out.add_argument(
        "--stages", type=Path, metavar="DIR", help="also write points, the source of each row, and problems"
    )
    out.add_argument(
        "--report", type=Path, metavar="DIR", help="also write pages that show what was done, for a browser"
    )
    out.add_argument(
        "--dicom-sr", type=Path, metavar="DIR", help="also write a DICOM Structured Report a study (extra: sr)"
    )
    out.add_argument("--slicer", type=Path, metavar="DIR", help="also write the points of a study for 3D Slicer")


def check(args: argparse.Namespace) -> None:
    """Say before any work what cannot be written.

    Raises:
        CallError: a package is missing, or the place is of the wrong kind.
    """
    if args.dicom_sr is not None and importlib.util.find_spec("highdicom") is None:
        raise CallError("--dicom-sr: needs the package highdicom; pip install -r requirements-sr.txt")
    if args.stages is not None and args.stages.exists() and not args.stages.is_dir():
        raise CallError(f"--stages {args.stages}: is a file; expected a folder")


def writes(args: argparse.Namespace) -> dict[str, Path | None]:
    """The places by what the user calls them."""
    tables = {} if args.stages is None else {f"--stages: {name}": args.stages / name for name in STAGE_TABLES}
    return {"--stages": args.stages, "--dicom-sr": args.dicom_sr, "--slicer": args.slicer, **tables}


def check_paths(args: argparse.Namespace) -> None:
    """Whatever would be written over must be the program's own.

    Raises:
        CallError, RefusedError: something else is there.
    """
    if args.report is not None:
        check_claim(args.report, REPORT_KIND)
    for path, kind in ((args.dicom_sr, REPORTS), (args.slicer, MARKUPS)):
        if path is not None:
            check_claim(path, kind)
    if args.stages is not None and is_there("--stages", results := args.stages / RESULTS_FILE):
        first = first_line(results)
        if first and FORMAT not in first:
            raise CallError(
                f"{results}: exists and is no file of submit.py; it is left as it is, name another --stages"
            )
    headers = (PROVENANCE_COLUMNS, PROBLEM_COLUMNS, GRADES_COLUMNS, COLUMNS)
    if args.stages is not None:
        for name, columns in zip(STAGE_TABLES, headers, strict=True):
            check_table("--stages", args.stages / name, columns)


def claim_report(args: argparse.Namespace) -> None:
    """Claim the folder of the pages, if there shall be any; they are made from the tables of the stages.

    Raises:
        RefusedError, OSError: it cannot be.
    """
    if args.report is not None:
        claim(args.report, REPORT_KIND)
        args.stages = args.stages or args.report / "stages"


def exports(args: argparse.Namespace) -> list[Export]:
    """What hands the results on; its folders are claimed.

    Raises:
        RefusedError, OSError: one of them cannot be.
    """
    found: list[Export] = []
    if args.stages is not None:
        found.append(partial(write_results, args.stages))
    if args.slicer is not None:
        claim(args.slicer, MARKUPS)
        found.append(partial(write_markups, args.slicer))
    if args.dicom_sr is not None:
        from pipeline.exports.structured_report import write_reports

        claim(args.dicom_sr, REPORTS)
        found.append(partial(write_reports, args.dicom_sr))
    return found


def write_report(args: argparse.Namespace, truth: Path | None, schedule: Schedule) -> None:
    """Make the pages; whatever fails is said, and costs nothing but the pages."""
    again = f"the table is written; for the pages: python -m pipeline report {args.out.parent} --out {args.report}"
    left = None if schedule.minutes is None else 60 * schedule.minutes - (time.monotonic() - schedule.started)
    if left is not None and left <= 0:
        complain(f"report: no time was left for it; {again}")
        return
    try:
        from pipeline.commands.report import write_report as write

        write(args.out.parent, args.report, args.stages, truth, workers=args.workers or -1, seconds=left)
    except Exception as error:  # the run is done, and its status is its own
        complain(f"report: {type(error).__name__}: {error}; {again}")
