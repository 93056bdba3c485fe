"""What the scanner adds: coil profile, saturation band, ghosts, blur, noise, distortion-corrected borders."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.labels import SeriesKind
from pipeline.phantom.acquisition import SeriesPlan


@dataclass(frozen=True)
class Artefacts:
    """One series' imperfections.

    Attributes:
        coil_mm: depth at which the posterior coil's sensitivity has halved.
        coil_floor: sensitivity far from the coil, share.
        band: strength 0..1 of the saturation band over the abdomen; ``band_mm`` its border in front of the middle.
        tilt: linear shading (rows, cols), relative at the border.
        ghost: amplitude of the copy shifted along the phase direction; ``ghost_shift`` in shares of the image.
        blur_px: Gaussian width.
        noise: standard deviation of the noise relative to the tissue level.
            border: strength of the curved black borders that correction of gradient distortion leaves, 0 none.
        maximum: grey value of the brightest tissue in the file.
    """

    coil_mm: float
    coil_floor: float
    band: float
    band_mm: float
    tilt: tuple[float, float]
    ghost: float
    ghost_shift: float
    ghost_vertical: bool
    blur_px: float
    noise: float
    border: float
    maximum: float


def sample_artefacts(plan: SeriesPlan, rng: np.random.Generator) -> Artefacts:
    """Draw the imperfections of one series."""
    sagittal = plan.kind is not SeriesKind.AXIAL_T2
    return Artefacts(
        coil_mm=float(rng.uniform(60, 170) if sagittal else rng.uniform(45, 140)),
        coil_floor=float(rng.uniform(0.03, 0.3)),
        band=float(rng.choice([0.0, rng.uniform(0.7, 0.97)], p=[0.35, 0.65]))
        if sagittal
        else float(rng.choice([0.0, rng.uniform(0.4, 0.9)], p=[0.6, 0.4])),
        band_mm=float(rng.uniform(34, 60)) if sagittal else float(rng.uniform(45, 70)),
        tilt=(float(rng.normal(0, 0.15)), float(rng.normal(0, 0.12))),
        ghost=float(rng.choice([0.0, rng.uniform(0.01, 0.06)], p=[0.6, 0.4])),
        ghost_shift=float(rng.uniform(0.08, 0.45)),
        ghost_vertical=bool(rng.random() < 0.5),
        blur_px=float(rng.uniform(0.35, 0.85)),
        noise=float(np.exp(rng.uniform(np.log(0.008), np.log(0.038)))),
        border=float(rng.choice([0.0, rng.uniform(0.3, 1.0)], p=[0.5, 0.5])) if sagittal else 0.0,
        maximum=float(rng.uniform(500, 2000)),
    )


def degrade(
    image: np.ndarray,
    plan: SeriesPlan,
    artefacts: Artefacts,
    centre_px: tuple[float, float],
    spacing: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Apply the imperfections to one slice.

    Args:
        image: (rows, cols) float32 signal, about 0..1.
        centre_px: (column, row) of the middle of the lumbar spine on the slice.

    Returns:
        (rows, cols) uint16.
    """
    rows, cols = image.shape
    y, x = np.arange(rows, dtype=np.float32)[:, None], np.arange(cols, dtype=np.float32)[None, :]
    sagittal = plan.kind is not SeriesKind.AXIAL_T2
    # In both planes the way from the coil runs against "posterior": columns in sagittal slices, rows in axial ones.
    posterior = (x - centre_px[0]) * spacing if sagittal else (y - centre_px[1]) * spacing
    coil = np.exp2(-np.clip(70 - posterior, 0, None) / np.float32(artefacts.coil_mm)) * np.float32(1.7)
    field = artefacts.coil_floor + (1 - artefacts.coil_floor) * coil
    if artefacts.band > 0:
        slope = 0.06 * (y - rows / 2) * spacing if sagittal else 0.0
        field = field * (1 - artefacts.band / (1 + np.exp((posterior + artefacts.band_mm + slope) / 4.0)))
    field = field * (1 + artefacts.tilt[0] * (2 * y / rows - 1)) * (1 + artefacts.tilt[1] * (2 * x / cols - 1))
    field = field.astype(np.float32)
    image = image * field
    if artefacts.ghost > 0:
        axis = 0 if artefacts.ghost_vertical else 1
        shift = int(artefacts.ghost_shift * image.shape[axis])
        image = image + artefacts.ghost * (np.roll(image, shift, axis) + np.roll(image, -shift, axis))
    image = cv2.GaussianBlur(image, (0, 0), artefacts.blur_px)
    noise = rng.standard_normal((2, rows, cols), dtype=np.float32) * np.float32(artefacts.noise)
    image = np.sqrt((image + noise[0]) ** 2 + noise[1] ** 2)
    if artefacts.border > 0:
        bow = artefacts.border * 0.035 * rows * ((2 * x / cols - 1) ** 2)
        image = image * ((y > bow) & (y < rows - 1 - bow))
    return np.clip(np.rint(image * np.float32(artefacts.maximum)), 0, 4095).astype(np.uint16)
