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

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipeline.competition import Problem
from pipeline.labels import SeriesKind

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


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
        affines: (slices, 4, 4); ``affine @ (col, row, 0, 1)`` is the LPS mm of the pixel's centre. The third column is
            the slice's unit normal, pointing the way the slices run.
        source_affines: (slices, 4, 4), the same for ``(x, y)`` on the pixel grid of the file.
        instance_numbers: (slices,) InstanceNumber of each slice, or the frame number in a multi-frame file.
        plane: the nearest anatomical plane.
        kind: what the series shows.
        study_id: the study's folder name.
        series_id: the series' folder name.
        flags: what was odd, short codes; ``missing-*`` means that geometry was assumed.
    """

    pixels: NDArray[np.float32]
    affines: Floats
    source_affines: Floats
    instance_numbers: Ints
    plane: Plane
    kind: SeriesKind
    study_id: str
    series_id: str
    flags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.pixels)
        shapes = (self.pixels.ndim, self.affines.shape, self.source_affines.shape, self.instance_numbers.shape)
        if shapes != (3, (count, 4, 4), (count, 4, 4), (count,)) or self.pixels.size == 0:
            raise ValueError(
                f"series {self.series_id}: pixels {self.pixels.shape}, affines {self.affines.shape}, source affines "
                f"{self.source_affines.shape}, instance numbers {self.instance_numbers.shape} do not form a stack; "
                "expected (S, R, C), (S, 4, 4), (S, 4, 4) and (S,), none empty"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(slices, rows, cols)."""
        slices, rows, cols = self.pixels.shape
        return slices, rows, cols

    @property
    def spacing_mm(self) -> tuple[float, float]:
        """Millimetres between rows and between columns, as (row, col)."""
        return float(np.linalg.norm(self.affines[0, :3, 1])), float(np.linalg.norm(self.affines[0, :3, 0]))

    @cached_property
    def normal(self) -> Floats:
        """(3,) unit normal of the stack, LPS, pointing the way the slices run (the mean, should slices differ)."""
        mean = self.affines[:, :3, 2].mean(axis=0)
        return np.asarray(mean / np.linalg.norm(mean))

    @cached_property
    def centres_mm(self) -> Floats:
        """(slices, 3) LPS mm of the centre of each slice."""
        _, rows, cols = self.pixels.shape
        return np.asarray(self.affines[:, :3, :] @ np.array([(cols - 1) / 2, (rows - 1) / 2, 0.0, 1.0]))

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
    def _to_pixel(self) -> Floats:
        return np.asarray(np.linalg.inv(self.affines))

    @cached_property
    def _to_source(self) -> Floats:
        return np.asarray(np.linalg.inv(self.source_affines))

    def to_patient(self, slice_index: Ints, col: Floats, row: Floats) -> Floats:
        """Patient coordinates of pixels.

        Args:
            slice_index: (N,) slices.
            col: (N,) columns, may be fractional.
            row: (N,) rows, may be fractional.

        Returns:
            (N, 3) LPS mm.
        """
        index, cols, rows = np.broadcast_arrays(np.atleast_1d(slice_index), col, row)
        affines = self.affines[index]
        return np.asarray(affines[:, :3, 0] * cols[:, None] + affines[:, :3, 1] * rows[:, None] + affines[:, :3, 3])

    def to_pixel(self, points_mm: Floats, slice_index: Ints) -> tuple[Floats, Floats, Floats]:
        """Where points fall on given slices, projected along the slice normal.

        Args:
            points_mm: (N, 3) LPS mm.
            slice_index: (N,) slices.

        Returns:
            ``col`` (N,), ``row`` (N,) and ``offset_mm`` (N,), the signed distance to the slice's plane, positive the
            way the slices run.
        """
        col, row, offset = _apply(self._to_pixel, points_mm, slice_index)
        return col, row, offset

    def to_source_pixel(self, points_mm: Floats, slice_index: Ints) -> tuple[Floats, Floats]:
        """As :meth:`to_pixel`, in the file's own grid: ``x`` (N,), ``y`` (N,) as ``train_label_coordinates.csv``."""
        x, y, _ = _apply(self._to_source, points_mm, slice_index)
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
        return np.asarray(self.source_affines[found[0], :3, :] @ np.array([x, y, 0.0, 1.0]))

    def nearest_slice(self, points_mm: Floats) -> Ints:
        """(N,) index of the slice whose plane is nearest to each of the (N, 3) points."""
        points = np.atleast_2d(np.asarray(points_mm, dtype=float))
        offsets = (self._to_pixel[:, 2, :3] @ points.T) + self._to_pixel[:, 2, 3:]
        return np.asarray(np.abs(offsets).argmin(axis=0), dtype=np.int64)


def _apply(inverse: Floats, points_mm: Floats, slice_index: Ints) -> tuple[Floats, Floats, Floats]:
    points = np.atleast_2d(np.asarray(points_mm, dtype=float))
    matrices = np.broadcast_to(inverse[np.atleast_1d(slice_index)], (len(points), 4, 4))
    local = np.einsum("nij,nj->ni", matrices[:, :3, :3], points) + matrices[:, :3, 3]
    return local[:, 0], local[:, 1], local[:, 2]


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
