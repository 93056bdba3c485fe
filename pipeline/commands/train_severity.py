"""``python -m pipeline train severity``: the classifier that grades one family of conditions."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.commands.train import (
    SeverityOptions,
    add_cache_arguments,
    add_common_arguments,
    add_fold_arguments,
    train_classifier,
)
from pipeline.labels import Family


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("--condition", choices=[f.value for f in Family], required=True, help="the family to grade")
    parser.add_argument(
        "--recipe",
        default="",
        metavar="NAME",
        help="one of the preset's recipes of the family (default: the family's own settings)",
    )
    add_common_arguments(parser, "severity")
    add_fold_arguments(parser)
    parser.add_argument(
        "--landmarks",
        type=Path,
        nargs="+",
        default=[],
        metavar="CSV",
        help="tables of predicted points, each made by networks that had not seen its studies; without them held-out "
        "studies are graded at their labelled points too",
    )
    parser.add_argument(
        "--landmark-errors",
        type=Path,
        metavar="JSON",
        help="how far predicted points are off; training moves its points by as much",
    )
    parser.add_argument(
        "--readings",
        type=Path,
        nargs="+",
        default=[],
        metavar="CSV",
        help="canal grades of studies that train.csv does not grade: columns study_id, level, grade (0 to 2) and, if "
        "some rows are not to be used, usable (1 or 0)",
    )
    parser.add_argument(
        "--split", type=Path, metavar="CSV", help="your own folds: study_id,fold (default: made from the labels)"
    )
    parser.add_argument(
        "--oof",
        type=Path,
        metavar="CSV",
        help="oof.csv of an earlier run: labels that it all but rules out (setting label_noise) are not trained "
        "on, and those that it is sure of (setting pseudo_labels) are where there is none",
    )
    add_cache_arguments(parser, "what is kept of the images")


def run(args: argparse.Namespace) -> int:
    """Train one fold or all."""
    train_classifier(SeverityOptions(**vars(args)))
    return 0
