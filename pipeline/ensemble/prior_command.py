"""``python -m pipeline prior TRAIN.csv``: the table of reweighted class frequencies that stands in for a model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("labels", type=Path, help="grades in the format of train.csv")
    parser.add_argument("--out", type=Path, help="where to write; default: the table that comes with the package")


def run(args: argparse.Namespace) -> int:
    """Write the table; 2 where the labels are not valid, 1 where it cannot be made or written."""
    from pipeline.ensemble.prior import PRIOR_FILE, make_prior, write_prior
    from pipeline.tables import TableError, read_labels

    out = args.out or PRIOR_FILE
    try:
        labels = read_labels(args.labels).strict()
    except TableError as error:
        print(f"prior: {error}", file=sys.stderr)
        return 2
    try:
        write_prior(make_prior(labels), out)
    except (ValueError, OSError) as error:
        print(f"prior: {error}", file=sys.stderr)
        return 1
    print(f"prior: reweighted class frequencies of {len(labels)} studies written to {out}")
    return 0
