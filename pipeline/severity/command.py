"""The arguments of ``train severity``; torch is imported only when a run starts."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.labels import Family


def add_arguments(parser: argparse.ArgumentParser) -> None:
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


def run(args: argparse.Namespace) -> int:
    """``train severity``."""
    from pipeline.severity.train import train

    return train(args)
