"""Canvases keep the geometry: what is drawn at a place is what the patient has there."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.labels import SeriesKind
from pipeline.landmarks.canvas import unit, whole_slice_canvases, window_affine, window_canvas
from pipeline.volumes import Plane
from tests.landmarks.spine import DIRECTIONS, X, places, stack
from tests.volumes.oracle import SLANTED, TOLERANCE, turned


def linear(plane: Plane, shape=(90, 60), spacing=(1.3, 1.3), tilt=0.0):
    """A stack whose pixels are a linear function of patient position, its slices turned about the patient's x."""
    directions = DIRECTIONS[plane]
    if tilt:
        right, down = turned(np.stack(directions[:2]), X, tilt)
        directions = (right, down, np.cross(right, down) * np.sign(np.dot(np.cross(*directions[:2]), directions[2])))
    centres = np.array([3.0, -7.0, 11.0]) + np.arange(-1, 3)[:, None] * 4.5 * directions[2]
    volume = stack(plane, centres, shape, spacing, SeriesKind.UNKNOWN, directions=directions)
    return replace(volume, pixels=(places(volume) @ SLANTED).astype(np.float32))


def scale_of(volume):
    """What the percentiles of the stack make of the linear function: its offset and gain."""
    low, high = np.percentile(volume.pixels, [1, 99])
    return low, high - low


def assert_shows(image, affine, volume, margin=3):
    """The image is the linear function of the place its affine gives, wherever the window lies inside the slice."""
    low, gain = scale_of(volume)
    row, col = (grid.ravel() for grid in np.indices(image.shape))
    points = affine @ np.column_stack([col, row, np.zeros(len(col))])
    index = np.full(len(points), np.argmin(np.abs(volume.centres_mm @ volume.normal - points[0] @ volume.normal)))
    at_col, at_row, offset = volume.to_pixel(points, index)
    assert np.abs(offset).max() < 1e-6
    rows, cols = volume.shape[1:]
    expected = points @ SLANTED
    inside = (at_col > margin) & (at_col < cols - 1 - margin) & (at_row > margin) & (at_row < rows - 1 - margin)
    inside &= (expected > low) & (expected < low + gain)
    assert inside.sum() > 100
    assert np.abs(image.ravel()[inside] * gain + low - expected[inside]).max() <= TOLERANCE


@pytest.mark.parametrize("plane", [Plane.SAGITTAL, Plane.AXIAL])
@pytest.mark.parametrize(
    ("shape", "spacing", "tilt", "size"),
    [((90, 60), (1.3, 1.3), 0.0, 96), ((60, 90), (1.3, 1.3), 17.0, 96), ((90, 60), (0.9, 1.7), -9.0, 128)],
)
def test_a_whole_slice_shows_the_linear_function(plane, shape, spacing, tilt, size):
    volume = linear(plane, shape, spacing, tilt)
    canvases = whole_slice_canvases(volume, size)
    assert canvases.images.shape == (4, size, size)
    assert canvases.pixel_mm == pytest.approx(max(shape[0] * spacing[0], shape[1] * spacing[1]) / size)
    for image, affine in zip(canvases.images, canvases.affines, strict=True):
        assert_shows(image, affine, volume)


def test_a_canvas_much_coarser_than_the_slice_is_smoothed_and_still_in_place():
    volume = linear(Plane.SAGITTAL, (300, 200), (0.4, 0.4))
    canvases = whole_slice_canvases(volume, 64)
    assert_shows(canvases.images[1], canvases.affines[1], volume, margin=16)


def test_exchanged_x_and_y_would_be_noticed():
    volume = linear(Plane.SAGITTAL)
    canvases = whole_slice_canvases(volume, 96)
    with pytest.raises(AssertionError):
        assert_shows(canvases.images[0].T, canvases.affines[0], volume)


@pytest.mark.parametrize("tilt", [0.0, 24.0])
def test_a_window_shows_the_linear_function_around_the_projected_point(tilt):
    volume = linear(Plane.AXIAL, (80, 80), (1.1, 0.8), tilt)
    point = volume.centres_mm[2] + np.array([4.0, -6.0, 9.0])  # off the plane
    image, affine = window_canvas(volume.normalised, 2, point, 41, 0.7)
    assert_shows(image, affine, volume)
    middle = affine @ (20, 20, 0)
    off = point - middle
    assert np.linalg.norm(off) == pytest.approx(abs(float(off @ volume.normal)))  # straight along the normal
    assert np.linalg.norm(off) > 5


def test_canvas_pixels_run_as_the_slice_does():
    canvases = whole_slice_canvases(linear(Plane.SAGITTAL), 96)
    start, right, below = canvases.affines[0] @ [(0, 0, 0), (10, 0, 0), (0, 10, 0)]
    assert unit(right - start) == pytest.approx([0, 1, 0])  # x to the back
    assert unit(below - start) == pytest.approx([0, 0, -1])  # y to the feet


def test_a_wide_slice_lies_in_the_middle_of_its_canvas():
    volume = linear(Plane.AXIAL, (40, 80))
    canvases = whole_slice_canvases(replace(volume, pixels=np.ones_like(volume.pixels) + volume.pixels % 2), 80)
    assert (canvases.images[0][:19] == 0).all()
    assert (canvases.images[0][-19:] == 0).all()
    assert (canvases.images[0][21:59] != 0).any()
    middle = canvases.affines[0] @ (39.5, 39.5, 0)
    assert middle == pytest.approx(volume.centres_mm[0])


def test_a_window_affine_measures_the_distance_to_its_plane_in_mm():
    affine = window_affine(np.array([1.0, 2.0, 3.0]), np.array([1.0, 0, 0]), np.array([0, 1.0, 0]), 11, 0.5)
    assert affine.inverse @ (1, 2, 3 + 4) == pytest.approx([5, 5, 4])
