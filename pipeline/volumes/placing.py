"""Where each slice of a series is: header geometry where it is sound, documented assumptions where it is not.

An assumption is never silent: it comes back as a flag on the slice and ends as a flag of the volume and a problem of
the study.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.volumes.affine import Affine, Floats
from pipeline.volumes.belonging import contrast_key
from pipeline.volumes.geometry import (
    SAME_ORIENTATION_DEGREES,
    SAME_POSITION_MM,
    angle_degrees,
    canonical_axes,
    clean_orientation,
    group_orientations,
    plane_of,
    to_canonical,
    transposes,
)
from pipeline.volumes.headers import Frame
from pipeline.volumes.locating import Located, disproved_orientation, locate, matching_signs
from pipeline.volumes.volume import ASSUMED_PLACE, ASSUMED_SIDES, Plane

MISSING_ORIENTATION = "missing-orientation"
MISSING_POSITION = "missing-position"
MISSING_SPACING = "missing-spacing"
ONE_POSITION = "one-position"
SLICE_LOCATION = "slice-location"
REPEATED_POSITIONS = "repeated-positions"
ASSUMED = {
    MISSING_ORIENTATION: "no usable ImageOrientationPatient; that of the others or the plane's own axes is taken",
    MISSING_POSITION: "no usable ImagePositionPatient; slices are placed by instance number",
    MISSING_SPACING: "no usable PixelSpacing; it is assumed from the usual field of view",
    ONE_POSITION: "ImagePositionPatient is the same in slices that differ; they are placed by SliceLocation",
    SLICE_LOCATION: "no usable ImagePositionPatient; slices are placed by SliceLocation alone",
    REPEATED_POSITIONS: "several images of the same slices, which no header tells apart; the surer points are taken",
    ASSUMED_PLACE: "where the slices lie is assumed in part, so they are not compared with other series: they give no "
    "axial level and have no say in the numbering of others",
    ASSUMED_SIDES: "which side is left is not told: no foraminal or subarticular row is graded on it",
}
"""What each flag of an assumption means, for the problem that reports it."""

NOMINAL_STEP_MM = 4.0
"""Between slices without a position or any stated spacing: the usual lumbar protocol (3 to 5 mm)."""
NOMINAL_VIEW_MM = {Plane.SAGITTAL: 300.0, Plane.CORONAL: 300.0, Plane.AXIAL: 200.0}
"""Field of view assumed for images without any spacing: the usual lumbar protocol."""
_LARGEST_MM = 1e5
_FIT_MM = 0.5


@dataclass(frozen=True, eq=False)
class PlacedFrame:
    """A slice with its place in the patient.

    Attributes:
        frame: the undecoded slice.
        plane: the nearest anatomical plane.
        change: from canonical to file pixels.
        source_affine: from file pixels to LPS mm.
        affine: from canonical pixels to LPS mm.
        flags: what was assumed.
    """

    frame: Frame
    plane: Plane
    change: Affine
    source_affine: Affine
    affine: Affine
    flags: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols) in canonical orientation."""
        rows, cols = self.frame.source.format.rows, self.frame.source.format.cols
        return (cols, rows) if transposes(self.change) else (rows, cols)

    @property
    def centre_mm(self) -> Floats:
        """(3,) LPS mm of the middle of the slice."""
        rows, cols = self.shape
        return self.affine @ ((cols - 1) / 2, (rows - 1) / 2, 0)


def number_frames(frames: Sequence[Frame]) -> list[Frame]:
    """Frames in instance order, each with a number: its own, else the digits of its file's name, else its rank."""
    ranked = sorted(frames, key=lambda frame: (_natural(frame.file), frame.index))
    numbered = [
        frame if frame.numbered else replace(frame, instance_number=_digits(frame.file, rank))
        for rank, frame in enumerate(ranked, start=1)
    ]
    return sorted(numbered, key=lambda frame: frame.instance_number)


def place_frames(
    frames: Sequence[Frame], told: Plane | None, signs: Mapping[Plane, int] | None = None
) -> tuple[list[PlacedFrame], list[Frame]]:
    """Give every slice of a series its affine.

    A slice without orientation takes that of the series if the others agree on one, else the axes of ``told`` or of the
    plane across which the positions spread. A slice without position is put on the line through the others by its
    instance number, if they lie on one; if no slice, or only one, has a position, or all have the same, all are placed
    by SliceLocation, and without that stacked in instance order.

    Args:
        frames: in instance order.
        told: the plane that the series table claims.
        signs: which way SliceLocation counts in this study, by plane: 1 along the normal of the file's slices, -1
            against it; without it no side follows from SliceLocation alone.

    Returns:
        The placed slices, and those that could not be placed because the others follow no line.
    """
    axes = [clean_orientation(frame.orientation) for frame in frames]
    positions = [_position(frame) for frame in frames]
    if disproved_orientation(axes, positions):
        axes = [None] * len(frames)
    agreed = _agreed_axes(axes)
    fallback = agreed if agreed is not None else _usual_axes(positions, told)
    spacings = _spacings(frames)
    located = locate(frames, [fallback if own is None else own for own in axes], positions, signs or {})
    if located is None and _is_copied(frames, positions):
        positions = [positions[0], *[None] * (len(frames) - 1)]
    known = [index for index, position in enumerate(positions) if position is not None] if located is None else []
    line = _line(
        [frames[index].instance_number for index in known],
        [place for i in known if (place := positions[i]) is not None],
    )
    placed, lost = [], []
    for index, frame in enumerate(frames):
        own_axes = axes[index]
        directions = fallback if own_axes is None else own_axes
        plane = plane_of(np.cross(directions[0], directions[1]))
        spacing = spacings[index] or _nominal_spacing(frame, plane)
        position = positions[index]
        flags = {MISSING_ORIENTATION} if own_axes is None else set()
        if own_axes is None and agreed is None:
            flags.add(ASSUMED_PLACE)
            if plane is not Plane.SAGITTAL:
                flags.add(ASSUMED_SIDES)
        if spacings[index] is None:
            flags |= {MISSING_SPACING, ASSUMED_PLACE}
        if located is not None:
            position, found = _located_position(located, index, frame, directions, spacing)
            flags |= found
        elif position is None:
            flags.add(MISSING_POSITION)
            if len(known) > 1 and line is None:
                lost.append(frame)
                continue
            if line is not None:
                position = np.array([frame.instance_number, 1.0]) @ line
            else:
                flags |= {ASSUMED_PLACE, ASSUMED_SIDES}
                rank, anchor = (
                    (index - known[0], positions[known[0]]) if known else (index - (len(frames) - 1) / 2, None)
                )
                position = _stacked_position(frame, rank, anchor, directions, spacing, plane)
        source = Affine.of_plane(directions[0], directions[1], position, spacing)
        pixel_format = frame.source.format
        change = to_canonical(directions, pixel_format.rows, pixel_format.cols, plane)
        placed.append(PlacedFrame(frame, plane, change, source, source @ change, tuple(sorted(flags))))
    return placed, lost


def _located_position(
    located: Located, index: int, frame: Frame, axes: Floats, spacing: tuple[float, float]
) -> tuple[Floats, set[str]]:
    """(3,) mm of a slice that SliceLocation places, and its flags."""
    along = np.cross(axes[0], axes[1]) * located.along_mm[index]
    if located.anchor_mm is not None:
        return located.anchor_mm + along, {ONE_POSITION}
    flags = {SLICE_LOCATION, ASSUMED_PLACE} | (set() if located.is_signed else {ASSUMED_SIDES})
    return _centred(frame, axes, spacing) + along, flags


def group_stacks(placed: list[PlacedFrame]) -> list[list[PlacedFrame]]:
    """Split a series by plane, size and spacing, then by orientation."""
    alike: defaultdict[tuple[Plane, tuple[int, int], tuple[float, ...]], list[PlacedFrame]] = defaultdict(list)
    for one in placed:
        alike[one.plane, one.shape, tuple(np.round(one.affine.spacing_mm, 4).tolist())].append(one)
    stacks = []
    for members in alike.values():
        centres = np.stack([one.centre_mm for one in members])
        for group in group_orientations([one.affine for one in members], centres):
            stacks.append([members[index] for index in group])
    return stacks


def _is_copied(frames: Sequence[Frame], positions: Sequence[Floats | None]) -> bool:
    """Whether the position of one slice stands in all, though they are different images of one contrast."""
    known = [position for position in positions if position is not None]
    if len(frames) < 3 or len(known) < len(frames) or np.ptp(np.stack(known), axis=0).max() > SAME_POSITION_MM:
        return False
    different = {(frame.source.data, frame.index, frame.slope, frame.intercept) for frame in frames}
    return len(different) == len(frames) and len({contrast_key(frame) for frame in frames}) == 1


def location_signs(placed: Sequence[PlacedFrame]) -> dict[Plane, int]:
    """Which way SliceLocation counts on the sound slices of a series, by plane; without planes that do not agree."""
    votes: dict[Plane, list[set[int]]] = {}
    for one in placed:
        if one.frame.location is not None and not one.flags:
            here = float(one.source_affine.normal @ one.source_affine.origin_mm)
            votes.setdefault(one.plane, []).append(matching_signs(one.frame.location, here))
    agreed = {plane: set.intersection(*signs) for plane, signs in votes.items()}
    return {plane: next(iter(signs)) for plane, signs in agreed.items() if len(signs) == 1}


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d{1,18})", name)]


def _digits(name: str, rank: int) -> int:
    found = re.fullmatch(r"\D*(\d{1,9})\D*", name)
    return int(found.group(1)) if found else rank


def _position(frame: Frame) -> Floats | None:
    position = np.array(frame.position, dtype=float)
    return position if position.shape == (3,) and np.all(np.abs(position) < _LARGEST_MM) else None


def _agreed_axes(axes: Sequence[Floats | None]) -> Floats | None:
    """The directions of the slices that have some, if these are the same."""
    found = [own for own in axes if own is not None]
    affines = [Affine.of_plane(own[0], own[1], np.zeros(3), (1.0, 1.0)) for own in found]
    same = all(angle_degrees(affines[0], affine) <= SAME_ORIENTATION_DEGREES for affine in affines)
    return found[0] if found and same else None


def _usual_axes(positions: Sequence[Floats | None], told: Plane | None) -> Floats:
    plane = told or _spread_plane([position for position in positions if position is not None])
    right, down, _ = canonical_axes(plane)
    return np.stack([right, down])


def _spread_plane(positions: Sequence[Floats]) -> Plane:
    """The plane across which positions spread most; sagittal, two of the three wanted series, if they do not."""
    if len(positions) < 2:
        return Plane.SAGITTAL
    spread = np.ptp(np.stack(positions), axis=0)
    return (Plane.SAGITTAL, Plane.CORONAL, Plane.AXIAL)[int(np.argmax(spread))]


def _spacings(frames: Sequence[Frame]) -> list[tuple[float, float] | None]:
    """(row, col) mm of each slice; those without take the commonest of the series, None if there is none."""
    own = [(frame.spacing[0], frame.spacing[-1]) if frame.spacing else None for frame in frames]
    common = Counter(spacing for spacing in own if spacing is not None).most_common(1)
    return [spacing or (common[0][0] if common else None) for spacing in own]


def _nominal_spacing(frame: Frame, plane: Plane) -> tuple[float, float]:
    diameter = frame.diameter_mm
    view = diameter if diameter is not None and 20 <= diameter <= 1000 else NOMINAL_VIEW_MM[plane]
    pixel = view / max(frame.source.format.rows, frame.source.format.cols)
    return pixel, pixel


def _line(numbers: Sequence[int], places: Sequence[Floats]) -> Floats | None:
    """(2, 3) so that ``(instance number, 1) @ line`` is the position in mm; None if the slices are on no line."""
    if len(numbers) < 2:
        return None
    design = np.stack([np.array(numbers, dtype=float), np.ones(len(numbers))], axis=1)
    line, *_ = np.linalg.lstsq(design, np.stack(places), rcond=None)
    return line if np.abs(design @ line - np.stack(places)).max() <= _FIT_MM else None


def _stacked_position(
    frame: Frame, rank: float, anchor: Floats | None, axes: Floats, spacing: tuple[float, float], plane: Plane
) -> Floats:
    """(3,) mm of a slice that is ``rank`` places after the one at ``anchor``, or after the origin."""
    step = next((mm for mm in (frame.between_mm, frame.thickness_mm) if mm and 0.1 <= mm <= 50), NOMINAL_STEP_MM)
    along = np.cross(axes[0], axes[1])
    along = along if along @ canonical_axes(plane)[2] >= 0 else -along
    return np.asarray((_centred(frame, axes, spacing) if anchor is None else anchor) + along * step * rank)


def _centred(frame: Frame, axes: Floats, spacing: tuple[float, float]) -> Floats:
    """(3,) mm of the first pixel of a slice whose middle is the origin."""
    rows, cols = frame.source.format.rows, frame.source.format.cols
    return np.asarray(-(axes[0] * spacing[1] * (cols - 1) + axes[1] * spacing[0] * (rows - 1)) / 2)
