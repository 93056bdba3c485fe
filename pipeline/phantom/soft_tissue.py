"""Everything around the spine: skin, fat, muscles, vessels, kidneys, bowel.

Drawn in coordinates relative to the spine's position at each height (left, behind it), so that muscles follow lordosis
and scoliosis while the skin stays smooth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.phantom.anatomy import VERTEBRAE, Anatomy
from pipeline.phantom.contrast import Contrast, Weighting
from pipeline.phantom.curve import smooth
from pipeline.phantom.drawing import Canvas, Window, ellipse
from pipeline.phantom.textures import bowel_loops

_SPINOUS_TIPS = (46.0, 48.0, 51.0, 56.0, 60.0, 63.0, 64.0, 62.0, 56.0, 42.0, 32.0, 26.0, 22.0)
"""Depth of the spinous process tips behind the middle of the bodies, mm, by vertebra."""


@dataclass(frozen=True, eq=False)
class Surroundings:
    """Profiles over the height z (rising) that the soft tissues follow, each (n,), mm in the body frame."""

    z: np.ndarray
    spine_x: np.ndarray
    spine_y: np.ndarray
    fascia: np.ndarray
    skin: np.ndarray
    level: np.ndarray


def surroundings(anatomy: Anatomy) -> Surroundings:
    """Profiles of one patient. ``level`` is the position in units of vertebrae: 0 at L1, 4 at L5, 5 at S1."""
    centre = anatomy.curve.centre[::-1]
    z = np.arange(centre[0, 2] - 80, centre[-1, 2] + 80, 1.0)
    spine_x, spine_y = np.interp(z, centre[:, 2], centre[:, 0]), np.interp(z, centre[:, 2], centre[:, 1])
    middles = np.array([anatomy.curve.point(vertebra.middle, 0, 0)[2] for vertebra in anatomy.vertebrae])[::-1]
    tips = np.interp(z, middles, np.array(_SPINOUS_TIPS)[::-1] * anatomy.habitus.scale)
    level = np.interp(z, middles, np.arange(len(VERTEBRAE))[::-1] - VERTEBRAE.index("L1"))
    fascia = smooth(spine_y + tips + 4.0, 8.0)
    below = np.maximum(middles[-1] - z - 60, 0)
    even = smooth(fascia, 38.0)
    skin = np.maximum(even + anatomy.habitus.fat_thickness + anatomy.habitus.fat_slope * below, fascia + 4.0)
    return Surroundings(z, spine_x, spine_y, fascia, smooth(skin, 8.0), level)


def draw_soft_tissue(canvas: Canvas, anatomy: Anatomy, around: Surroundings, contrast: Contrast) -> None:
    """Fill the whole slice with everything but the spine."""
    points = canvas.coarse_points
    z = points[..., 2]
    rows = np.clip(np.rint(z - around.z[0]), 0, len(around.z) - 1).astype(np.intp)
    x = points[..., 0] - around.spine_x[rows]
    y = points[..., 1] - around.spine_y[rows]
    scale, habitus = anatomy.habitus.scale, anatomy.habitus
    level = around.level[rows]
    side = np.abs(x)
    # Slow noise bends every surface a little; it is cut from a pool and lives on the coarse grid.
    wobble = canvas.coarsen(canvas.texture(14.0))
    fascia = (around.fascia - around.spine_y)[rows] + 6 * np.exp(-(((side - 34) / 18) ** 2)) * habitus.muscle_bulk
    fascia = fascia - (side / 78) ** 4 * 22 + wobble
    skin = (around.skin - around.spine_y)[rows] + 3 * np.exp(-(((side - 40) / 25) ** 2)) - (side / 110) ** 2 * 24
    body = np.sqrt((points[..., 0] / habitus.half_breadth) ** 2 + ((points[..., 1] + 25) / 125) ** 2)
    inside = np.minimum(skin - y, (1 - body) * 120)
    whole = Window(slice(0, canvas.shape[0]), slice(0, canvas.shape[1]), canvas.s, canvas.u, canvas.v)
    depth = canvas.refine(inside)
    texture = canvas.texture(1.6)
    fine = canvas.texture(0.7)
    slow = canvas.texture(8.0)
    septa = np.abs(canvas.texture(5.0))
    fat = contrast["fat"] * (1 + 0.05 * texture + 0.05 * slow)
    fat -= contrast["fat"] * 0.2 * np.clip(1 - septa * 9, 0, 1) * np.clip(0.5 + slow, 0, 1)
    canvas.paint(whole, -depth, contrast["skin"])
    canvas.paint(whole, 1.8 - depth, fat)
    _draw_abdomen(canvas, contrast, points, y, level, inside, slow)
    _draw_muscles(canvas, anatomy, contrast, x, y, level, fascia, inside, (texture, fine, slow))
    _draw_vessels(canvas, anatomy, contrast, x, y, level, scale)


def _draw_abdomen(
    canvas: Canvas,
    contrast: Contrast,
    points: np.ndarray,
    y: np.ndarray,
    level: np.ndarray,
    inside: np.ndarray,
    slow: np.ndarray,
) -> None:
    front = np.minimum(-y - 38 + 4 * np.sin(points[..., 2] / 17), inside - 22)
    window = canvas.window(front > -4)
    if window is not None:
        area = (window.rows, window.cols)
        distance = canvas.refine(-front)[area]
        value = contrast["fat"] * (0.85 + 0.1 * slow[area])
        canvas.paint(window, distance, value, softness=3.0)
        _draw_bowel(canvas, contrast, window, distance + 4)
    wall = canvas.window(inside < 40)
    if wall is not None and front.max() > 0:
        area = (wall.rows, wall.cols)
        ring = canvas.refine(np.where((y < 15) & (points[..., 1] < -15), np.abs(inside - 22) - 5, 9.0))[area]
        canvas.paint(wall, ring, contrast["muscle"])
    x = points[..., 0]
    for sign in (1, -1):
        lower = 1.5 if sign > 0 else 1.9
        kidney = np.sqrt(((x - sign * 66) / 27) ** 2 + ((y - 4) / 25) ** 2 + ((level - lower + 1.3) / 1.7) ** 2) - 1
        window = canvas.window(kidney < 0.15)
        if window is not None:
            distance = canvas.refine(kidney * 25)[window.rows, window.cols]
            grain = canvas.texture(2.8)[window.rows, window.cols]
            canvas.paint(window, distance - 1.2, contrast["cortex"])
            canvas.paint(window, distance, contrast["kidney"] * (1 + 0.08 * grain))
            canvas.paint(window, distance + 17, contrast["fat"] * (0.8 + 0.2 * grain), softness=4.0)
    liver = (np.sqrt(((x + 105) / 52) ** 2 + ((y + 45) / 62) ** 2 + ((level + 1.6) / 3.0) ** 2) - 1) * 50
    liver = np.maximum(liver, 24 - inside)
    window = canvas.window(liver < 3)
    if window is not None:
        grain = canvas.texture(1.6)[window.rows, window.cols]
        canvas.paint(window, canvas.refine(liver)[window.rows, window.cols], contrast["liver"] * (1 + 0.05 * grain))


def _draw_bowel(canvas: Canvas, contrast: Contrast, window: Window, border: np.ndarray) -> None:
    """Bowel loops and mesenteric vessels in the fat of the abdomen.

    Args:
        border: signed distance to the peritoneal space, mm, on the window.
    """
    area = (window.rows, window.cols)
    loop, number = (field[area] for field in bowel_loops(canvas.rng, canvas.shape, canvas.spacing))
    other, folds = canvas.texture(3.0)[area], canvas.texture(1.6)[area]
    canvas.paint(window, np.maximum(np.abs(other + 2.0) * 6 - 1.2, border), contrast["blood"] * 1.3)
    canvas.paint(window, np.maximum(loop, border), contrast["muscle"] * 1.1)
    # A third of the loops hold fluid, some gas above it, the rest what is chewed.
    content = np.full(loop.shape, contrast["bowel"], np.float32) * (1 + 0.2 * other + 0.1 * folds)
    content = np.where(number < 0.33, 0.7 * contrast["csf"] * (1 + 0.06 * folds), content)
    content = np.where(number > 0.86, contrast["gas"] + 0.02, content)
    plicae = np.clip(folds - 0.9, 0, 1) * (loop > -4.5) * 0.7
    content = content + plicae * (contrast["muscle"] - content)
    canvas.paint(window, np.maximum(loop, border) + 1.8, content)


def _draw_muscles(
    canvas: Canvas,
    anatomy: Anatomy,
    contrast: Contrast,
    x: np.ndarray,
    y: np.ndarray,
    level: np.ndarray,
    fascia: np.ndarray,
    inside: np.ndarray,
    textures: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    habitus = anatomy.habitus
    bulk = habitus.muscle_bulk * habitus.scale
    texture, fine, slow = textures
    side = np.abs(x)
    stretch = 1.0 if abs(float(canvas.step_row[2])) < 0.6 * canvas.spacing else 3.0
    streaks = np.abs(canvas.texture(1.3, stretch))
    patches = canvas.texture(8.0)
    muscle = contrast["muscle"] * (1 + 0.10 * texture + 0.05 * fine)
    # Psoas grows from L1 downwards and moves forward at the sacrum; quadratus lumborum lies lateral to it.
    growth = np.clip(0.45 + 0.16 * level, 0.15, 1.15) * habitus.psoas_bulk
    psoas_y = np.where(level > 4, 4 - 13 * (level - 4), 4.0)
    psoas = (
        (
            np.sqrt(
                ((side - 30 - 12 * growth - 4 * np.maximum(level - 4, 0)) / (17 * growth)) ** 2
                + ((y - psoas_y) / (23 * growth)) ** 2
            )
            - 1
        )
        * 17
        * growth
    )
    psoas = np.maximum(psoas, np.maximum(-0.3 - level, level - 8) * 20)
    quadratus = (np.sqrt(((side - 62) / (15 * bulk)) ** 2 + ((y - 29 - 0.12 * (side - 62)) / 9) ** 2) - 1) * 9
    quadratus = np.maximum(quadratus, np.maximum(-0.5 - level, level - 4.2) * 15)
    for shape, replaced in ((psoas, 0.10), (quadratus, 0.2)):
        window = canvas.window(shape < 4)
        if window is None:
            continue
        area = (window.rows, window.cols)
        distance = canvas.refine(shape)[area] + 1.1 * slow[area] + 0.5 * patches[area]
        cover = _fat_streaks(streaks[area], patches[area], replaced * (0.4 + habitus.muscle_fat))
        value = muscle[area] + (contrast["fat"] - muscle[area]) * cover
        canvas.paint(window, distance, value)
    # Erector spinae and multifidus share one compartment under the fascia, with fat septa between them.
    floor = 27 + 5 * np.exp(-(((side - 20) / 14) ** 2))
    compartment = np.maximum(np.maximum(y - fascia, floor - y), side - 66 * bulk - 0.12 * (y - 40))
    compartment = np.maximum(np.maximum(compartment, 20 - inside * 4), (level - 6.6) * 18)
    window = canvas.window(compartment < 4)
    if window is None:
        return
    area = (window.rows, window.cols)
    distance = canvas.refine(compartment)[area] + 0.9 * slow[area]
    lateral, back = canvas.refine(side)[area], canvas.refine(y)[area]
    heights = canvas.refine(level)[area]
    share = np.clip(
        habitus.muscle_fat
        + habitus.lumbar_muscle_fat
        * np.clip((heights - 1.5) / 4, 0, 1)
        * (0.35 + 0.9 * np.exp(-((lateral / 22) ** 2))),
        0.02,
        1.0,
    )
    value = muscle[area] + (contrast["fat"] - muscle[area]) * _fat_streaks(streaks[area], patches[area], share)
    canvas.paint(window, distance, value)
    # Septum between multifidus and longissimus, and the fat that lines the spinous processes and the fascia.
    bend = 0.9 * slow[area]
    septum = np.abs(lateral - 23 - 0.10 * (back - 40) + bend) - 0.5 - 1.2 * share
    second = np.abs(lateral - 46 - 0.2 * (back - 45) - bend) - 0.4 - 1.0 * share
    inner = np.maximum(np.minimum(septum, second), distance)
    canvas.paint(window, inner, contrast["fat"] * (0.85 + 0.1 * texture[area]), opacity=0.75)
    between = np.maximum(lateral - 3.2 - 0.8 * slow[area], (heights - 4.6) * 20)
    canvas.paint(window, np.maximum(between, distance), contrast["ligament"] * 1.3)
    canvas.paint(window, np.abs(distance + 0.2) - 0.55, contrast["cortex"], opacity=0.8)


def _fat_streaks(streaks: np.ndarray, patches: np.ndarray, share: np.ndarray | float) -> np.ndarray:
    """Cover 0..1 of fat inside a muscle: thin veins along the noise's zero lines, merging where much is replaced."""
    local = share * np.clip(1 + 0.7 * patches, 0.1, 2.5)
    veins = np.clip((0.05 + 0.55 * local - streaks) / 0.22, 0, 1) * np.clip(0.25 + 2.2 * local, 0, 0.95)
    merged = np.clip(1.6 * (local - 0.3) - 0.25 * streaks, 0, 0.85)
    cover: np.ndarray = np.maximum(veins, merged)
    return cover.astype(np.float32)


def _draw_vessels(
    canvas: Canvas, anatomy: Anatomy, contrast: Contrast, x: np.ndarray, y: np.ndarray, level: np.ndarray, scale: float
) -> None:
    radius = anatomy.habitus.aorta_radius
    front = 18.0 * scale
    split = np.clip(level - 3.4, 0, 3)
    flow = contrast["blood"] * (1.6 if contrast.weighting is Weighting.T1 else 1.0)
    tubes = [
        (6.0 + 12 * split, -front - radius - 3 - 3 * split, np.where(split > 0, radius * 0.62, radius), flow),
        (6.0 - 22 * split, -front - radius - 4 - 3 * split, np.where(split > 0, radius * 0.62, 0.1), flow),
        (-14.0 - 9 * split, -front - 7 + 2 * split, np.where(split > 0.4, 7.0, 9.5), 1.3 * flow),
        (-14.0 + 22 * split, -front - 6 + 2 * split, np.where(split > 0.4, 6.5, 0.1), 1.3 * flow),
    ]
    for centre_x, centre_y, size, value in tubes:
        tube = np.sqrt((x - centre_x) ** 2 + ((y - centre_y) * 1.1) ** 2) - size
        tube = np.where(level > 7, 9.0, tube)
        window = canvas.window(tube < 3)
        if window is not None:
            distance = canvas.refine(tube)[window.rows, window.cols]
            canvas.paint(window, distance - 1.0, contrast["muscle"])
            canvas.paint(window, distance, value)
    for at_x, at_y, width in ((27.0, 8.0, 2.0), (-27.0, 10.0, 1.8), (24.0, -8.0, 1.5), (-25.0, -6.0, 1.6)):
        tube = ellipse(x, y, (at_x, at_y), (width * scale, width * scale))
        window = canvas.window(tube < 3)
        if window is not None:
            canvas.paint(window, canvas.refine(tube)[window.rows, window.cols], flow, opacity=0.8)


def draw_pelvis(canvas: Canvas, around: Surroundings, contrast: Contrast) -> None:
    """The iliac wings beside the sacrum."""
    points = canvas.coarse_points
    rows = np.clip(np.rint(points[..., 2] - around.z[0]), 0, len(around.z) - 1).astype(np.intp)
    level, side = around.level[rows], np.abs(points[..., 0])
    y = points[..., 1] - np.interp(4.5, around.level[::-1], around.spine_y[::-1])
    drop = np.clip(level - 3.8, 0, 4)
    turned = (side - 78 + 7 * drop) + 0.9 * (y - 22)
    plate = np.maximum(np.abs(turned) * 0.74 - 6 - 3 * np.sin(drop), np.abs(0.7 * (y - 22) - 0.6 * (side - 78)) - 34)
    plate = np.maximum(plate, (3.75 - level) * 20)
    window = canvas.window(plate < 3)
    if window is None:
        return
    bend = canvas.texture(8.0)[window.rows, window.cols]
    distance = canvas.refine(plate)[window.rows, window.cols] + 2.0 * bend
    grain = canvas.texture(1.6)[window.rows, window.cols]
    canvas.paint(window, distance, contrast["cortex"])
    canvas.paint(window, distance + 1.6, contrast["marrow_fatty"] * (0.9 + 0.08 * grain))
