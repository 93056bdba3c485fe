"""Whether one set of predictions is better than another, or the studies at hand merely happened to suit it.

Two recipes graded the same cells, so what counts is the difference cell by cell: it varies far less than either score.
Cells of one study are not independent, so studies are the units.
"""

from __future__ import annotations

import math

import numpy as np

from pipeline.labels import GRADE_WEIGHTS
from pipeline.scoring.metric import CLIP
from pipeline.scoring.oof import OofTable


def paired_difference(own: OofTable, other: OofTable, cells: list[int]) -> tuple[float, float, int]:
    """The metric's term of one table less that of another, on the graded cells that both have.

    The standard error is that of a ratio of two sums over studies, linearised (Cochran, Sampling Techniques, 1977,
    section 6.3): the root of n/(n-1) times the sum of (d - D w) squared, over the sum of w, with a study's difference
    of weighted losses d, its weight w, and the difference of the scores D.

    Args:
        own, other: predictions out of fold.
        cells: positions in ``CELLS`` that count, those of one family.

    Returns:
        The difference (below 0: ``own`` is better), its standard error (NaN below two studies), and the cells.
    """
    places = {key: row for row, key in enumerate(zip(other.study_id.tolist(), other.cell.tolist(), strict=True))}
    pairs = [
        (row, places[key])
        for row, key in enumerate(zip(own.study_id.tolist(), own.cell.tolist(), strict=True))
        if key[1] in cells and own.grade[row] >= 0 and key in places
    ]
    if not pairs:
        return math.nan, math.nan, 0
    mine, theirs = np.array(pairs).T
    grades = own.grade[mine]
    weights = np.asarray(GRADE_WEIGHTS, dtype=np.float64)[grades]
    differences = weights * (_losses(own.log_p[mine], grades) - _losses(other.log_p[theirs], grades))
    _, study = np.unique(own.study_id[mine], return_inverse=True)
    by_study, weight = np.bincount(study, differences), np.bincount(study, weights)
    difference = by_study.sum() / weight.sum()
    count = len(weight)
    spread = by_study - difference * weight
    error = math.sqrt(count / (count - 1) * float(spread @ spread)) / weight.sum() if count > 1 else math.nan
    return float(difference), float(error), len(pairs)


def _losses(log_p: np.ndarray, grades: np.ndarray) -> np.ndarray:
    """(N,) -ln p of the true grade, clipped as the metric does."""
    return -np.log(np.clip(np.exp(log_p[np.arange(len(grades)), grades]), CLIP, 1 - CLIP))
