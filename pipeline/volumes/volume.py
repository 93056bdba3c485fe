"""The value types of stage one: a stack of parallel slices that knows where each of its pixels is in the patient.

Every stack is in its plane's canonical orientation, reached by flips and transposition only, so that a pixel value is
always one the scanner wrote:

========  =====================  ======================  ==========================
plane     rows (downwards) run   columns (rightwards)    slices run
========  =====================  ======================  ==========================
sagittal  superior -> inferior   anterior -> posterior   patient right -> left (+x)
axial     anterior -> posterior  patient right -> left   superior -> inferior
coronal   superior -> inferior   patient right -> left   anterior -> posterior
========  =====================  ======================  ==========================

Patient coordinates are LPS millimetres: +x left, +y posterior, +z superior. A pixel's coordinate is its centre; ``col``
counts rightwards and ``row`` downwards, both from 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipeline.labels import SeriesKind
from pipeline.problem import Problem
from pipeline.volumes.affine import Affine, Floats
from pipeline.volumes.grey import normalise

Ints = NDArray[np.int64]

USUAL_STEP_MM = 4.0
"""Between the slices of a usual lumbar protocol (3 to 5 mm), which networks are trained on."""
THIN_BELOW_MM = 2.2
"""Slices nearer to each other are averaged, two at least; the thinnest of usual protocols are 2.5 to 3 mm apart."""

ASSUMED_PLACE = "assumed-place"
"""A flag: where the slices lie in the patient is assumed in part, so nothing may be carried to or from other series."""
ASSUMED_SIDES = "assumed-sides"
"""A flag: which side is the patient's left is assumed."""


class Plane(StrEnum):
    """The anatomical plane nearest to a stack's slices."""

    SAGITTAL = "sagittal"
    AXIAL = "axial"
    CORONAL = "coronal"


@dataclass(frozen=True, eq=False)
class Volume:
    """One stack of slices of one orientation, in the canonical orientation of its plane.

    Attributes:
        pixels: (slices, rows, cols) float32, in the file's units after slope, intercept and MONOCHROME1 inversion.
        affines: one a slice; ``affine @ (col, row, 0)`` is the LPS mm of the pixel's centre. The normal points the way
            the slices run.
        source_affines: the same for ``(x, y)`` on the pixel grid of the file.
        instance_numbers: (slices,) InstanceNumber of each slice, or the frame number in a multi-frame file.
        plane: the nearest anatomical plane.
        kind: what the series shows.
        study_id: the study's folder name.
        series_id: the series' folder name.
        flags: what was odd, short codes; ``missing-*`` means that a header lacks what places the slices, and
            :data:`ASSUMED_PLACE` and :data:`ASSUMED_SIDES` what follows from it.
    """

    pixels: NDArray[np.float32]
    affines: Affine
    source_affines: Affine
    instance_numbers: Ints
    plane: Plane
    kind: SeriesKind
    study_id: str
    series_id: str
    flags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.pixels)
        affines, source = self.affines.matrix.shape, self.source_affines.matrix.shape
        shapes = (self.pixels.ndim, affines, source, self.instance_numbers.shape)
        if shapes != (3, (count, 4, 4), (count, 4, 4), (count,)) or self.pixels.size == 0:
            raise ValueError(
                f"series {self.series_id}: pixels {self.pixels.shape}, affines {affines}, source affines "
                f"{source}, instance numbers {self.instance_numbers.shape} do not form a stack; "
                "expected (S, R, C), (S, 4, 4), (S, 4, 4) and (S,), none empty"
            )

    @property
    def is_placed(self) -> bool:
        """Whether its place in the patient is measured, so that it can be compared with other series."""
        return ASSUMED_PLACE not in self.flags

    @property
    def knows_sides(self) -> bool:
        """Whether it is measured which of its slices, or which half of an axial one, are on the patient's left."""
        return ASSUMED_SIDES not in self.flags

    @property
    def shape(self) -> tuple[int, int, int]:
        """(slices, rows, cols)."""
        slices, rows, cols = self.pixels.shape
        return slices, rows, cols

    @property
    def spacing_mm(self) -> tuple[float, float]:
        """Millimetres between rows and between columns, as (row, col)."""
        return self.affines[0].spacing_mm

    @cached_property
    def normal(self) -> Floats:
        """(3,) unit normal of the stack, LPS, pointing the way the slices run (the mean, should slices differ)."""
        mean = self.affines.normal.mean(axis=0)
        return np.asarray(mean / np.linalg.norm(mean))

    @cached_property
    def centres_mm(self) -> Floats:
        """(slices, 3) LPS mm of the centre of each slice."""
        _, rows, cols = self.pixels.shape
        return self.affines @ ((cols - 1) / 2, (rows - 1) / 2, 0)

    @cached_property
    def positions_mm(self) -> Floats:
        """(slices,) position of each slice's centre along :attr:`normal`; never falling."""
        return np.asarray(self.centres_mm @ self.normal)

    @property
    def slice_steps_mm(self) -> Floats:
        """(slices - 1,) distances between neighbouring slices along the normal, from their positions."""
        return np.asarray(np.diff(self.positions_mm))

    @property
    def slice_spacing_mm(self) -> float:
        """The median distance between neighbouring slices in mm; NaN for a single slice."""
        return float(np.median(self.slice_steps_mm)) if len(self.pixels) > 1 else float("nan")

    @cached_property
    def normalised(self) -> Volume:
        """The stack with its pixels at about 0..1 by its percentiles, float throughout; made once for all stages."""
        return replace(self, pixels=normalise(self.pixels))

    @cached_property
    def thickened(self) -> Volume:
        """The stack with neighbouring thin slices averaged, so that its slices are about :data:`USUAL_STEP_MM` apart.

        A stack of usual slices, at least :data:`THIN_BELOW_MM` apart, is itself. The mean of some slices has what one
        thick slice has of the same tissue, noise included; its instance, and the grid of the file, are those of the
        middle one. Nothing is averaged across a gap.
        """
        step = self.slice_spacing_mm
        if not 0 < step < THIN_BELOW_MM:
            return self
        count = round(USUAL_STEP_MM / step)
        runs = np.split(np.arange(len(self.pixels)), np.flatnonzero(self.slice_steps_mm > 1.6 * step) + 1)
        groups = [group for run in runs for group in np.array_split(run, max(1, round(len(run) / count)))]
        middles = np.array([group[len(group) // 2] for group in groups])
        return replace(
            self,
            pixels=np.stack([self.pixels[group].mean(axis=0) for group in groups]),
            affines=Affine(np.stack([self.affines.matrix[group].mean(axis=0) for group in groups])),
            source_affines=self.source_affines[middles],
            instance_numbers=self.instance_numbers[middles],
        )

    def to_pixel(self, points_mm: Floats, slice_index: Ints) -> tuple[Floats, Floats, Floats]:
        """Where points fall on given slices, projected along the slice normal.

        Args:
            points_mm: (N, 3) LPS mm.
            slice_index: (N,) slices.

        Returns:
            ``col`` (N,), ``row`` (N,) and ``offset_mm`` (N,), the signed distance to the slice's plane, positive the
            way the slices run.
        """
        return _projected(self.affines, points_mm, slice_index)

    def shows(self, point_mm: Floats, slice_index: int) -> bool:
        """Whether a point (3,), projected on a slice, lies within its pixels."""
        col, row, _ = self.to_pixel(point_mm, np.array([slice_index]))
        _, rows, cols = self.shape
        return bool(-0.5 <= col[0] <= cols - 0.5 and -0.5 <= row[0] <= rows - 0.5)

    def to_source_pixel(self, points_mm: Floats, slice_index: Ints) -> tuple[Floats, Floats]:
        """As :meth:`to_pixel`, in the file's own grid: ``x`` (N,), ``y`` (N,) as ``train_label_coordinates.csv``."""
        x, y, _ = _projected(self.source_affines, points_mm, slice_index)
        return x, y

    def from_source_pixel(self, instance_number: int, x: float, y: float) -> Floats:
        """(3,) LPS mm of the point ``x``, ``y`` in the file's own pixels of the slice with that instance number.

        Raises:
            KeyError: if this stack holds no such instance.
        """
        found = np.flatnonzero(self.instance_numbers == instance_number)
        if not len(found):
            raise KeyError(
                f"study {self.study_id}, series {self.series_id}: no instance {instance_number} in this stack; "
                f"it holds {sorted(self.instance_numbers.tolist())}"
            )
        return self.source_affines[found[0]] @ (x, y, 0)

    def nearest_slice(self, points_mm: Floats) -> Ints:
        """(N,) index of the slice whose plane is nearest to each of the (N, 3) points."""
        points = np.atleast_2d(np.asarray(points_mm, dtype=float))
        to_pixel = self.affines.inverse.matrix
        offsets = (to_pixel[:, 2, :3] @ points.T) + to_pixel[:, 2, 3:]
        return np.asarray(np.abs(offsets).argmin(axis=0), dtype=np.int64)


def _projected(affines: Affine, points_mm: Floats, slice_index: Ints) -> tuple[Floats, Floats, Floats]:
    points = np.atleast_2d(np.asarray(points_mm, dtype=float))
    col, row, offset = (affines.inverse[np.atleast_1d(slice_index)] @ points).T
    return col, row, offset


@dataclass(frozen=True)
class SeriesReading:
    """What one series folder yielded: its stacks, superior, right or anterior ones first, and what was wrong."""

    volumes: tuple[Volume, ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class StudyVolumes:
    """The stacks of all series of a study, and everything that was skipped or assumed on the way."""

    study_id: str
    volumes: tuple[Volume, ...]
    problems: tuple[Problem, ...]

    def of_kind(self, kind: SeriesKind) -> list[Volume]:
        """The stacks that show ``kind``, in reading order."""
        return [volume for volume in self.volumes if volume.kind is kind]
