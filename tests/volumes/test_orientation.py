"""Canonical orientation: any way a scanner may write a slice comes out the documented way round, pixel by pixel."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pipeline.volumes import Plane, read_series
from pipeline.volumes.geometry import clean_orientation, plane_of
from tests.volumes.oracle import (
    AXIAL,
    CORONAL,
    SAGITTAL,
    X,
    Y,
    Z,
    assert_linear,
    at,
    positions,
    reference,
    turned,
    write_series,
)

SIGNED_AXES = [sign * axis for axis in (X, Y, Z) for sign in (1, -1)]
ALL_48 = [
    (np.stack([right, down]), order)
    for right, down in itertools.product(SIGNED_AXES, SIGNED_AXES)
    if abs(right @ down) < 0.5
    for order in (1, -1)
]


@pytest.mark.parametrize(("axes", "order"), ALL_48)
def test_every_orientation_becomes_canonical_and_keeps_its_place(tmp_path, axes, order):
    tilted = turned(axes, [1, 2, 3], 8.0)
    places = positions(tilted, (5, -7, 11), [order * step for step in (-6, -2, 2, 6)])
    reading = read_series(reference(write_series(tmp_path / "1", tilted, places)))
    assert reading.problems == ()
    (volume,) = reading.volumes
    right, down, following = {
        Plane.SAGITTAL: (Y, -Z, X),
        Plane.AXIAL: (X, Y, -Z),
        Plane.CORONAL: (X, -Z, Y),
    }[volume.plane]
    assert abs(np.cross(axes[0], axes[1])) @ abs(following) == 1
    for affine in volume.affines:
        assert affine.right @ right > 0.9
        assert affine.down @ down > 0.9
        assert affine.normal @ following > 0.9
    assert np.all(np.diff(volume.centres_mm @ following) > 0)
    assert np.allclose(volume.slice_steps_mm, 4.0)
    assert_linear(volume)


@pytest.mark.parametrize("axes", [axes for axes, order in ALL_48 if order == 1])
def test_source_pixels_are_the_files_own(tmp_path, axes):
    places = positions(axes, (5, -7, 11), [-6, -2, 2, 6])
    (volume,) = read_series(reference(write_series(tmp_path / "1", axes, places))).volumes
    x, y = np.array([3.25, 0.0]), np.array([7.5, 11.0])
    for instance, place in enumerate(places, start=1):
        expected = place + axes[0] * 0.8 * x[0] + axes[1] * 0.5 * y[0]
        point = volume.from_source_pixel(instance, x[0], y[0])
        assert np.allclose(point, expected)
        index = volume.nearest_slice(point[None])
        assert volume.instance_numbers[index[0]] == instance
        back_x, back_y = volume.to_source_pixel(point[None], index)
        assert np.allclose([back_x[0], back_y[0]], [x[0], y[0]])
        col, row, offset = volume.to_pixel(point[None], index)
        assert abs(offset[0]) < 1e-9
        assert np.allclose(at(volume, index, col, row)[0], point)


def test_offset_is_signed_the_way_the_slices_run(tmp_path):
    (volume,) = read_series(reference(write_series(tmp_path / "1", SAGITTAL))).volumes
    col, row, offset = volume.to_pixel(volume.centres_mm[[1]] + [[1.5, 0, 0]], np.array([1]))
    assert np.allclose([col[0], row[0], offset[0]], [7.5, 5.5, 1.5])
    assert volume.spacing_mm == pytest.approx((0.5, 0.8))


def test_left_and_right_come_from_patient_x_not_from_instance_order(tmp_path):
    falling = positions(SAGITTAL, (0, 0, 0), [6, 2, -2, -6])
    (volume,) = read_series(reference(write_series(tmp_path / "1", SAGITTAL, falling))).volumes
    rising = positions(SAGITTAL, (0, 0, 0), [-6, -2, 2, 6])
    (other,) = read_series(reference(write_series(tmp_path / "2", SAGITTAL, rising))).volumes
    assert volume.instance_numbers.tolist() == other.instance_numbers.tolist()[::-1]
    assert np.allclose(volume.centres_mm, other.centres_mm)
    assert np.all(np.diff(volume.centres_mm[:, 0]) > 0)


def test_unknown_instance_is_a_key_error_that_names_the_stack(tmp_path):
    (volume,) = read_series(reference(write_series(tmp_path / "77"))).volumes
    with pytest.raises(KeyError, match=r"series 77: no instance 9 .*\[1, 2, 3, 4\]"):
        volume.from_source_pixel(9, 0, 0)


@pytest.mark.parametrize(
    ("axes", "tilt", "plane"),
    [
        (AXIAL, 0, Plane.AXIAL),
        (AXIAL, -50, Plane.AXIAL),  # along the L5/S1 disc
        (AXIAL, 50, Plane.AXIAL),
        (CORONAL, 30, Plane.CORONAL),
        (CORONAL, -30, Plane.CORONAL),
    ],
)
def test_steep_axial_slices_are_not_coronal(axes, tilt, plane):
    assert plane_of(np.cross(*turned(axes, X, tilt))) is plane


@pytest.mark.parametrize(
    "values",
    [
        (),
        (1, 0, 0),
        (0,) * 6,
        (1, 0, 0, 1, 0, 0),
        (1, 0, 0, 0, float("nan"), 0),
        (2, 0, 0, 0, 2, 0),
        (1, 0, 0, 0.1, 1, 0),
    ],
)
def test_unusable_orientations_are_refused(values):
    assert clean_orientation(values) is None


def test_rounded_orientation_is_made_orthonormal():
    axes = clean_orientation((0.999, 0.034, 0.005, -0.034, 0.999, 0.006))
    assert axes is not None
    assert np.allclose(axes @ axes.T, np.eye(2), atol=1e-12)
