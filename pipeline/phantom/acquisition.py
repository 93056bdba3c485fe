"""Where the slices of a study lie: patient position, planning of the series, spacing, order of instances.

Sagittal blocks are planned along the spine with a few degrees of error; axial series are one block or one stack per
disc angled to it, as in the competition. Instances run either way, series keep their own frame of reference UID though
all share one space.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipeline.labels import SeriesKind
from pipeline.phantom.anatomy import Anatomy
from pipeline.phantom.contrast import Weighting

SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "full": ((384, 416, 448, 448, 448, 480, 512), (256, 320, 320, 320, 320, 384)),
    "small": ((192, 208, 224, 224, 224, 240, 256), (128, 160, 160, 160, 160, 192)),
}
"""Matrix sizes to choose from: sagittal, axial. ``small`` halves the pixels each way."""


@dataclass(frozen=True, eq=False)
class Pose:
    """Patient position: LPS = rotation @ body + shift (mm)."""

    rotation: np.ndarray
    shift: np.ndarray

    def to_lps(self, body: np.ndarray) -> np.ndarray:
        """Body-frame points (..., 3) in LPS."""
        result: np.ndarray = body @ self.rotation.T + self.shift
        return result


@dataclass(frozen=True, eq=False)
class SlicePlane:
    """One slice: LPS position of the first pixel's centre, unit directions, mm per pixel, size, thickness in mm."""

    position: np.ndarray
    right: np.ndarray
    down: np.ndarray
    spacing: float
    rows: int
    cols: int
    thickness: float

    @cached_property
    def normal(self) -> np.ndarray:
        """Unit normal (3,)."""
        result: np.ndarray = np.cross(self.right, self.down)
        return result

    def project(self, point: np.ndarray) -> tuple[float, float, float]:
        """Column, row (pixels) of an LPS point (3,) projected on the slice, and its signed distance in mm."""
        offset = point - self.position
        return (
            float(offset @ self.right) / self.spacing,
            float(offset @ self.down) / self.spacing,
            float(offset @ self.normal),
        )

    def holds(self, column: float, row: float) -> bool:
        """Whether a pixel position lies on the image."""
        return -0.5 <= column <= self.cols - 0.5 and -0.5 <= row <= self.rows - 0.5


@dataclass(frozen=True, eq=False)
class SeriesPlan:
    """One series: planes in the order of their instance numbers 1, 2, ..."""

    kind: SeriesKind
    weighting: Weighting
    planes: tuple[SlicePlane, ...]
    spacing_between: float

    def nearest(self, point: np.ndarray) -> tuple[int, float, float, float]:
        """Instance number, column, row and distance (mm) of the plane on which an LPS point is best seen."""
        best: tuple[int, float, float, float] | None = None
        for index, plane in enumerate(self.planes):
            column, row, distance = plane.project(point)
            outside = 0.0 if plane.holds(column, row) else 1e3
            if best is None or abs(distance) + outside < best[3]:
                best = (index + 1, column, row, abs(distance) + outside)
        if best is None:
            raise ValueError("a series plan without slices cannot show a point")
        return best


def sample_pose(rng: np.random.Generator) -> Pose:
    """Draw how the patient lies in the scanner."""
    angles = rng.normal(0, (3.0, 2.0, 3.0))
    rotation = _rotation(angles)
    return Pose(rotation, np.array([rng.normal(0, 12), rng.normal(-10, 25), rng.uniform(-450, 150)]))


def _rotation(degrees: np.ndarray) -> np.ndarray:
    """Rotation matrix (3, 3) of turns (3,) about x, then y, then z, all fixed axes."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        first, second = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[second, first], turn[first, second] = np.sin(angle), -np.sin(angle)
        matrix = turn @ matrix
    return matrix


def plan_study(anatomy: Anatomy, pose: Pose, size: str, rng: np.random.Generator) -> tuple[SeriesPlan, ...]:
    """Plan the series of a study in the order they are numbered.

    Raises:
        ValueError: if ``size`` is not one of SIZES.
    """
    if size not in SIZES:
        raise ValueError(f"unknown size {size!r}; expected one of {', '.join(SIZES)}")
    sagittal, axial = SIZES[size]
    weighting = Weighting.STIR if rng.random() < 0.2 else Weighting.T2
    plans = [_plan_sagittal(anatomy, pose, sagittal, SeriesKind.SAGITTAL_T1, Weighting.T1, rng)]
    same_block = rng.random() < 0.6
    if same_block:
        first = plans[0]
        plans.append(SeriesPlan(SeriesKind.SAGITTAL_T2, weighting, first.planes, first.spacing_between))
    else:
        plans.append(_plan_sagittal(anatomy, pose, sagittal, SeriesKind.SAGITTAL_T2, weighting, rng))
    plans += _plan_axial(anatomy, pose, axial, rng)
    return tuple(plans)


def _plan_sagittal(
    anatomy: Anatomy,
    pose: Pose,
    sizes: tuple[int, ...],
    kind: SeriesKind,
    weighting: Weighting,
    rng: np.random.Generator,
) -> SeriesPlan:
    curve, scale = anatomy.curve, anatomy.habitus.scale
    ends = curve.rows(np.array([anatomy.lumbar_disc(0).top, anatomy.lumbar_disc(4).bottom]))
    rows = slice(int(ends[0]), int(ends[1]))
    chosen = int(rng.choice(sizes))
    field = float(np.clip(rng.uniform(250, 345) * scale, 240, 1.2 * chosen))
    spacing = max(field / chosen, 0.3)
    cols, count_rows = chosen, chosen
    if rng.random() < 0.2:
        cols = round(chosen * rng.uniform(0.7, 0.95) / 2) * 2
    normal = pose.rotation @ curve.frames[rows, 0].mean(0)
    spine = curve.centre[rows]
    line = spine[-1] - spine[0]
    down = pose.rotation @ np.array([line[0] / abs(line[2]), rng.normal(0, 0.03), -1.0])
    error = _rotation(rng.normal(0, (1.0, 1.5, 1.5)))
    normal, down = error @ normal, error @ down
    down = down - (down @ normal) / (normal @ normal) * normal
    normal, down = normal / np.linalg.norm(normal), down / np.linalg.norm(down)
    right = np.cross(normal, down)
    thickness = float(rng.choice([3.0, 3.5, 4.0, 4.0, 4.5, 5.0]))
    between = thickness * float(rng.choice([1.0, 1.0, 1.1, 1.1, 1.2]))
    spread = float(np.ptp((spine @ pose.rotation.T) @ normal))
    count = int(np.clip(np.ceil((2 * 27 * scale + spread) / between) + rng.integers(1, 5), 13, 24))
    middle = (spine.min(0) + spine.max(0)) / 2
    centre = pose.to_lps(np.array([middle[0], middle[1] + rng.normal(2, 10), middle[2] + rng.normal(8, 9)]))
    centre = centre + normal * rng.normal(0, 1.5)
    corner = centre - right * spacing * (cols - 1) / 2 - down * spacing * (count_rows - 1) / 2
    steps = (np.arange(count) - (count - 1) / 2) * between
    if rng.random() < 0.5:
        steps = -steps
    planes = tuple(
        SlicePlane(corner + step * normal, right, down, spacing, count_rows, cols, thickness) for step in steps
    )
    return SeriesPlan(kind, weighting, planes, between)


def _plan_axial(anatomy: Anatomy, pose: Pose, sizes: tuple[int, ...], rng: np.random.Generator) -> list[SeriesPlan]:
    curve = anatomy.curve
    chosen = int(rng.choice(sizes))
    field = float(np.clip(rng.uniform(155, 215), 150, 1.2 * chosen))
    spacing = field / chosen
    thickness = float(rng.choice([3.0, 3.5, 4.0, 4.0, 4.0, 5.0]))
    between = thickness * float(rng.choice([1.0, 1.1, 1.1, 1.25]))
    discs = [anatomy.lumbar_disc(level) for level in range(5)]
    shift = np.array([rng.normal(0, 4), rng.normal(16, 8)])

    def stack(s: float, count: int, tilt: np.ndarray, spread: float) -> list[SlicePlane]:
        row = int(curve.rows(np.array(s)))
        normal = pose.rotation @ tilt
        right = pose.rotation @ np.array([1.0, rng.normal(0, 0.02), 0.0])
        right = right - (right @ normal) * normal
        right /= np.linalg.norm(right)
        down = np.cross(right, normal)
        centre = pose.to_lps(curve.centre[row] + np.array([shift[0], shift[1], 0.0]))
        corner = centre - right * spacing * (chosen - 1) / 2 - down * spacing * (chosen - 1) / 2
        steps = (np.arange(count) - (count - 1) / 2) * between + spread
        return [SlicePlane(corner + step * normal, right, down, spacing, chosen, chosen, thickness) for step in steps]

    if rng.random() < 0.5:
        length = float(curve.point(discs[0].top, 0, 0)[2] - curve.point(discs[4].bottom, 0, 0)[2]) + 30
        count = int(np.clip(np.ceil(length / between), 26, 52))
        tilt = curve.frames[int(curve.rows(np.array(discs[2].middle))), 2] + rng.normal(0, 0.06, 3)
        middle = (discs[0].middle + discs[4].middle) / 2
        groups = [stack(middle, count, tilt / np.linalg.norm(tilt), 0.0)]
    else:
        groups = []
        for disc in discs:
            tilt = curve.frames[int(curve.rows(np.array(disc.middle))), 2] + rng.normal(0, 0.03, 3)
            count = int(rng.integers(6, 11))
            groups.append(stack(disc.middle, count, tilt / np.linalg.norm(tilt), rng.normal(0, 0.8)))
    upwards = rng.random() < 0.3
    if upwards:
        groups = [group[::-1] for group in groups[::-1]]
    planes = [plane for group in groups for plane in group]
    if rng.random() < 0.1 and len(groups) > 1:
        parts = [[plane for group in groups[:3] for plane in group], [plane for group in groups[3:] for plane in group]]
    else:
        parts = [planes]
    return [SeriesPlan(SeriesKind.AXIAL_T2, Weighting.T2, tuple(part), between) for part in parts]
