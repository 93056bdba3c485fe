"""Cutting cubes: for each cell and view the slices around its point, windowed in the level's frame."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.cubes.frame import Frame, level_frame
from pipeline.cubes.settings import CubeSettings, ViewSettings
from pipeline.labels import CELL_INDEX, CELLS, Cell, Condition, Family, SeriesKind
from pipeline.landmarks.landmarks import Landmarks, certain_numbering
from pipeline.volumes import StudyVolumes, Volume, normalise, resample_in_plane, sample_patch

_SMOOTH_FROM = 1.3
"""Window pixels this much larger than the file's are sampled from a smoothed image."""


@dataclass(frozen=True, eq=False)
class Cube:
    """Windows around one point, one a slice.

    Attributes:
        pixels: (slices, rows, cols) float32, about 0..1 by the percentiles of the stack; 0 where there is no image.
        present: (slices,) bool, False where the stack ends or has a gap.
        centre_mm: (3,) LPS, the landmark.
        right: (3,) unit direction of the columns. down: (3,) unit direction of the rows.
        spacing_mm: millimetres a pixel.
        offset_mm: distance of the middle slice from the landmark, signed along the stack's normal.
        series_id: the series it was cut from.
        shares: (3,) the belief that the landmark belongs on the slice before, on the middle one and on the one after,
            in the order of ``pixels``; NaN where stage two says nothing about it.
    """

    pixels: NDArray[np.float32]
    present: NDArray[np.bool_]
    centre_mm: NDArray[np.float64]
    right: NDArray[np.float64]
    down: NDArray[np.float64]
    spacing_mm: float
    offset_mm: float
    series_id: str
    shares: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class StudyCubes:
    """The cubes of a study.

    Attributes:
        study_id: of the study.
        cubes: for each cell (position in ``CELLS``) and kind of series, the nearest series first.
        numbering: (25, 3) as in :class:`~pipeline.landmarks.landmarks.Landmarks`.
    """

    study_id: str
    cubes: Mapping[tuple[int, SeriesKind], tuple[Cube, ...]]
    numbering: NDArray[np.float64] = field(default_factory=certain_numbering)

    def get(self, cell: Cell, kind: SeriesKind) -> tuple[Cube, ...]:
        """The cubes of a cell in one kind of series, () if no series shows it."""
        return self.cubes.get((CELL_INDEX[cell], kind), ())


Cubes = dict[CubeSettings, StudyCubes]
"""A study's cubes by the settings they were cut with: networks may look through different windows."""


def cut_cubes(
    study: StudyVolumes,
    landmarks: Landmarks,
    settings: CubeSettings,
    families: Iterable[Family] = tuple(Family),
) -> StudyCubes:
    """Cut the cubes of every cell whose point is known and shown.

    Args:
        study: the stacks of the study.
        landmarks: its level points.
        settings: views of each family.
        families: the condition families to cut.
    """
    wanted = set(families)
    unplaced = {volume.series_id for volume in study.volumes if not volume.is_placed}
    ready: dict[tuple[SeriesKind, float], list[Volume]] = {}
    cubes: dict[tuple[int, SeriesKind], tuple[Cube, ...]] = {}
    for index, cell in enumerate(CELLS):
        if cell.condition.family not in wanted:
            continue
        for view in settings.of(cell.condition.family):
            key = (view.kind, view.spacing_mm)
            if key not in ready:
                ready[key] = [prepared(volume, view.spacing_mm) for volume in study.of_kind(view.kind)]
            found = place_cell(cell, view, ready[key], landmarks, settings, unplaced)
            if found:
                cubes[index, view.kind] = tuple(_cut(place, view) for place in found)
    return StudyCubes(study.study_id, cubes, landmarks.numbering)


def prepared(volume: Volume, spacing_mm: float, limits: tuple[float, float] | None = None) -> Volume:
    """A stack as windows of pixels of ``spacing_mm`` are cut from it: normalised and, if they are larger, smoothed.

    Thin slices are averaged first (:attr:`pipeline.volumes.Volume.thickened`).

    Args:
        volume: the stack, or a part of one.
        spacing_mm: of the windows' pixels.
        limits: of grey of the whole stack where ``volume`` is a part of it.
    """
    volume = volume.thickened
    ready = dataclasses.replace(volume, pixels=normalise(volume.pixels, limits)) if limits else volume.normalised
    return resample_in_plane(ready, spacing_mm) if spacing_mm > _SMOOTH_FROM * min(volume.spacing_mm) else ready


@dataclass(frozen=True, eq=False)
class Place:
    """Where a cube is cut.

    Attributes:
        volume: the stack.
        slices: of it, in the order of the cube; None where there is none.
        frame: of the windows.
        offset_mm, shares: of the :class:`Cube`.
    """

    volume: Volume
    slices: tuple[int | None, ...]
    frame: Frame
    offset_mm: float
    shares: NDArray[np.float64]


def place_cell(
    cell: Cell,
    view: ViewSettings,
    volumes: Sequence[Volume],
    landmarks: Landmarks,
    settings: CubeSettings,
    unplaced: Collection[str],
) -> tuple[Place, ...]:
    """Where the cubes of a cell lie in the stacks of one kind, the best series first.

    Best is the nearest to the point; for the canal on axial slices first the stack in which stage two, or the reader,
    found the recesses of the level: where oblique stacks overlap, that one was chosen by its tilt too. No point is
    carried to or from a series whose place in the patient is assumed (``unplaced``).
    """
    points_mm, number = landmarks.points_mm, CELL_INDEX[cell]
    own = landmarks.series_id[number]
    point = points_mm[number]
    if not np.isfinite(point).all():
        return ()
    best: dict[str, tuple[bool, float, float, int, Volume]] = {}
    for volume in volumes:
        if volume.series_id != own and {volume.series_id, own} & set(unplaced):
            continue  # where they are in the patient is assumed, so that the point cannot be carried over
        middle = int(volume.nearest_slice(point[None])[0])
        offset = float(volume.to_pixel(point, np.array([middle]))[2][0])
        if abs(offset) > view.reach_mm or not volume.shows(point, middle):
            continue
        found = (not _shows_recesses(volume, cell, landmarks), abs(offset), offset, middle, volume)
        if volume.series_id not in best or found[:2] < best[volume.series_id][:2]:
            best[volume.series_id] = found
    places = []
    for _, _, offset, middle, volume in sorted(best.values(), key=lambda found: found[:2])[: settings.series]:
        frame = level_frame(cell, points_mm, volume.affines[middle].normal, volume.plane, settings.max_tilt_degrees)
        if frame is None:
            continue
        shares = _shares(landmarks.beside[number] if volume.series_id == own else np.full(2, np.nan))
        slices = _present_slices(volume.positions_mm, middle, view.slices // 2, view.gap_mm)
        if frame.reverse:
            slices, shares = slices[::-1], shares[::-1]
        places.append(Place(volume, tuple(slices), frame, offset, shares))
    return tuple(places)


def _shows_recesses(volume: Volume, cell: Cell, landmarks: Landmarks) -> bool:
    """Whether the subarticular points of a canal cell's level lie on slices of this stack."""
    if cell.condition.family is not Family.CANAL:
        return False
    recesses = (CELL_INDEX[Cell(c, cell.level)] for c in Condition if c.family is Family.SUBARTICULAR)
    return any(
        landmarks.series_id[i] == volume.series_id and landmarks.instance_number[i] in volume.instance_numbers
        for i in recesses
    )


def _shares(beside: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3,) before, own and after, from the belief in the slices beside a point."""
    return np.array([beside[0], 1 - beside.sum(), beside[1]])


def _cut(place: Place, view: ViewSettings) -> Cube:
    frame, volume = place.frame, place.volume
    pixels = np.zeros((view.slices, view.pixels, view.pixels), dtype=np.float32)
    for position, index in enumerate(place.slices):
        if index is not None:
            patch = sample_patch(
                volume, index, frame.centre_mm, frame.right, frame.down, (view.pixels, view.pixels), view.spacing_mm
            )
            pixels[position] = np.nan_to_num(patch, nan=0.0)
    return Cube(
        pixels=pixels,
        present=np.array([index is not None for index in place.slices]),
        centre_mm=frame.centre_mm,
        right=frame.right,
        down=frame.down,
        spacing_mm=view.spacing_mm,
        offset_mm=place.offset_mm,
        series_id=volume.series_id,
        shares=place.shares,
    )


def _present_slices(positions_mm: NDArray[np.float64], middle: int, half: int, gap_mm: float) -> list[int | None]:
    """Slice indices ``middle - half`` to ``middle + half``; None past the edge or a gap wider than ``gap_mm``."""
    chosen: list[int | None] = [None] * (2 * half + 1)
    chosen[half] = middle
    for direction in (-1, 1):
        for step in range(1, half + 1):
            index = middle + direction * step
            if not 0 <= index < len(positions_mm):
                break
            if abs(positions_mm[index] - positions_mm[index - direction]) > gap_mm:
                break
            chosen[half + direction * step] = index
    return chosen
