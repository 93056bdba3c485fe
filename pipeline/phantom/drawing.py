"""A slice being drawn: its pixel grid in the patient's coordinates and the painting of soft-edged shapes on it."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.phantom.curve import SpineCurve
from pipeline.phantom.textures import texture

COARSE_MM = 3.6
"""Pixel size of the grid on which spine coordinates are solved before they are interpolated: they are smooth."""


@dataclass(frozen=True, eq=False)
class Window:
    """A part of the slice: index ranges and the coordinate fields there, each (..., rows, cols) float32 mm."""

    rows: slice
    cols: slice
    s: np.ndarray
    u: np.ndarray
    v: np.ndarray


class Canvas:
    """One infinitely thin slice, or a pile of them (:meth:`moved`) painted at once.

    The image and all fields are (rows, cols), in a pile (depths, rows, cols); textures are (rows, cols) in both.

    ``coarse_s``, ``coarse_u``, ``coarse_v`` are the spine coordinates on a coarse grid over the part of the slice
    where the spine can be (possibly nothing); ``s``, ``u``, ``v`` those of the pixels there, 0 elsewhere.

    Args:
        curve: the spine.
        origin: (3,) body-frame position of pixel (0, 0), mm.
        step_col, step_row: (3,) body-frame displacement per column and per row, mm.
        shape: (rows, cols).
        rng: for the textures.
    """

    def __init__(
        self,
        curve: SpineCurve,
        origin: np.ndarray,
        step_col: np.ndarray,
        step_row: np.ndarray,
        shape: tuple[int, int],
        rng: np.random.Generator,
    ) -> None:
        self.shape, self.rng, self.curve = shape, rng, curve
        self.origin, self.step_col, self.step_row = origin, step_col, step_row
        self.spacing = float(np.linalg.norm(step_col))
        self.edge = max(self.spacing, 0.5)
        self.image = np.zeros(shape, np.float32)
        self.factor = max(1, round(COARSE_MM / self.spacing))
        k = self.factor
        rows = np.arange(-1, -(-shape[0] // k) + 1) * k + (k - 1) / 2
        cols = np.arange(-1, -(-shape[1] // k) + 1) * k + (k - 1) / 2
        self.coarse_points = origin + rows[:, None, None] * step_row + cols[None, :, None] * step_col
        s, u, v, self._frames = curve.locate(self.coarse_points)
        self._set_fields(s, u, v)

    def moved(self, offsets: np.ndarray, rng: np.random.Generator) -> Canvas:
        """A pile of copies displaced by a few mm (depths, 3): the spine coordinates follow to first order.

        On what is painted into a pile the arrays' number matters more than their size, so all depths go together.
        """
        other = copy.copy(self)
        other.rng = rng
        other.image = np.repeat(self.image[None], len(offsets), axis=0)
        s, u, v = self._full
        shift = np.moveaxis(self._frames @ offsets.T.astype(np.float32), -1, 0)
        other._set_fields(s + shift[..., 2], u + shift[..., 0], v + shift[..., 1])
        return other

    def _set_fields(self, s: np.ndarray, u: np.ndarray, v: np.ndarray) -> None:
        self._full = (s, u, v)
        core = (np.abs(u) < 60) & (v > -30) & (v < 76)
        flat = core.reshape(-1, *core.shape[-2:]).any(0)
        rows, cols = np.flatnonzero(flat.any(1)), np.flatnonzero(flat.any(0))
        if not len(rows):
            self._reach, self._corner = None, (0, 0)
            self.coarse_s = self.coarse_u = self.coarse_v = np.zeros((0, 0), np.float32)
            self.s = self.u = self.v = np.zeros(self.shape, np.float32)
            return
        block = (slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1))
        self._corner = (int(rows[0]), int(cols[0]))
        self.coarse_s, self.coarse_u, self.coarse_v = (field[..., *block] for field in (s, u, v))
        self.s, self.u, self.v = (self._refine_block(field, block) for field in (s, u, v))
        self._reach = (float(s[core].min()), float(s[core].max()), float(u[core].min()), float(u[core].max()))

    def _refine_block(self, coarse: np.ndarray, block: tuple[slice, slice]) -> np.ndarray:
        """:meth:`refine` around a block of nodes alone, as far as a window of these nodes can reach; 0 elsewhere."""
        k = self.factor
        if coarse.ndim > 2:
            return np.stack([self._refine_block(field, block) for field in coarse])
        fine = np.zeros(self.shape, np.float32)
        nodes = tuple(slice(max(part.start - 3, 0), part.stop + 3) for part in block)
        part = np.ascontiguousarray(coarse[nodes])
        big = cv2.resize(part, (part.shape[1] * k, part.shape[0] * k), interpolation=cv2.INTER_LINEAR)
        # Node 0 lies outside the image: pixel 0 is the first of node 1.
        row, col = ((nodes[axis].start - 1) * k for axis in (0, 1))
        big = big[max(-row, 0) :, max(-col, 0) :]
        target = fine[max(row, 0) : max(row, 0) + big.shape[0], max(col, 0) : max(col, 0) + big.shape[1]]
        target[:] = big[: target.shape[0], : target.shape[1]]
        return fine

    def reaches(self, s_low: float, s_high: float, u_low: float = -62.0, u_high: float = 62.0) -> bool:
        """Whether the slice may show the spine between these coordinates (mm); False is certain."""
        if self._reach is None:
            return False
        low, high, right, left = self._reach
        return low <= s_high and high >= s_low and right <= u_high and left >= u_low

    def refine(self, coarse: np.ndarray) -> np.ndarray:
        """A field on the coarse grid, interpolated to the pixels: (rows, cols) float32."""
        k = self.factor
        big = cv2.resize(
            coarse.astype(np.float32), (coarse.shape[1] * k, coarse.shape[0] * k), interpolation=cv2.INTER_LINEAR
        )
        return np.ascontiguousarray(big[k : k + self.shape[0], k : k + self.shape[1]])

    def coarsen(self, field: np.ndarray) -> np.ndarray:
        """The values of a field of the whole slice (rows, cols) at the nodes of the coarse grid."""
        rows, cols = (
            np.clip(np.arange(-1, count - 1) * self.factor + self.factor // 2, 0, limit - 1)
            for count, limit in zip(self.coarse_points.shape[:2], self.shape, strict=True)
        )
        picked: np.ndarray = field[np.ix_(rows, cols)]
        return picked

    def window(self, coarse_mask: np.ndarray) -> Window | None:
        """The smallest window that holds every pixel near a set node of the coarse grid; None if there is none.

        Args:
            coarse_mask: on the grid of ``coarse_points`` or on that of ``coarse_s``.
        """
        corner = (0, 0) if coarse_mask.shape == self.coarse_points.shape[:2] else self._corner
        coarse_mask = np.logical_or.reduce(coarse_mask.reshape(-1, *coarse_mask.shape[-2:]), axis=0)
        hit_rows = np.flatnonzero(coarse_mask.any(axis=1))
        if not len(hit_rows):
            return None
        hit_cols = np.flatnonzero(coarse_mask[hit_rows[0] : hit_rows[-1] + 1].any(axis=0))
        bounds = []
        for hits, start, limit in zip((hit_rows, hit_cols), corner, self.shape, strict=True):
            low = max((int(hits[0]) + start - 2) * self.factor, 0)
            high = min((int(hits[-1]) + start + 1) * self.factor, limit)
            if low >= high:
                return None
            bounds.append(slice(low, high))
        rows, cols = bounds
        return Window(rows, cols, self.s[..., rows, cols], self.u[..., rows, cols], self.v[..., rows, cols])

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

    def paint(
        self,
        window: Window,
        distance: np.ndarray,
        value: np.ndarray | float,
        opacity: float = 1.0,
        softness: float = 1.0,
    ) -> None:
        """Put ``value`` where the signed ``distance`` (mm, negative inside) is below 0, with an edge one pixel wide."""
        cover = distance * np.float32(-1.0 / (self.edge * softness))
        cover += np.float32(0.5)
        np.maximum(cover, np.float32(0.0), out=cover)
        np.minimum(cover, np.float32(1.0), out=cover)
        self.blend(window, cover if opacity == 1.0 else cover * np.float32(opacity), value)

    def blend(self, window: Window, cover: np.ndarray, value: np.ndarray | float) -> None:
        """Mix ``value`` in by ``cover`` (0..1)."""
        view = self.image[..., window.rows, window.cols]
        change = value - view
        change *= cover
        view += change

    def texture(self, sigma_mm: float, stretch: float = 1.0) -> np.ndarray:
        """A texture of the whole slice, (rows, cols); cut it with the window's ranges."""
        return texture(self.rng, self.shape, sigma_mm, self.spacing, stretch)


def ellipsoid(
    x: np.ndarray, y: np.ndarray, z: np.ndarray, centre: tuple[float, float, float], radii: tuple[float, float, float]
) -> np.ndarray:
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


def capsule(
    x: np.ndarray,
    y: np.ndarray,
    z: np.ndarray,
    start: tuple[float, float, float],
    stop: tuple[float, float, float],
    radius: float,
) -> np.ndarray:
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


def rounded(*faces: np.ndarray, radius_mm: float) -> np.ndarray:
    """Intersection of half spaces (their signed distances, mm) with edges rounded to ``radius_mm``."""
    total = np.zeros_like(faces[0])
    nearest = faces[0] + radius_mm
    for face in faces:
        inner = face + np.float32(radius_mm)
        nearest = np.maximum(nearest, inner)
        total += np.maximum(inner, 0) ** 2
    distance: np.ndarray = np.where(nearest > 0, np.sqrt(total), nearest) - np.float32(radius_mm)
    return distance
