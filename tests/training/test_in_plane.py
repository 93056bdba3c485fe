"""albumentations moves all slices and the points alike, in float, and only as its generator says."""

import dataclasses
import os

import numpy as np
import pytest

pytest.importorskip("albumentations")

from pipeline.training.in_plane import InPlaneAugmentation
from pipeline.weights.recipe import InPlaneSettings

MOVING = InPlaneSettings(rotation=25, affine_share=1, holes_share=0, blur_share=0, gain_share=0, shift=0.1)
ROWS, COLS = 60, 84


def spot(col, row):
    rows, cols = np.mgrid[:ROWS, :COLS]
    return np.exp(-((cols - col) ** 2 + (rows - row) ** 2) / 8).astype(np.float32)


def test_points_move_with_what_they_mark_in_every_slice():
    augment, generator = InPlaneAugmentation(MOVING), np.random.default_rng(0)
    points = np.array([[34.0, 22.0], [50.0, 26.0], [44.0, 38.0], [30.0, 30.0], [52.0, 36.0], [40.0, 30.0]])
    stack = np.stack([spot(*point) for point in points])
    rows, cols = np.mgrid[:ROWS, :COLS]
    moved_by = []
    for _ in range(10):
        pixels, moved = augment(stack, generator, points)
        assert pixels.dtype == np.float32
        assert pixels.shape == stack.shape
        found = np.array([[(p * cols).sum() / p.sum(), (p * rows).sum() / p.sum()] for p in pixels])
        inside = ((moved > 7) & (moved < [COLS - 8, ROWS - 8])).all(1)
        assert inside.any()
        assert np.abs(found - moved)[inside].max() < 0.2
        assert np.abs(found - moved[:, ::-1])[inside].max() > 2, "x and y swapped would be seen"
        moved_by.append(np.linalg.norm(moved - points, axis=1).mean())
    assert max(moved_by) > 3


def test_slices_stay_together_and_grey_levels_stay_float():
    settings = InPlaneSettings(affine_share=1, holes_share=1, blur_share=1, gain_share=1)
    stack = np.repeat(np.random.default_rng(1).random((1, ROWS, COLS), dtype=np.float32) * 1.4, 7, axis=0)
    pixels, points = InPlaneAugmentation(settings)(stack, np.random.default_rng(2))
    assert points is None
    assert np.abs(pixels - pixels[:1]).max() < 1e-6
    assert len(np.unique(pixels)) > 1000, "no 8-bit steps"


def test_nothing_is_clipped():
    """Normalised pixels reach from -0.5 to 1.5, and albumentations clips what its intensity steps return to 0..1."""
    stack = np.random.default_rng(1).uniform(-0.5, 1.5, (3, ROWS, COLS)).astype(np.float32)
    stack[0, :10, :10], stack[0, 10:20, :10] = 1.5, -0.5
    for name in ("blur_share", "gain_share"):
        settings = dataclasses.replace(MOVING, affine_share=0, blur=0.2, gain=0.3, **{name: 1})
        augment = InPlaneAugmentation(settings)
        results = [augment(stack, np.random.default_rng(seed))[0] for seed in range(8)]
        assert max(result.max() for result in results) > 1.45, name
        assert min(result.min() for result in results) < -0.45, name
        assert not any(np.array_equal(result, stack) for result in results), name


def test_what_comes_in_from_outside_and_holes_are_air():
    stack = np.ones((2, ROWS, COLS), np.float32)
    moved = InPlaneAugmentation(MOVING)(stack, np.random.default_rng(1))[0]
    assert np.abs(moved).min() < 1e-6
    holes = dataclasses.replace(MOVING, affine_share=0, holes_share=1)
    blanked = InPlaneAugmentation(holes)(stack, np.random.default_rng(1))[0]
    assert set(np.unique(blanked.round(5))) == {0.0, 1.0}


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"gain_share is 1\.5, expected at most 1"):
        InPlaneSettings(gain_share=1.5)


def test_the_generator_decides_alone():
    augment = InPlaneAugmentation()
    stack = np.random.default_rng(1).random((2, ROWS, COLS), dtype=np.float32)
    first = augment(stack, np.random.default_rng(3))[0]
    assert np.array_equal(augment(stack, np.random.default_rng(3))[0], first)
    assert not np.array_equal(augment(stack, np.random.default_rng(4))[0], first)


def test_points_outside_are_kept_in_place_and_number():
    stack = np.zeros((1, ROWS, COLS), np.float32)
    points = np.array([[-20.0, 5.0], [40.0, 30.0], [200.0, 90.0]])
    still = dataclasses.replace(MOVING, affine_share=0)
    moved = InPlaneAugmentation(still)(stack, np.random.default_rng(0), points)[1]
    np.testing.assert_allclose(moved, points)


def test_it_never_asks_the_network_for_updates():
    InPlaneAugmentation()
    assert os.environ["NO_ALBUMENTATIONS_UPDATE"] == "1"


def test_bytes_are_refused():
    with pytest.raises(ValueError, match=r"float32 stack \(S, H, W\), found .* uint8"):
        InPlaneAugmentation()(np.zeros((2, 8, 8), np.uint8), np.random.default_rng(0))
