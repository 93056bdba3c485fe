"""From tissue to grey value: spin-echo and inversion-recovery signal equations with randomised tissue constants.

Relaxation times are rounded literature values at 1.5 to 3 T; fat carries the long apparent T2 it has in turbo spin
echo trains (J-coupling), which is why it is bright on T2. Every series draws its own echo and repetition times and
jitters every tissue, so that a network cannot rely on one scanner's grey values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np


class Weighting(StrEnum):
    """The contrast of a series."""

    T1 = "T1"
    T2 = "T2"
    STIR = "STIR"


TISSUES: dict[str, tuple[float, float, float]] = {
    "fat": (300, 130, 0.95),
    "marrow": (520, 85, 0.72),
    "marrow_fatty": (340, 115, 0.88),
    "oedema": (1100, 110, 0.85),
    "sclerosis": (800, 30, 0.35),
    "cortex": (600, 8, 0.18),
    "muscle": (1000, 36, 0.82),
    "nucleus": (1200, 115, 0.92),
    "nucleus_dry": (950, 42, 0.72),
    "annulus": (900, 30, 0.62),
    "csf": (3500, 900, 1.0),
    "cord": (900, 85, 0.82),
    "root": (950, 75, 0.80),
    "ganglion": (950, 75, 0.80),
    "ligament": (850, 30, 0.60),
    "joint": (1800, 130, 0.85),
    "blood": (1500, 12, 0.30),
    "vein": (1300, 100, 0.55),
    "skin": (800, 32, 0.70),
    "kidney": (1150, 95, 0.92),
    "liver": (650, 45, 0.80),
    "bowel": (1000, 70, 0.75),
    "gas": (1000, 1, 0.0),
}
"""T1 in ms, apparent T2 in a turbo spin echo train in ms, proton density."""


@dataclass(frozen=True)
class Contrast:
    """Grey value of every tissue of one series, about 0..1 with fat or CSF near 1."""

    weighting: Weighting
    signals: dict[str, float]

    def __getitem__(self, tissue: str) -> float:
        return self.signals[tissue]


def sample_contrast(weighting: Weighting, rng: np.random.Generator) -> Contrast:
    """Draw the acquisition's times and the patient's tissue constants, and evaluate the signal equations."""
    if weighting is Weighting.T1:
        repetition, echo, inversion = rng.uniform(380, 750), rng.uniform(7, 15), 0.0
    elif weighting is Weighting.T2:
        repetition, echo, inversion = rng.uniform(2600, 5500), rng.uniform(75, 125), 0.0
    else:
        repetition, echo, inversion = rng.uniform(3500, 6000), rng.uniform(40, 80), 205.0
    signals = {}
    fat_saturated = weighting is Weighting.STIR
    marrow_shift = rng.normal(0, 0.2)
    for tissue, (t1, t2, density) in TISSUES.items():
        t1, t2 = t1 * math.exp(rng.normal(0, 0.06)), t2 * math.exp(rng.normal(0, 0.1))
        density *= math.exp(rng.normal(0, 0.05))
        if tissue == "marrow":
            t1, t2 = t1 * math.exp(marrow_shift), t2 * math.exp(-0.6 * marrow_shift)
        if fat_saturated:
            recovery = abs(1 - 2 * math.exp(-inversion / t1) + math.exp(-repetition / t1))
        else:
            recovery = 1 - math.exp(-repetition / t1)
        signals[tissue] = density * recovery * math.exp(-echo / t2)
    if fat_saturated:
        # Inversion nulls fat only nearly: residual fat stays darker than muscle.
        for tissue, share in (("fat", 0.55), ("marrow_fatty", 0.7), ("marrow", 1.0)):
            signals[tissue] = min(signals[tissue], share * signals["muscle"] * rng.uniform(0.6, 1.1))
    top = max(signals["fat"], signals["csf"])
    gamma = rng.uniform(0.85, 1.2)
    return Contrast(weighting, {tissue: (value / top) ** gamma for tissue, value in signals.items()})
