"""The examples of the class, and what they do not show."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from pipeline.volumes import Affine, affine

SLANTED = Affine.of_plane([0.6, 0.8, 0], [0, 0, -1], [10, -20, 300], (0.8, 0.4))
AXIAL = Affine.of_plane([1, 0, 0], [0, 1, 0], [0, 0, 50], (1.5, 1.5))


def test_the_examples_hold():
    assert doctest.testmod(affine).attempted > 3
    assert doctest.testmod(affine).failed == 0


def test_the_inverse_gives_the_distance_to_the_plane_in_mm():
    place = SLANTED @ (7, 3, 0) + 2.5 * SLANTED.normal
    assert SLANTED.inverse @ place == pytest.approx([7, 3, 2.5])


def test_one_point_goes_through_every_slice_and_many_through_their_own():
    stack = Affine.stack([SLANTED, AXIAL])
    points = np.array([(7.0, 3.0, 1.0), (2.0, 9.0, 0.0)])
    assert stack @ points[0] == pytest.approx(np.stack([SLANTED @ points[0], AXIAL @ points[0]]))
    assert stack @ points == pytest.approx(np.stack([SLANTED @ points[0], AXIAL @ points[1]]))
    assert SLANTED @ points == pytest.approx(np.stack([SLANTED @ points[0], SLANTED @ points[1]]))
    assert [one.spacing_mm for one in stack] == [SLANTED.spacing_mm, AXIAL.spacing_mm]
    assert stack[np.array([1, 0])].origin_mm == pytest.approx(np.stack([AXIAL.origin_mm, SLANTED.origin_mm]))


def test_a_product_does_the_right_one_first():
    flip = Affine(np.array([[-1.0, 0, 0, 9], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    assert (SLANTED @ flip) @ (2, 5, 0) == pytest.approx(SLANTED @ (7, 5, 0))
    assert (Affine.stack([SLANTED, AXIAL]) @ flip)[1] @ (2, 5, 0) == pytest.approx(AXIAL @ (7, 5, 0))
