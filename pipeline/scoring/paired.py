"""Whether one set of predictions is better than another of the same studies: the difference and how sure it is.

Both are scored on the same studies, so what makes a study hard for both drops out. The standard error is over
studies (the cells of one are not independent): each study's share of the difference of two ratios of sums, to first
order, which is what a bootstrap over studies comes to, without its noise and its time.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from pipeline.labels import FAMILY_COLUMNS, Family
from pipeline.scoring.metric import any_severe_losses, cell_losses

TERM_OF: dict[str, Family] = {
    "spinal": Family.CANAL,
    "foraminal": Family.FORAMINAL,
    "subarticular": Family.SUBARTICULAR,
    "any_severe": Family.CANAL,
}
"""The four terms of the score and the family whose cells each of them looks at."""


@dataclass(frozen=True)
class Difference:
    """``value`` is the loss of the second less that of the first, ``error`` the standard error of that over studies.

    Both are NaN where no cell is graded, and the error is where there are fewer than two studies.
    """

    value: float
    error: float

    @property
    def helps(self) -> bool:
        """Whether the second is better by more than the standard error."""
        return self.value < -self.error


def differences(grades: np.ndarray, first: np.ndarray, second: np.ndarray) -> dict[str, Difference]:
    """How the second predictions differ from the first in each term of the metric, and in ``score``, their mean.

    Args:
        grades: (studies, 25) 0, 1, 2 or NaN.
        first, second: (studies, 25, 3) probabilities.
    """
    shares = {term: _shares(grades, first, second, term) for term in TERM_OF}
    return {term: _sum(values) for term, values in {**shares, "score": np.mean(list(shares.values()), axis=0)}.items()}


def difference(grades: np.ndarray, first: np.ndarray, second: np.ndarray, terms: Collection[str]) -> Difference:
    """How they differ in the sum of some terms."""
    return _sum(np.sum([_shares(grades, first, second, term) for term in terms], axis=0))


def _shares(grades: np.ndarray, first: np.ndarray, second: np.ndarray, term: str) -> np.ndarray:
    """(studies,) what each study adds to the difference of a term: the sum is the difference, the spread its error."""
    columns = FAMILY_COLUMNS[TERM_OF[term]]
    loss = any_severe_losses if term == "any_severe" else cell_losses
    one, other = (loss(grades[:, columns], values[:, columns]) for values in (first, second))
    gained, weight = ((other - one)[..., 0], one[..., 1])
    if gained.ndim > 1:
        gained, weight = gained.sum(1), weight.sum(1)
    if not weight.any():
        return np.full(len(grades), math.nan)
    mean = gained.sum() / weight.sum()
    # The second part adds up to 0; it is a study's part in the denominator.
    return (gained - mean * weight) / weight.sum() + mean / len(grades)


def _sum(shares: np.ndarray) -> Difference:
    count = len(shares)
    error = math.sqrt(count) * float(np.std(shares, ddof=1)) if count > 1 else math.nan
    return Difference(float(shares.sum()), error)
