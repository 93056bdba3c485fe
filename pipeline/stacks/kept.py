"""What is kept of a stack: the slices and the rectangle that hold the spine, every grey level of them.

Sagittal stacks keep all slices, at least 100 x 260 mm around the points. Axial ones keep the slices within 14 mm of a
level, at least 110 x 90 mm. Both rectangles grow where points lie further apart, so that a window of 80 mm fits around
each; what a window shows beyond them is 0, as beyond the edge of an image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.labels import CELLS, LEVELS, Family, SeriesKind
from pipeline.volumes import Affine, Volume
from pipeline.volumes.grey import grey_limits

CROP_MM = {False: (260.0, 100.0), True: (90.0, 110.0)}
"""Least height and width that is kept of a sagittal (False) and of an axial slice (True)."""
AROUND_MM = {False: (45.0, 40.0), True: (40.0, 42.0)}
"""Kept above, below and beside the outermost points."""
LEVEL_MM = 14.0
"""An axial slice further than this from every level is left out."""
_LEVELS = np.array([LEVELS.index(cell.level) for cell in CELLS])
_FORAMINAL = np.array([cell.condition.family is Family.FORAMINAL for cell in CELLS])


@dataclass(frozen=True, eq=False)
class KeptStack:
    """The part of a stack that is trained on.

    Attributes:
        volume: its slices; the affines are those of what is kept, the source affines those of the files.
        limits: of grey of the whole stack, as :func:`~pipeline.volumes.grey.grey_limits` gives them.
    """

    volume: Volume
    limits: tuple[float, float]


def keep_stack(volume: Volume, points_mm: NDArray[np.float64]) -> KeptStack | None:
    """The part of a stack around the level points; None where the points say nothing about it.

    Args:
        volume: a whole stack.
        points_mm: (25, 3) LPS in the order of ``CELLS``, NaN where unknown.
    """
    axial = volume.kind is SeriesKind.AXIAL_T2
    known = np.isfinite(points_mm).all(axis=1)
    if axial:  # foramina lie above the disc: they stand in where a level has no other point
        better = np.isin(_LEVELS, _LEVELS[known & ~_FORAMINAL])
        known &= ~(_FORAMINAL & better)
    points = points_mm[known]
    if not len(points):
        return None
    count = len(volume.pixels)
    # (points, slices): where every point falls on every slice
    col, row, offset = (
        values.reshape(len(points), count)
        for values in volume.to_pixel(np.repeat(points, count, axis=0), np.tile(np.arange(count), len(points)))
    )
    near = np.abs(offset) <= LEVEL_MM if axial else np.abs(offset) == np.abs(offset).min(1, keepdims=True)
    slices = np.flatnonzero(near.any(0)) if axial else np.arange(count)
    if not near.any():
        return None
    rows, cols = (
        _range(values[near], size, spacing, least, around)
        for values, size, spacing, least, around in zip(
            (row, col), volume.shape[1:], volume.spacing_mm, CROP_MM[axial], AROUND_MM[axial], strict=True
        )
    )
    if rows.start >= rows.stop or cols.start >= cols.stop:
        return None  # the points lie beside the image
    shift = np.eye(4)
    shift[:2, 3] = cols.start, rows.start
    kept = replace(
        volume,
        pixels=np.ascontiguousarray(volume.pixels[slices][:, rows, cols]),
        affines=volume.affines[slices] @ Affine(shift),
        source_affines=volume.source_affines[slices],
        instance_numbers=volume.instance_numbers[slices],
    )
    return KeptStack(kept, grey_limits(volume.pixels))


def _range(places: NDArray[np.float64], size: int, spacing: float, least_mm: float, around_mm: float) -> slice:
    """The pixels of an axis that hold places (N,) px and so much around them, at least ``least_mm`` where there is."""
    low, high = places.min() - around_mm / spacing, places.max() + around_mm / spacing
    missing = max(0.0, least_mm / spacing - (high - low)) / 2
    return slice(max(0, round(low - missing)), min(size, round(high + missing) + 1))


def to_levels(pixels: NDArray[np.float32]) -> tuple[NDArray[np.uint16], NDArray[np.float32]]:
    """Pixels as 16-bit numbers and the scale that gives them back: ``scale[0] + number``, or ``scale[number]``.

    Whole numbers that span less than 2**16 need their smallest one; other pixels (of a rescale slope) the list of the
    levels they have. Only a stack of more than 2**16 levels, which no scanner makes, is rounded to as many.
    """
    low, high = float(pixels.min()), float(pixels.max())
    shifted = pixels - np.float32(low)
    if high - low < 2**16 and max(abs(low), abs(high)) < 2**24 and np.array_equal(shifted, np.rint(shifted)):
        return shifted.astype(np.uint16), np.array([low], np.float32)
    levels, numbers = np.unique(pixels, return_inverse=True)
    if len(levels) > 2**16:
        levels = np.linspace(low, high, 2**16, dtype=np.float32)
        numbers = np.rint((pixels.astype(np.float64) - low) / (high - low) * (2**16 - 1))
    return numbers.reshape(pixels.shape).astype(np.uint16), levels.astype(np.float32)


def from_levels(numbers: NDArray[np.uint16], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """The inverse of :func:`to_levels`."""
    return numbers.astype(np.float32) + scale[0] if len(scale) == 1 else scale[numbers]
