"""Vertebral bodies, discs, and the posterior elements."""

from __future__ import annotations

import numpy as np

from pipeline.phantom.anatomy import FIRST_LUMBAR, Anatomy, Disc, Vertebra, joint_circle
from pipeline.phantom.canal import push_profile
from pipeline.phantom.contrast import Contrast, Weighting
from pipeline.phantom.drawing import Canvas, Window, capsule, ellipsoid, join, rounded


def _outline(u: np.ndarray, v: np.ndarray, half_width: float, half_depth: float) -> np.ndarray:
    """Signed distance (mm, about) to the kidney-shaped cross-section of a body: round in front, hollow behind."""
    across = u / np.float32(half_width)
    across *= across
    radius = np.sqrt(across + ((v + 1.0) / np.float32(half_depth)) ** 2 + np.float32(1e-6))
    # Behind the middle the outline is squarer: a superellipse through the posterior corners.
    back = np.maximum(v, 0) / np.float32(half_depth)
    back *= back
    square = np.sqrt(np.sqrt(across * across + back * back))
    distance = np.where(v > 0, np.maximum(square, 0.93 * radius), radius) - 1
    distance *= np.float32(half_depth)
    hollow = v - np.float32(half_depth) + 1.2 * np.exp(-((u / np.float32(0.5 * half_width)) ** 2))
    result: np.ndarray = np.maximum(distance, hollow - 0.6)
    return result


def draw_column(canvas: Canvas, anatomy: Anatomy, contrast: Contrast) -> None:
    """Bodies and discs from the thorax to the sacrum."""
    grain, clumps, fine = canvas.texture(0.9), canvas.texture(4.0), canvas.texture(0.6)
    side, depth = np.abs(canvas.coarse_u), canvas.coarse_v
    for index, vertebra in enumerate(anatomy.vertebrae):
        reach = vertebra.half_width + 6
        if not canvas.reaches(vertebra.top - 3, vertebra.bottom + 3, -reach, reach):
            continue
        window = canvas.window(
            (side < reach)
            & (depth > -vertebra.half_depth - 9)
            & (depth < vertebra.half_depth + 2)
            & (canvas.coarse_s > vertebra.top - 2)
            & (canvas.coarse_s < vertebra.bottom + 2)
        )
        if window is not None:
            above = anatomy.discs[index - 1] if index else None
            _draw_body(canvas, window, vertebra, above, anatomy.discs[index], contrast, grain, clumps)
    for index, disc in enumerate(anatomy.discs[:-1]):
        body = anatomy.vertebrae[index]
        reach = body.half_width + 8
        if not canvas.reaches(disc.top - 4, disc.bottom + 4, -reach, reach):
            continue
        window = canvas.window(
            (side < reach)
            & (depth > -body.half_depth - 5)
            & (depth < body.half_depth + 9)
            & (canvas.coarse_s > disc.top - 4)
            & (canvas.coarse_s < disc.bottom + 4)
        )
        if window is not None:
            _draw_disc(canvas, window, anatomy, index, contrast, fine, clumps)


def _draw_body(
    canvas: Canvas,
    window: Window,
    vertebra: Vertebra,
    above: Disc | None,
    below: Disc,
    contrast: Contrast,
    grain: np.ndarray,
    clumps: np.ndarray,
) -> None:
    area = (window.rows, window.cols)
    s, u, v = window.s, window.u, window.v
    half = (vertebra.bottom - vertebra.top) / 2
    height = (s - np.float32(vertebra.middle)) / np.float32(half)
    waist = 1.6 * (1 - np.clip(height * height, 0, 1))
    radial = _outline(u, v, vertebra.half_width, vertebra.half_depth) + waist
    spurs = (above.osteophyte if above else 0.0, below.osteophyte)
    lip = np.where(height < 0, spurs[0], spurs[1]) * np.clip(np.abs(height) * 2.8 - 1.9, 0, 1)
    radial -= lip * np.clip(-v / 18 + 0.25 * np.abs(u) / 20, 0, 1)
    dish = np.clip(1 - (u / np.float32(vertebra.half_width)) ** 2 - (v / np.float32(vertebra.half_depth)) ** 2, 0, 1)
    slope = np.float32(vertebra.wedge) * v
    axial = np.abs(s - np.float32(vertebra.middle)) - half - slope + 1.3 * dish + 0.15 * clumps[area]
    distance = np.maximum(radial + 0.25 * clumps[area], axial)
    canvas.paint(window, distance - 0.5, contrast["cortex"])
    fatty = np.float32(contrast["marrow_fatty"] - contrast["marrow"])
    value = contrast["marrow"] * (1 + 0.09 * grain[area]) + fatty * np.clip(0.12 + 0.16 * clumps[area], 0, 1)
    # Fat along the basivertebral vein, which enters from behind at mid height.
    vein = np.maximum(np.abs(s - vertebra.middle) - 1.6 - 0.1 * np.maximum(v, 0), np.abs(u) - 6)
    vein = np.maximum(vein, 5 - v)
    for disc, sign in ((above, -1.0), (below, 1.0)):
        if disc is not None and disc.modic[0]:
            tissue = ("", "oedema", "marrow_fatty", "sclerosis")[disc.modic[0]]
            depth = half - disc.modic[1] * np.clip(1.0 + 0.35 * clumps[area] - (u / 26) ** 2 - 0.01 * v, 0.1, 2)
            cover = np.clip((sign * (s - np.float32(vertebra.middle)) - depth) / 2, 0, 1) * 0.85
            value = value + cover * (contrast[tissue] - value)
    if vertebra.marrow_lesion is not None:
        a, b, c, radius = vertebra.marrow_lesion
        spot = ellipsoid(
            s,
            u,
            v,
            (vertebra.middle + a * half, b * vertebra.half_width, c * vertebra.half_depth),
            (radius, radius, radius),
        )
        cover = np.clip(0.5 - spot, 0, 1)
        value = value + cover * (max(contrast["marrow_fatty"], contrast["oedema"]) - value)
    canvas.paint(window, distance + 0.45, value)
    if not vertebra.sacral:
        bright = contrast["vein"] if contrast.weighting is not Weighting.T1 else contrast["marrow_fatty"]
        canvas.paint(window, np.maximum(vein, distance + 0.6), bright, opacity=0.6)


def _draw_disc(
    canvas: Canvas,
    window: Window,
    anatomy: Anatomy,
    index: int,
    contrast: Contrast,
    fine: np.ndarray,
    clumps: np.ndarray,
) -> None:
    disc, upper, lower = anatomy.discs[index], anatomy.vertebrae[index], anatomy.vertebrae[index + 1]
    area = (window.rows, window.cols)
    s, u, v = window.s, window.u, window.v
    half_depth = (upper.half_depth + lower.half_depth) / 2
    half_width = (upper.half_width + lower.half_width) / 2
    half = float(disc.bottom - disc.top) / 2
    radial = _outline(u, v, half_width + 1.0, half_depth)
    radial -= 0.8 * np.clip(-v / 10, 0, 1)
    level = index - FIRST_LUMBAR
    if 0 <= level < 5:
        row = int(anatomy.curve.rows(np.array(disc.middle)))
        canal = anatomy.canal
        at = float(canal.recess_u[row])
        centre = float(canal.front[row] - canal.wall[row])
        push = push_profile(u, centre, float(canal.bulge[0, row]), float(canal.bulge[1, row]), at)
        for column, sign in ((0, 1.0), (1, -1.0)):
            reach = np.clip((sign * u - at - 2) / 6, 0, 1)
            push = push + disc.lateral[column] * reach * np.clip((v + 8) / 20, 0, 1)
        push = push * np.clip((v - 2) / 8, 0, 1)
        radial = np.where(v > 0, np.maximum(radial - push, -8), radial)
    # The bulge rides up and down over the edges of the bodies.
    over = np.clip(radial + np.float32(2.0), 0, 2.5) * 0.5
    dish = np.clip(1 - (u / np.float32(half_width)) ** 2 - (v / np.float32(half_depth)) ** 2, 0, 1)
    axial = np.abs(s - np.float32(disc.middle)) - half - over - 1.1 * dish
    distance = np.maximum(radial, axial)
    value = np.full_like(s, contrast["annulus"]) * (1 + 0.1 * fine[area])
    if anatomy.vertebrae[index].sacral:
        canvas.paint(window, distance, value)
        return
    # The nucleus lies a little behind the middle; a dry one loses signal, a split one shows a dark cleft.
    dry = min(disc.degeneration * 1.35, 1.0)
    nucleus = contrast["nucleus"] * (1 - dry) + contrast["nucleus_dry"] * dry
    core = np.sqrt((u / (0.74 * half_width)) ** 2 + ((v - 1.0) / (0.68 * half_depth)) ** 2)
    cover = np.clip((1.06 - core) * 1.9 + 0.10 * clumps[area], 0, 1)
    cover = cover * np.clip((half * 1.15 - np.abs(s - np.float32(disc.middle))) / (0.6 * half) + 0.7 * dish, 0, 1)
    value = value + cover * (nucleus * (1 + 0.07 * fine[area]) - value)
    if disc.degeneration < 0.5:
        cleft = np.clip(1.0 - np.abs(s - np.float32(disc.middle)) / 0.8, 0, 1) * cover * 0.35
        value = value * (1 - cleft)
    if disc.vacuum > 0:
        cleft = np.clip(1.3 - np.abs(s - np.float32(disc.middle) + 0.5 * clumps[area]), 0, 1) * (core < 0.8)
        value = value + cleft * (contrast["gas"] - value)
    canvas.paint(window, distance, value)
    if disc.fissure > 0:
        spot = ellipsoid(s, u, v, (disc.middle, 3.0, half_depth - 2.5), (1.5, 4.0, 1.2))
        canvas.paint(window, np.maximum(spot, distance + 0.5), contrast["joint"], opacity=0.7)


def draw_posterior(canvas: Canvas, anatomy: Anatomy, contrast: Contrast) -> None:
    """Pedicles, laminae, articular, transverse and spinous processes; the sacral wings and crest."""
    grain, bend = canvas.texture(1.2), canvas.texture(5.0)
    side = np.abs(canvas.coarse_u)
    for vertebra in anatomy.vertebrae:
        if not canvas.reaches(vertebra.top - 24, vertebra.bottom + 30):
            continue
        row = int(anatomy.curve.rows(np.array(vertebra.middle)))
        centre, axes = anatomy.curve.centre[row], anatomy.curve.frames[row]
        back, down = canvas.coarse_v - (vertebra.half_depth - 17.0), canvas.coarse_s - vertebra.middle
        marrow = 0.85 * contrast["marrow"] + 0.15 * contrast["marrow_fatty"]
        if vertebra.sacral:
            parts = [((side < 60) & (back > -8) & (back < 46) & (np.abs(down) < 26), _sacral_wing)]
        else:
            length = 17 + vertebra.canal_depth + 30
            parts = [
                ((side > 14) & (side < 45) & (back > 20) & (back < 38) & (down > -15) & (down < 2), _transverse),
                ((side < 27) & (back > 10) & (back < length) & (down > -27) & (down < 35), _arch),
            ]
        for near, shape in parts:
            window = canvas.window(near)
            if window is None:
                continue
            u, v, t = canvas.local(window, centre, axes)
            area = (window.rows, window.cols)
            distance = shape(u, v - np.float32(vertebra.half_depth - 17.0), t, vertebra) + 0.55 * bend[area]
            _paint_bone(canvas, window, distance, marrow * (1 + 0.10 * grain[area]), contrast)


def _transverse(u: np.ndarray, v: np.ndarray, t: np.ndarray, vertebra: Vertebra) -> np.ndarray:
    scale = vertebra.half_width / 22.5
    return capsule(np.abs(u), v, t, (18.0 * scale, 27.0, -5.0), (40.0 * scale, 31.0, -7.0), 3.2)


def _arch(u: np.ndarray, v: np.ndarray, t: np.ndarray, vertebra: Vertebra) -> np.ndarray:
    """Pedicles, laminae, articular and spinous processes in local coordinates, mm."""
    scale = vertebra.half_width / 22.5
    side = np.abs(u)
    back = 17.0 + vertebra.canal_depth
    thick = 4.0 + max(0.0, (vertebra.canal_half_width - 11.0)) * 0.9
    at = vertebra.canal_half_width + thick
    pedicle = np.sqrt(((side - at) / thick) ** 2 + ((t + 5.0) / 7.0) ** 2) - 1
    pedicle = np.maximum(pedicle * thick, np.abs(v - 22) - 10)
    edge = vertebra.canal_half_width + 3.0
    rise = np.clip(1 - side / edge, 0, 1)
    lamina = np.abs(v - (back - 2.0 + 5.5 * rise + 0.22 * t)) - 2.8
    lamina = rounded(lamina, side - edge, np.abs(t - 7.0) - 11.5 + 3 * (1 - rise), radius_mm=1.5)
    tip = back + 27.0 * scale
    process = rounded(
        np.abs(v - (back + 3 + tip) / 2) - (tip - back - 3) / 2,
        np.abs(t - 7.5 - 0.16 * (v - back)) - 8.0 - 0.06 * (v - back),
        side - 2.6 - 1.6 * np.clip((v - tip + 8) / 8, 0, 1),
        radius_mm=2.5,
    )
    pars = capsule(side, v, t, (17.5 * scale, 30.5, -5.0), (14.0 * scale, 36.5, 13.0), 4.0)
    return join(join(join(pedicle, pars), join(lamina, process)), _facets(u, v, t, vertebra))


def _facets(u: np.ndarray, v: np.ndarray, t: np.ndarray, vertebra: Vertebra) -> np.ndarray:
    across, behind, radius = joint_circle(vertebra)
    side = np.abs(u)
    growth = np.where(u > 0, np.float32(2.4 * vertebra.facet_growth[0]), np.float32(2.4 * vertebra.facet_growth[1]))
    dx, dv = side - across, v - behind
    reach = np.sqrt(dx * dx + dv * dv)
    # The joint opens outwards and forwards: what points inwards or far back belongs to neither process.
    forward = 0.55 * dx - 0.83 * dv
    wall = 2.9 + growth
    upper = rounded(
        np.abs(reach - (radius + 0.6 + wall)) - wall, 0.35 * radius - forward, np.abs(t + 15.0) - 9.5, radius_mm=1.8
    )
    lower = rounded(reach - radius + 0.7, np.abs(t - 18.5) - 11.0, -4.0 - dx, radius_mm=1.8)
    return np.minimum(upper, lower)


def _sacral_wing(u: np.ndarray, v: np.ndarray, t: np.ndarray, vertebra: Vertebra) -> np.ndarray:
    scale = vertebra.half_width / 24.0
    side = np.abs(u)
    wing = ellipsoid(side, v, t, (30.0 * scale, 15.0, 0.0), (25.0 * scale, 17.0 * scale, 17.0))
    back = np.float32(17.0 + vertebra.canal_depth)
    rise = np.clip(1 - side / 20, 0, 1)
    roof = np.maximum(np.abs(v - back - 1.5 - 3 * rise) - 2.5, np.maximum(side - 20, np.abs(t) - 13))
    crest = np.maximum(np.maximum(side - 2.5, np.abs(v - back - 6) - 6), np.abs(t - 2) - 7)
    canal = np.maximum(13.5 * scale - side, -1e3)
    body = np.maximum(wing, canal)
    if vertebra.name == "S1":
        body = join(body, np.where(t < 0, _facets(u, v, t, vertebra), np.float32(9.0)))
    foramen = ellipsoid(side, v, t, (15.5 * scale, 15.0, 13.0), (4.5, 6.5, 4.5))
    return join(np.maximum(body, -foramen), join(roof, crest))


def _paint_bone(canvas: Canvas, window: Window, distance: np.ndarray, value: np.ndarray, contrast: Contrast) -> None:
    canvas.paint(window, distance - 0.2, contrast["cortex"])
    canvas.paint(window, distance + 1.3, value, softness=1.6)


__all__ = ["draw_column", "draw_posterior"]
