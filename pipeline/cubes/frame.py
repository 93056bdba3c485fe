"""The level's own frame: where a window lies and how it is turned, in patient millimetres (LPS).

On a sagittal slice the window's vertical follows the spine, told from the points of the levels above and below. On an
axial slice its horizontal follows the patient's left-right line, told from the pair of subarticular points. Windows of
right cells are mirror images: sagittal ones list their slices from lateral to medial on either side, axial ones run
from the midline's far side in mirrored columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.labels import CELL_INDEX, LEVELS, Cell, Condition, Side
from pipeline.volumes.affine import Floats
from pipeline.volumes.geometry import canonical_axes
from pipeline.volumes.volume import Plane


@dataclass(frozen=True, eq=False)
class Frame:
    """A window's place: its centre, and the unit directions of its columns and rows; all (3,) LPS.

    ``reverse`` tells whether slices are listed against the order of the stack.
    """

    centre_mm: Floats
    right: Floats
    down: Floats
    reverse: bool


def level_frame(cell: Cell, points_mm: Floats, normal: Floats, plane: Plane, max_tilt_degrees: float) -> Frame | None:
    """The frame of a cell on slices with a given normal.

    Args:
        cell: the condition and level.
        points_mm: (25, 3) LPS, NaN where a point is unknown.
        normal: (3,) unit normal of the slices, the way the stack runs.
        plane: the plane of the stack.
        max_tilt_degrees: of an axial window; a larger turn is not believed.

    Returns:
        None if the cell's own point is unknown.
    """
    centre = points_mm[CELL_INDEX[cell]]
    if not np.isfinite(centre).all():
        return None
    right, down = (_in_plane(axis, normal) for axis in canonical_axes(plane)[:2])
    down = _unit(down - right * (down @ right))
    side = cell.condition.side
    if plane is Plane.SAGITTAL:
        along = _spine_direction(cell, points_mm, normal)
        if along is not None and along @ down > 0.3:  # a spine that lies flatter than 70 degrees is a misplaced point
            right, down = _unit(right - along * (right @ along)), along
        return Frame(centre, right, down, reverse=side is Side.LEFT and bool(normal[0] > 0))
    across = _left_direction(points_mm, LEVELS.index(cell.level), normal)
    if across is not None and across @ right > np.cos(np.radians(max_tilt_degrees)):
        right, down = across, _unit(down - across * (down @ across))
    return Frame(centre, -right if side is Side.RIGHT else right, down, reverse=False)


def _spine_direction(cell: Cell, points_mm: Floats, normal: Floats) -> Floats | None:
    """Unit direction from the level above to the level below in the slice's plane; None without neighbours."""
    level = LEVELS.index(cell.level)
    nearby = [points_mm[CELL_INDEX[Cell(cell.condition, LEVELS[i])]] for i in _around(level)]
    known = [point for point in nearby if np.isfinite(point).all()]
    if len(known) < 2:
        return None
    step = known[-1] - known[0]
    step = step - normal * (step @ normal)
    return _unit(step) if np.linalg.norm(step) > 5.0 else None  # closer than 5 mm two levels cannot be


def _left_direction(points_mm: Floats, level: int, normal: Floats) -> Floats | None:
    """Unit direction from the right to the left subarticular points, over the level and its neighbours."""
    total = np.zeros(3)
    for i in _around(level):
        left = points_mm[CELL_INDEX[Cell(Condition.LEFT_SUBARTICULAR, LEVELS[i])]]
        right = points_mm[CELL_INDEX[Cell(Condition.RIGHT_SUBARTICULAR, LEVELS[i])]]
        step = left - right
        if np.isfinite(step).all():
            total += step - normal * (step @ normal)
    return _unit(total) if np.linalg.norm(total) > 5.0 else None


def _around(level: int) -> range:
    return range(max(0, level - 1), min(len(LEVELS), level + 2))


def _in_plane(axis: Floats, normal: Floats) -> Floats:
    return _unit(axis - normal * (axis @ normal))


def _unit(vector: Floats) -> Floats:
    return np.asarray(vector / np.linalg.norm(vector))
