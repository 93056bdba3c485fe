"""From pixels to the patient and back: the one place that knows what stands in which column of an affine.

Patient coordinates are LPS millimetres. A pixel has a column, a row and, off the slice's plane, an offset in mm.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Affine:
    """The map of one slice, or a stack of them, a map a slice.

    >>> slice_ = Affine.of_plane(right=[0, 1, 0], down=[0, 0, -1], origin_mm=[-4, 20, 90], spacing_mm=(2.0, 0.5))
    >>> slice_ @ (10, 3, 0)  # column, row, offset in mm
    array([-4., 25., 84.])
    >>> slice_.inverse @ (-4, 25, 84)
    array([10.,  3.,  0.])
    >>> slice_.spacing_mm, slice_.right, slice_.down, slice_.normal
    ((2.0, 0.5), array([0., 1., 0.]), array([ 0.,  0., -1.]), array([-1.,  0.,  0.]))
    >>> Affine.stack([slice_, slice_]) @ (10, 3, 0)
    array([[-4., 25., 84.],
           [-4., 25., 84.]])

    Attributes:
        matrix: (4, 4) or (slices, 4, 4). Its columns are a step to the right, a step down, the unit normal and the
            centre of the first pixel, so the third coordinate of the inverse is the distance to the plane in mm.
    """

    matrix: Floats

    @classmethod
    def of_plane(
        cls, right: ArrayLike, down: ArrayLike, origin_mm: ArrayLike, spacing_mm: tuple[float, float]
    ) -> Affine:
        """The affine of an image (DICOM PS3.3 C.7.6.2.1.1).

        Args:
            right: (3,) unit direction in which columns run.
            down: (3,) unit direction in which rows run.
            origin_mm: (3,) centre of the first pixel.
            spacing_mm: between rows and between columns.
        """
        across, below = np.asarray(right, dtype=float), np.asarray(down, dtype=float)
        matrix = np.eye(4)
        matrix[:3, 0] = across * spacing_mm[1]
        matrix[:3, 1] = below * spacing_mm[0]
        matrix[:3, 2] = np.cross(across, below)
        matrix[:3, 3] = origin_mm
        return cls(matrix)

    @classmethod
    def stack(cls, affines: Sequence[Affine]) -> Affine:
        """Affines of single slices as one of a stack."""
        return cls(np.stack([affine.matrix for affine in affines]))

    def __len__(self) -> int:
        return len(self.matrix)

    def __iter__(self) -> Iterator[Affine]:
        return map(Affine, self.matrix)

    def __getitem__(self, index: int | np.integer | NDArray[np.int64]) -> Affine:
        """One slice, or some, of a stack."""
        return Affine(self.matrix[index])

    @property
    def spacing_mm(self) -> tuple[float, float]:
        """Between rows and between columns, of one slice."""
        return float(np.linalg.norm(self.matrix[:3, 1])), float(np.linalg.norm(self.matrix[:3, 0]))

    @property
    def right(self) -> Floats:
        """(3,) unit direction in which the columns of one slice run."""
        return np.asarray(self.matrix[:3, 0] / np.linalg.norm(self.matrix[:3, 0]))

    @property
    def down(self) -> Floats:
        """(3,) unit direction in which the rows of one slice run."""
        return np.asarray(self.matrix[:3, 1] / np.linalg.norm(self.matrix[:3, 1]))

    @property
    def normal(self) -> Floats:
        """(3,) or (slices, 3) unit normal."""
        return self.matrix[..., :3, 2]

    @property
    def origin_mm(self) -> Floats:
        """(3,) or (slices, 3) centre of the first pixel."""
        return self.matrix[..., :3, 3]

    @cached_property
    def inverse(self) -> Affine:
        """From the patient to pixels."""
        return Affine(np.asarray(np.linalg.inv(self.matrix), dtype=float))

    @overload
    def __matmul__(self, other: Affine) -> Affine: ...

    @overload
    def __matmul__(self, other: ArrayLike) -> Floats: ...

    def __matmul__(self, other: Affine | ArrayLike) -> Affine | Floats:
        """First ``other``, then this one; or the images of points.

        Args:
            other: an affine, or one point (3,) for every slice, or points (N, 3): of one slice, or one a slice.

        Returns:
            An affine; or (3,), (slices, 3), (N, 3).
        """
        if isinstance(other, Affine):
            return Affine(self.matrix @ other.matrix)
        points = np.asarray(other, dtype=float)
        if points.ndim == 1:
            return np.asarray(self.matrix[..., :3, :] @ np.append(points, 1.0))
        linear = self.matrix[..., :3, :3]
        turned = (linear @ points.T).T if linear.ndim == 2 else np.einsum("nij,nj->ni", linear, points)
        return np.asarray(turned + self.origin_mm)
