"""``python -m pipeline prior TRAIN.csv``: the table of reweighted class frequencies that stands in for a model."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.console import WorkError, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("labels", type=Path, metavar="TRAIN.csv", help="grades, in the format of train.csv")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("prior.csv"),
        metavar="FILE",
        help="table to write (default: %(default)s); the one that submit.py uses is pipeline/ensemble/prior.csv",
    )


def run(args: argparse.Namespace) -> int:
    """Write the table and print where."""
    from pipeline.ensemble.prior import COLUMNS, make_prior, write_prior
    from pipeline.owned import check_apart, check_table
    from pipeline.tables import read_labels

    check_apart({"TRAIN.csv": args.labels}, {"--out": args.out}, {})
    check_table("--out", args.out, COLUMNS)
    labels = read_labels(args.labels).strict()
    try:
        prior = make_prior(labels)
    except ValueError as error:
        raise WorkError(f"{args.labels}: {error}") from error
    write_prior(prior, args.out)
    say(f"prior: reweighted class frequencies of {len(labels)} studies written to {args.out}")
    return 0
