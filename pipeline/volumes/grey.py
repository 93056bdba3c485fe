"""Grey levels of a stack on one scale, by its percentiles."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def normalise(pixels: NDArray[np.float32], limits: tuple[float, float] | None = None) -> NDArray[np.float32]:
    """Scale so that the 1st and 99th percentiles become 0 and 1; float32 of the same shape, NaN stays NaN.

    Beyond the percentiles values are compressed smoothly, to at most 0.5 further, so that the brightest fat and flow do
    not dominate and no two grey levels become one. A constant image becomes 0.

    Args:
        pixels: of a whole stack, or of a part of one.
        limits: :func:`grey_limits` of the whole stack where ``pixels`` are a part of it.
    """
    values = np.asarray(pixels, dtype=np.float32)
    floor, ceiling = grey_limits(values) if limits is None else limits
    if not ceiling > floor:
        return np.where(np.isnan(values), values, np.float32(0))
    scaled = values - np.float32(floor)
    scaled /= np.float32(ceiling - floor)
    flat = scaled.reshape(-1)
    above, below = np.flatnonzero(flat > 1), np.flatnonzero(flat < 0)  # few: found once, not by masks
    flat[above] = 1 + 0.5 * np.tanh((flat[above] - 1) / 0.5)
    flat[below] = 0.5 * np.tanh(flat[below] / 0.5)
    return np.asarray(scaled, dtype=np.float32)


def grey_limits(pixels: NDArray[np.float32]) -> tuple[float, float]:
    """The 1st and 99th percentiles of a stack, or its extremes where those are one; equal numbers if it is constant."""
    sample = pixels.ravel()[:: max(1, pixels.size // 2**18)]
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        return 0.0, 0.0
    floor, ceiling = np.percentile(sample, [1.0, 99.0])
    if not ceiling > floor:
        floor, ceiling = sample.min(), sample.max()
    return float(floor), float(ceiling)
