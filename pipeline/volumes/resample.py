"""Sampling volumes on other grids, with SimpleITK: in-plane spacing and oblique windows.

Coordinates stay floating point throughout and interpolation is linear, so a series whose values are a linear function
of patient position is returned exactly. Outside the centres of the outermost pixels there is no data: those samples are
``fill``, they are never extrapolated.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from pipeline.volumes.affine import Affine, Floats
from pipeline.volumes.volume import Volume

_EDGE_PIXELS = 1e-6
USUAL_STEP_MM = 4.0
"""Between the slices of a usual lumbar protocol (3 to 5 mm), which networks are trained on."""
THIN_BELOW_MM = 2.2
"""Slices nearer to each other are averaged, two at least; the thinnest of usual protocols are 2.5 to 3 mm apart."""


def thickened(volume: Volume) -> Volume:
    """The stack with neighbouring thin slices averaged, so that its slices are about :data:`USUAL_STEP_MM` apart.

    A stack of usual slices, at least :data:`THIN_BELOW_MM` apart, is returned as it is. The mean of some slices has
    what one thick slice has of the same tissue, noise included; its instance, and the grid of the file, are those of
    the middle one. Nothing is averaged across a gap.
    """
    step = volume.slice_spacing_mm
    if not 0 < step < THIN_BELOW_MM:
        return volume
    count = round(USUAL_STEP_MM / step)
    runs = np.split(np.arange(len(volume.pixels)), np.flatnonzero(volume.slice_steps_mm > 1.6 * step) + 1)
    groups = [group for run in runs for group in np.array_split(run, max(1, round(len(run) / count)))]
    middles = np.array([group[len(group) // 2] for group in groups])
    return replace(
        volume,
        pixels=np.stack([volume.pixels[group].mean(axis=0) for group in groups]),
        affines=Affine(np.stack([volume.affines.matrix[group].mean(axis=0) for group in groups])),
        source_affines=volume.source_affines[middles],
        instance_numbers=volume.instance_numbers[middles],
    )


def resample_in_plane(volume: Volume, spacing_mm: float) -> Volume:
    """The volume with square pixels of ``spacing_mm``; slices stay where they are.

    The new grid is centred on the old one and lies within the centres of its outermost pixels. ``source_affines`` stay
    those of the file's own pixels. Where pixels grow, the image is smoothed first against aliasing.

    Raises:
        ValueError: if ``spacing_mm`` is not positive.
    """
    if not spacing_mm > 0:
        raise ValueError(f"in-plane spacing is {spacing_mm}; expected millimetres above 0")
    slices, rows, cols = volume.shape
    old = np.array(volume.spacing_mm)
    size = np.floor((np.array([rows, cols]) - 1) * old / spacing_mm + 1e-6).astype(int) + 1
    scale = spacing_mm / old
    first = ((np.array([rows, cols]) - 1) - (size - 1) * scale) / 2
    change = np.eye(4)
    change[0, 0], change[1, 1] = scale[1], scale[0]
    change[0, 3], change[1, 3] = first[1], first[0]
    image = sitk.GetImageFromArray(_smooth(volume.pixels, scale))
    transform = sitk.AffineTransform(3)
    transform.SetMatrix([scale[1], 0, 0, 0, scale[0], 0, 0, 0, 1])
    transform.SetTranslation([first[1], first[0], 0])
    result = sitk.Resample(
        image,
        [int(size[1]), int(size[0]), slices],
        transform,
        sitk.sitkLinear,
        [0.0] * 3,
        [1.0] * 3,
        np.eye(3).ravel().tolist(),
        0.0,
        sitk.sitkFloat32,
    )
    return replace(volume, pixels=sitk.GetArrayFromImage(result), affines=volume.affines @ Affine(change))


def _smooth(pixels: NDArray[np.float32], scale: Floats) -> NDArray[np.float32]:
    """In-plane Gaussian against aliasing: as wide as the growth of the pixels asks for (0.5 px of the new grid).

    The border is continued by point reflection, which keeps a linear function linear.
    """
    if np.all(scale <= 1.1):
        return pixels
    sigma = 0.5 * np.sqrt(np.maximum(scale**2 - 1, 1e-6))
    _, rows, cols = pixels.shape
    reach = np.minimum(np.ceil(4 * sigma).astype(int), np.array([rows, cols]) - 1)
    smooth = np.empty_like(pixels)
    for index, image in enumerate(pixels):
        padded = np.pad(image, ((reach[0], reach[0]), (reach[1], reach[1])), mode="reflect", reflect_type="odd")
        size = (int(2 * reach[1] + 1), int(2 * reach[0] + 1))
        blurred = cv2.GaussianBlur(padded, size, sigmaX=float(sigma[1]), sigmaY=float(sigma[0]))
        smooth[index] = blurred[reach[0] : reach[0] + rows, reach[1] : reach[1] + cols]
    return smooth


def sample_patch(
    volume: Volume,
    slice_index: int,
    centre_mm: Floats,
    right_mm: Floats,
    down_mm: Floats,
    size_px: tuple[int, int],
    spacing_mm: float,
    fill: float = float("nan"),
) -> NDArray[np.float32]:
    """An oblique window of one slice.

    Pixel (r, c) is at ``centre + right * (c - (cols - 1) / 2) * spacing + down * (r - (rows - 1) / 2) * spacing``,
    projected along the normal onto the slice's plane.

    Args:
        volume: the stack.
        slice_index: which of its slices.
        centre_mm: (3,) LPS mm of the middle of the window.
        right_mm: (3,) unit direction in which its columns run.
        down_mm: (3,) unit direction in which its rows run.
        size_px: (rows, cols) of the window.
        spacing_mm: millimetres between its pixels, both ways.
        fill: the value outside the slice.

    Returns:
        (rows, cols) float32.
    """
    rows, cols = size_px
    right, down = np.asarray(right_mm, dtype=float) * spacing_mm, np.asarray(down_mm, dtype=float) * spacing_mm
    corner = np.asarray(centre_mm, dtype=float) - right * (cols - 1) / 2 - down * (rows - 1) / 2
    col, row, _ = volume.to_pixel(np.stack([corner, corner + right, corner + down]), np.array([slice_index] * 3))
    origin = np.array([col[0], row[0]])
    matrix = np.array([[col[1] - col[0], col[2] - col[0]], [row[1] - row[0], row[2] - row[0]]])
    return _affine_sample(volume.pixels[slice_index], matrix, origin, (cols, rows), fill)


def _affine_sample(
    pixels: NDArray[np.float32], matrix: Floats, origin: Floats, size: tuple[int, ...], fill: float
) -> NDArray[np.float32]:
    """Sample at ``origin + matrix @ index`` for every output index (x fastest); both in pixel indices."""
    dimension = pixels.ndim
    image = sitk.GetImageFromArray(pixels)
    transform = sitk.AffineTransform(dimension)
    transform.SetMatrix(matrix.ravel().tolist())
    transform.SetTranslation(origin.tolist())
    result = sitk.GetArrayFromImage(
        sitk.Resample(
            image,
            [int(length) for length in size],
            transform,
            sitk.sitkLinear,
            [0.0] * dimension,
            [1.0] * dimension,
            np.eye(dimension).ravel().tolist(),
            fill,
            sitk.sitkFloat32,
        )
    )
    # SimpleITK repeats the outermost pixels for half a pixel; a repeated value is not the value there
    for axis in range(dimension):
        grids = np.ix_(*(np.arange(length) for length in reversed(size)))
        coordinate = origin[axis] + sum(
            matrix[axis, other] * grids[dimension - 1 - other] for other in range(dimension)
        )
        last = pixels.shape[dimension - 1 - axis] - 1
        result[(coordinate < -_EDGE_PIXELS) | (coordinate > last + _EDGE_PIXELS)] = fill
    return np.asarray(result)


def normalise(pixels: NDArray[np.float32], limits: tuple[float, float] | None = None) -> NDArray[np.float32]:
    """Scale so that the 1st and 99th percentiles become 0 and 1; float32 of the same shape, NaN stays NaN.

    Beyond the percentiles values are compressed smoothly, to at most 0.5 further, so that the brightest fat and flow do
    not dominate and no two grey levels become one. A constant image becomes 0.

    Args:
        pixels: of a whole stack, or of a part of one.
        limits: :func:`grey_limits` of the whole stack where ``pixels`` are a part of it.
    """
    values = np.asarray(pixels, dtype=np.float32)
    floor, ceiling = grey_limits(values) if limits is None else limits
    if not ceiling > floor:
        return np.where(np.isnan(values), values, np.float32(0))
    scaled = (values - np.float32(floor)) / np.float32(ceiling - floor)
    above, below = scaled > 1, scaled < 0
    scaled[above] = 1 + 0.5 * np.tanh((scaled[above] - 1) / 0.5)
    scaled[below] = 0.5 * np.tanh(scaled[below] / 0.5)
    return np.asarray(scaled, dtype=np.float32)


def grey_limits(pixels: NDArray[np.float32]) -> tuple[float, float]:
    """The 1st and 99th percentiles of a stack, or its extremes where those are one; equal numbers if it is constant."""
    sample = pixels.ravel()[:: max(1, pixels.size // 2**18)]
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        return 0.0, 0.0
    floor, ceiling = np.percentile(sample, [1.0, 99.0])
    if not ceiling > floor:
        floor, ceiling = sample.min(), sample.max()
    return float(floor), float(ceiling)
