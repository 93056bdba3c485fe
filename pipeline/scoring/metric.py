"""The competition's metric: the mean of four weighted log losses.

Three of them pool the cells of a condition family over sides, levels and studies, each cell weighted 1, 2 or 4 by
its true grade. The fourth asks of each study whether any canal level is severe, with the hard maximum of the
predicted severe probabilities as the answer. Cells without a grade do not count.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pipeline.labels import CELLS, FAMILY_COLUMNS, GRADE_WEIGHTS, GRADES, Family

CLIP = float(np.finfo(np.float64).eps)
"""Probabilities are clipped to [CLIP, 1 - CLIP] before the logarithm, as scikit-learn's ``log_loss`` does."""
WEIGHTS = np.asarray(GRADE_WEIGHTS, dtype=np.float64)


@dataclass(frozen=True)
class Score:
    """The four terms and their mean; a term is NaN where no cell of it has a grade, and then so is the score."""

    spinal: float
    foraminal: float
    subarticular: float
    any_severe: float
    studies: int
    cells: int

    @property
    def score(self) -> float:
        """The competition's score: lower is better."""
        return (self.spinal + self.foraminal + self.subarticular + self.any_severe) / 4

    def to_dict(self) -> dict[str, float | None]:
        """The four terms and ``score``; None for NaN, which JSON does not have."""
        values = {name: getattr(self, name) for name in ("spinal", "foraminal", "subarticular", "any_severe", "score")}
        return {name: None if math.isnan(value) else value for name, value in values.items()}

    def __str__(self) -> str:
        terms = (f"{name} {'n/a' if value is None else f'{value:.4f}'}" for name, value in self.to_dict().items())
        return f"{', '.join(terms)} ({self.cells} graded cells of {self.studies} studies)"


def weighted_log_loss(grades: np.ndarray, probabilities: np.ndarray) -> float:
    """Σ w (−ln p[grade]) / Σ w over the graded cells, w = 1, 2, 4 by grade; NaN where there is none.

    Args:
        grades: (...) float, 0, 1, 2 or NaN for no grade.
        probabilities: (..., 3), need not be normalised.
    """
    return _mean(cell_losses(grades, probabilities))


def any_severe_log_loss(grades: np.ndarray, probabilities: np.ndarray) -> float:
    """The binary log loss of "some canal level is severe", weighted by each study's heaviest canal grade.

    Args:
        grades: (studies, 5) canal grades, NaN for none. Ungraded levels count neither as truth nor as prediction.
        probabilities: (studies, 5, 3). The severe ones are taken as they stand, as the competition's code takes its
            column, while the other terms divide each row by its sum.
    """
    return _mean(any_severe_losses(grades, probabilities))


def cell_losses(grades: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """(..., 2) weighted loss and weight of each cell of :func:`weighted_log_loss`; 0 where there is no grade."""
    known = np.isfinite(grades)
    true = grades[known].astype(np.int64)
    given = probabilities[known]
    given = np.clip(given / given.sum(axis=-1, keepdims=True), CLIP, 1 - CLIP)
    return _pairs(known, WEIGHTS[true], -np.log(given[np.arange(len(true)), true]))


def any_severe_losses(grades: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """(studies, 2) weighted loss and weight of each study of :func:`any_severe_log_loss`; 0 where none is graded."""
    known = np.isfinite(grades)
    rated = known.any(axis=1)
    worst = np.where(known, grades, -1).max(axis=1, initial=-1)[rated].astype(np.int64)
    given = np.clip(np.where(known, probabilities[..., 2], 0).max(axis=1, initial=0)[rated], CLIP, 1 - CLIP)
    return _pairs(rated, WEIGHTS[worst], -np.where(worst == 2, np.log(given), np.log1p(-given)))


def _pairs(known: np.ndarray, weights: np.ndarray, losses: np.ndarray) -> np.ndarray:
    result = np.zeros((*known.shape, 2))
    result[known] = np.stack([weights * losses, weights], -1)
    return result


def _mean(pairs: np.ndarray) -> float:
    losses, weights = pairs.reshape(-1, 2).sum(0)
    return float(losses / weights) if weights > 0 else math.nan


def score_arrays(grades: np.ndarray, probabilities: np.ndarray) -> Score:
    """The score of predictions.

    Args:
        grades: (studies, 25) in the order of ``CELLS``, NaN where there is no grade.
        probabilities: (studies, 25, 3).

    Raises:
        ValueError: the shapes do not fit each other.
    """
    if grades.ndim != 2 or probabilities.shape != (len(grades), len(CELLS), len(GRADES)):
        raise ValueError(f"grades {grades.shape} and probabilities {probabilities.shape}: expected (n, 25), (n, 25, 3)")
    terms: dict[Family, float] = {}
    for family, columns in FAMILY_COLUMNS.items():
        terms[family] = weighted_log_loss(grades[:, columns], probabilities[:, columns])
    canal = FAMILY_COLUMNS[Family.CANAL]
    return Score(
        spinal=terms[Family.CANAL],
        foraminal=terms[Family.FORAMINAL],
        subarticular=terms[Family.SUBARTICULAR],
        any_severe=any_severe_log_loss(grades[:, canal], probabilities[:, canal]),
        studies=len(grades),
        cells=int(np.isfinite(grades).sum()),
    )


def unweighted(log_p: np.ndarray) -> np.ndarray:
    """(..., 3) probabilities with the metric's weights taken out again: what share of such cells has each grade."""
    p = np.exp(log_p) / WEIGHTS
    return np.asarray(p / p.sum(-1, keepdims=True))
