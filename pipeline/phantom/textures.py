"""Pools of smooth noise from which every tissue takes its texture.

Noise is made once per process from a fixed seed (the same in every worker) and cut at random places, which is several
hundred times cheaper than making it per slice.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter

_POOL_SIZE = 1024
_SIGMAS_PX = (0.7, 1.4, 2.8, 5.6, 11.2, 22.4)


@lru_cache(maxsize=32)
def _pool(sigma_rows: float, sigma_cols: float) -> np.ndarray:
    rng = np.random.default_rng([2024, int(10 * sigma_rows), int(10 * sigma_cols)])
    # Coarse noise is made on a coarse grid and enlarged: the same grain for a sixteenth of the work.
    shrink = 4 if min(sigma_rows, sigma_cols) > 5 else 1
    size = _POOL_SIZE // shrink
    noise = gaussian_filter(
        rng.standard_normal((size, size), dtype=np.float32),
        (sigma_rows / shrink, sigma_cols / shrink),
        mode="wrap",
        truncate=3.0,
    )
    pool: np.ndarray = cv2.resize(noise / noise.std(), (_POOL_SIZE, _POOL_SIZE), interpolation=cv2.INTER_CUBIC)
    pool.setflags(write=False)
    return pool


def _nearest(sigma_px: float) -> float:
    return min(_SIGMAS_PX, key=lambda value: abs(np.log(value / max(sigma_px, 0.1))))


def texture(
    rng: np.random.Generator, shape: tuple[int, int], sigma_mm: float, spacing_mm: float, stretch: float = 1.0
) -> np.ndarray:
    """A cut of unit-variance noise, (rows, cols) float32, read-only.

    Args:
        sigma_mm: width of the Gaussian the noise was smoothed with (the nearest of a few pools is taken).
        stretch: how much longer the grain is along the rows' direction (down the image) than across it.
    """
    across = _nearest(sigma_mm / spacing_mm)
    pool = _pool(_nearest(across * stretch) if stretch != 1.0 else across, across)
    row, col = rng.integers(0, _POOL_SIZE - shape[0] + 1), rng.integers(0, _POOL_SIZE - shape[1] + 1)
    return pool[row : row + shape[0], col : col + shape[1]]
