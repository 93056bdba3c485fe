"""``python -m pipeline evaluate severity``: what the networks of a weights folder say of studies they have not seen.

Every study goes through stages one to four as ``submit.py`` takes it, at predicted points, by networks that were not
trained on it. Three kinds of evidence come of it, each as far as the data allow: the competition's terms where there
are grades; rank correlations of the predicted canal severity with disc findings (``--gradings``, SPIDER's
``gradings.csv``); and the agreement with what the study-context model says of the same cells when the family's own
predictions are hidden from it.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.commands.evaluate import add_common_arguments
from pipeline.competition import Competition, CompetitionError, StudyRef, open_competition
from pipeline.console import say
from pipeline.ensemble.combine import even_blend, fitted, hidden_answers
from pipeline.ensemble.prior import own_prior
from pipeline.files import write_atomically, write_text
from pipeline.folds import studies_in_fold
from pipeline.labels import CELL_COLUMNS, GRADES, LEVELS
from pipeline.landmarks.errors import EVALUATION
from pipeline.owned import claim
from pipeline.run.unseen import predict_unseen
from pipeline.scoring.evidence import (
    GRADINGS,
    evidence,
    evidence_lines,
    read_gradings,
)
from pipeline.tables import guarded_frame
from pipeline.weights.manifest import Manifest, WeightsError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    add_common_arguments(parser, "severity")
    parser.add_argument("--gradings", type=Path, metavar="CSV", help="disc findings, as SPIDER's gradings.csv")


def run(args: argparse.Namespace) -> int:
    """Predict, compare, print; write ``predictions.csv`` and ``severity.json``."""
    competitions = [open_competition(path, split="train") for path in args.data]
    studies = [study for competition in competitions for study in _studies(competition, args.fold, args.limit)]
    claim(args.out, EVALUATION)
    figures = _evaluate(competitions, studies, args)
    write_text(args.out / "severity.json", json.dumps(figures, indent=1))
    say(*evidence_lines(figures))
    say(f"wrote {args.out}")
    return 0


def _evaluate(
    competitions: Sequence[Competition], studies: Sequence[StudyRef], args: argparse.Namespace
) -> dict[str, Any]:
    """Predictions into ``predictions.csv``; the figures.

    Raises:
        WeightsError: no network answers for any cell of these studies.
    """
    gradings = read_gradings(args.gradings) if args.gradings else None
    manifest = Manifest.load(args.weights)
    fit, context = fitted(manifest)
    predictions = predict_unseen(manifest, studies, args.workers, args.cluster)
    own = even_blend(manifest, fit, predictions)
    if not np.isfinite(own).any():
        raise WeightsError(f"{args.weights}: no network that has not seen these studies answers for any of their cells")
    study_ids = [study.study_id for study in studies]
    graded = [c.labels for c in competitions if c.labels is not None]
    labels = pd.concat(graded) if graded else pd.DataFrame(columns=list(CELL_COLUMNS), dtype=float)
    labels = labels[~labels.index.duplicated()]
    findings = None
    if gradings is not None:
        index = pd.MultiIndex.from_product([study_ids, LEVELS])
        findings = gradings.reindex(index).to_numpy(float).reshape(len(studies), len(LEVELS), len(GRADINGS))
    other = None if context is None else hidden_answers(own, context)
    table = guarded_frame(_predictions_table(study_ids, own, other))
    write = functools.partial(table.to_csv, index=False, float_format="%.5f")
    write_atomically(args.out / "predictions.csv", write)
    figures = evidence(
        own,
        labels.reindex(study_ids)[list(CELL_COLUMNS)].to_numpy(float),
        own_prior(manifest),
        other,
        findings,
    )
    return {"weights": manifest.set, "studies": len(studies), **figures}


def _studies(competition: Competition, fold: int | None, limit: int | None) -> list[StudyRef]:
    """The studies of a folder, or of its held-out fold.

    Raises:
        CompetitionError: there is none, or no table to tell.
    """
    chosen = list(competition.studies)
    if fold is not None:
        held = studies_in_fold(competition, fold)
        chosen = [study for study in chosen if study.study_id in held]
    if not chosen:
        raise CompetitionError(f"{competition.root}: no study{'' if fold is None else f' in fold {fold}'}")
    return chosen[:limit]


def _predictions_table(study_ids: Sequence[str], own: np.ndarray, context: np.ndarray | None) -> pd.DataFrame:
    """One row a cell that a network answered for: its probabilities, and the context's without the family."""
    study, cell = np.nonzero(np.isfinite(own).all(-1))
    table = pd.DataFrame({"study_id": np.array(study_ids)[study], "column": np.array(CELL_COLUMNS)[cell]})
    for source, log_p in (("network", own), ("context", context)):
        for k, grade in enumerate(GRADES):
            if log_p is not None:
                table[f"{source}_{grade}"] = np.exp(log_p[study, cell, k])
    return table
