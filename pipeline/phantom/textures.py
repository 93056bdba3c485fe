"""Pools of smooth noise from which every tissue takes its texture.

Noise is made once per process from a fixed seed (the same in every worker) and cut at random places, which is several
hundred times cheaper than making it per slice.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

_POOL_SIZE = 1024
_SIGMAS_PX = (0.7, 1.4, 2.8, 5.6, 11.2, 22.4)


@lru_cache(maxsize=32)
def _pool(sigma_rows: float, sigma_cols: float) -> np.ndarray:
    rng = np.random.default_rng([2024, int(10 * sigma_rows), int(10 * sigma_cols)])
    # Coarse noise is made on a coarse grid and enlarged: the same grain for a sixteenth of the work.
    shrink = 4 if min(sigma_rows, sigma_cols) > 5 else 1
    size = _POOL_SIZE // shrink
    sigmas = (sigma_rows / shrink, sigma_cols / shrink)
    reach = [int(3 * sigma + 0.5) for sigma in sigmas]
    padded = np.pad(rng.standard_normal((size, size), dtype=np.float32), [(part, part) for part in reach], "wrap")
    kernel = (2 * reach[1] + 1, 2 * reach[0] + 1)
    noise = cv2.GaussianBlur(padded, kernel, sigmas[1], sigmaY=sigmas[0])
    noise = noise[reach[0] : reach[0] + size, reach[1] : reach[1] + size]
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


_LOOPS_MM, _LOOP_GRID_MM = 512, 32
"""Side of the pool of bowel loops (one pixel a millimetre) and mean distance between them."""


@lru_cache(maxsize=1)
def _loop_pool() -> np.ndarray:
    """(2, mm, mm): signed distance to the nearest loop's wall in mm, and that loop's number in 0..1."""
    rng = np.random.default_rng([2024, 7])
    count = _LOOPS_MM // _LOOP_GRID_MM
    place = rng.uniform(0.1, 0.9, (2, count, count))
    radius, kind = rng.uniform(9.0, 17.0, (count, count)), rng.random((count, count))
    y, x = np.mgrid[:_LOOPS_MM:1.0, :_LOOPS_MM:1.0]
    bend = [5.0 * _pool(11.2, 11.2)[start : start + _LOOPS_MM, :_LOOPS_MM] for start in (0, _LOOPS_MM)]
    y, x = y + bend[0], x + bend[1]
    first, second = np.full(y.shape, 1e3), np.full(y.shape, 1e3)
    own, number = np.zeros(y.shape), np.zeros(y.shape)
    row, col = np.floor(y / _LOOP_GRID_MM).astype(int), np.floor(x / _LOOP_GRID_MM).astype(int)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            cell = ((row + down) % count, (col + right) % count)
            centre_y = (row + down + place[0][cell]) * _LOOP_GRID_MM
            centre_x = (col + right + place[1][cell]) * _LOOP_GRID_MM
            distance = np.hypot(y - centre_y, x - centre_x)
            nearer = distance < first
            second = np.where(nearer, first, np.minimum(second, distance))
            own, number = np.where(nearer, radius[cell], own), np.where(nearer, kind[cell], number)
            first = np.minimum(first, distance)
    # Round where a loop has room, flattened against its neighbours where it has not.
    wall = np.maximum(first - own, 1.0 - (second - first) / 2)
    pool: np.ndarray = np.stack([wall, number]).astype(np.float32)
    pool.setflags(write=False)
    return pool


def bowel_loops(rng: np.random.Generator, shape: tuple[int, int], spacing_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Bowel loops cut by a slice: signed distance to the wall (mm, negative inside) and each loop's number in 0..1.

    Both (rows, cols) float32.
    """
    pool = _loop_pool()
    rows, cols = (min(round(count * spacing_mm), _LOOPS_MM) for count in shape)
    row, col = rng.integers(0, _LOOPS_MM - rows + 1), rng.integers(0, _LOOPS_MM - cols + 1)
    wall, number = pool[:, row : row + rows, col : col + cols]
    size = (shape[1], shape[0])
    return (
        cv2.resize(wall, size, interpolation=cv2.INTER_LINEAR),
        cv2.resize(number, size, interpolation=cv2.INTER_NEAREST),
    )
