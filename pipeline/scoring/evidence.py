"""What speaks for a classifier on studies it has not seen: grades where there are any, and findings that go with them.

Canal stenosis has causes that other data sets grade: a disc that bulges or has herniated, and degeneration (Pfirrmann
grade, narrowing) behind it. A classifier that sees stenosis ranks levels with such findings higher. A rank correlation
needs no stenosis grades and no calibration; over all levels together it also rewards knowing that L4/L5 is worse than
L1/L2, so it is given *within levels* too, where that knowledge is worth nothing. Intervals are 95 % bootstrap intervals
over studies, because the levels of a study are not independent.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from pipeline.labels import CELLS, FAMILY_COLUMNS, GRADES, LEVELS, Family, level_from_title, level_title
from pipeline.scoring.figures import family_score, level_figures, level_lines
from pipeline.scoring.metric import any_severe_log_loss, unweighted, weighted_log_loss
from pipeline.tables import TableError, read_text_table

GRADINGS = ("disc_herniation", "disc_bulging", "disc_narrowing", "pfirrman_grade")
"""Columns of SPIDER's ``gradings.csv`` that go with canal stenosis (its own spelling of Pfirrmann)."""
_LEVEL_OF = np.array([LEVELS.index(cell.level) for cell in CELLS])
_FEWEST = 8
"""Studies without which a rank correlation says nothing."""
_RAREST = 5
"""At least this many pairs must differ from the commonest value, or one study decides."""


def expected_grade(log_p: np.ndarray) -> np.ndarray:
    """p(moderate) + 2 p(severe) of (..., 3) log-probabilities, the metric's weights taken out; NaN stays NaN."""
    return np.asarray(unweighted(log_p) @ np.arange(len(GRADES), dtype=np.float64))


def term_figures(log_p: np.ndarray, grades: np.ndarray, prior: np.ndarray) -> dict[str, dict[str, Any]]:
    """The competition's terms over the cells that have both a prediction and a grade.

    Args:
        log_p: (studies, 25, 3), NaN rows where no network answered.
        grades: (studies, 25), NaN for no grade.
        prior: (25, 3) probabilities, scored on the same cells.

    Returns:
        Per family with such a cell ``score``, ``prior`` and ``levels`` (see :func:`level_figures`); for the canal also
        ``any_severe`` and ``any_severe_prior``.
    """
    known = np.isfinite(log_p).all(-1) & np.isfinite(grades)
    result: dict[str, dict[str, Any]] = {}
    for family, columns in FAMILY_COLUMNS.items():
        chosen = known[:, columns]
        if not chosen.any():
            continue
        rows, true = log_p[:, columns][chosen], grades[:, columns][chosen].astype(np.int64)
        levels = np.broadcast_to(_LEVEL_OF[columns], chosen.shape)[chosen]
        baseline = np.broadcast_to(prior[columns], (*chosen.shape, len(GRADES)))
        result[family.value] = {
            "cells": int(chosen.sum()),
            "score": family_score(rows, true),
            "prior": weighted_log_loss(np.where(chosen, grades[:, columns], np.nan), baseline),
            "levels": level_figures(rows, true, levels),
        }
        if family is Family.CANAL:
            seen = np.where(chosen, grades[:, columns], np.nan)
            filled = np.where(chosen[..., None], np.exp(log_p[:, columns]), baseline)
            result[family.value] |= {
                "any_severe": any_severe_log_loss(seen, filled),
                "any_severe_prior": any_severe_log_loss(seen, baseline),
            }
    return result


def read_gradings(path: Path) -> pd.DataFrame:
    """SPIDER's gradings: index (study_id, level ``l1_l2``), columns :data:`GRADINGS`, NaN where a cell is empty.

    Rows of levels that the competition does not grade (thoracic ones) are left out.

    Raises:
        TableError: the file or a column is missing, a cell is not a number, or a level is listed twice.
    """
    frame = read_text_table(path, ("study_id", "level", *GRADINGS))
    known = frame["level"].str.strip().str.upper().isin([level_title(level) for level in LEVELS])
    frame = frame[known]
    for column in GRADINGS:
        values = pd.to_numeric(frame[column].where(frame[column] != "", "nan"), errors="coerce")
        bad = values.isna() & ~frame[column].str.lower().isin(["", "nan"])
        if bad.any():
            row = int(str(frame.index[bad][0]))
            raise TableError(path, row, column, f"found {frame.loc[row, column]!r}, expected a number")
        frame[column] = values
    frame["level"] = [level_from_title(text) for text in frame["level"]]
    twice = frame.duplicated(["study_id", "level"])
    if twice.any():
        raise TableError(path, int(str(frame.index[twice][0])), "level", "listed a second time for this study")
    return frame.set_index(["study_id", "level"])[list(GRADINGS)].astype(float)


def grading_correlations(
    severity: np.ndarray, gradings: np.ndarray, names: tuple[str, ...] = GRADINGS, resamples: int = 1000
) -> dict[str, dict[str, Any]]:
    """Spearman's rank correlation of predicted canal severity with each grading, and its bootstrap interval.

    Args:
        severity: (studies, 5) expected canal grade, NaN for none.
        gradings: (studies, 5, G), NaN for none.
        names: of the G gradings.
        resamples: bootstrap samples of studies.

    Returns:
        Per grading one entry a level, ``all levels`` and ``within levels``: ``rank_correlation`` and its ``low`` and
        ``high`` (None where fewer than 8 studies, or fewer than 5 pairs off the commonest value, leave it undefined),
        and ``pairs``.
    """
    result: dict[str, dict[str, Any]] = {}
    for number, name in enumerate(names):
        pair = np.stack([severity, gradings[..., number]], -1)
        rows = {level_title(level): _interval(pair[:, [k]], _pooled, resamples) for k, level in enumerate(LEVELS)}
        rows["all levels"] = _interval(pair, _pooled, resamples)
        rows["within levels"] = _interval(pair, _within, resamples)
        result[name] = rows
    return result


def agreement(own: np.ndarray, other: np.ndarray, resamples: int = 1000) -> dict[str, dict[str, dict[str, Any]]]:
    """How far two sets of predictions of the same cells say the same.

    Args:
        own, other: (studies, 25, 3) log-probabilities, NaN rows where there is none.
        resamples: of the bootstrap over studies.

    Returns:
        Per family and level (and ``all levels``, ``within levels``): the rank correlation of the expected grades with
        its interval, and ``mean_difference``, the mean absolute difference of the expected grades (0 to 2).
    """
    result: dict[str, dict[str, dict[str, Any]]] = {}
    grades = np.stack([expected_grade(own), expected_grade(other)], -1)
    for family, columns in FAMILY_COLUMNS.items():
        if not np.isfinite(grades[:, columns]).all(-1).any():
            continue
        rows: dict[str, dict[str, Any]] = {}
        for name, levels, statistic in (
            *((level_title(level), (k,), _pooled) for k, level in enumerate(LEVELS)),
            ("all levels", tuple(range(len(LEVELS))), _pooled),
            ("within levels", tuple(range(len(LEVELS))), _within),
        ):
            chosen = [column for column in columns if _LEVEL_OF[column] in levels]
            # Both sides of a level are one column of pairs: side by side as further studies, drawn together
            part = grades[:, chosen]
            difference = np.abs(part[..., 0] - part[..., 1])
            mean = float(np.nanmean(difference)) if np.isfinite(difference).any() else None
            rows[name] = {**_interval(part, statistic, resamples, _LEVEL_OF[chosen]), "mean_difference": mean}
        result[family.value] = rows
    return result


def correlation_lines(title: str, rows: dict[str, dict[str, Any]]) -> list[str]:
    """One line a level of :func:`grading_correlations` or :func:`agreement`."""
    lines = [title]
    for name, row in rows.items():
        text = f"  {name:<14}{row['pairs']:>6} pairs  "
        if row["rank_correlation"] is None:
            text += "rank correlation undefined"
        else:
            text += f"rank correlation {row['rank_correlation']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
        if row.get("mean_difference") is not None:
            text += f", mean difference {row['mean_difference']:.3f}"
        lines.append(text)
    return lines


Statistic = Callable[[np.ndarray, np.ndarray], float]


def evidence(
    own: np.ndarray,
    grades: np.ndarray,
    prior: np.ndarray,
    context: np.ndarray | None = None,
    gradings: np.ndarray | None = None,
) -> dict[str, Any]:
    """All figures; a part for which there is no data is empty.

    Args:
        own: (studies, 25, 3) log-probabilities of the networks, NaN rows where none answered.
        grades: (studies, 25), NaN for no grade.
        prior: (25, 3) probabilities.
        context: (studies, 25, 3) of :func:`pipeline.ensemble.combine.hidden_answers`, or None.
        gradings: (studies, 5, 4) of :data:`pipeline.scoring.evidence.GRADINGS`, or None.
    """
    canal = expected_grade(own[:, FAMILY_COLUMNS[Family.CANAL]])
    return {
        "cells": {f.value: int(np.isfinite(own[:, columns]).all(-1).sum()) for f, columns in FAMILY_COLUMNS.items()},
        "terms": term_figures(own, grades, prior),
        "gradings": {} if gradings is None else grading_correlations(canal, gradings),
        "context": {} if context is None else agreement(own, context),
    }


def evidence_lines(figures: dict[str, Any]) -> list[str]:
    """The figures for people."""

    counts = ", ".join(f"{count} {family}" for family, count in figures["cells"].items())
    lines = [f"{figures['studies']} studies, weights {figures['weights']}; cells that a network answered for: {counts}"]
    for family, term in figures["terms"].items():
        lines.append(f"{family}: {term['score']:.4f} on {term['cells']} graded cells (prior {term['prior']:.4f})")
        if "any_severe" in term:
            lines.append(f"any severe: {term['any_severe']:.4f} (prior {term['any_severe_prior']:.4f})")
        lines += level_lines(term["levels"])
    for name, rows in figures["gradings"].items():
        lines += correlation_lines(f"canal severity and {name}", rows)
    for family, rows in figures["context"].items():
        lines += correlation_lines(f"{family}: networks and study context without them", rows)
    return lines


def _interval(
    pairs: np.ndarray, statistic: Statistic, resamples: int, levels: np.ndarray | None = None
) -> dict[str, Any]:
    """A statistic of (studies, columns, 2) pairs and its bootstrap interval over studies."""
    levels = np.arange(pairs.shape[1]) if levels is None else levels
    known = np.isfinite(pairs).all(-1)
    row: dict[str, Any] = {"pairs": int(known.sum()), "rank_correlation": None, "low": None, "high": None}
    if known.any(1).sum() < _FEWEST or min(map(_uncommon, pairs[known].T)) < _RAREST:
        return row
    value = statistic(pairs, levels)
    generator = np.random.default_rng(0)
    drawn = [statistic(pairs[generator.integers(len(pairs), size=len(pairs))], levels) for _ in range(resamples)]
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return {**row, "rank_correlation": float(value), "low": float(low), "high": float(high)}


def _pooled(pairs: np.ndarray, levels: np.ndarray) -> float:  # noqa: ARG001  (the signature of a statistic)
    """Spearman's correlation of all pairs; NaN where it is not defined."""
    return _correlation(_ranks(pairs[np.isfinite(pairs).all(-1)]))


def _within(pairs: np.ndarray, levels: np.ndarray) -> float:
    """The same with ranks taken level by level, each level's centred and scaled to its number of pairs."""
    parts = []
    for level in np.unique(levels):
        values = pairs[:, levels == level]
        parts.append(_ranks(values[np.isfinite(values).all(-1)]))
    return _correlation(np.concatenate(parts))


def _uncommon(values: np.ndarray) -> int:
    """How many of (N,) values are not the commonest one."""
    return len(values) - int(np.unique(values, return_counts=True)[1].max())


def _ranks(pairs: np.ndarray) -> np.ndarray:
    """(N, 2) ranks of (N, 2) values, from -0.5 to 0.5."""
    return (rankdata(pairs, axis=0) - (len(pairs) + 1) / 2) / max(len(pairs), 1)


def _correlation(ranks: np.ndarray) -> float:
    """Pearson's correlation of centred columns; NaN where one is constant."""
    first, second = ranks.T
    norm = np.sqrt((first @ first) * (second @ second))
    return float(first @ second / norm) if norm > 0 else np.nan
