"""How narrow each of the 25 cells of a study is, with the real class frequencies and correlations.

A cell's *narrowing* is a number in 0..1 from which :mod:`pipeline.phantom.anatomy` derives the shapes. It is drawn
through a Gaussian copula: latent normal variables share factors over the study, the level, the family and the side,
so that degeneration clusters as it does in patients. The latent quantile picks the grade by the class frequency of its
family and level, and its place inside the grade picks the narrowing inside the grade's band. The bands are separated
by margins, so that the grade can be told from the picture and the Bayes floor of a grader is set by the documented
label noise alone (:class:`LabelSettings`). With the default noise a perfect reader of the geometry scores 0.038 (canal
0.049, foraminal 0.047, subarticular 0.041, any severe 0.015: 8,000 simulated studies, 0.031 to 0.041 on 1,000 of them).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pipeline.config import check_range
from pipeline.labels import CELLS, LEVELS, Family, Side

CLASS_FREQUENCIES: dict[Family, tuple[tuple[float, float], ...]] = {
    Family.CANAL: ((0.033, 0.011), (0.077, 0.027), (0.111, 0.062), (0.123, 0.129), (0.021, 0.010)),
    Family.FORAMINAL: ((0.034, 0.004), (0.089, 0.004), (0.207, 0.021), (0.317, 0.069), (0.258, 0.101)),
    Family.SUBARTICULAR: ((0.056, 0.014), (0.130, 0.041), (0.225, 0.099), (0.313, 0.233), (0.203, 0.081)),
}
"""Share of (moderate, severe) by family and level L1/L2..L5/S1 over the competition's training studies."""

NARROWING_BANDS: tuple[tuple[float, float], ...] = ((0.0, 0.27), (0.40, 0.60), (0.74, 1.0))
"""Narrowing of each grade; the gaps between the bands are the margins that keep grades tellable."""

_FACTOR_SHARES: dict[Family, dict[str, float]] = {
    Family.CANAL: {"study": 0.38, "level": 0.17, "central": 0.20, "family": 0.02, "level_family": 0.05, "side": 0.0},
    Family.FORAMINAL: {
        "study": 0.33,
        "level": 0.15,
        "central": 0.0,
        "family": 0.01,
        "level_family": 0.02,
        "side": 0.25,
    },
    Family.SUBARTICULAR: {
        "study": 0.34,
        "level": 0.15,
        "central": 0.15,
        "family": 0.04,
        "level_family": 0.04,
        "side": 0.02,
    },
}
"""Shares of the latent variance by family, fitted so that the correlations of the grades over sides, levels and
families come out near those of 1,454 fully graded competition studies. ``central`` is shared by canal and subarticular
stenosis of a level, which one disc causes together; ``side`` by the levels of one side, which foramina follow most."""
_LEVEL_CORRELATION, _SIDE_CORRELATION = 0.50, 0.73
"""Correlation of neighbouring levels within the level factors and within the side factor."""


@dataclass(frozen=True)
class LabelSettings:
    """How the written grades differ from the geometry.

    Attributes:
        noise: share of graded cells whose written grade is moved to a neighbouring one. 0.005 costs a perfect
            grader about 0.045 in each condition's term (see :func:`noise_floor`).
        missing: chance that a study lacks the labels of one family at L1/L2, as some of the real studies do.
    """

    noise: float = 0.005
    missing: float = 0.04

    def __post_init__(self) -> None:
        check_range(self, "noise", least=0, below=0.5)
        check_range(self, "missing", least=0, most=1)


def sample_narrowing(rng: np.random.Generator) -> np.ndarray:
    """Draw the narrowing of every cell of one study: (25,) in 0..1, in the order of CELLS."""
    families, sides = tuple(Family), (None, Side.LEFT, Side.RIGHT)
    study = rng.standard_normal()
    family = dict(zip(families, rng.standard_normal(3), strict=True))
    level = _autoregressive(rng, _LEVEL_CORRELATION)
    central = rng.standard_normal(len(LEVELS))
    level_family = {kind: _autoregressive(rng, _LEVEL_CORRELATION) for kind in families}
    side = {(kind, name): _autoregressive(rng, _SIDE_CORRELATION) for kind in families for name in sides}
    own = rng.standard_normal(len(CELLS))
    narrowing = np.empty(len(CELLS))
    for index, cell in enumerate(CELLS):
        kind, row = cell.condition.family, LEVELS.index(cell.level)
        share = _FACTOR_SHARES[kind]
        latent = (
            math.sqrt(share["study"]) * study
            + math.sqrt(share["family"]) * family[kind]
            + math.sqrt(share["level"]) * level[row]
            + math.sqrt(share["central"]) * central[row]
            + math.sqrt(share["level_family"]) * level_family[kind][row]
            + math.sqrt(share["side"]) * side[kind, cell.condition.side][row]
            + math.sqrt(1.0 - sum(share.values())) * own[index]
        )
        quantile = 0.5 * math.erfc(-latent / math.sqrt(2.0))
        narrowing[index] = _narrowing_of(quantile, *CLASS_FREQUENCIES[kind][row])
    return narrowing


def _autoregressive(rng: np.random.Generator, rho: float) -> np.ndarray:
    """Unit normal variables (levels,) of which neighbours correlate by ``rho``."""
    values = rng.standard_normal(len(LEVELS))
    for row in range(1, len(values)):
        values[row] = rho * values[row - 1] + math.sqrt(1 - rho * rho) * values[row]
    return values


def _narrowing_of(quantile: float, moderate: float, severe: float) -> float:
    normal = 1.0 - moderate - severe
    if quantile < normal:
        place, band = (quantile / normal) ** 1.5, NARROWING_BANDS[0]
    elif quantile < normal + moderate:
        place, band = (quantile - normal) / moderate, NARROWING_BANDS[1]
    else:
        place, band = (quantile - normal - moderate) / severe, NARROWING_BANDS[2]
    return band[0] + place * (band[1] - band[0])


def written_grades(grades: np.ndarray, settings: LabelSettings, rng: np.random.Generator) -> np.ndarray:
    """The grades as the tables state them: noise applied, missing ones -1.

    Args:
        grades: (25,) true grades.
    """
    written = grades.astype(int).copy()
    flip, up = rng.random(len(CELLS)) < settings.noise, rng.random(len(CELLS)) < 0.5
    neighbour = np.where(written == 0, 1, np.where(written == 2, 1, np.where(up, 2, 0)))
    written[flip] = neighbour[flip]
    lost_study, lost_family = rng.random() < settings.missing, tuple(Family)[rng.integers(3)]
    if lost_study:
        for index, cell in enumerate(CELLS):
            if cell.condition.family is lost_family and cell.level == LEVELS[0]:
                written[index] = -1
    return written


def noise_floor(noise: float) -> dict[str, float]:
    """The lowest expected value of each term of the metric under the label noise, all geometry known.

    The best answer in a cell is the 1/2/4-reweighted posterior of the written grade given the true one.

    Returns:
        ``canal``, ``foraminal``, ``subarticular``: weighted log loss of that answer.
    """
    flips = np.array([[1 - noise, noise, 0.0], [noise / 2, 1 - noise, noise / 2], [0.0, noise, 1 - noise]])
    weights = np.array([1.0, 2.0, 4.0])
    floor = {}
    for family, rows in CLASS_FREQUENCIES.items():
        moderate, severe = np.mean(rows, axis=0)
        frequency = np.array([1 - moderate - severe, moderate, severe])
        joint = frequency[:, None] * flips * weights
        answer = joint / joint.sum(1, keepdims=True)
        floor[family.value] = float(-(joint * np.log(np.maximum(answer, 1e-15))).sum() / joint.sum())
    return floor
