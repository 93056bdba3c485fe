"""What SliceLocation (0020,1041) and positions say of each other where a header is not sound.

SliceLocation is measured: it is the place of a slice along the normal. But the standard leaves open which way it counts
(in one study of the competition it runs with the normal of axial slices and against that of sagittal ones), so a side
follows from it only where sound slices of the same plane in the study show which way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.volumes.affine import Floats
from pipeline.volumes.geometry import plane_of
from pipeline.volumes.volume import Plane

if TYPE_CHECKING:
    from pipeline.volumes.headers import Frame

_SAME_MM = 0.5
"""SliceLocation is written with fewer digits than positions."""
_CLEARLY_MM = 0.1
_LEAST_STEP_MM = 0.05


@dataclass(frozen=True, eq=False)
class Located:
    """Slices placed along their normal.

    Attributes:
        along_mm: (N,) from the anchor, or from the origin, along the normal of the file's slices.
        anchor_mm: (3,) the one measured position, None where there is none.
        is_signed: it is known which way SliceLocation counts.
    """

    along_mm: Floats
    anchor_mm: Floats | None
    is_signed: bool


def locate(
    frames: Sequence[Frame], axes: Sequence[Floats], positions: Sequence[Floats | None], signs: Mapping[Plane, int]
) -> Located | None:
    """The places of slices whose positions are missing or all the same, from SliceLocation.

    Args:
        frames: of one series.
        axes: (2, 3) directions of each.
        positions: (3,) mm of each, None where the header has none.
        signs: which way SliceLocation counts, by plane.

    Returns:
        None where the positions can be used, or SliceLocation does not tell slices apart.
    """
    locations = np.array([np.nan if frame.location is None else frame.location for frame in frames])
    known = [position for position in positions if position is not None]
    if len(frames) < 2 or len({round(float(value), 2) for value in locations}) < len(frames) or len(known) == 1:
        return None
    if known and np.ptp(np.stack(known), axis=0).max() > _LEAST_STEP_MM:
        return None
    normals = np.array([np.cross(own[0], own[1]) for own in axes])
    if not np.isfinite(locations).all() or np.abs(normals - normals[0]).max() > 0.02:
        return None
    if not known:
        sign = signs.get(plane_of(normals[0]))
        return Located((sign or 1) * locations, None, sign is not None)
    here = float(known[0] @ normals[0])
    apart = {sign: np.abs(sign * locations - here) for sign in (1, -1)}  # of the slice to which the position belongs
    sign = min(apart, key=lambda one: float(apart[one].min()))
    if apart[sign].min() > _SAME_MM or apart[-sign].min() - apart[sign].min() < _CLEARLY_MM:
        return None
    return Located(sign * (locations - locations[apart[sign].argmin()]), known[0], True)


def matching_signs(location: float, along_normal: float) -> set[int]:
    """1, -1, both or neither: with which sign a SliceLocation is the place of the slice along its normal, in mm."""
    return {sign for sign in (1, -1) if abs(sign * location - along_normal) <= _SAME_MM}


def disproved_orientation(axes: Sequence[Floats | None], positions: Sequence[Floats | None]) -> bool:
    """Whether the positions contradict the orientation of all slices, so that it is none.

    Converters write 1 0 0 0 1 0 whatever the slices were. Slices lie beside each other along their normal: where the
    places run across it, by more than 45 degrees, or by more than 3 where the axes are exactly the patient's own, the
    axes are made up.
    """
    if len(axes) < 3 or any(own is None for own in axes) or any(place is None for place in positions):
        return False
    every, places = (
        np.stack([own for own in axes if own is not None]),
        np.stack([p for p in positions if p is not None]),
    )
    if np.abs(every - every[0]).max() > 1e-6:
        return False
    normal = np.cross(every[0, 0], every[0, 1])
    steps = np.diff(places, axis=0)
    lengths = np.linalg.norm(steps, axis=1)
    near = (lengths > _LEAST_STEP_MM) & (lengths < 20)
    if not near.any():
        return False
    cosines = np.abs(steps[near] @ normal) / lengths[near]
    tilt = float(np.degrees(np.arccos(np.clip(np.median(cosines), 0, 1))))
    exact = bool(np.all(np.isin(np.abs(every[0]), (0.0, 1.0))))
    return tilt > (3 if exact else 45)
