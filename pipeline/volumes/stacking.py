"""Slices at the same places: repeats, further contrasts, localisers. Which make up one stack, and which are used.

A scanner may store several images of one slice in one series (echoes, Dixon's water and fat), a technologist may repeat
a block, and a localiser may be filed with the series it planned. One stack holds one image of a place.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.volumes.affine import Floats
from pipeline.volumes.belonging import ContrastKey, contrast_key
from pipeline.volumes.geometry import MOTION_DEGREES, SAME_POSITION_MM, angle_degrees
from pipeline.volumes.placing import PlacedFrame
from pipeline.volumes.volume import Plane

REPEATED_STEPS = 0.35
"""Slices nearer than this many steps are of one place: scanners overlap slices by half at most."""
_OVERLAP = 0.6
"""The same where the header says that they are of two acquisitions or contrasts, in slice thicknesses."""
_MOST_CONTRASTS = 64
_COARSER = 2.0
_SCOUT_SLICES = 7
"""A few slices of voxels so many times larger than those of many are a localiser's."""
_MAIN_SHARE = 2 / 3
"""Of the slices of one size and spacing, those of one plane; a localiser has about a third in each."""


def split_contrasts(stack: Sequence[PlacedFrame]) -> list[list[PlacedFrame]]:
    """A stack by echo, image type and acquisition, where these show the same places; otherwise as it is.

    Slices that two acquisitions took in turn (odd and even ones) stay together.
    """
    groups: dict[ContrastKey, list[PlacedFrame]] = {}
    for one in stack:
        groups.setdefault(contrast_key(one.frame), []).append(one)
    if not 1 < len(groups) <= _MOST_CONTRASTS:
        return [list(stack)]
    unions: list[list[PlacedFrame]] = []
    for group in sorted(groups.values(), key=len, reverse=True):
        home = next((union for union in unions if not overlap(union, group)), None)
        if home is None:
            unions.append(list(group))
        else:
            home.extend(group)
    return unions


def overlap(first: Sequence[PlacedFrame], second: Sequence[PlacedFrame]) -> bool:
    """Whether half of the slices of the smaller of two stacks lie where the other has slices, too."""
    normal = first[0].affine.normal
    if angle_degrees(first[0].affine, second[0].affine) > MOTION_DEGREES:
        return False
    a, b = (np.sort([float(one.centre_mm @ normal) for one in group]) for group in (first, second))
    few, many = (a, b) if len(a) <= len(b) else (b, a)
    steps = np.diff(many)
    thickness = _millimetres(first[0].frame.thickness_mm)
    if len(steps):
        step = float(np.median(steps))
        reach = REPEATED_STEPS * step if thickness is None else _OVERLAP * min(step, thickness)
    else:
        reach = REPEATED_STEPS * (thickness or 0.0)
    apart = np.abs(few[:, None] - many[None]).min(axis=1)
    return bool(np.mean(apart <= max(reach, SAME_POSITION_MM)) >= 0.5)


def same_place_mm(places: Floats, placed: PlacedFrame) -> float:
    """How near two slices of a stack are taken for images of one place.

    A block that was repeated with a small shift would otherwise double the stack. Headers are believed only where the
    slices, told apart so, are as far from each other as the header says.

    Args:
        places: (N,) along the normal, rising.
        placed: one of the slices.
    """
    step = _millimetres(placed.frame.between_mm) or _millimetres(placed.frame.thickness_mm)
    if step is None:
        return SAME_POSITION_MM
    layers: list[list[float]] = []
    for place in places.tolist():
        layer = next((one for one in layers if place - one[-1] > REPEATED_STEPS * step), None)
        if layer is None:
            layers.append([place])
        else:
            layer.append(place)
    regular = all(len(one) > 2 and abs(float(np.median(np.diff(one))) - step) <= step / 4 for one in layers)
    return REPEATED_STEPS * step if len(layers) > 1 and regular else SAME_POSITION_MM


def find_strangers(
    stacks: Sequence[Sequence[PlacedFrame]], sources: Sequence[int], told: Plane | None
) -> dict[int, tuple[str, str]]:
    """Stacks of a folder that are not of its series, by their number: code and sentence.

    Args:
        stacks: all of the folder.
        sources: which of the folder's series each belongs to. Where no table says what the folder holds, a series of
            many slices is judged by itself: several in one folder may each have their own plane.
        told: the plane that the series table claims.
    """
    planes = [stack[0].plane for stack in stacks]
    slices: Counter[int] = Counter()
    for source, stack in zip(sources, stacks, strict=True):
        slices[source] += len(stack)
    grids: defaultdict[tuple[object, ...], list[int]] = defaultdict(list)
    for number, (source, stack) in enumerate(zip(sources, stacks, strict=True)):
        alone = told is None and slices[source] > _SCOUT_SLICES
        grids[source if alone else None, *_grid(stack[0])].append(number)
    strangers: dict[int, tuple[str, str]] = {}
    for numbers in grids.values():
        count: Counter[Plane] = Counter()
        for number in numbers:
            count[planes[number]] += len(stacks[number])
        main = max(count, key=count.__getitem__)
        if len(count) > 1 and count[main] < _MAIN_SHARE * count.total():
            found = ", ".join(f"{slices} {plane}" for plane, slices in count.items())
            strangers |= dict.fromkeys(numbers, ("localiser", f"slices of several planes ({found}); not used"))
        elif told is None:
            other = {n: ("other-plane", f"{planes[n]} slices in a {main} series; not used") for n in numbers}
            strangers |= {n: why for n, why in other.items() if planes[n] is not main}
    for number, plane in enumerate(planes):
        if told not in (None, plane):
            sentence = f"the slices are {plane}, where the table says {told}; not used"
            strangers.setdefault(number, ("plane-differs", sentence))
    return strangers | _coarse(stacks, strangers)


def _coarse(
    stacks: Sequence[Sequence[PlacedFrame]], strangers: dict[int, tuple[str, str]]
) -> dict[int, tuple[str, str]]:
    """Stacks of a few slices with far larger voxels than others of their plane."""
    slices: Counter[tuple[Plane, tuple[object, ...]]] = Counter()
    grids = [(stack[0].plane, _grid(stack[0])) for stack in stacks]
    for number, stack in enumerate(stacks):
        if number not in strangers:
            slices[grids[number]] += len(stack)
    volume = {grid: _voxel_mm3(stack[0]) for grid, stack in zip(grids, stacks, strict=True)}
    found = {}
    for number, grid in enumerate(grids):
        rivals = [other for other in slices if other[0] is grid[0] and 2 * slices[grid] < slices[other]]
        few = number not in strangers and slices[grid] <= _SCOUT_SLICES
        if few and any(volume[grid] > _COARSER * volume[other] for other in rivals):
            found[number] = ("localiser", f"{slices[grid]} slices, coarser than the others of the folder; not used")
    return found


def _grid(placed: PlacedFrame) -> tuple[object, ...]:
    rows, cols = placed.frame.source.format.rows, placed.frame.source.format.cols
    return (
        min(rows, cols),
        max(rows, cols),
        *np.round(sorted(placed.affine.spacing_mm), 3).tolist(),
        placed.frame.thickness_mm,
    )


def _voxel_mm3(placed: PlacedFrame) -> float:
    return float(np.prod(placed.affine.spacing_mm)) * (_millimetres(placed.frame.thickness_mm) or 4.0)


def _millimetres(value: float | None) -> float | None:
    return value if value is not None and 0.1 <= value <= 50 else None


def spoiled_slices(pixels: NDArray[np.float32]) -> list[int]:
    """Slices of a stack that are all far brighter than the rest of it: spikes of the scanner, saturated noise.

    Grey levels are scaled by the whole stack, which one such slice would leave without contrast. At most a fifth of the
    slices can be spoiled; more are another kind of image.

    Args:
        pixels: (slices, rows, cols).
    """
    if len(pixels) < 5:
        return []
    low, middle, high = np.percentile(pixels[:, ::4, ::4].reshape(len(pixels), -1), (1, 50, 99), axis=1)
    base, usual = float(np.median(low)), float(np.median(high - low))
    found = np.flatnonzero((middle - base > 2 * usual) & (high - base > 8 * usual) & (usual > 0))
    return found.tolist() if len(found) <= len(pixels) // 5 else []
