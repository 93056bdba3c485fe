"""The noise that tissues are made of."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.phantom.textures import bowel_loops, texture


@pytest.mark.parametrize("sigma_mm", [1.4, 2.8, 5.6, 22.4])
def test_noise_has_unit_variance_and_the_width_that_was_asked_for(sigma_mm):
    rng = np.random.default_rng(0)
    cuts = np.stack([texture(rng, (400, 400), sigma_mm, 1.0) for _ in range(6)])
    assert cuts.std() == pytest.approx(1.0, abs=0.15)
    # Of white noise smoothed with sigma, pixels 2 sigma apart correlate by exp(-1).
    apart = round(2 * sigma_mm)
    expected = np.exp(-((apart / (2 * sigma_mm)) ** 2))
    assert (cuts[:, apart:] * cuts[:, :-apart]).mean() / cuts.var() == pytest.approx(expected, abs=0.15)


def test_the_pool_cannot_be_spoilt_and_a_seed_cuts_the_same_place():
    first, second = (texture(np.random.default_rng(3), (50, 60), 1.2, 0.5) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    with pytest.raises(ValueError, match="read-only"):
        first += 1


def test_bowel_loops_are_round_apart_and_each_of_one_content():
    wall, number = bowel_loops(np.random.default_rng(1), (250, 260), 1.2)
    assert wall.shape == number.shape == (250, 260)
    assert 0.2 < (wall < 0).mean() < 0.8
    assert -18 < wall.min() < -8
    # A loop's number changes only in the fat between loops.
    across = (number[:, 1:] != number[:, :-1]) & (wall[:, 1:] < -2) & (wall[:, :-1] < -2)
    assert not across.any()
    assert len(np.unique(number[wall < -2])) > 30
