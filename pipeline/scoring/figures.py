"""What a classifier reached: the competition's term, confusion matrices and precision, recall, F1 per level."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.labels import GRADES, LEVELS, level_title
from pipeline.scoring.metric import weighted_log_loss


def family_score(log_p: np.ndarray, grades: np.ndarray) -> float:
    """The metric's term of a family: log loss weighted 1/2/4.

    Args:
        log_p: (N, 3) log-probabilities.
        grades: (N,) 0, 1, 2 or -1 for no grade, which does not count.
    """
    return weighted_log_loss(np.where(grades >= 0, grades, np.nan), np.exp(log_p))


def level_figures(log_p: np.ndarray, grades: np.ndarray, levels: np.ndarray) -> list[dict[str, Any]]:
    """One row a level and a last one for all: cells, score, confusion (true, predicted), precision, recall, F1.

    The predicted grade is the likeliest one after the metric's weights, which is what the network gives.
    """
    rows = []
    for level in [*range(len(LEVELS)), None]:
        chosen = (grades >= 0) & ((levels == level) if level is not None else True)
        count = int(chosen.sum())
        confusion = np.zeros((len(GRADES), len(GRADES)), dtype=np.int64)
        np.add.at(confusion, (grades[chosen], log_p[chosen].argmax(1)), 1)
        hits = confusion.diagonal().astype(float)
        precision = _share(hits, confusion.sum(0))
        recall = _share(hits, confusion.sum(1))
        f1 = _share(2 * precision * recall, precision + recall)
        rows.append(
            {
                "level": "all" if level is None else level_title(LEVELS[level]),
                "cells": count,
                "score": family_score(log_p[chosen], grades[chosen]) if count else None,
                "confusion": confusion.tolist(),
                "precision": precision.round(4).tolist(),
                "recall": recall.round(4).tolist(),
                "f1": f1.round(4).tolist(),
                "macro_f1": round(float(f1.mean()), 4),
            }
        )
    return rows


def level_lines(rows: list[dict[str, Any]]) -> list[str]:
    """The rows of :func:`level_figures` as a table for people."""
    head = (
        f"{'level':<7}{'cells':>7}{'score':>8}  {'precision':<17}{'recall':<17}{'f1':<17}confusion (true x predicted)"
    )
    lines = [head]
    for row in rows:
        score = "-" if row["score"] is None else f"{row['score']:.4f}"
        parts = ["".join(f"{value:5.2f}" for value in row[name]) for name in ("precision", "recall", "f1")]
        confusion = " | ".join(" ".join(map(str, line)) for line in row["confusion"])
        lines.append(
            f"{row['level']:<7}{row['cells']:>7}{score:>8}  {parts[0]:<17}{parts[1]:<17}{parts[2]:<17}{confusion}"
        )
    return lines


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Part over whole, 0 where the whole is 0."""
    return np.divide(part, whole, out=np.zeros_like(part, dtype=float), where=whole > 0)
