"""The spine's curve and the coordinates along it.

Body frame: x to the patient's left, y posterior, z superior, in mm, origin at the middle of L3. Spine frame: ``s``
the arc length along the line through the middles of the vertebral bodies (inferior is positive), ``u`` the patient's
left, ``v`` posterior, both in the plane perpendicular to that line. Discs and bodies are simple shapes in (s, u, v);
lordosis, scoliosis, rotation and slip live in the curve alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

STEP_MM = 0.5
_ITERATIONS = 4


def smooth(values: np.ndarray, sigma: float) -> np.ndarray:
    """A profile (n,) smoothed with a Gaussian of ``sigma`` samples; beyond its ends it continues level."""
    reach = round(4 * sigma)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return np.convolve(np.pad(values, reach, mode="edge"), kernel / kernel.sum(), mode="valid")


@dataclass(frozen=True, eq=False)
class SpineCurve:
    """The curve as tables over ``s`` (start + i * STEP_MM).

    Attributes:
        start: s of the first row, mm.
        centre: (n, 3) points of the curve in the body frame, mm.
        frames: (n, 3, 3) rows are the unit axes of u, v and s (the tangent).
    """

    start: float
    centre: np.ndarray
    frames: np.ndarray

    @property
    def stop(self) -> float:
        """s of the last row, mm."""
        return self.start + STEP_MM * (len(self.centre) - 1)

    def rows(self, s: np.ndarray) -> np.ndarray:
        """Table rows of arc lengths, clipped to the table."""
        return np.clip(np.rint((s - self.start) / STEP_MM), 0, len(self.centre) - 1).astype(np.intp)

    def point(self, s: float, u: float, v: float) -> np.ndarray:
        """The body-frame point (3,) of spine coordinates."""
        position = (s - self.start) / STEP_MM
        row = int(np.clip(np.floor(position), 0, len(self.centre) - 2))
        centre = self.centre[row] + (position - row) * (self.centre[row + 1] - self.centre[row])
        frame = self.frames[row] + (position - row) * (self.frames[row + 1] - self.frames[row])
        result: np.ndarray = centre + u * frame[0] + v * frame[1]
        return result

    def locate(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Spine coordinates (s, u, v) of body-frame points (..., 3), and the frames (..., 3, 3) they were read in.

        Each point is put on the plane perpendicular to the curve that contains it, by fixed-point iteration from its
        height. Beyond the curve's ends the coordinates continue straight. Points so far off the curve that several
        planes hold them get one of these.
        """
        flat = points.reshape(-1, 3).astype(np.float32)
        heights = self.centre[::-1, 2]
        rows = len(heights) - 1 - np.searchsorted(heights, flat[:, 2]).clip(0, len(heights) - 1)
        frames, centre = self.frames.astype(np.float32), self.centre.astype(np.float32)
        tangents = self.frames[:, 2].astype(np.float32)
        along_table = (self.centre * self.frames[:, 2]).sum(1).astype(np.float32)
        last = len(self.centre) - 1
        for _ in range(_ITERATIONS):
            along = (flat * tangents[rows]).sum(1) - along_table[rows]
            rows = np.clip(rows + np.rint(along * np.float32(0.85 / STEP_MM)).astype(np.intp), 0, last)
        frame = frames[rows]
        local = (frame @ (flat - centre[rows])[:, :, None])[:, :, 0]
        shape = points.shape[:-1]
        s = np.float32(self.start) + np.float32(STEP_MM) * rows.astype(np.float32) + local[:, 2]
        return (s.reshape(shape), local[:, 0].reshape(shape), local[:, 1].reshape(shape), frame.reshape(*shape, 3, 3))


def build_curve(
    knots_s: np.ndarray,
    sagittal_deg: np.ndarray,
    coronal_deg: np.ndarray,
    axial_deg: np.ndarray,
    slips: list[tuple[float, float]],
    origin_s: float,
) -> SpineCurve:
    """Integrate a curve from its angles.

    Args:
        knots_s: (k,) arc lengths at which the angles are given, mm, rising.
        sagittal_deg: (k,) tilt of the tangent, positive where the spine runs posterior on its way down.
        coronal_deg: (k,) tilt to the patient's left on its way down.
        axial_deg: (k,) rotation about the long axis.
        slips: (s, mm) of every slipped disc: what lies above it moves anterior by that much.
        origin_s: the arc length that lies at the body frame's origin.
    """
    s = np.arange(knots_s[0], knots_s[-1] + STEP_MM / 2, STEP_MM)
    angles = [
        np.radians(smooth(np.interp(s, knots_s, values), 2.0 / STEP_MM))
        for values in (sagittal_deg, coronal_deg, axial_deg)
    ]
    tangent = np.stack(
        [np.sin(angles[1]), np.sin(angles[0]) * np.cos(angles[1]), -np.cos(angles[0]) * np.cos(angles[1])], axis=1
    )
    across = np.stack([np.cos(angles[2]), np.sin(angles[2]), np.zeros_like(s)], axis=1)
    across -= (across * tangent).sum(1, keepdims=True) * tangent
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    back = np.cross(across, tangent)
    centre = np.cumsum(tangent, axis=0) * STEP_MM
    for at, amount in slips:
        centre -= (amount / (1 + np.exp((s - at) / 1.5)))[:, None] * back
    centre -= centre[int(np.argmin(np.abs(s - origin_s)))]
    return SpineCurve(float(s[0]), centre, np.stack([across, back, tangent], axis=1))
