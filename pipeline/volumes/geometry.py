"""Pure geometry of slices: from DICOM position and orientation to canonical affines, and slices into stacks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.volumes.affine import Affine, Floats
from pipeline.volumes.volume import Plane

AXIAL_TILT_DEGREES = 55.0
"""Up to this tilt about the left-right axis a slice counts as axial, beyond it as coronal. Slices along the L5/S1 disc
lean up to about 50 degrees, coronal slices of a lordotic spine less than 30."""
SAME_ORIENTATION_DEGREES = 0.1
"""Slices of one prescription carry the same direction cosines; writers that round to three decimals move them by 0.06
degrees. Study 100206310 holds neighbouring prescriptions 0.44 degrees apart."""
MOTION_DEGREES = 1.0
"""A lone slice, or a group that interleaves with another, within this angle is the same prescription after motion."""
SAME_POSITION_MM = 0.02
"""Slices nearer than this along the normal are at one position."""

_CANONICAL: dict[Plane, tuple[Floats, Floats, Floats]] = {
    Plane.SAGITTAL: (np.array([0.0, 1, 0]), np.array([0.0, 0, -1]), np.array([1.0, 0, 0])),
    Plane.AXIAL: (np.array([1.0, 0, 0]), np.array([0.0, 1, 0]), np.array([0.0, 0, -1])),
    Plane.CORONAL: (np.array([1.0, 0, 0]), np.array([0.0, 0, -1]), np.array([0.0, 1, 0])),
}


def canonical_axes(plane: Plane) -> tuple[Floats, Floats, Floats]:
    """The (3,) LPS directions in which columns, rows and slices of a plane run."""
    return _CANONICAL[plane]


def plane_of(normal: Floats) -> Plane:
    """The anatomical plane of slices with this (3,) unit normal."""
    x, y, z = (abs(float(part)) for part in normal)
    if x >= max(y, z):
        return Plane.SAGITTAL
    return Plane.AXIAL if np.degrees(np.arctan2(y, z)) <= AXIAL_TILT_DEGREES else Plane.CORONAL


def clean_orientation(values: Sequence[float]) -> Floats | None:
    """(2, 3) unit direction along a row and down a column, from ImageOrientationPatient; None if it is not usable.

    The two must be within 1 % of unit length and of a right angle; what is left of that is taken out.
    """
    if len(values) != 6 or not np.all(np.isfinite(values)):
        return None
    right, down = np.array(values[:3], dtype=float), np.array(values[3:], dtype=float)
    if abs(right @ right - 1) > 0.02 or abs(down @ down - 1) > 0.02 or abs(right @ down) > 0.01:
        return None
    right = right / np.linalg.norm(right)
    down = down - right * (right @ down)
    return np.stack([right, down / np.linalg.norm(down)])


def to_canonical(axes: Floats, rows: int, cols: int, plane: Plane) -> Affine:
    """From canonical ``(col, row, offset)`` to the file's ``(x, y, offset)``: transposition and flips.

    Args:
        axes: (2, 3) unit directions of the file's rightwards and downwards.
        rows: rows of the file's image.
        cols: columns of the file's image.
        plane: the plane whose canonical orientation is wanted.
    """
    want_right, want_down, want_next = _CANONICAL[plane]
    right, down = axes
    change = np.zeros((4, 4))
    change[3, 3] = 1.0
    straight = abs(right @ want_right) + abs(down @ want_down)
    crossed = abs(right @ want_down) + abs(down @ want_right)
    size = (cols, rows)
    pairs = ((0, 0), (1, 1)) if straight >= crossed else ((0, 1), (1, 0))
    for source, target in pairs:
        sign = 1.0 if axes[source] @ (want_right, want_down)[target] >= 0 else -1.0
        change[source, target] = sign
        if sign < 0:
            change[source, 3] = size[source] - 1
    change[2, 2] = 1.0 if np.cross(right, down) @ want_next >= 0 else -1.0
    return Affine(change)


def reorient(image: NDArray[np.generic], change: Affine) -> NDArray[np.generic]:
    """A view of the file's (rows, cols) image in canonical orientation, for a ``change`` of :func:`to_canonical`."""
    col_sign, row_sign = change.matrix[:2, :2].sum(axis=0)
    turned = image.T if transposes(change) else image
    return turned[:: int(row_sign), :: int(col_sign)]


def transposes(change: Affine) -> bool:
    """Whether a ``change`` of :func:`to_canonical` makes rows of columns."""
    return bool(change.matrix[0, 1] != 0)


def angle_degrees(first: Affine, second: Affine) -> float:
    """The larger of the angles between the column and between the row directions of two slices, in degrees."""
    worst = 0.0
    for a, b in ((first.right, second.right), (first.down, second.down)):
        half = float(np.linalg.norm(a - b)) / 2
        worst = max(worst, float(2 * np.degrees(np.arcsin(min(1.0, half)))))
    return worst


def group_orientations(affines: Sequence[Affine], centres: Floats) -> list[list[int]]:
    """Split slices into stacks of one orientation, by prescription.

    Scanners write the same direction cosines for all slices they were prescribed together, so slices within
    :data:`SAME_ORIENTATION_DEGREES` are one stack, however near the next prescription is. Motion correction instead
    turns single slices or shuffles them among the others: a group of one, and groups that interleave along the normal,
    are joined if they are within :data:`MOTION_DEGREES`. A gap between positions never splits a stack, because every
    slice has its own affine.

    Args:
        affines: of the slices, canonical.
        centres: (N, 3) LPS mm of the slice centres.

    Returns:
        Lists of indices, in the order in which they came.
    """
    directions = np.stack([[affine.right, affine.down] for affine in affines])
    chord = 2 * np.sin(np.radians(SAME_ORIENTATION_DEGREES) / 2)
    groups: list[list[int]] = []
    left = np.arange(len(affines))
    while len(left):
        apart = np.linalg.norm(directions[left] - directions[left[0]], axis=2).max(axis=1)
        groups.append(left[apart <= chord].tolist())
        left = left[apart > chord]
    return _join_motion(groups, affines, centres)


def _join_motion(groups: list[list[int]], affines: Sequence[Affine], centres: Floats) -> list[list[int]]:
    joined = sorted(groups, key=len, reverse=True)
    if len(joined) > 64:  # more orientations than any prescription has: one slice each, so the cheap test is enough
        return groups
    merged = True
    while merged:
        merged = False
        for small in range(len(joined) - 1, 0, -1):
            near = [
                (angle, big)
                for big in range(small)
                if (angle := angle_degrees(affines[joined[big][0]], affines[joined[small][0]])) <= MOTION_DEGREES
                and (len(joined[small]) == 1 or _interleave(joined[big], joined[small], affines, centres))
            ]
            if near:
                joined[min(near)[1]].extend(joined.pop(small))
                merged = True
    return [sorted(group) for group in joined]


def _interleave(first: list[int], second: list[int], affines: Sequence[Affine], centres: Floats) -> bool:
    normal = affines[first[0]].normal
    a, b = centres[first] @ normal, centres[second] @ normal
    return bool(a.min() < b.max() and b.min() < a.max())
