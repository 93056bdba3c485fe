"""The arguments that ``evaluate landmarks`` and ``evaluate severity`` share."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.commands import DEFAULT_WEIGHTS, add_cluster_argument


def add_common_arguments(parser: argparse.ArgumentParser, stage: str) -> None:
    """Data, weights, which studies, and where the results go."""
    add = parser.add_argument
    add("--data", type=Path, nargs="+", required=True, metavar="DIR", help="competition folders (their training split)")
    add(
        "--weights", type=Path, default=DEFAULT_WEIGHTS, metavar="DIR", help="set of weights (default: weights/default)"
    )
    add("--fold", type=int, metavar="K", help="only the studies of held-out fold K")
    add("--limit", type=int, metavar="N", help="only the first N studies of each folder")
    out = Path(f"{stage}_evaluation")
    add("--out", type=Path, default=out, metavar="DIR", help="folder for the results (default: %(default)s)")
    add("--workers", type=int, default=1, metavar="N", help="processes (default: %(default)s)")
    add_cluster_argument(parser, "predict")
