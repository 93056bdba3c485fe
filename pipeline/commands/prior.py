"""``python -m pipeline prior TRAIN.csv``: the table of reweighted class frequencies that stands in for a model."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.console import complain, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("labels", type=Path, help="grades in the format of train.csv")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("prior.csv"),
        metavar="FILE",
        help="where to write (default: %(default)s); pipeline/ensemble/prior.csv is the package's own table",
    )


def run(args: argparse.Namespace) -> int:
    """Write the table; 2 where the labels are not valid or a file would be lost, 1 where it cannot be made."""
    from pipeline.ensemble.prior import COLUMNS, make_prior, write_prior
    from pipeline.owned import RefusedError, check_apart, check_table
    from pipeline.tables import TableError, read_labels

    try:
        check_apart({"TRAIN.csv": args.labels}, {"--out": args.out}, {})
        check_table("--out", args.out, COLUMNS)
        labels = read_labels(args.labels).strict()
    except (RefusedError, TableError) as error:
        complain(f"prior: {error}")
        return 2
    try:
        write_prior(make_prior(labels), args.out)
    except (ValueError, OSError) as error:
        complain(f"prior: {error}")
        return 1
    say(f"prior: reweighted class frequencies of {len(labels)} studies written to {args.out}")
    return 0
