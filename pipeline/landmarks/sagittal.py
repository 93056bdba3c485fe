"""Sagittal series: network output on every slice → canal and foraminal points in the patient.

Slices vote: the map of a group (all slices for the canal, one side's slices for the foramina) is the mean of its
slices' maps weighted by visibility; the levels are decoded on it once, and each point is then taken from the slice that
shows it best. Sides come from patient x relative to the canal (LPS, +x is the patient's left), never from slice order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from pipeline.device import half_precision
from pipeline.labels import Side
from pipeline.landmarks.canvas import Canvases, whole_slice_canvases
from pipeline.landmarks.decode import Chain, DecodeSettings, decode_levels, reconcile, refine
from pipeline.landmarks.model import CANAL_CHANNELS, FORAMINAL_CHANNELS, PointNet, map_grid
from pipeline.volumes import Volume

VISIBLE_CANAL = 0.4
"""A canal seen with at least this visibility places the midline; below it the foramina do."""
VISIBLE_CANAL_T2 = 0.1
"""The same on T2, where a whole lumbar series always holds the canal, however unusual its contrast."""
SIDE_GAP_MM = 8.0
"""Foramina of the two sides lie further apart than this (adult interpedicular distances are 20 mm and more)."""
MASS_WEIGHT = 1.2
"""Of a slice's own map against its visibility, as log-odds; fitted together with ``DecodeSettings.lateral``."""
BESIDE_MM = 6.0
"""The preference for a side decides between a slice and those beside it, 4 to 5 mm away, not about further ones."""
GAP_MM = 9.0
"""A slice further from its neighbour than this is not beside it; the same as the views of the cubes have."""
SLICES_A_BATCH = 24
"""Slices the network sees at a time."""


@dataclass(frozen=True, eq=False)
class SliceOutput:
    """The network's view of one sagittal volume.

    Attributes:
        canvases: S slices.
        maps: (S, 10, H, W) probability maps.
        visible: (S, 10) between 0 and 1.
        positions: (H, W, 2) canvas x, y of the maps' cells.
        x_mm: (S,) patient x of each slice's centre.
    """

    canvases: Canvases
    maps: np.ndarray
    visible: np.ndarray
    positions: np.ndarray
    x_mm: np.ndarray


@dataclass(frozen=True, eq=False)
class LevelPoints:
    """Five points of one kind on one volume.

    Attributes:
        volume: the volume on which they lie.
        points_mm: (5, 3) patient LPS mm; NaN where absent.
        slice_index: (5,) the slice of each, -1 where absent.
        confidence: (5,) between 0 and 1.
        beside: (5, 2) belief that the point belongs on the slice before or after its own, in the stack's order; NaN
            where nothing is said about it.
        chain: the decoded levels, for the consistency between series.
    """

    volume: Volume
    points_mm: np.ndarray
    slice_index: np.ndarray
    confidence: np.ndarray
    beside: np.ndarray
    chain: Chain


@torch.inference_mode()
def run_network(model: PointNet, volume: Volume, device: torch.device, batch: int = SLICES_A_BATCH) -> SliceOutput:
    """Run the network on every slice of a sagittal volume."""
    size = model.settings.size_px
    canvases = whole_slice_canvases(volume, size)
    maps, visible = [], []
    for start in range(0, len(canvases.images), batch):
        images = torch.from_numpy(np.ascontiguousarray(canvases.images[start : start + batch]))[:, None].float()
        images = images.to(device, memory_format=torch.channels_last)
        with half_precision(device):
            output = model(images)
        heat = output["heat"]
        maps.append(heat.flatten(2).softmax(dim=-1).reshape(heat.shape).cpu().numpy())
        visible.append(output["visible"].float().sigmoid().cpu().numpy())
    stacked = np.concatenate(maps)
    positions = map_grid(stacked.shape[-2:], model.stride, torch.device("cpu")).numpy()
    x_mm = (canvases.affines @ ((size - 1) / 2, (size - 1) / 2, 0))[:, 0]
    return SliceOutput(
        canvases, stacked, np.concatenate(visible), positions.reshape(*stacked.shape[-2:], 2).astype(float), x_mm
    )


def canal_points(output: SliceOutput, settings: DecodeSettings) -> LevelPoints:
    """The five canal points of a volume, each on the slice nearest to the middle of the canal at its level.

    The middle is where the canal is visible: the visibility-weighted x of each level, made a straight line over the
    levels (a scoliotic spine leans), because a single slice's visibility is noisy.
    """
    visible = output.visible[:, CANAL_CHANNELS]
    maps = _group_maps(output, np.arange(len(visible)), CANAL_CHANNELS)
    chain = decode_levels(maps, output.positions, output.canvases.pixel_mm, settings)
    levels = np.nonzero(np.isfinite(chain.points[:, 0]))[0]
    weights = np.square(visible) + 1e-6
    middle = (weights * output.x_mm[:, None]).sum(axis=0) / weights.sum(axis=0)
    if len(levels) >= 3:
        slope, intercept = np.polyfit(levels, middle[levels], 1, w=visible[:, levels].max(axis=0) + 1e-3)
        middle = slope * np.arange(len(middle)) + intercept
    chosen = np.abs(output.x_mm[:, None] - middle[None]).argmin(axis=0)
    return _place(output, chain, chosen, CANAL_CHANNELS, settings)


def foraminal_points(
    output: SliceOutput, midline_mm: np.ndarray, settings: DecodeSettings, at_levels: bool = True
) -> dict[Side, LevelPoints]:
    """The five foraminal points of each side, each on the slice that shows it best.

    Args:
        output: the network's view of the volume.
        midline_mm: (5,) patient x of the midline at each level, mm.
        settings: of the decoding.
        at_levels: the midline is known at the height of each level, so that slices are compared with it there: on a
            stack that is tilted by 10 degrees, the middle of a slice is 13 mm to the side of its place at L1. False
            compares the slices' middles, as the midline was found.

    Returns:
        The sides on which there are slices.
    """
    groups = _sides(output, output.x_mm[:, None] - midline_mm[None])
    if not groups:
        return {}
    pixel_mm = output.canvases.pixel_mm
    both = decode_levels(np.mean([maps for _, maps in groups.values()], axis=0), output.positions, pixel_mm, settings)
    if at_levels:
        groups = _sides(output, _x_at(output, both.points) - midline_mm[None])
    found = {}
    for side, (lateral_mm, maps) in groups.items():
        here: np.ndarray = lateral_mm > 0
        chain = decode_levels(maps, output.positions, pixel_mm, settings)
        chain = reconcile(chain, both, maps, output.positions, pixel_mm)
        shown: np.ndarray = np.any(here, axis=0)  # a spine that leans may have slices on this side at some levels only
        chain = replace(chain, points=np.where(shown[:, None], chain.points, np.nan))
        visible = np.where(here, output.visible[:, FORAMINAL_CHANNELS], -1.0)
        mass = np.zeros_like(visible)
        for level in np.nonzero(np.isfinite(chain.points[:, 0]))[0]:
            near = np.linalg.norm(output.positions - chain.points[level], axis=-1) * pixel_mm
            mass[:, level] = (output.maps[:, FORAMINAL_CHANNELS][:, level] * (near <= settings.radius_mm)).sum((1, 2))
        chosen, beside = marked_slices(visible, mass, lateral_mm, settings)
        found[side] = replace(_place(output, chain, chosen, FORAMINAL_CHANNELS, settings), beside=beside)
    return found


def marked_slices(
    visible: np.ndarray, mass: np.ndarray, lateral_mm: np.ndarray, settings: DecodeSettings
) -> tuple[np.ndarray, np.ndarray]:
    """The slice on which each foramen of a side would be marked: the one that shows it best, or one beside it.

    Args:
        visible: (slices, 5) between 0 and 1, negative where the slice is not on this side of the level.
        mass: (slices, 5) share of each slice's own map within reach of the decoded point.
        lateral_mm: (slices, 5) how far each slice lies to the side of the midline at each level.
        settings: ``lateral``, the preference by level.

    Returns:
        (5,) slices, and (5, 2) the belief that it is the slice before or after that one.
    """
    own = (visible * (0.2 + mass)).argmax(axis=0)
    p = np.clip(visible, 1e-4, 1 - 1e-4)
    score = np.log(p / (1 - p)) + MASS_WEIGHT * np.log(0.2 + mass) + np.array(settings.lateral) * lateral_mm
    score[visible < 0] = -np.inf
    levels = np.arange(len(own))
    near = np.abs(lateral_mm - lateral_mm[own, levels]) <= BESIDE_MM
    chosen = np.where(near, score, -np.inf).argmax(axis=0)
    near = np.abs(lateral_mm - lateral_mm[chosen, levels]) <= GAP_MM
    padded = np.pad(np.where(near, score, -np.inf), ((1, 1), (0, 0)), constant_values=-np.inf)
    around = padded[chosen + np.arange(3)[:, None], levels]  # before, own and after
    odds = np.exp(around - np.maximum(around[1], -1e3))
    beside: np.ndarray = (odds / np.maximum(odds.sum(axis=0), 1e-9))[[0, 2]].T
    return chosen, beside


def midline_from(output: SliceOutput, canal: LevelPoints | None) -> tuple[np.ndarray, str]:
    """Patient x of the midline at each level, in mm, and how it was found.

    From the canal where one was seen (on this or another series); else between the two groups of slices that show
    foramina (the split with the largest variance between groups, Otsu 1979); else from patient x = 0, the middle of the
    magnet, where technologists centre the spine.
    """
    if canal is not None:
        known = np.isfinite(canal.points_mm[:, 0])
        if known.any():
            levels = np.nonzero(known)[0]
            return np.interp(np.arange(5), levels, canal.points_mm[levels, 0]), "canal"
    x = np.sort(output.x_mm)
    weights = output.visible[:, FORAMINAL_CHANNELS].max(axis=1)[np.argsort(output.x_mm)] + 1e-3
    best, split, gap = 0.0, None, 0.0
    for i in range(1, len(x)):
        low, high = weights[:i].sum(), weights[i:].sum()
        means = (weights[:i] @ x[:i]) / low, (weights[i:] @ x[i:]) / high
        between = low * high * (means[1] - means[0]) ** 2
        if between > best:
            best, split, gap = between, (means[0] + means[1]) / 2, means[1] - means[0]
    if split is None or gap < SIDE_GAP_MM:
        return np.zeros(5), "patient x = 0"
    return np.full(5, split), "foramina"


def sees_canal(output: SliceOutput, least: float = VISIBLE_CANAL) -> bool:
    """Whether the volume shows the canal with at least this visibility (median over levels of the best slice)."""
    return bool(np.median(output.visible[:, CANAL_CHANNELS].max(axis=0)) >= least)


def _group_maps(output: SliceOutput, slices: np.ndarray, channels: slice) -> np.ndarray:
    """(5, H, W) mean of the maps of a group of slices, weighted by visibility."""
    weights = output.visible[slices][:, channels] + 1e-3
    maps: np.ndarray = np.einsum("sl,slhw->lhw", weights / weights.sum(axis=0), output.maps[slices][:, channels])
    return maps


def _sides(output: SliceOutput, distance: np.ndarray) -> dict[Side, tuple[np.ndarray, np.ndarray]]:
    """By side that has slices: (slices, 5) mm to the side of the midline, and (5, H, W) the mean map of its slices."""
    groups = {}
    for side, sign in ((Side.LEFT, 1.0), (Side.RIGHT, -1.0)):
        lateral: np.ndarray = sign * distance
        slices = np.nonzero((lateral > 0).any(axis=1))[0]
        if len(slices):
            groups[side] = (lateral, _group_maps(output, slices, FORAMINAL_CHANNELS))
    return groups


def _x_at(output: SliceOutput, points: np.ndarray) -> np.ndarray:
    """(slices, 5) patient x of each slice at the height of each level, mm; of its middle where a level is absent."""
    x = np.repeat(output.x_mm[:, None], len(points), axis=1)
    for level in np.nonzero(np.isfinite(points[:, 0]))[0]:
        x[:, level] = (output.canvases.affines @ (*points[level], 0))[:, 0]
    return x


def _place(
    output: SliceOutput, chain: Chain, chosen: np.ndarray, channels: slice, settings: DecodeSettings
) -> LevelPoints:
    """Each level's point on its chosen slice, by that slice's own map; absent where that is outside the image."""
    points_mm, index = np.full((5, 3), np.nan), np.full(5, -1)
    confidence = np.zeros(5)
    for level in np.nonzero(np.isfinite(chain.points[:, 0]))[0]:
        k = int(chosen[level])
        channel = (channels.start or 0) + int(level)
        point, mass = refine(
            output.maps[k, channel],
            output.positions,
            chain.points[level],
            output.canvases.pixel_mm,
            settings.radius_mm,
        )
        if mass < 0.2:  # this slice's own map looks elsewhere: the group's point stands
            point = chain.points[level]
        place = output.canvases.affines[k] @ (*point, 0)
        if not output.canvases.volume.shows(place, int(output.canvases.slice_index[k])):
            continue
        points_mm[level], index[level] = place, output.canvases.slice_index[k]
        confidence[level] = chain.confidence[level] * float(output.visible[:, channel].max()) ** 0.5
    return LevelPoints(output.canvases.volume, points_mm, index, confidence, np.full((5, 2), np.nan), chain)
