"""Drawing a patient: sizes, curve, degeneration, and the shapes that give each cell its narrowing.

Sizes are adult means of lumbar morphometry (vertebral bodies 34 x 44 mm, discs 8 to 11 mm, canal 17 mm, sac 150 to
215 mm2) with a spread over patients; wear grows with age and with the narrowing of the level.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipeline.labels import CELLS, LEVELS, Family, Side
from pipeline.phantom.anatomy import (
    FIRST_LUMBAR,
    FORAMEN_ABOVE_DISC,
    FORAMEN_BEHIND_WALL,
    FORAMEN_U,
    MEASUREMENTS,
    VERTEBRAE,
    Anatomy,
    CanalTables,
    Disc,
    Foramen,
    Habitus,
    RootPath,
    Vertebra,
)
from pipeline.phantom.curve import STEP_MM, SpineCurve, build_curve
from pipeline.phantom.grades import NARROWING_BANDS, sample_narrowing

_HEIGHTS = (19.0, 20.0, 21.5, 23.5, 25.5, 26.5, 27.0, 27.0, 27.0, 27.0, 22.0, 18.0, 16.0)
_DISCS = (4.5, 5.0, 6.0, 7.0, 8.5, 9.5, 10.5, 11.0, 10.0, 2.2, 1.4, 1.0, 0.8)
_HALF_DEPTHS = (14.0, 14.5, 15.0, 15.5, 16.0, 16.5, 17.0, 17.2, 17.0, 14.5, 10.5, 8.0, 6.0)
_HALF_WIDTHS = (15.0, 16.0, 17.5, 19.5, 20.5, 21.5, 22.5, 23.5, 25.0, 24.0, 19.0, 16.0, 13.0)
_SAGITTAL = (-1.0, -5.0, -9.0, -12.0, -13.0, -9.0, -2.0, 7.0, 19.0, 38.0, 47.0, 56.0, 66.0)
_CANAL_DEPTHS = (15.0, 15.0, 15.5, 16.5, 17.0, 17.0, 17.0, 17.5, 18.0, 16.0, 11.0, 8.0, 6.0)
_CANAL_HALF_WIDTHS = (9.5, 9.5, 10.0, 11.0, 11.5, 11.8, 12.0, 12.5, 14.0, 14.0, 10.0, 8.0, 6.0)
_SAC_FRONT_GAPS = (0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.9, 1.2, 2.6, 4.0, 3.5, 2.0, 1.5)
_KNOTS = tuple(edge for band in NARROWING_BANDS for edge in band)


def sample_anatomy(rng: np.random.Generator) -> Anatomy:
    """Draw one patient."""
    narrowing = sample_narrowing(rng)
    habitus = _sample_habitus(rng)
    by_level = narrowing.reshape(5, len(LEVELS))
    vertebrae, discs = _sample_column(rng, habitus, by_level)
    curve = _sample_curve(rng, vertebrae, discs)
    measurements = np.empty(len(CELLS))
    own_sac = rng.uniform(150, 215) * habitus.scale
    for index, cell in enumerate(CELLS):
        family = cell.condition.family
        values = list(MEASUREMENTS[family])
        if family is Family.CANAL:
            values[0] = own_sac
        measurements[index] = np.interp(narrowing[index], _KNOTS, values)
    canal = _build_canal(rng, curve, vertebrae, discs, measurements, habitus, own_sac)
    foramina = _build_foramina(rng, vertebrae, discs, measurements)
    landmarks = _landmarks(curve, discs, canal, foramina)
    roots = _sample_roots(rng, vertebrae)
    habitus = replace(habitus, conus_s=vertebrae[FIRST_LUMBAR].bottom + float(rng.normal(0, 11)))
    return Anatomy(curve, vertebrae, discs, canal, foramina, roots, habitus, narrowing, measurements, landmarks)


def _sample_roots(rng: np.random.Generator, vertebrae: tuple[Vertebra, ...]) -> tuple[RootPath, ...]:
    roots = []
    for pair in range(9):
        leaves = vertebrae[min(FIRST_LUMBAR + 1 + pair, len(vertebrae) - 1)].middle
        for side in (1.0, -1.0):
            across = side * float(np.clip(0.78 - 0.085 * pair + rng.normal(0, 0.05), 0.06, 0.8))
            roots.append(
                RootPath(
                    across,
                    float(rng.uniform(0.0, 0.62) * (1 - 0.25 * abs(across))),
                    float(rng.uniform(0, 6.28)),
                    float(rng.uniform(0.55, 0.9)),
                    leaves,
                )
            )
    return tuple(roots)


def _sample_habitus(rng: np.random.Generator) -> Habitus:
    scale = float(np.clip(rng.normal(1.0, 0.07), 0.84, 1.18))
    age = float(rng.uniform(0, 1))
    return Habitus(
        scale=scale,
        fat_thickness=float(np.clip(rng.gamma(3.0, 6.0) + 5, 6, 60)),
        fat_slope=float(rng.uniform(0.0, 0.16)),
        muscle_bulk=float(rng.uniform(0.85, 1.15)),
        muscle_fat=float(np.clip(rng.beta(1.6, 4.0) + 0.15 * age, 0.02, 0.9)),
        lumbar_muscle_fat=float(np.clip(rng.beta(1.6, 2.5) * (0.4 + 0.8 * age), 0.0, 1.0)),
        psoas_bulk=float(rng.uniform(0.75, 1.2)),
        aorta_radius=float(rng.uniform(7, 11)),
        conus_s=0.0,
        age=age,
        half_breadth=float(rng.uniform(150, 195)),
    )


def _sample_column(
    rng: np.random.Generator, habitus: Habitus, by_level: np.ndarray
) -> tuple[tuple[Vertebra, ...], tuple[Disc, ...]]:
    scale, vertebrae, discs, s = habitus.scale, [], [], -170.0
    lumbarised, sacralised = rng.random() < 0.03, rng.random() < 0.03
    for index, name in enumerate(VERTEBRAE):
        height = _HEIGHTS[index] * scale * rng.normal(1, 0.03)
        if habitus.age > 0.5 and not name.startswith("S") and rng.random() < 0.03:
            height *= rng.uniform(0.6, 0.85)
        lesion = None
        if rng.random() < 0.05:
            lesion = (rng.uniform(-0.5, 0.5), rng.uniform(-0.5, 0.5), rng.uniform(-0.5, 0.5), rng.uniform(3.0, 7.0))
        level = index - FIRST_LUMBAR
        above = by_level[3:5, level - 1] if 1 <= level <= 5 else np.zeros(2)
        vertebrae.append(
            Vertebra(
                name,
                s,
                s + height,
                _HALF_WIDTHS[index] * scale * rng.normal(1, 0.03),
                _HALF_DEPTHS[index] * scale * rng.normal(1, 0.02),
                _CANAL_DEPTHS[index] * scale * rng.normal(1, 0.03),
                _CANAL_HALF_WIDTHS[index] * scale * rng.normal(1, 0.03),
                float(rng.normal(0, 0.03)),
                (float(rng.uniform(0, 0.1) + 0.3 * above[0]), float(rng.uniform(0, 0.1) + 0.3 * above[1])),
                lesion,
            )
        )
        s += height
        lumbar = 0 <= level < 5
        strain = float(by_level[:, level].mean()) if lumbar else 0.0
        degeneration = float(np.clip(rng.beta(1.5, 1.8) * (0.35 + 0.75 * habitus.age) + 0.45 * strain, 0, 1))
        thickness = _DISCS[index] * scale * rng.normal(1, 0.06)
        if not name.startswith("S"):
            thickness *= 1 - 0.55 * degeneration * rng.uniform(0.2, 1.0)
            thickness = max(thickness, 3.0)
        if name == "S1" and lumbarised:
            thickness = rng.uniform(4.0, 7.0)
        if name == "L5" and sacralised:
            thickness = rng.uniform(3.0, 5.0)
        modic = int(rng.choice([1, 2, 3], p=[0.35, 0.5, 0.15])) if rng.random() < 0.35 * degeneration else 0
        foraminal = by_level[1:3, level] if lumbar else np.zeros(2)
        discs.append(
            Disc(
                s,
                s + thickness,
                degeneration,
                (float(3 * foraminal[0] + rng.uniform(0, 1)), float(3 * foraminal[1] + rng.uniform(0, 1))),
                float(rng.uniform(0, 4.5) * degeneration),
                (modic, float(rng.uniform(4, 11))),
                float(rng.random() < 0.15),
                float(rng.random() < 0.15 * degeneration),
            )
        )
        s += thickness
    return tuple(vertebrae), tuple(discs)


def _sample_curve(rng: np.random.Generator, vertebrae: tuple[Vertebra, ...], discs: tuple[Disc, ...]) -> SpineCurve:
    lordosis = rng.normal(1.0, 0.22)
    sagittal = np.array(_SAGITTAL) * np.clip(lordosis, 0.4, 1.5)
    sagittal = sagittal + rng.normal(0, 1.6, len(_SAGITTAL)) + rng.normal(0, 4)
    amplitude = rng.normal(0, 2.5) if rng.random() < 0.85 else rng.choice([-1, 1]) * rng.uniform(7, 20)
    middles = np.array([vertebra.middle for vertebra in vertebrae])
    phase = (middles - vertebrae[6].middle + rng.normal(0, 20)) / rng.uniform(55, 80)
    fade = np.clip((vertebrae[9].bottom - middles) / 60, 0, 1)
    coronal = amplitude * np.sin(phase) * fade
    axial = 0.8 * amplitude * np.cos(phase) * fade + rng.normal(0, 1)
    knots, angles = [], []
    for index, vertebra in enumerate(vertebrae):
        body = 0.12 * (vertebra.bottom - vertebra.top)
        share = 0.15
        before, after = max(index - 1, 0), min(index + 1, len(vertebrae) - 1)
        for s, other in ((vertebra.top + body, before), (vertebra.bottom - body, after)):
            knots.append(s)
            turns = [(1 - share) * values[index] + share * values[other] for values in (sagittal, coronal, axial)]
            angles.append(turns)
    slips = []
    for level in range(5):
        if rng.random() < (0.02, 0.03, 0.05, 0.14, 0.07)[level]:
            slips.append((discs[FIRST_LUMBAR + level].middle, float(rng.choice([1, 1, 1, -0.6]) * rng.uniform(2, 8))))
    table = np.array(angles)
    return build_curve(np.array(knots), table[:, 0], table[:, 1], table[:, 2], slips, vertebrae[6].middle)


def _build_canal(
    rng: np.random.Generator,
    curve: SpineCurve,
    vertebrae: tuple[Vertebra, ...],
    discs: tuple[Disc, ...],
    measurements: np.ndarray,
    habitus: Habitus,
    own_sac: float,
) -> CanalTables:
    s = curve.start + STEP_MM * np.arange(len(curve.centre))
    middles = [vertebra.middle for vertebra in vertebrae]

    def along(values: list[float]) -> np.ndarray:
        return np.interp(s, middles, values)

    wall = along([vertebra.half_depth for vertebra in vertebrae])
    canal_depth = along([vertebra.canal_depth for vertebra in vertebrae])
    half_width = along([vertebra.canal_half_width for vertebra in vertebrae])
    gap = along(list(_SAC_FRONT_GAPS)) * rng.uniform(0.8, 1.3)
    normal_depth = np.minimum(np.sqrt(own_sac / np.pi * 0.72) * 2, canal_depth - 2.0)
    normal_width = own_sac * 4 / np.pi / normal_depth
    tail = 1 / (1 + np.exp((s - vertebrae[10].middle - rng.uniform(-8, 12)) / 5.0))
    shrink = np.interp(s, [vertebrae[8].middle, vertebrae[9].middle, vertebrae[11].middle], [1.0, 0.86, 0.35])
    normal_depth, normal_width = normal_depth * shrink, normal_width * shrink
    area = normal_depth * normal_width * np.pi / 4
    bulge_centre = np.zeros_like(s)
    bulge, tightness = np.zeros((2, len(s))), np.zeros_like(s)
    recess = np.full((2, len(s)), 6.8) * habitus.scale
    for disc in discs[:FIRST_LUMBAR]:
        bulge_centre += rng.uniform(0, 1.2) * _profile(s, disc)
    table = measurements.reshape(5, len(LEVELS))
    depth, width = normal_depth.copy(), normal_width.copy()
    for level in range(len(LEVELS)):
        disc = discs[FIRST_LUMBAR + level]
        profile = _profile(s, disc)
        row = int(curve.rows(np.array(disc.middle)))
        ratio = table[0, level] / area[row]
        front_share = rng.uniform(0.3, 0.7)
        depth += profile * (normal_depth * ratio ** rng.uniform(0.62, 0.72) - depth)
        width += profile * (table[0, level] * 4 / np.pi / depth[row] - width)
        bulge_centre += profile * np.clip(front_share * (normal_depth[row] - depth[row]), 0.0, 7.0)
        tightness = np.maximum(tightness, profile * np.clip(1 - table[0, level] / 118, 0, 1))
        for side in range(2):
            closed = max(6.8 - table[3 + side, level], 0.0)
            share = rng.uniform(0.35, 0.75)
            bulge[side] += profile * share * closed
            recess[side] += profile * (table[3 + side, level] - recess[side])
    front = wall + bulge_centre
    sac_front = front + gap
    back = np.maximum(wall + canal_depth, sac_front + depth + 1.0)
    ligament = 2.2 + 2.2 * tightness + rng.uniform(0, 0.8)
    fat = np.clip(rng.uniform(2.5, 5.5) * (1 - tightness), 0.4, None)
    recess_u = np.maximum(half_width - 2.6, width / 2 * 0.88)
    return CanalTables(
        wall, front, bulge, recess, recess_u, sac_front, depth * tail, width * tail, back, fat, ligament, tightness
    )


def _profile(s: np.ndarray, disc: Disc) -> np.ndarray:
    """Weight 1 at the disc, falling to 0 over the neighbouring halves of the bodies."""
    sigma = (disc.bottom - disc.top) / 2 + 2.5
    weight: np.ndarray = np.exp(-0.5 * (np.maximum(np.abs(s - disc.middle) - 1.5, 0) / sigma) ** 2)
    return weight


def _build_foramina(
    rng: np.random.Generator, vertebrae: tuple[Vertebra, ...], discs: tuple[Disc, ...], measurements: np.ndarray
) -> tuple[Foramen, ...]:
    foramina = []
    table = measurements.reshape(5, len(LEVELS))
    for index in range(1, FIRST_LUMBAR + len(LEVELS)):
        level = index - FIRST_LUMBAR
        for column, side in ((0, 1), (1, -1)):
            clearance = table[1 + column, level] if level >= 0 else 2.4
            lower = float(np.interp(clearance, [0, 0.35, 0.95, 1.5, 2.6, 3.4], [0, 0.3, 1.2, 2.2, 4.4, 5.5]))
            squeeze = 0.78 + 0.22 * min(clearance / 1.5, 1.0)
            size = (2.6 if level < 0 else 2.9 + 0.12 * level) * rng.normal(1, 0.06)
            wall = (vertebrae[index].half_depth + vertebrae[index + 1].half_depth) / 2
            foramina.append(
                Foramen(side, discs[index].middle, wall, float(clearance), lower, (size * 1.15, size * squeeze))
            )
    return tuple(foramina)


def _landmarks(
    curve: SpineCurve, discs: tuple[Disc, ...], canal: CanalTables, foramina: tuple[Foramen, ...]
) -> np.ndarray:
    points = np.empty((len(CELLS), 3))
    for index, cell in enumerate(CELLS):
        level = LEVELS.index(cell.level)
        disc = discs[FIRST_LUMBAR + level]
        row = int(curve.rows(np.array(disc.middle)))
        side = {None: 0, Side.LEFT: 1, Side.RIGHT: -1}[cell.condition.side]
        column = 0 if side >= 0 else 1
        if cell.condition.family is Family.CANAL:
            points[index] = curve.point(disc.middle, 0.0, float(canal.front[row]) + 1.5)
        elif cell.condition.family is Family.SUBARTICULAR:
            depth = canal.wall[row] + 0.8 + canal.bulge[column, row] + canal.recess[column, row] / 2
            points[index] = curve.point(disc.middle, side * float(canal.recess_u[row]), float(depth))
        else:
            foramen = next(f for f in foramina if f.disc_s == disc.middle and f.side == side)
            points[index] = curve.point(
                disc.middle - FORAMEN_ABOVE_DISC, side * FORAMEN_U, foramen.wall + FORAMEN_BEHIND_WALL
            )
    return points
