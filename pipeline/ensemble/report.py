"""What each part of an ensemble is worth: scores part after part, and what each changed, with its standard error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.ensemble.calibration import calibration_error
from pipeline.ensemble.out_of_fold import graded
from pipeline.labels import FAMILY_COLUMNS, GRADES
from pipeline.scoring.metric import score_arrays
from pipeline.scoring.paired import TERM_OF, Difference, differences


@dataclass(frozen=True, eq=False)
class Row:
    """One part.

    Attributes:
        log_p: (studies, 25, 3) cross-fitted log-probabilities with it, NaN rows where there is no prediction.
        tried: the same if all of the part is taken, where only what helps was kept.
        kept: what that was, in words.
    """

    log_p: np.ndarray
    tried: np.ndarray | None = None
    kept: str | None = None


def make_report(rows: Mapping[str, Row], careful: np.ndarray, grades: np.ndarray, prior: np.ndarray) -> dict[str, Any]:
    """The score after each part, and what it changed.

    Args:
        rows: by part, the first the plain average.
        careful: (studies, 25, 3) log-probabilities with the parts that other folds ask for, without context.
        grades: (studies, 25), NaN for no grade.
        prior: (25, 3) probabilities of cells without a prediction.

    Returns:
        By part the terms, ``score``, ``calibration_error`` by family and grade, ``change`` against the part before
        (all of the new one taken), by term a pair of difference and standard error, and ``kept``. Then ``all parts``
        and ``other folds' choice`` (without context), both against the first, and ``prior alone``.
    """
    report: dict[str, Any] = {}
    first = before = with_prior(next(iter(rows.values())).log_p, prior)
    for name, row in rows.items():
        after = with_prior(row.log_p, prior)
        tried = after if row.tried is None else with_prior(row.tried, prior)
        report[name] = {**_measured(row.log_p, after, grades), "change": _plain(differences(grades, before, tried))}
        if row.kept is not None:
            report[name]["kept"] = row.kept
        before = after
    report["all parts"] = {**report[name], "change": _plain(differences(grades, first, before)), "kept": None}
    chosen = with_prior(careful, prior)
    report["other folds' choice"] = {
        **_measured(careful, chosen, grades),
        "change": _plain(differences(grades, first, chosen)),
    }
    nothing = np.full((*grades.shape, len(GRADES)), np.nan)
    report["prior alone"] = _measured(nothing, with_prior(nothing, prior), grades)
    return report


def with_prior(log_p: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """(studies, 25, 3) probabilities, those of the prior where there is no prediction."""
    return np.where(np.isfinite(log_p).all(-1, keepdims=True), np.exp(log_p), prior)


def _measured(log_p: np.ndarray, probabilities: np.ndarray, grades: np.ndarray) -> dict[str, Any]:
    """The score, and each family's calibration error by grade over the cells that are predicted."""
    errors = {}
    for family, columns in FAMILY_COLUMNS.items():
        rows, true = graded(log_p[:, columns], grades[:, columns])
        if len(true):
            errors[family.value] = dict(zip(GRADES, calibration_error(rows, true).round(4).tolist(), strict=True))
    return {**score_arrays(grades, probabilities).to_dict(), "calibration_error": errors}


def _plain(change: Mapping[str, Difference]) -> dict[str, list[float] | None]:
    return {
        term: [round(each.value, 6), round(each.error, 6)] if np.isfinite(each.error) else None
        for term, each in change.items()
    }


def report_lines(report: Mapping[str, Any]) -> list[str]:
    """The report as two tables for people: the scores, and what each part changed."""
    names = ("score", *TERM_OF)
    head = "".join(f"{name:>18}" for name in names)
    lines = [f"{'cross-fitted':<24}{head}   worst calibration error"]
    for stage, row in report.items():
        values = "".join(f"{'-' if row[name] is None else format(row[name], '.4f'):>18}" for name in names)
        errors = ", ".join(f"{family} {max(e.values()):.3f}" for family, e in row["calibration_error"].items())
        lines.append(f"{stage:<24}{values}   {errors}")
    lines += ["", f"{'change by each part':<24}{head}   kept (paired; standard errors over studies)"]
    for stage, row in report.items():
        if "change" in row and stage != "even average":
            pairs = [row["change"][name] for name in names]
            values = "".join(f"{'-' if pair is None else '{:+.4f} ± {:.4f}'.format(*pair):>18}" for pair in pairs)
            lines.append(f"{stage:<24}{values}   {row.get('kept') or ''}")
    return lines
