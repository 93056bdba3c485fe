"""Slices drawn on a square canvas: what the point network sees, and the geometry that takes its points back.

A canvas keeps the physical aspect ratio: one pixel is the same number of millimetres both ways. Sagittal canvases hold
the whole slice, so the pixel size follows from the longer side of the field of view; axial canvases are windows of
fixed size around the projected canal point. Each canvas carries the affine of its own slice, so a point found on it is
in patient millimetres without knowing any other slice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from pipeline.volumes import Affine, Volume, sample_patch

WIDEST_FIELD_MM = 650.0
"""No scanner sees further: bores are 600 to 700 mm wide and fields of view end at about 500 mm."""
USUAL_FIELD_MM = 300.0
"""The longer side of a lumbar sagittal field of view."""


@dataclass(frozen=True, eq=False)
class Canvases:
    """The slices of one volume on square canvases.

    Attributes:
        images: (slices, size, size) float32, about 0..1 (percentiles of the stack).
        affines: one a canvas; ``affine @ (x, y, 0)`` is the patient LPS mm of canvas pixel (column x, row y).
        slice_index: (slices,) the volume's slice each canvas shows.
        volume: where they come from.
    """

    images: np.ndarray
    affines: Affine
    slice_index: np.ndarray
    volume: Volume

    @property
    def pixel_mm(self) -> float:
        """The side of a canvas pixel in mm; that of a usual field of view where the header's cannot be true."""
        side = self.affines[0].spacing_mm[1]
        return side if field_mm(self.volume) <= WIDEST_FIELD_MM else USUAL_FIELD_MM / self.images.shape[-1]


def whole_slice_canvases(volume: Volume, size_px: int) -> Canvases:
    """Each slice in the middle of a canvas whose side is the longer side of the field of view.

    Args:
        volume: any stack in canonical orientation.
        size_px: side of the canvas in pixels.
    """
    rows, columns = volume.pixels.shape[1:]
    row_mm, column_mm = volume.spacing_mm
    spacing = max(rows * row_mm, columns * column_mm) / size_px
    pixels = _smooth(volume.normalised, spacing)
    images, affines = [], []
    for index, (affine, centre) in enumerate(zip(volume.affines, volume.centres_mm, strict=True)):
        images.append(
            sample_patch(pixels, index, centre, affine.right, affine.down, (size_px, size_px), spacing, fill=0.0)
        )
        affines.append(window_affine(centre, affine.right, affine.down, size_px, spacing))
    return Canvases(np.stack(images), Affine.stack(affines), np.arange(len(images)), volume)


def field_mm(volume: Volume) -> float:
    """The longer side of the field of view in mm."""
    return float(max(volume.shape[1] * volume.spacing_mm[0], volume.shape[2] * volume.spacing_mm[1]))


def _smooth(volume: Volume, spacing_mm: float) -> Volume:
    """The volume blurred in plane against aliasing: as far as pixels grow to ``spacing_mm``, 0.5 px of the new grid."""
    scale = spacing_mm / np.array(volume.spacing_mm)
    if (scale <= 1.3).all():
        return volume
    sigma = 0.5 * np.sqrt(np.maximum(np.square(scale) - 1, 0.01))
    blurred = [
        cv2.GaussianBlur(image, (0, 0), sigmaX=float(sigma[1]), sigmaY=float(sigma[0])) for image in volume.pixels
    ]
    return replace(volume, pixels=np.stack(blurred))


def window_canvas(
    pixels: Volume, index: int, centre_mm: np.ndarray, size_px: int, spacing_mm: float
) -> tuple[np.ndarray, Affine]:
    """A window of one slice around a point, along the slice's own rows and columns.

    Args:
        pixels: a volume, normalised.
        index: the slice.
        centre_mm: (3,) patient LPS mm; projected on the slice's plane.
        size_px: side of the window in pixels.
        spacing_mm: side of its pixels in mm.

    Returns:
        (size, size) float32 image and its affine.
    """
    affine = pixels.affines[index]
    right, down = affine.right, affine.down
    normal = np.cross(right, down)
    centre = centre_mm - normal * float(np.dot(centre_mm - affine.origin_mm, normal))
    image = sample_patch(pixels, index, centre, right, down, (size_px, size_px), spacing_mm, fill=0.0)
    return image, window_affine(centre, right, down, size_px, spacing_mm)


def window_affine(
    centre_mm: np.ndarray, right: np.ndarray, down: np.ndarray, size_px: int, spacing_mm: float
) -> Affine:
    """The affine of a square window around a point (3,) in patient LPS mm."""
    corner = centre_mm - (right * spacing_mm + down * spacing_mm) * (size_px - 1) / 2
    return Affine.of_plane(right, down, corner, (spacing_mm, spacing_mm))


def unit(vector: np.ndarray) -> np.ndarray:
    """The vector at length 1."""
    result: np.ndarray = vector / np.linalg.norm(vector)
    return result
