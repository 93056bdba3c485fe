"""The logistic stack: a cell's grade, corrected by what its neighbours in the study look like.

A narrow recess goes with a narrow foramen beside it, and a grader who calls one side severe is apt to call the other
so. For each family a logistic regression starts from the calibrated answer and adds: a linear map of the cell's own
two log-ratios, and for each neighbour a step towards severe (twice as far for severe as for moderate, or back where it
is below 0) in proportion to the logarithm of the neighbour's expected grade. Twelve numbers a family: a free
coefficient for each neighbour and grade loses more to chance than it finds, measured on 1,606 studies, and so does a
multilayer perceptron. Sides are mirrored, so left and right share the numbers; a canal sees the mean of both sides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.ensemble.calibration import normalised
from pipeline.labels import CELLS, CONDITIONS, FAMILY_COLUMNS, LEVELS, MIRROR, Condition, Family
from pipeline.scoring.metric import WEIGHTS

NEIGHBOURS = ("canal", "foraminal", "foraminal opposite", "subarticular", "subarticular opposite", "above and below")
"""What a cell looks at: ``CONDITIONS`` of its level as the left side sees them, and its own one level up and down."""
_OWN_TERMS = 6
_OFFSET, _USUAL = 0.05, 0.3
"""A neighbour counts as ln((expected grade + 0.05) / 0.3): what is surely normal is all alike, and 0 is about usual."""
_SPAN = 8.0
"""Log-ratios are clipped to this; a cell's own ones count in halves, so that one ridge suits all terms."""
MOST_COEFFICIENT = 100.0
RIDGE = 5e-4


@dataclass(frozen=True)
class Stack:
    """The coefficients of one family; the default changes nothing.

    Attributes:
        own: added to moderate and to severe: a constant each (first two numbers), then a multiple of the log-ratio of
            moderate, then of severe, to normal.
        neighbours: of ``NEIGHBOURS``, steps towards severe.
    """

    own: tuple[float, float, float, float, float, float] = (0.0,) * 6
    neighbours: tuple[float, float, float, float, float, float] = (0.0,) * 6

    def __post_init__(self) -> None:
        if wrong := [value for value in (*self.own, *self.neighbours) if not abs(value) <= MOST_COEFFICIENT]:
            raise ValueError(
                f"a stack has the coefficient {wrong[0]}, expected -{MOST_COEFFICIENT:g} to {MOST_COEFFICIENT:g}"
            )

    def apply(self, log_p: np.ndarray, family: Family) -> np.ndarray:
        """Corrected log-probabilities of a family.

        Args:
            log_p: (studies, 25, 3) calibrated, NaN rows where there is no prediction.
            family: whose cells are wanted.

        Returns:
            (studies, cells of the family, 3), NaN where ``log_p`` is.
        """
        return _added(log_p[:, FAMILY_COLUMNS[family]], terms(log_p, family) @ np.array([*self.own, *self.neighbours]))


def terms(log_p: np.ndarray, family: Family) -> np.ndarray:
    """What the coefficients multiply: (studies, cells of the family, 2, 12), to be added to moderate and severe.

    A neighbour without a prediction counts as a usual one; a cell is no neighbour of its own.
    """
    columns = FAMILY_COLUMNS[family]
    known = np.isfinite(log_p).all(-1)
    clean = np.where(known[..., None], log_p, 0.0)
    p = np.exp(clean)
    looks = np.log((p[..., 1] + 2 * p[..., 2] + _OFFSET) / _USUAL) * known
    left, right = _surroundings(looks), _surroundings(looks[:, list(MIRROR)])
    result = np.zeros((*known[:, columns].shape, 2, _OWN_TERMS + len(NEIGHBOURS)))
    ratios = np.clip(clean[:, columns, 1:] - clean[:, columns, :1], -_SPAN, _SPAN) / 2
    result[..., [0, 1], [0, 1]] = 1.0
    for grade in range(2):
        result[..., grade, 2 + grade : _OWN_TERMS : 2] = ratios
    for place, column in enumerate(columns):
        condition, level = CELLS[column].condition, LEVELS.index(CELLS[column].level)
        same = CONDITIONS.index(Condition(condition.value.replace("right", "left")))
        if condition.side is None:
            around = (left[:, :, level] + right[:, :, level]) / 2
        else:
            around = (left if condition is CONDITIONS[same] else right)[:, :, level]
        neighbours = around[:, : len(CONDITIONS)].copy()
        neighbours[:, same] = 0.0
        steps = np.concatenate([neighbours, around[:, [len(CONDITIONS) + same]]], 1)
        result[:, place, 0, _OWN_TERMS:] = steps * (2 / 3)
        result[:, place, 1, _OWN_TERMS:] = steps * (4 / 3)
    return result


def fit_stack(log_p: np.ndarray, grades: np.ndarray, family: Family) -> Stack:
    """The stack that minimises the metric's loss, by Newton's method.

    Args:
        log_p: (studies, 25, 3) calibrated out-of-fold log-probabilities, NaN rows where there is none.
        grades: (studies, 25) 0, 1, 2 or NaN.
        family: to fit for.
    """
    columns = FAMILY_COLUMNS[family]
    known = np.isfinite(log_p[:, columns]).all(-1) & np.isfinite(grades[:, columns])
    if not known.any():
        return Stack()
    start, given = log_p[:, columns][known], terms(log_p, family)[known]
    true = grades[:, columns][known].astype(np.int64)
    weights = WEIGHTS[true] / WEIGHTS[true].sum()
    target = np.eye(3)[true]

    def answer(values: np.ndarray) -> tuple[np.ndarray, float]:
        log_q = _added(start, given @ values)
        return np.exp(log_q[:, 1:]), float(RIDGE * values @ values - weights @ (target * log_q).sum(1))

    values = np.zeros(given.shape[-1])
    q, loss = answer(values)
    for _ in range(30):
        slope = np.einsum("nj,njk->k", (q - target[:, 1:]) * weights[:, None], given) + 2 * RIDGE * values
        parts = given * q[..., None]
        mean = parts.sum(1)
        curve = np.tensordot(given * weights[:, None, None], parts, ((0, 1), (0, 1))) - (mean.T * weights) @ mean
        step = np.linalg.solve(curve + 2 * RIDGE * np.eye(len(values)), slope)
        share, before = 1.0, loss
        while (tried := answer(values - share * step))[1] > before and share > 1e-3:
            share /= 2
        values, (q, loss) = values - share * step, tried
        if before - loss < 1e-9:
            break
    values = np.clip(values, -MOST_COEFFICIENT, MOST_COEFFICIENT)
    return Stack(tuple(values[:_OWN_TERMS].tolist()), tuple(values[_OWN_TERMS:].tolist()))


def _added(log_p: np.ndarray, corrections: np.ndarray) -> np.ndarray:
    """(..., 3) log-probabilities with (..., 2) added to moderate and severe."""
    return normalised(log_p + np.concatenate([np.zeros_like(corrections[..., :1]), corrections], -1))


def _surroundings(looks: np.ndarray) -> np.ndarray:
    """(studies, 10, 5 levels) from (studies, 25): each condition at a level, and its mean above and below."""
    here = looks.reshape(len(looks), len(CONDITIONS), len(LEVELS))
    padded = np.pad(here, ((0, 0), (0, 0), (1, 1)))
    return np.concatenate([here, (padded[..., :-2] + padded[..., 2:]) / 2], 1)
