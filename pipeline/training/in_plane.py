"""albumentations for stacks: the same change of the plane in every slice, in float, with points.

Everything of albumentations is behind this module. 2.0.8 is its last MIT release, and five things need care: it looks
at the network on import unless ``NO_ALBUMENTATIONS_UPDATE`` is set; its ``Resize`` moves key points by half a pixel at
twice the size, so only ``Affine`` moves anything here; its piecewise and thin-plate transforms drop key points, so they
are not offered; its random state is its own, so it is seeded from the caller's generator at each call; and what changes
intensities clips a float image to 0..1, so a stack travels scaled into that range (its brightest fat lies above 1), and
gain and offset, which would leave it, are numpy's.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from pipeline.weights.recipe import InPlaneSettings

_ZERO = 0.5
"""Where 0 lies while a stack is scaled into 0..1; what is beyond the edge and in a hole is 0."""


class InPlaneAugmentation:
    """Changes one stack on the CPU; use in a dataset's ``__getitem__``.

    Raises:
        ModuleNotFoundError: if albumentations is not installed.
    """

    def __init__(self, settings: InPlaneSettings | None = None) -> None:
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
        import albumentations as A  # noqa: N812

        self.settings = s = settings or InPlaneSettings()
        steps: list[Any] = []
        if s.affine_share:
            steps.append(
                A.Affine(
                    rotate=(-s.rotation, s.rotation),
                    scale=(1 - s.scale, 1 + s.scale),
                    translate_percent=(-s.shift, s.shift),
                    shear=(-s.shear, s.shear),
                    fill=_ZERO,
                    p=s.affine_share,
                )
            )
        if s.blur_share and s.blur:
            steps.append(A.GaussianBlur(blur_limit=0, sigma_limit=(min(0.1, s.blur), s.blur), p=s.blur_share))
        if s.holes_share and s.holes and s.hole_size:
            size = (min(0.05, s.hole_size), s.hole_size)
            steps.append(
                A.CoarseDropout(
                    num_holes_range=(1, s.holes),
                    hole_height_range=size,
                    hole_width_range=size,
                    fill=_ZERO,
                    p=s.holes_share,
                )
            )
        # Points outside stay: the caller decides what a point beyond the edge means
        moving = A.KeypointParams(format="xy", remove_invisible=False) if s.affine_share else None
        self._compose = A.Compose(steps, keypoint_params=moving)

    def __call__(
        self, pixels: np.ndarray, generator: np.random.Generator, points: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """A changed copy.

        Args:
            pixels: (S, H, W) float32 about 0..1, air at 0; slices travel as channels, which keeps them together.
            generator: the only source of randomness.
            points: (N, 2) (col, row) px, or None.

        Returns:
            pixels (S, H, W) float32 and points (N, 2) float64 or None.
        """
        if pixels.ndim != 3 or pixels.dtype != np.float32:
            raise ValueError(f"expected a float32 stack (S, H, W), found {pixels.shape} {pixels.dtype}")
        pixels = self._recoloured(pixels, generator)
        self._compose.set_random_seed(int(generator.integers(2**31)))
        span = 2 * max(float(np.abs(pixels).max(initial=0)), 1e-6)
        image = np.ascontiguousarray(np.moveaxis(pixels / span + _ZERO, 0, 2), dtype=np.float32)
        inputs = {"image": image}
        if points is not None and self.settings.affine_share:
            inputs["keypoints"] = np.asarray(points, np.float32)
        changed = self._compose(**inputs)
        moved = (np.moveaxis(changed["image"].reshape(image.shape), 2, 0) - _ZERO) * span
        result = np.ascontiguousarray(moved, dtype=np.float32)
        return result, None if points is None else np.array(changed.get("keypoints", points), float).reshape(-1, 2)

    def _recoloured(self, pixels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Gain and offset, the same for the whole stack."""
        chosen, gain, offset = generator.random(), *generator.uniform(-self.settings.gain, self.settings.gain, 2)
        if chosen >= self.settings.gain_share:
            return pixels
        return np.asarray(pixels * (1 + gain) + offset / 2, dtype=np.float32)
