"""``python -m pipeline score TRUTH.csv SUBMISSION.csv``: the competition's metric and its four terms."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.console import WorkError, complain, say, say_json

if TYPE_CHECKING:
    from pipeline.scoring.metric import Score


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("truth", type=Path, metavar="TRUTH.csv", help="the true grades, in the format of train.csv")
    parser.add_argument(
        "submission", type=Path, metavar="SUBMISSION.csv", help="table of submit.py; more studies are allowed"
    )
    parser.add_argument(
        "--submitted",
        action="store_true",
        help="score the studies that the submission holds, such as one fold's (default: all of the truth)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def run(args: argparse.Namespace) -> int:
    """Print the score."""
    score = score_files(args.truth, args.submission, args.submitted)
    if score.cells == 0:
        raise WorkError(f"{args.truth} holds no grade, so there is nothing to score")
    if args.json:
        say_json(score.to_dict())
    else:
        for name, value in score.to_dict().items():
            say(f"{name:<13} {'no graded cell' if value is None else f'{value:.6f}'}")
        say(f"{score.cells} graded cells of {score.studies} studies")
    if math.isnan(score.score):
        complain("score: a family has no graded cell, so the mean of four is undefined")
    return 0


def score_files(truth: Path, submission: Path, submitted: bool = False) -> Score:
    """Score a submission file against a table like ``train.csv``.

    Args:
        truth: the true grades.
        submission: the predictions.
        submitted: leave out the studies of which the submission has no row.

    Raises:
        TableError: either file is not valid, or the submission lacks a row of a study of the truth.
    """
    from pipeline.labels import CELL_COLUMNS, CELLS, row_id
    from pipeline.names import plain_id
    from pipeline.scoring.metric import score_arrays
    from pipeline.submission import probabilities_of, read_submission
    from pipeline.tables import read_labels

    labels = read_labels(truth).strict()
    labels.index = labels.index.map(lambda study_id: plain_id(str(study_id)))
    table = read_submission(submission)
    if submitted:
        rows = set(table.index)
        labels = labels[[any(row_id(study_id, cell) in rows for cell in CELLS) for study_id in labels.index]]
    probabilities = probabilities_of(table, list(labels.index), submission)
    return score_arrays(labels[list(CELL_COLUMNS)].to_numpy(), probabilities)
