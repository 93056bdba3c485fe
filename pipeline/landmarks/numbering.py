"""Canal and foramina are decoded on different series; this makes them count the vertebrae alike.

The disc called L4/L5 on sagittal T2 and the foramen called L4/L5 on sagittal T1 must lie at the same height of the same
patient. Where they are a whole step apart, one of the two numberings is wrong, and the one whose maps were less sure of
theirs gives way. (Series of one study share patient space even when their frame-of-reference ids differ.) A series
whose place in the patient is assumed has no say, and points that lie near no level of the other are not renumbered.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipeline.labels import Side
from pipeline.landmarks.decode import LEVEL_COUNT, Chain
from pipeline.landmarks.sagittal import LevelPoints

NEAR_MM = 25.0
"""A foramen lies within this distance of its level's canal point, seen from the side: 10 to 20 mm are usual."""
LEAST_BELIEF = 1e-4
"""Of a numbering: what one series rules out wholly, the other may still doubt."""


def agree(
    canal: LevelPoints | None, foramina: dict[Side, LevelPoints]
) -> tuple[LevelPoints | None, dict[Side, LevelPoints], str | None]:
    """Canal and foramina numbered alike.

    Args:
        canal: of any series.
        foramina: by side, numbered alike among themselves.

    Returns:
        Both, renumbered where needed, and a note that says what was decided, None where nothing was. Where they were
        found on different series, what both believe of the numbering is the product of their beliefs.
    """
    if canal is None or not foramina:
        return canal, foramina, None
    sides = list(foramina.values())
    one_series = all(points.volume is canal.volume for points in sides)
    if not one_series and not all(points.volume.is_placed for points in (canal, *sides)):
        return canal, foramina, None
    delta = _offset(canal.points_mm, _middle(foramina))
    if delta is None:
        return canal, foramina, f"canal and foramina lie more than {NEAR_MM:g} mm apart whatever their numbering"
    if delta == 0:
        if any(points.volume is canal.volume for points in sides):  # the same maps: no second opinion
            return canal, foramina, None
        return (*_believing(canal, foramina), None)
    keep = float(np.mean([points.chain.shift[1] for points in sides]))
    move = float(np.mean([points.chain.shift[1 + delta] for points in sides]))
    if canal.chain.shift[1] * move >= canal.chain.shift[1 - delta] * keep:
        moved = {side: renumber(points, delta) for side, points in foramina.items()}
        return (*_believing(canal, moved), f"foramina renumbered by {delta:+d} level to agree with the canal")
    moved_canal = renumber(canal, -delta)
    return (*_believing(moved_canal, foramina), f"canal renumbered by {-delta:+d} level to agree with the foramina")


def _believing(canal: LevelPoints, foramina: dict[Side, LevelPoints]) -> tuple[LevelPoints, dict[Side, LevelPoints]]:
    """Both, numbered alike, with the product of what their maps say of the numbering, as two independent opinions."""
    theirs = np.mean([points.chain.shift for points in foramina.values()], axis=0)
    product = np.maximum(canal.chain.shift, LEAST_BELIEF) * np.maximum(theirs, LEAST_BELIEF)
    shift = product / product.sum()

    def believing(points: LevelPoints) -> LevelPoints:
        return replace(points, chain=replace(points.chain, shift=shift))

    return believing(canal), {side: believing(points) for side, points in foramina.items()}


def renumber(points: LevelPoints, delta: int) -> LevelPoints:
    """Call each point by the level one further down (+1) or up (-1).

    The point that falls off the end is lost; the level that becomes free at the other end is continued by the last step
    if that stays in the picture, on the slice of its neighbour.
    """
    moved = np.full_like(points.points_mm, np.nan)
    index, confidence = np.full_like(points.slice_index, -1), np.zeros_like(points.confidence)
    chain_points, mass = np.full_like(points.chain.points, np.nan), np.zeros_like(points.chain.mass)
    beside = np.full_like(points.beside, np.nan)
    old = np.arange(max(0, -delta), LEVEL_COUNT - max(0, delta))
    for target, source in (
        (moved, points.points_mm),
        (index, points.slice_index),
        (confidence, points.confidence),
        (beside, points.beside),
        (chain_points, points.chain.points),
        (mass, points.chain.mass),
    ):
        target[old + delta] = source[old]
    free = 0 if delta > 0 else LEVEL_COUNT - 1
    inward = 1 if delta > 0 else -1
    near, far = moved[free + inward], moved[free + 2 * inward]
    if np.isfinite([*near, *far]).all():
        place, slice_index = 2 * near - far, int(index[free + inward])
        column, row, _ = points.volume.to_pixel(place[None], np.array([slice_index]))
        _, rows, columns = points.volume.shape
        if 0 <= column[0] < columns and 0 <= row[0] < rows:
            moved[free], index[free] = place, slice_index
    # What spoke for a level further down (2) now speaks for the numbering (1), and so on; nothing is known beyond.
    shift = np.append(points.chain.shift[1:], 0.0) if delta > 0 else np.append(0.0, points.chain.shift[:-1])
    chain = Chain(chain_points, mass, shift / max(shift.sum(), 1e-9))
    return replace(points, points_mm=moved, slice_index=index, confidence=confidence, beside=beside, chain=chain)


def _middle(foramina: dict[Side, LevelPoints]) -> np.ndarray:
    """(5, 3) the mean of the sides' points; NaN where no side has one."""
    stacked = np.stack([points.points_mm for points in foramina.values()])
    known = np.isfinite(stacked)
    count = known.sum(axis=0)
    middle: np.ndarray = np.where(count > 0, np.where(known, stacked, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan)
    return middle


def _offset(canal: np.ndarray, foramina: np.ndarray) -> int | None:
    """The d in -1, 0, 1 for which the foramen called l lies nearest to the canal point called l + d.

    None where even that is not near; 0 where too few levels have both. Only height and depth count (patient y and z):
    foramina lie to the side of the canal.
    """
    distances = {}
    for delta in (0, -1, 1):
        levels = np.arange(max(0, -delta), LEVEL_COUNT - max(0, delta))
        apart = np.linalg.norm(canal[levels + delta, 1:] - foramina[levels, 1:], axis=1)
        apart = apart[np.isfinite(apart)]
        distances[delta] = float(np.median(apart)) if len(apart) >= 2 else np.inf
    best = min(distances, key=distances.__getitem__)
    return best if distances[best] <= NEAR_MM or distances[best] == np.inf else None
