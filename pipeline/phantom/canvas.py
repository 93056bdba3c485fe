"""A slice being drawn: its pixel grid in the patient's coordinates and the painting of soft-edged shapes on it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.phantom.curve import SpineCurve
from pipeline.phantom.textures import texture

COARSE_MM = 2.4
"""Pixel size of the grid on which spine coordinates are solved before they are interpolated: they are smooth."""


@dataclass(frozen=True, eq=False)
class Window:
    """A part of the slice: index ranges and the coordinate fields there, each (rows, cols) float32 mm."""

    rows: slice
    cols: slice
    s: np.ndarray
    u: np.ndarray
    v: np.ndarray


class Canvas:
    """One infinitely thin slice.

    Args:
        curve: the spine.
        origin: (3,) body-frame position of pixel (0, 0), mm.
        step_col, step_row: (3,) body-frame displacement per column and per row, mm.
        shape: (rows, cols).
        rng: for the textures; two sub-slices of one slice get generators in the same state.
    """

    def __init__(self, curve: SpineCurve, origin: np.ndarray, step_col: np.ndarray, step_row: np.ndarray,
                 shape: tuple[int, int], rng: np.random.Generator) -> None:
        self.shape, self.rng, self.curve = shape, rng, curve
        self.origin, self.step_col, self.step_row = origin, step_col, step_row
        self.spacing = float(np.linalg.norm(step_col))
        self.edge = max(self.spacing, 0.5)
        self.image = np.zeros(shape, np.float32)
        self.factor = max(1, round(COARSE_MM / self.spacing))
        k = self.factor
        rows = np.arange(-1, -(-shape[0] // k) + 1) * k + (k - 1) / 2
        cols = np.arange(-1, -(-shape[1] // k) + 1) * k + (k - 1) / 2
        self.coarse_points = (origin + rows[:, None, None] * step_row + cols[None, :, None] * step_col)
        s, u, v = curve.locate(self.coarse_points)
        self.coarse_s, self.coarse_u, self.coarse_v = s, u, v
        self.s, self.u, self.v = self.refine(s), self.refine(u), self.refine(v)

    def refine(self, coarse: np.ndarray) -> np.ndarray:
        """A field on the coarse grid, interpolated to the pixels: (rows, cols) float32."""
        k = self.factor
        big = cv2.resize(coarse.astype(np.float32), (coarse.shape[1] * k, coarse.shape[0] * k),
                         interpolation=cv2.INTER_LINEAR)
        return np.ascontiguousarray(big[k:k + self.shape[0], k:k + self.shape[1]])

    def window(self, coarse_mask: np.ndarray) -> Window | None:
        """The smallest window that holds every pixel near a set node of the coarse grid; None if there is none."""
        bounds = []
        for axis, limit in ((1, self.shape[0]), (0, self.shape[1])):
            hits = np.flatnonzero(coarse_mask.any(axis=axis))
            if not len(hits):
                return None
            low, high = (hits[0] - 2) * self.factor, (hits[-1] + 1) * self.factor
            low, high = max(int(low), 0), min(int(high), limit)
            if low >= high:
                return None
            bounds.append(slice(low, high))
        rows, cols = bounds
        return Window(rows, cols, self.s[rows, cols], self.u[rows, cols], self.v[rows, cols])

    def local(self, window: Window, centre: np.ndarray, axes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rigid coordinates (along the three rows of ``axes``) about ``centre`` of the window's pixels, mm."""
        start = axes @ (self.origin - centre)
        per_row, per_col = axes @ self.step_row, axes @ self.step_col
        rows = np.arange(window.rows.start, window.rows.stop, dtype=np.float32)[:, None]
        cols = np.arange(window.cols.start, window.cols.stop, dtype=np.float32)[None, :]
        first, second, third = (
            np.float32(start[axis]) + rows * np.float32(per_row[axis]) + cols * np.float32(per_col[axis])
            for axis in range(3)
        )
        return first, second, third

    def paint(self, window: Window, distance: np.ndarray, value: np.ndarray | float, opacity: float = 1.0,
              softness: float = 1.0) -> None:
        """Put ``value`` where the signed ``distance`` (mm, negative inside) is below 0, with an edge one pixel wide."""
        cover = distance * np.float32(-1.0 / (self.edge * softness))
        cover += np.float32(0.5)
        np.clip(cover, 0.0, 1.0, out=cover)
        self.blend(window, cover if opacity == 1.0 else cover * np.float32(opacity), value)

    def blend(self, window: Window, cover: np.ndarray, value: np.ndarray | float) -> None:
        """Mix ``value`` in by ``cover`` (0..1)."""
        view = self.image[window.rows, window.cols]
        view += cover * (value - view)

    def texture(self, sigma_mm: float, stretch: float = 1.0) -> np.ndarray:
        """A texture of the whole slice, (rows, cols); cut it with the window's ranges."""
        return texture(self.rng, self.shape, sigma_mm, self.spacing, stretch)


def ellipsoid(x: np.ndarray, y: np.ndarray, z: np.ndarray, centre: tuple[float, float, float],
              radii: tuple[float, float, float]) -> np.ndarray:
    """About the signed distance to an ellipsoid, mm: exact at the surface's poles, good near the surface."""
    total = ((x - np.float32(centre[0])) / np.float32(radii[0])) ** 2
    total += ((y - np.float32(centre[1])) / np.float32(radii[1])) ** 2
    total += ((z - np.float32(centre[2])) / np.float32(radii[2])) ** 2
    np.sqrt(total, out=total)
    total -= 1
    total *= np.float32(min(radii))
    return total


def ellipse(x: np.ndarray, y: np.ndarray, centre: tuple[float, float], radii: tuple[float, float]) -> np.ndarray:
    """About the signed distance to an ellipse, mm (see :func:`ellipsoid`)."""
    total = ((x - np.float32(centre[0])) / np.float32(radii[0])) ** 2
    total += ((y - np.float32(centre[1])) / np.float32(radii[1])) ** 2
    np.sqrt(total, out=total)
    total -= 1
    total *= np.float32(min(radii))
    return total


def capsule(x: np.ndarray, y: np.ndarray, z: np.ndarray, start: tuple[float, float, float],
            stop: tuple[float, float, float], radius: float) -> np.ndarray:
    """Signed distance to a rod with round ends, mm."""
    axis = np.array(stop, np.float32) - np.array(start, np.float32)
    length = float(axis @ axis)
    dx, dy, dz = x - np.float32(start[0]), y - np.float32(start[1]), z - np.float32(start[2])
    along = np.clip((dx * axis[0] + dy * axis[1] + dz * axis[2]) / np.float32(length), 0, 1)
    dx, dy, dz = dx - along * axis[0], dy - along * axis[1], dz - along * axis[2]
    distance: np.ndarray = np.sqrt(dx * dx + dy * dy + dz * dz) - np.float32(radius)
    return distance


def join(first: np.ndarray, second: np.ndarray, blend_mm: float = 2.0) -> np.ndarray:
    """Union of two shapes with a rounded seam (polynomial smooth minimum of their distances)."""
    weight = np.clip(0.5 + (second - first) / np.float32(2 * blend_mm), 0, 1)
    joined: np.ndarray = second + weight * (first - second) - np.float32(blend_mm) * weight * (1 - weight)
    return joined
