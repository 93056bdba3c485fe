"""Spine coordinates and back."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.phantom.curve import build_curve
from pipeline.phantom.sampling import sample_anatomy


@pytest.mark.parametrize("seed", range(4))
def test_locating_a_point_returns_the_coordinates_it_was_made_from(seed):
    curve = sample_anatomy(np.random.default_rng(seed)).curve
    rng = np.random.default_rng(seed)
    truth = np.stack([rng.uniform(-60, 95, 300), rng.uniform(-25, 25, 300), rng.uniform(-20, 30, 300)], axis=1)
    points = np.array([curve.point(*row) for row in truth])
    found = np.stack(curve.locate(points)[:3], axis=1)
    error = np.linalg.norm(found - truth, axis=1)
    assert np.median(error) < 0.1
    assert np.percentile(error, 95) < 0.6


def test_frames_are_right_handed_in_the_stated_sense_and_run_left_posterior_inferior():
    curve = sample_anatomy(np.random.default_rng(0)).curve
    np.testing.assert_allclose(
        curve.frames @ curve.frames.transpose(0, 2, 1), np.eye(3)[None].repeat(len(curve.frames), 0), atol=1e-9
    )
    middle = len(curve.frames) // 2
    across, back, down = curve.frames[middle]
    assert across[0] > 0.9
    assert back[1] > 0.7
    assert down[2] < -0.7


def test_a_straight_curve_is_the_body_frame():
    knots, zero = np.array([-50.0, 50.0]), np.zeros(2)
    curve = build_curve(knots, zero, zero, zero, [], 0.0)
    np.testing.assert_allclose(curve.point(10.0, 3.0, -4.0), (3.0, -4.0, -10.0), atol=1e-9)


def test_a_slip_moves_what_lies_above_it_forward():
    knots, zero = np.array([-50.0, 50.0]), np.zeros(2)
    curve = build_curve(knots, zero, zero, zero, [(0.0, 6.0)], 40.0)
    step = curve.point(40.0, 0, 0)[1] - curve.point(-40.0, 0, 0)[1]
    assert step == pytest.approx(6.0, abs=0.01)
