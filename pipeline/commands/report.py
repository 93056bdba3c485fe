"""``python -m pipeline report RUN_DIR``: pages that show what a run did, to be opened from the disk.

Exit status: 0 the pages are written, 1 a package is missing or a page could not be written, 2 the call was wrong.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from pipeline.console import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="folder with run.json, beside the table of submit.py")
    parser.add_argument("--truth", type=Path, metavar="DIR", help="folder with train.csv, or such a table")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the pages (default: RUN_DIR/report)")
    parser.add_argument("--stages", type=Path, metavar="DIR", help="what submit.py --stages wrote, if not found")
    parser.add_argument("--data", type=Path, metavar="DIR", help="the images (default: where the run had them)")
    parser.add_argument("--weights", type=Path, metavar="DIR", help="the networks (default: where the run had them)")
    parser.add_argument("--workers", type=int, default=-1, metavar="N", help="processes (default: one per core)")


def run(args: argparse.Namespace) -> int:
    """Write the pages and say where."""
    out = args.out or args.run / "report"
    write_report(args.run, out, args.stages, args.truth, args.data, args.weights, args.workers)
    return 0


def write_report(
    run: Path,
    out: Path,
    stages: Path | None = None,
    truth: Path | None = None,
    data: Path | None = None,
    weights: Path | None = None,
    workers: int = -1,
    seconds: float | None = None,
) -> None:
    """As :func:`pipeline.report.build.build_report`, of the run in a folder; says what was made.

    Raises:
        CallError, TableError, CompetitionError, RefusedError, WorkError, OSError: as there.
    """
    from pipeline.report.site import check_packages

    check_packages()
    from pipeline.report.build import build_report
    from pipeline.report.record import read_run

    began = time.monotonic()
    made = build_report(read_run(run, stages, truth), out, data, weights, workers, seconds)
    say(*(f"report: {note}" for note in made.notes))
    poor = f", {made.poor} without a page or without all pictures" if made.poor else ""
    say(f"report: {made.pages} studies{poor}; {time.monotonic() - began:.1f} s; open {made.index}")
