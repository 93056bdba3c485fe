"""A drawn spine with known points, and networks that see them: what stage two makes of perfect recognition.

Each point is a small bright square in the slices that show it, its grey level telling which point it is. The networks
here find squares by their grey level, so whatever stage two gets wrong with them is geometry, numbering or choice.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from pipeline.labels import CELL_INDEX, LEVELS, Cell, Condition, SeriesKind
from pipeline.landmarks.model import PointModelSettings, map_grid
from pipeline.volumes import Affine, Plane, StudyVolumes, Volume
from tests.volumes.oracle import at

X, Y, Z = np.eye(3)
DIRECTIONS = {Plane.SAGITTAL: (Y, -Z, X), Plane.AXIAL: (X, Y, -Z)}
"""Canonical directions of columns, rows and slices."""
HEIGHTS = np.array([70.0, 36.0, 1.0, -33.0, -64.0])
CANAL = np.column_stack([4 + 0.03 * HEIGHTS, 20 - 0.003 * (HEIGHTS - 10) ** 2, HEIGHTS])
"""(5, 3) canal points of a spine that leans to one side and is curved, off the middle of the magnet."""
FORAMEN, RECESS = np.array([17.0, -8.0, -2.0]), np.array([9.0, 4.0, 0.0])
"""From a canal point to the patient's left foramen and recess; the right ones mirrored."""
MIRROR = np.array([-1.0, 1.0, 1.0])
CANAL_GREY, FORAMEN_GREY, RECESS_GREY = 0.1, 0.5, 0.95
GREY_STEP = 0.08


def truth() -> np.ndarray:
    """(25, 3) the points in the order of CELLS, patient LPS mm."""
    points = np.zeros((25, 3))
    offsets = {
        Condition.CANAL: np.zeros(3),
        Condition.LEFT_FORAMINAL: FORAMEN,
        Condition.RIGHT_FORAMINAL: FORAMEN * MIRROR,
        Condition.LEFT_SUBARTICULAR: RECESS,
        Condition.RIGHT_SUBARTICULAR: RECESS * MIRROR,
    }
    for condition, offset in offsets.items():
        for number, level in enumerate(LEVELS):
            points[CELL_INDEX[Cell(condition, level)]] = CANAL[number] + offset
    return points


def stack(
    plane: Plane,
    centres: np.ndarray,
    shape: tuple[int, int],
    spacing_mm: float | tuple[float, float],
    kind: SeriesKind,
    series_id: str = "1",
    directions: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
    mirrored: bool = False,
) -> Volume:
    """An empty stack in canonical orientation.

    Args:
        plane: of the slices.
        centres: (S, 3) middle of each slice, mm.
        shape: (rows, cols).
        spacing_mm: of rows and columns.
        kind: of the series.
        series_id: of the series.
        directions: of columns, rows and slices; canonical ones by default.
        mirrored: the file holds its slices backwards, upside down and mirrored.
    """
    right, down, through = directions or DIRECTIONS[plane]
    row_mm, col_mm = np.broadcast_to(spacing_mm, 2)
    rows, cols = shape
    matrices = np.tile(np.eye(4), (len(centres), 1, 1))
    matrices[:, :3, 0], matrices[:, :3, 1], matrices[:, :3, 2] = right * col_mm, down * row_mm, through
    matrices[:, :3, 3] = np.asarray(centres) - right * col_mm * (cols - 1) / 2 - down * row_mm * (rows - 1) / 2
    affines = source = Affine(matrices)
    numbers = np.arange(1, len(centres) + 1)
    if mirrored:
        flip = np.array([[-1.0, 0, 0, cols - 1], [0, -1, 0, rows - 1], [0, 0, 1, 0], [0, 0, 0, 1]])
        source, numbers = affines @ Affine(flip), numbers[::-1].copy()
    pixels = np.zeros((len(centres), rows, cols), np.float32)
    return Volume(pixels, affines, source, numbers, plane, kind, "77", series_id)


def places(volume: Volume) -> np.ndarray:
    """(S, R, C, 3) patient mm of every pixel."""
    index, row, col = (grid.ravel() for grid in np.indices(volume.shape))
    return at(volume, index, col, row).reshape(*volume.shape, 3)


def draw(volume: Volume, points: np.ndarray, greys: np.ndarray, reach_mm: float, side_mm: float = 8.0) -> Volume:
    """The volume with a square for each point on the slices within reach; one corner is white in every slice."""
    pixels = volume.pixels.copy()
    _, rows, cols = np.indices(volume.shape)
    for point, grey in zip(points, greys, strict=True):
        for index in range(len(pixels)):
            col, row, offset = volume.to_pixel(point[None], np.array([index]))
            if abs(float(offset[0])) <= reach_mm:
                row_mm, col_mm = volume.spacing_mm
                inside = (np.abs(rows[index] - row) * row_mm <= side_mm / 2) & (
                    np.abs(cols[index] - col) * col_mm <= side_mm / 2
                )
                pixels[index][inside] = grey
    pixels[:, 0, 0] = 1.0
    return replace(volume, pixels=pixels)


def greys(base: float) -> np.ndarray:
    """(5,) grey level of each level's square."""
    return base + GREY_STEP * np.arange(5)


def sagittal(
    kind: SeriesKind,
    series_id: str,
    x_mm: np.ndarray | None = None,
    mirrored: bool = False,
    lowest_mm: float = -110.0,
    points: np.ndarray | None = None,
) -> Volume:
    """A sagittal series of the drawn spine, 4.4 mm from slice to slice; ``lowest_mm`` is where the image ends."""
    x_mm = np.arange(-30.0, 38.0, 4.4) if x_mm is None else x_mm
    rows = round((110 - lowest_mm) / 1.4)
    centres = np.column_stack([x_mm, np.full(len(x_mm), 10.0), np.full(len(x_mm), 110 - (rows - 1) * 0.7)])
    volume = stack(Plane.SAGITTAL, centres, (rows, 130), 1.4, kind, series_id, mirrored=mirrored)
    points = truth() if points is None else points
    volume = draw(volume, points[:5], greys(CANAL_GREY), 7.0)
    for start in (5, 10):
        volume = draw(volume, points[start : start + 5], greys(FORAMEN_GREY), 3.0)
    return volume


def axial(series_id: str = "9", mirrored: bool = False, levels: tuple[int, ...] = (0, 1, 2, 3, 4)) -> list[Volume]:
    """A stack of three slices for each level, 4 mm apart."""
    points, volumes = truth(), []
    for level in levels:
        centres = np.array([[0.0, 10.0, HEIGHTS[level] + step] for step in (4.5, 0.5, -3.5)])
        volume = stack(Plane.AXIAL, centres, (150, 150), 1.0, SeriesKind.AXIAL_T2, series_id, mirrored=mirrored)
        numbers = volume.instance_numbers + 3 * level
        volume = replace(volume, instance_numbers=numbers)
        volumes.append(draw(volume, points[[15 + level, 20 + level]], np.full(2, RECESS_GREY), 3.0, side_mm=7.0))
    return volumes


def study(*volumes: Volume) -> StudyVolumes:
    """A study of these stacks."""
    return StudyVolumes("77", tuple(volumes), ())


class SeeingNet(nn.Module):
    """Finds squares: a sharp map and a high visibility where there is one, a flat map and a low one where not."""

    def __init__(self, size_px: int, channel_greys: np.ndarray, only_right_half: bool = False) -> None:
        super().__init__()
        self.settings = PointModelSettings(size_px=size_px, channels=len(channel_greys))
        self.stride = 4
        self.greys = channel_greys
        self.only_right_half = only_right_half

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        side = images.shape[-1] // self.stride
        grid = map_grid((side, side), self.stride, images.device)
        pixels = map_grid(images.shape[-2:], 1, images.device)
        heat = torch.zeros(len(images), len(self.greys), side * side)
        visible = torch.full((len(images), len(self.greys)), -5.0)
        points = torch.full((len(images), len(self.greys), 2), (images.shape[-1] - 1) / 2)
        brightest = functional.max_pool2d(images, 3, 1, 1).flatten(1)
        darkest = -functional.max_pool2d(-images, 3, 1, 1).flatten(1)
        for channel, grey in enumerate(self.greys):
            inside = ((brightest - grey).abs() < 0.02) & ((darkest - grey).abs() < 0.02)
            if self.only_right_half:
                inside = inside & (pixels[:, 0] > images.shape[-1] / 2)
            for k in torch.nonzero(inside.sum(1) >= 4)[:, 0]:
                points[k, channel] = pixels[inside[k]].mean(0)
                heat[k, channel] = -(grid - points[k, channel]).square().sum(1) / (2 * 4.0**2)
                visible[k, channel] = 3.0 + 0.001 * float(inside[k].sum())
        return {"points": points, "heat": heat.reshape(len(images), -1, side, side), "visible": visible}


def sagittal_net() -> SeeingNet:
    """Ten channels: canal, foramina."""
    return SeeingNet(192, np.concatenate([greys(CANAL_GREY), greys(FORAMEN_GREY)]))


def axial_net() -> SeeingNet:
    """One channel: the left recess, which on a canonical axial window is on the right-hand side."""
    return SeeingNet(96, np.array([RECESS_GREY]), only_right_half=True)
