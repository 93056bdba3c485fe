"""One patient: the shapes that follow from the narrowing of the 25 cells.

Everything is a number or a table along the spine's arc length: :mod:`pipeline.phantom.sampling` draws it and
:mod:`pipeline.phantom.rendering` turns it into pictures. The three measurements that grades are read from are areas
and depths in mm at the disc: see :data:`MEASUREMENTS`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.labels import CELLS, Family
from pipeline.phantom.curve import SpineCurve

VERTEBRAE = ("T9", "T10", "T11", "T12", "L1", "L2", "L3", "L4", "L5", "S1", "S2", "S3", "S4")
FIRST_LUMBAR = VERTEBRAE.index("L1")
FORAMEN_U = 20.0
"""How far from the midline the foramen is marked, mm."""
FORAMEN_ABOVE_DISC = 4.5
FORAMEN_BEHIND_WALL = 4.5
"""Where in the foramen the mark lies: above the middle of the disc and behind the back wall of the body, mm."""

MEASUREMENTS: dict[Family, tuple[float, ...]] = {
    Family.CANAL: (1.0, 118.0, 92.0, 66.0, 47.0, 20.0),
    Family.FORAMINAL: (3.4, 2.6, 1.5, 0.95, 0.35, 0.0),
    Family.SUBARTICULAR: (6.8, 5.4, 3.2, 2.2, 1.1, 0.1),
}
"""Measurement at the edges of the grade bands: area of the dural sac at the disc (mm2; the first is a share of the
patient's own sac), width of the fat around the root in the foramen (mm), depth of the lateral recess (mm)."""


@dataclass(frozen=True)
class Vertebra:
    """One vertebra: extent along s, size of the body, and what grew on it (mm)."""

    name: str
    top: float
    bottom: float
    half_width: float
    half_depth: float
    canal_depth: float
    canal_half_width: float
    wedge: float
    facet_growth: tuple[float, float]
    marrow_lesion: tuple[float, float, float, float] | None

    @property
    def middle(self) -> float:
        """s of the middle."""
        return (self.top + self.bottom) / 2

    @property
    def sacral(self) -> bool:
        """Whether the vertebra belongs to the sacrum."""
        return self.name.startswith("S")


@dataclass(frozen=True)
class Disc:
    """One disc: extent along s, degeneration 0..1, and its edges (mm).

    Attributes:
        lateral: growth of the outline to (left, right).
        osteophyte: anterior spur, mm.
        modic: (type 0 none, 1 oedema, 2 fat, 3 sclerosis; depth into the bodies in mm).
        fissure: bright spot in the posterior annulus, 0..1.
        vacuum: gas cleft, 0..1.
    """

    top: float
    bottom: float
    degeneration: float
    lateral: tuple[float, float]
    osteophyte: float
    modic: tuple[int, float]
    fissure: float
    vacuum: float

    @property
    def middle(self) -> float:
        """s of the middle."""
        return (self.top + self.bottom) / 2


@dataclass(frozen=True)
class Foramen:
    """One neural foramen; positions in spine coordinates, ``side`` +1 left, -1 right."""

    side: int
    disc_s: float
    wall: float
    clearance: float
    lower_width: float
    root: tuple[float, float]


@dataclass(frozen=True, eq=False)
class CanalTables:
    """The canal along the curve's rows, each (n,), mm.

    ``front`` is the back wall of bodies and discs at u = 0; ``bulge`` (2, n) its displacement at the left and right
    recess; ``recess`` (2, n) the depth of the recesses; ``sac_front``, ``sac_depth``, ``sac_width`` the dural sac
    (full depth and width); ``back`` the inside of the laminae; ``fat`` the posterior epidural fat; ``ligament`` the
    thickness of the ligamentum flavum, ``tightness`` 0..1 how far the sac is effaced.
    """

    wall: np.ndarray
    front: np.ndarray
    bulge: np.ndarray
    recess: np.ndarray
    recess_u: np.ndarray
    sac_front: np.ndarray
    sac_depth: np.ndarray
    sac_width: np.ndarray
    back: np.ndarray
    fat: np.ndarray
    ligament: np.ndarray
    tightness: np.ndarray


@dataclass(frozen=True)
class RootPath:
    """One root of the cauda equina: its place in the sac (shares of the half width and half depth), mm, radians."""

    across: float
    back: float
    phase: float
    radius: float
    leaves: float


@dataclass(frozen=True)
class Habitus:
    """What surrounds the spine (mm, shares 0..1)."""

    scale: float
    fat_thickness: float
    fat_slope: float
    muscle_bulk: float
    muscle_fat: float
    lumbar_muscle_fat: float
    psoas_bulk: float
    aorta_radius: float
    conus_s: float
    age: float
    half_breadth: float


@dataclass(frozen=True, eq=False)
class Anatomy:
    """A patient. ``narrowing`` and ``measurements`` are (25,) in the order of CELLS, ``landmarks`` (25, 3) body mm."""

    curve: SpineCurve
    vertebrae: tuple[Vertebra, ...]
    discs: tuple[Disc, ...]
    canal: CanalTables
    foramina: tuple[Foramen, ...]
    roots: tuple[RootPath, ...]
    habitus: Habitus
    narrowing: np.ndarray
    measurements: np.ndarray
    landmarks: np.ndarray

    @property
    def grades(self) -> np.ndarray:
        """(25,) grade of every cell, read from its measurement."""
        return np.array(
            [
                grade_of_measurement(cell.condition.family, value)
                for cell, value in zip(CELLS, self.measurements, strict=True)
            ]
        )

    def lumbar_disc(self, level: int) -> Disc:
        """The disc of level 0 (L1/L2) to 4 (L5/S1)."""
        return self.discs[FIRST_LUMBAR + level]


def grade_of_measurement(family: Family, value: float) -> int:
    """Grade of a measurement (see MEASUREMENTS): the thresholds lie in the middle between the bands."""
    edges = MEASUREMENTS[family]
    return int(value < (edges[1] + edges[2]) / 2) + int(value < (edges[3] + edges[4]) / 2)


def joint_circle(vertebra: Vertebra) -> tuple[float, float, float]:
    """The circle in (|u|, v) along which the facet joints of a vertebra run: centre and radius, mm.

    The superior articular process of the lower vertebra lies around it in front and laterally, the inferior one of
    the upper vertebra inside.
    """
    scale = vertebra.half_width / 22.5
    return 11.0 * scale, 17.0 + vertebra.canal_depth + 5.0, 8.6 * scale
