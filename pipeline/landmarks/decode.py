"""From heat maps to five levels: the levels of one group of slices are decoded jointly.

A network that is one vertebra off is wrong five times with high confidence. So the five maps are not read one by one:
the places where any map sees a disc are the candidates, and the assignment of levels to candidates is the one that
maximises the maps' own evidence plus a prior on how levels follow each other along the spine (order, length of a step,
evenness of steps). The same score, computed for the assignment shifted up and down by one candidate, says how sure the
numbering is. A level may be absent (field of view that ends at L3): then fewer points are returned.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import ndimage

from pipeline.config import check_range

LEVEL_COUNT = 5
REFINEMENTS = 4
"""Mean shift steps; each leaves about half of the distance to go."""
BLIND = 1e-3
"""A map with less mass than this within reach says nothing there."""
AGREE_MM = 14.0
"""Two decodings of a level closer than this mean the same disc: less than half the usual step of 33 mm."""


@dataclass(frozen=True)
class DecodeSettings:
    """The prior along the spine and the bounds of the search.

    Attributes:
        radius_mm: evidence within this distance of a candidate counts for it; adjacent discs are about 25 to 45 mm
            apart.
        candidates: at most this many discs are considered.
        step_mm: mean distance between adjacent levels.
        step_log_sd: standard deviation of its logarithm; wide, as the pixel size may be nominal.
        evenness_log_sd: standard deviation of the logarithm of the ratio of successive steps.
        floor: evidence below this counts as this, so that one blind map cannot veto the others.
        absent: the evidence that a level has to beat in order not to be absent.
        lateral: by level, log-odds a millimetre away from the midline that a slice is the one on which a foramen is
            marked, added to the network's own. Upper foramina lie nearer to the midline than lower ones, but are seen
            in part on the slices beside them. Fitted (conditional logit) to what held-out networks say of the slices
            of 1,590 RSNA studies.
        numbering_temperature: of the odds that all points are one level higher or lower than they are called. The maps
            of the five levels come from one network and err together, so that the product of their evidence is too
            sure of itself. Of 1, 2, 3, 5 and 8, this one gave the lowest loss of 15,900 held-out foraminal grades that
            were averaged over the numberings.
    """

    radius_mm: float = 11.0
    candidates: int = 9
    step_mm: float = 33.0
    step_log_sd: float = 0.25
    evenness_log_sd: float = 0.22
    floor: float = 0.01
    absent: float = 0.03
    lateral: tuple[float, ...] = (-0.27, -0.15, -0.10, -0.02, 0.14)
    numbering_temperature: float = 3.0

    def __post_init__(self) -> None:
        check_range(self, "numbering_temperature", least=1, most=1000)
        check_range(self, "radius_mm", "step_mm", above=0, most=200)
        check_range(self, "candidates", least=1, most=32)
        check_range(self, "step_log_sd", "evenness_log_sd", least=0.01, most=10)
        check_range(self, "floor", "absent", above=0, most=1)
        if any(abs(slope) > 100 for slope in self.lateral):
            raise ValueError(f"lateral is {self.lateral}, expected log-odds a millimetre between -100 and 100")
        if len(self.lateral) != LEVEL_COUNT:
            raise ValueError(f"lateral is {self.lateral}, expected a number for each of {LEVEL_COUNT} levels")


@dataclass(frozen=True, eq=False)
class Chain:
    """The decoded levels of one group of slices.

    Attributes:
        points: (5, 2) x, y in canvas pixels; NaN where the level is absent.
        mass: (5,) the share of a level's map within reach of its point; 0 where absent.
        shift: (3,) probability that the points are really one level higher up, as numbered, one level lower down.
    """

    points: np.ndarray
    mass: np.ndarray
    shift: np.ndarray

    @property
    def confidence(self) -> np.ndarray:
        """(5,) between 0 and 1: evidence for the place times the certainty of the numbering."""
        result: np.ndarray = self.mass * self.shift[1]
        return result


def decode_levels(
    maps: np.ndarray, positions: np.ndarray, pixel_mm: float, settings: DecodeSettings | None = None
) -> Chain:
    """Decode the five levels of one group of slices.

    Args:
        maps: (5, H, W) probability maps, each summing to one, L1/L2 first.
        positions: (H, W, 2) canvas x, y of the maps' cells.
        pixel_mm: side of a canvas pixel in mm.
        settings: prior and bounds.

    Returns:
        At least one level, however poor its evidence; none where no map sees anything (all zero, or not a number).
    """
    settings = settings or DecodeSettings()
    places = _candidates(maps, positions, pixel_mm, settings)
    if not len(places):
        return Chain(np.full((LEVEL_COUNT, 2), np.nan), np.zeros(LEVEL_COUNT), np.array([0.0, 1.0, 0.0]))
    distance = np.linalg.norm(positions[None] - places[:, None, None], axis=-1) * pixel_mm
    evidence = np.einsum("lhw,khw->lk", maps, (distance <= settings.radius_mm).astype(maps.dtype))
    first, chosen = _best_run(evidence, places, pixel_mm, settings)
    points, mass = np.full((LEVEL_COUNT, 2), np.nan), np.zeros(LEVEL_COUNT)
    for offset, k in enumerate(chosen):
        level = first + offset
        points[level], within = refine(maps[level], positions, places[k], pixel_mm, settings.radius_mm)
        mass[level] = min(1.0, within)
    shift = _shift_probability(evidence, places, pixel_mm, first, chosen, settings)
    return Chain(_continued(points, positions), mass, shift)


def reconcile(chain: Chain, reference: Chain, maps: np.ndarray, positions: np.ndarray, pixel_mm: float) -> Chain:
    """A chain numbered like a reference that was decoded on more evidence.

    Left and right foramina of a level lie at nearly the same height, so both sides together number the levels better
    than either alone. A chain that agrees keeps its own points; one that is off by about a step, and any level that it
    lacks, takes the reference's place, refined on the chain's own maps.

    Args:
        chain: of one side.
        reference: of both.
        maps: (5, H, W) the side's maps.
        positions: (H, W, 2) canvas x, y of the maps' cells.
        pixel_mm: side of a canvas pixel in mm.
    """
    apart = np.linalg.norm(chain.points - reference.points, axis=1) * pixel_mm
    agrees = bool(np.isfinite(apart).any()) and float(np.nanmedian(apart)) <= AGREE_MM
    points, mass = chain.points.copy(), chain.mass.copy()
    for level in range(LEVEL_COUNT):
        if np.isfinite(reference.points[level, 0]) and not (agrees and np.isfinite(apart[level])):
            points[level], mass[level] = refine(maps[level], positions, reference.points[level], pixel_mm, AGREE_MM)
    return Chain(points, np.minimum(mass, 1.0), (chain.shift + reference.shift) / 2 if agrees else reference.shift)


def refine(
    heat: np.ndarray, positions: np.ndarray, around: np.ndarray, pixel_mm: float, radius_mm: float
) -> tuple[np.ndarray, float]:
    """The expected position of one map within reach of a point.

    The reach is centred on the result and the expectation taken again (mean shift), because a window that is centred
    on a cell of the map would draw the result towards the middle of that cell, by up to a millimetre. Its edge is a
    cell wide, so that no cell enters or leaves it at once.

    Args:
        heat: (H, W) probability map.
        positions: (H, W, 2) canvas x, y of its cells.
        around: (2,) x, y in canvas pixels.
        pixel_mm: side of a canvas pixel in mm.
        radius_mm: reach.

    Returns:
        (2,) x, y in canvas pixels (``around`` itself where the map is blind there) and the map's mass within reach of
        ``around``.
    """
    point, first_mass = np.asarray(around, dtype=float), 0.0
    cell_mm = pixel_mm * float(np.abs(positions[0, 1] - positions[0, 0]).max())
    for step in range(REFINEMENTS):
        beyond = np.linalg.norm(positions - point, axis=-1) * pixel_mm - radius_mm
        weights = heat * np.clip(0.5 - beyond / cell_mm, 0.0, 1.0)
        mass = float(weights.sum())
        if step == 0:
            first_mass = mass
        if mass < BLIND:
            break
        point = np.einsum("hw,hwk->k", weights, positions) / mass
    return point, first_mass


def _continued(points: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """The points with absent end levels continued by the last step, as far as that stays on the canvas.

    The network may be blind at an end that the picture shows; where the field of view ends, nothing is invented.
    """
    low, high = positions.reshape(-1, 2).min(axis=0), positions.reshape(-1, 2).max(axis=0)
    margin = 0.04 * (high - low)
    result = points.copy()
    for step, order in ((1, range(2, LEVEL_COUNT)), (-1, range(LEVEL_COUNT - 3, -1, -1))):
        for level in order:
            before, last = result[level - 2 * step], result[level - step]
            if np.isnan(result[level, 0]) and np.isfinite([*before, *last]).all():
                place = 2 * last - before
                if ((place >= low + margin) & (place <= high - margin)).all():
                    result[level] = place
    return result


def _candidates(maps: np.ndarray, positions: np.ndarray, pixel_mm: float, settings: DecodeSettings) -> np.ndarray:
    """(K, 2) x, y of the discs that any map sees, from superior to inferior."""
    cell_mm = pixel_mm * float(np.abs(positions[0, 1] - positions[0, 0]).max())
    seen = ndimage.gaussian_filter(maps, (0, 4.0 / cell_mm, 4.0 / cell_mm)).max(axis=0)
    reach = max(1, round(settings.radius_mm * 0.8 / cell_mm))
    peaks = (seen == ndimage.maximum_filter(seen, 2 * reach + 1)) & (seen > 0)
    rows, columns = np.nonzero(peaks)
    order = np.argsort(seen[rows, columns])[::-1][: settings.candidates]
    found: np.ndarray = positions[rows[order], columns[order]].astype(float)
    return found[np.argsort(found[:, 1])]


def _best_run(
    evidence: np.ndarray, places: np.ndarray, pixel_mm: float, settings: DecodeSettings
) -> tuple[int, tuple[int, ...]]:
    """The best of all runs of levels: its first level and its candidates from superior to inferior."""
    best: tuple[int, tuple[int, ...]] = (0, (0,))
    best_score = -np.inf
    for length in range(1, min(len(places), LEVEL_COUNT) + 1):
        runs = _runs(len(places), length)
        for first in range(LEVEL_COUNT - length + 1):
            scores = _score(evidence, places, pixel_mm, first, runs, settings)
            k = int(scores.argmax())
            if scores[k] > best_score:
                best, best_score = (first, tuple(int(c) for c in runs[k])), float(scores[k])
    return best


@functools.lru_cache(maxsize=64)
def _runs(count: int, length: int) -> np.ndarray:
    """(R, length) every choice of that many of ``count`` candidates, in order."""
    return np.array(list(combinations(range(count), length)))


def _score(
    evidence: np.ndarray, places: np.ndarray, pixel_mm: float, first: int, runs: np.ndarray, settings: DecodeSettings
) -> np.ndarray:
    """(R,) log evidence plus log prior (up to a constant) of R runs (R, length) that start at level ``first``."""
    length = runs.shape[1]
    levels = np.arange(first, first + length)
    scores: np.ndarray = np.log(np.maximum(evidence[levels, runs], settings.floor)).sum(axis=1)
    scores = scores + (LEVEL_COUNT - length) * float(np.log(settings.absent))
    if length > 1:
        steps = np.linalg.norm(np.diff(places[runs], axis=1), axis=2) * pixel_mm
        log_steps = np.log(np.maximum(steps, 1e-3))
        unlike = (log_steps - np.log(settings.step_mm)) / settings.step_log_sd
        uneven = np.diff(log_steps, axis=1) / settings.evenness_log_sd
        scores = scores - 0.5 * np.square(unlike).mean(axis=1) - 0.5 * np.square(uneven).sum(axis=1)
    return scores


def _shift_probability(
    evidence: np.ndarray,
    places: np.ndarray,
    pixel_mm: float,
    first: int,
    chosen: tuple[int, ...],
    settings: DecodeSettings,
) -> np.ndarray:
    """(3,) softmax over: the points are really one level higher up, as numbered, one level lower down.

    A renumbered run loses the point that falls off its end; the level that becomes free at the other end is absent or
    the next candidate there, whichever scores better.
    """
    scores = np.full(3, -np.inf)
    for index, delta in enumerate((-1, 0, 1)):
        run = [(first + delta + i, k) for i, k in enumerate(chosen) if 0 <= first + delta + i < LEVEL_COUNT]
        options = [run]
        if run and delta == 1 and run[0][0] == 1 and chosen[0] > 0:
            options.append([(0, chosen[0] - 1), *run])
        if run and delta == -1 and run[-1][0] == LEVEL_COUNT - 2 and chosen[-1] + 1 < len(places):
            options.append([*run, (LEVEL_COUNT - 1, chosen[-1] + 1)])
        for option in options:
            if option:
                used = np.array([[k for _, k in option]])
                score = _score(evidence, places, pixel_mm, option[0][0], used, settings)
                scores[index] = max(scores[index], float(score[0]))
    weights = np.exp((scores - scores.max()) / settings.numbering_temperature)
    result: np.ndarray = weights / weights.sum()
    return result
