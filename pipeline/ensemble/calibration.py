"""Temperature and bias per condition family, and what calibration is measured by.

A network's log-probabilities lp become softmax(lp / T + b) with b for moderate and severe. T and b minimise the
metric's own loss on out-of-fold predictions, so a network trained on any loss ends at the metric's optimum, the
posterior reweighted by 1/2/4. They are fitted here, never copied from elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.config import check_range
from pipeline.labels import GRADES
from pipeline.scoring.metric import WEIGHTS, unweighted

MOST_BIAS = 100
"""More on a logit is certainty, and certainty is no calibration."""
_RIDGE = 1e-3
"""Pulls log T and b towards 0: with a few dozen cells an unbounded fit would be certain."""


@dataclass(frozen=True)
class Calibration:
    """How log-probabilities of a family are adjusted; the default changes nothing.

    Attributes:
        temperature: above 1 makes predictions less certain.
        bias: added to the three logits.
    """

    temperature: float = 1.0
    bias: tuple[float, ...] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        check_range(self, "temperature", least=0.01, most=100)
        if len(self.bias) != len(GRADES) or not all(abs(value) <= MOST_BIAS for value in self.bias):
            raise ValueError(
                f"bias is {', '.join(map(str, self.bias))}; expected three numbers between -{MOST_BIAS} and {MOST_BIAS}"
            )

    def apply(self, log_p: np.ndarray) -> np.ndarray:
        """Adjusted log-probabilities of (..., 3); NaN stays NaN."""
        return normalised(log_p / self.temperature + np.asarray(self.bias))


def normalised(logits: np.ndarray) -> np.ndarray:
    """(..., 3) log-probabilities from any logits; a large negative floor keeps them finite."""
    clipped = np.maximum(logits, -60.0)  # NaN passes through
    first, second, third = clipped[..., 0], clipped[..., 1], clipped[..., 2]  # sums along three numbers are slow
    clipped = clipped - np.maximum(np.maximum(first, second), third)[..., None]
    p = np.exp(clipped)
    return np.asarray(clipped - np.log(p[..., 0] + p[..., 1] + p[..., 2])[..., None])


def weighted_loss(log_p: np.ndarray, grades: np.ndarray) -> float:
    """The metric's term from log-probabilities (N, 3) and grades (N,) 0, 1, 2."""
    weights = WEIGHTS[grades]
    return float(-(weights * log_p[np.arange(len(grades)), grades]).sum() / weights.sum())


def fit_calibration(
    log_p: np.ndarray,
    grades: np.ndarray,
    with_bias: bool = True,
    loss: Callable[[np.ndarray, np.ndarray], float] = weighted_loss,
) -> Calibration:
    """The temperature (and bias) that minimise the metric's loss.

    Args:
        log_p: (N, 3) out-of-fold log-probabilities, or of another shape that ``loss`` takes.
        grades: (N,) 0, 1, 2, or as ``loss`` takes them.
        with_bias: fit the bias too.
        loss: of log-probabilities and grades.
    """
    from scipy.optimize import minimize  # here, because applying a calibration needs none of it

    if not len(grades):
        return Calibration()

    def made(values: np.ndarray) -> Calibration:
        bias = (0.0, float(values[1]), float(values[2])) if with_bias else (0.0, 0.0, 0.0)
        return Calibration(float(np.exp(np.clip(values[0], -3, 3))), bias)

    def penalised(values: np.ndarray) -> float:
        return loss(made(values).apply(log_p), grades) + _RIDGE * float((values**2).sum())

    return made(
        minimize(
            penalised, np.zeros(3 if with_bias else 1), method="L-BFGS-B", bounds=[(-50, 50)] * (3 if with_bias else 1)
        ).x
    )


def calibration_error(log_p: np.ndarray, grades: np.ndarray, bins: int = 15) -> np.ndarray:
    """(3,) expected calibration error per grade, equal-width bins, of the unweighted probabilities.

    The metric's weights are taken out first: reweighted posteriors are meant not to be frequencies.
    """
    p = unweighted(log_p)
    errors = np.zeros(len(GRADES))
    for grade in range(len(GRADES)):
        place = np.minimum((p[:, grade] * bins).astype(int), bins - 1)
        for number in np.unique(place):
            here = place == number
            errors[grade] += here.mean() * abs(p[here, grade].mean() - (grades[here] == grade).mean())
    return errors
