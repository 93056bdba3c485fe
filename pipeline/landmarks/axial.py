"""Axial series: the two subarticular points of each level.

Which slice shows a level is geometry, not recognition: the canal point found on the sagittal series is projected into
patient space and the nearest axial slice over all stacks and series is taken (about 97 % right in the published
solutions, better than learned level classifiers). A small network then finds the left point in a window around the
projected canal point, and the right point in the mirrored window.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pipeline.config import check_range
from pipeline.device import half_precision
from pipeline.labels import LEVELS
from pipeline.landmarks.canvas import window_canvas
from pipeline.landmarks.decode import refine
from pipeline.landmarks.model import PointNet, map_grid
from pipeline.volumes import Affine, Volume

STEP_MM = 33.0
"""Distance between adjacent lumbar discs where nothing in the study tells it: adult mean, as in the decoder's prior."""


@dataclass(frozen=True)
class AxialSettings:
    """Where axial slices are looked for and what is believed of them.

    Attributes:
        reach_mm: a slice further than this from the canal point does not show the level.
        tilt_mm: what a slice at a right angle to the canal costs against its distance; among slices equally near, the
            one cut along the disc is wanted.
        pixel_mm: side of the window's pixels.
        lateral_mm: the recess, to the side of the canal point, where the network is blind.
        posterior_mm: the same, behind it. Both are the medians of the phantom's exact points.
        believed_mm: a point further than this from that place is not believed.
        trust: how far towards the network's point, from that place (0) to the point itself (1). Less than 1 is for
            a network that has not seen images like these, e.g. one of phantoms alone on real ones.
    """

    reach_mm: float = 10.0
    tilt_mm: float = 8.0
    pixel_mm: float = 1.0
    lateral_mm: float = 10.0
    posterior_mm: float = 4.0
    believed_mm: float = 12.0
    trust: float = 1.0

    def __post_init__(self) -> None:
        check_range(self, "trust", least=0, most=1)
        check_range(self, "pixel_mm", least=0.05, most=20)
        check_range(self, "reach_mm", "tilt_mm", "lateral_mm", "posterior_mm", "believed_mm", least=0, most=200)


@dataclass(frozen=True, eq=False)
class RecessPoints:
    """The left and right subarticular point of one level on one axial slice.

    Attributes:
        volume: the stack.
        slice_index: its slice.
        points_mm: (2, 3) patient LPS mm, left then right.
        confidence: (2,) between 0 and 1.
    """

    volume: Volume
    slice_index: int
    points_mm: np.ndarray
    confidence: np.ndarray


def choose_slice(
    volumes: list[Volume], point_mm: np.ndarray, along: np.ndarray, settings: AxialSettings
) -> tuple[int, int, float] | None:
    """The axial slice that shows a level.

    Args:
        volumes: all axial stacks of the study.
        point_mm: (3,) the canal point, patient LPS mm.
        along: (3,) unit vector along the spine there.
        settings: reach and tilt.

    Returns:
        Number of the stack, slice, and its distance in mm; None if no slice is within reach.
    """
    best: tuple[float, int, int, float] | None = None
    for number, volume in enumerate(volumes):
        count = len(volume.pixels)
        column, row, offset = volume.to_pixel(np.repeat(point_mm[None], count, axis=0), np.arange(count))
        inside = (
            (column >= 0) & (column <= volume.pixels.shape[2] - 1) & (row >= 0) & (row <= volume.pixels.shape[1] - 1)
        )
        tilt = settings.tilt_mm * (1 - abs(float(np.dot(volume.normal, along))))
        for index in np.nonzero(inside & (np.abs(offset) <= settings.reach_mm))[0]:
            distance = abs(float(offset[index]))
            if best is None or distance + tilt < best[0]:
                best = (distance + tilt, number, int(index), distance)
    return None if best is None else best[1:]


@torch.inference_mode()
def find_recesses(
    model: PointNet | None,
    volumes: list[Volume],
    places: list[tuple[int, int, np.ndarray]],
    device: torch.device,
    settings: AxialSettings,
) -> list[RecessPoints]:
    """Find both points on each chosen slice.

    Args:
        model: the axial network; None takes the place that geometry expects, with low confidence.
        volumes: the stacks.
        places: stack, slice and canal point (3,) in mm of each level to do.
        device: of the model.
        settings: window and beliefs.
    """
    size = model.settings.size_px if model is not None else 96
    ready = {number: volumes[number].normalised for number in {number for number, _, _ in places}}
    windows = [window_canvas(ready[n], index, point, size, settings.pixel_mm) for n, index, point in places]
    expected = _expected_points(places, windows, settings)
    found = expected.copy()
    masses = np.zeros((len(places), 2))
    if model is not None and places:
        stack = np.stack([half for image, _ in windows for half in (image, image[:, ::-1])])
        images = torch.from_numpy(stack)[:, None].float().to(device, memory_format=torch.channels_last)
        with half_precision(device):
            heat = model(images)["heat"]
        maps = heat.flatten(2).softmax(dim=-1).reshape(heat.shape).cpu().numpy()[:, 0]
        grid = map_grid(maps.shape[-2:], model.stride, torch.device("cpu")).numpy().reshape(*maps.shape[-2:], 2)
        for i in range(len(places)):
            for side in range(2):
                heat_map = maps[2 * i + side]
                peak = grid[np.unravel_index(heat_map.argmax(), heat_map.shape)]
                point, mass = refine(heat_map, grid, peak, settings.pixel_mm, 6.0)
                if side == 1:
                    point = np.array([size - 1 - point[0], point[1]])
                near = np.linalg.norm(point - expected[i, side]) * settings.pixel_mm <= settings.believed_mm
                if near and mass >= 0.2:
                    found[i, side] += settings.trust * (point - expected[i, side])
                    masses[i, side] = mass
    results = []
    for i, (number, index, _) in enumerate(places):
        points_mm = windows[i][1] @ np.column_stack([found[i], np.zeros(2)])
        results.append(RecessPoints(volumes[number], index, points_mm, np.maximum(masses[i], 0.1)))
    return results


def levels_from_stacks(volumes: list[Volume]) -> np.ndarray:
    """(5, 3) the middles of the five lowest axial stacks, taken for L1/L2 to L5/S1; all NaN where there are fewer.

    Stacks whose middles lie within half the usual distance between discs are one place: the same slices again, in
    another series. One block through all levels tells none of them: divided evenly, it scored worse on phantoms than
    the class frequencies.
    """
    middles = np.array([volume.centres_mm.mean(axis=0) for volume in volumes])
    places: list[np.ndarray] = []
    for middle in middles[np.argsort(middles[:, 2])]:
        if not places or middle[2] - places[-1][2] > STEP_MM / 2:
            places.append(middle)
    points = np.full((len(LEVELS), 3), np.nan)
    if len(places) >= len(LEVELS):
        points[::-1] = places[: len(LEVELS)]
    return points


def _expected_points(
    places: list[tuple[int, int, np.ndarray]],
    windows: list[tuple[np.ndarray, Affine]],
    settings: AxialSettings,
) -> np.ndarray:
    """(N, 2, 2) where the recesses lie in the windows by anatomy alone: left then right, x, y."""
    expected = np.zeros((len(places), 2, 2))
    for i, (_, affine) in enumerate(windows):
        centre = (affine.inverse @ places[i][2])[:2]
        # Canonical axial columns run to the patient's left, rows to posterior.
        for side, sign in enumerate((1.0, -1.0)):
            offset = np.array([sign * settings.lateral_mm, settings.posterior_mm]) / settings.pixel_mm
            expected[i, side] = centre + offset
    return expected
