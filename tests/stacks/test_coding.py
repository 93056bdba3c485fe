"""Packing loses nothing, whatever the pixels are."""

import numpy as np
import pytest

from pipeline.stacks.coding import pack, unpack


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 7, 5), (2, 64, 48)])
@pytest.mark.parametrize("kind", ["noise", "extremes", "smooth", "constant"])
def test_every_pixel_comes_back(shape, kind):
    rng = np.random.default_rng(0)
    pixels = {
        "noise": rng.integers(0, 2**16, shape),
        "extremes": rng.choice([0, 2**15 - 1, 2**15, 2**16 - 1], shape),
        "smooth": np.cumsum(np.ones(shape), -1) * 20 + rng.integers(0, 9, shape),
        "constant": np.full(shape, 2**16 - 1),
    }[kind].astype(np.uint16)
    assert np.array_equal(unpack(*pack(pixels), shape), pixels)


def test_what_looks_like_an_image_takes_half_the_room():
    row, col = np.indices((200, 200))
    image = 800 + 300 * np.sin(row / 20) * np.cos(col / 15) + np.random.default_rng(0).normal(0, 15, (4, 200, 200))
    lower, upper = pack(image.astype(np.uint16))
    assert len(lower) + len(upper) < 0.55 * image.size * 2


def test_bytes_that_are_not_those_slices_are_refused():
    lower, upper = pack(np.zeros((2, 3, 4), np.uint16))
    with pytest.raises(ValueError, match=r"found 24 pixels, expected \(2, 3, 5\)"):
        unpack(lower, upper, (2, 3, 5))
    with pytest.raises(ValueError, match="packed slices"):
        unpack(lower[:-3], upper, (2, 3, 4))
