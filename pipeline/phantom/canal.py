"""The spinal canal and the neural foramina: ligaments, epidural fat, dural sac with conus and roots, root ganglia."""

from __future__ import annotations

import numpy as np

from pipeline.phantom.anatomy import FIRST_LUMBAR, Anatomy, Foramen, joint_circle
from pipeline.phantom.contrast import Contrast
from pipeline.phantom.drawing import Canvas, Window, ellipse

_GANGLION_ABOVE_DISC = 6.5


def push_profile(
    u: np.ndarray,
    centre: np.ndarray | float,
    left: np.ndarray | float,
    right: np.ndarray | float,
    at: np.ndarray | float,
) -> np.ndarray:
    """How far the back border of a disc lies behind the bodies' wall, mm, at ``u``.

    Args:
        centre, left, right: the displacement at u = 0 and at the left and right recess (``at`` from the midline).
    """
    tail = centre * np.exp(-((np.float32(1 / 6.5) * at) ** 2))
    push: np.ndarray = centre * np.exp(-((u / 6.5) ** 2))
    push = push + np.maximum(left - tail, 0).astype(np.float32) * np.exp(-(((u - at) / 4.5) ** 2))
    push += np.maximum(right - tail, 0).astype(np.float32) * np.exp(-(((u + at) / 4.5) ** 2))
    return push


def draw_ligaments(canvas: Canvas, anatomy: Anatomy, contrast: Contrast) -> None:
    """Fill the space between bodies and arches with ligament; bones are drawn over it, fat and sac carved into it."""
    last = anatomy.vertebrae[-2].middle
    if not canvas.reaches(anatomy.vertebrae[0].top, last, -24, 24):
        return
    near = (
        (np.abs(canvas.coarse_u) < 24)
        & (canvas.coarse_v > 6)
        & (canvas.coarse_v < 48)
        & (canvas.coarse_s < last)
        & (canvas.coarse_s > anatomy.vertebrae[0].top)
    )
    window = canvas.window(near)
    if window is not None:
        rows = anatomy.curve.rows(window.s)
        canal = anatomy.canal
        wall, back = canal.wall[rows].astype(np.float32), canal.back[rows].astype(np.float32)
        side = np.abs(window.u)
        half = (canal.recess_u[rows] + 5.5).astype(np.float32)
        roof = back + 3.0 - 0.35 * side
        distance = np.maximum(np.maximum(side - half, window.v - roof), wall - 3 - window.v)
        distance = np.maximum(distance, window.s - np.float32(last))
        grain = canvas.texture(1.2)[window.rows, window.cols]
        canvas.paint(window, distance, contrast["ligament"] * (1 + 0.12 * grain))
    bend = canvas.texture(2.8)
    for foramen in anatomy.foramina:
        window = _foramen_window(canvas, foramen)
        if window is None:
            continue
        # Capsule and ligament fill what the fat of a wide foramen would: they show where it is narrowed.
        lateral, ds, dv = _foramen_coordinates(window, foramen)
        ds, dv = ds + _GANGLION_ABOVE_DISC - 0.32 * (lateral - 20), dv - 4.6 + 0.06 * (lateral - 20)
        zone = np.minimum(
            ellipse(ds, dv, (1.2, 0.2), (8.4, 5.6)), ellipse(ds, dv, (_GANGLION_ABOVE_DISC - 0.8, -0.3), (6.6, 3.4))
        )
        zone = np.maximum(zone + bend[window.rows, window.cols], np.abs(lateral - 18.5) - 6.5)
        canvas.paint(window, zone, contrast["ligament"] * 1.15, softness=2.0)
    lumbar = slice(FIRST_LUMBAR, FIRST_LUMBAR + 5)
    for disc, vertebra in zip(anatomy.discs[lumbar], anatomy.vertebrae[lumbar], strict=True):
        if not canvas.reaches(disc.middle - 16, disc.middle + 16, -30, 30):
            continue
        near = (
            (np.abs(canvas.coarse_s - disc.middle) < 16)
            & (np.abs(canvas.coarse_u) < 30)
            & (canvas.coarse_v > 20)
            & (canvas.coarse_v < 48)
        )
        window = canvas.window(near)
        if window is not None:
            across, behind, radius = joint_circle(vertebra)
            dx, dv = np.abs(window.u) - across, window.v - (behind + vertebra.half_depth - 17.0)
            gap = np.maximum(np.abs(np.sqrt(dx * dx + dv * dv) - radius) - 0.9, 0.3 * radius - 0.55 * dx + 0.83 * dv)
            gap = np.maximum(gap, np.abs(window.s - disc.middle) - 9)
            canvas.paint(window, gap, contrast["joint"], opacity=0.35 + 0.5 * disc.degeneration)


def _foramen_window(canvas: Canvas, foramen: Foramen) -> Window | None:
    low, high = (8.0, 34.0) if foramen.side > 0 else (-34.0, -8.0)
    if not canvas.reaches(foramen.disc_s - 18, foramen.disc_s + 10, low, high):
        return None
    lateral = foramen.side * canvas.coarse_u
    near = (
        (np.abs(canvas.coarse_s - foramen.disc_s + 5) < 14)
        & (lateral > 8)
        & (lateral < 34)
        & (np.abs(canvas.coarse_v - foramen.wall - 4.5) < 8)
    )
    return canvas.window(near)


def _foramen_coordinates(window: Window, foramen: Foramen) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return (
        np.float32(foramen.side) * window.u,
        window.s - np.float32(foramen.disc_s),
        window.v - np.float32(foramen.wall),
    )


def draw_foramina(canvas: Canvas, anatomy: Anatomy, contrast: Contrast) -> None:
    """Carve the fat of each foramen and lay the root ganglion into it."""
    grain, bend = canvas.texture(0.9), canvas.texture(2.8)
    for number, foramen in enumerate(anatomy.foramina):
        window = _foramen_window(canvas, foramen)
        if window is None:
            continue
        area = (window.rows, window.cols)
        lateral, ds, dv = _foramen_coordinates(window, foramen)
        centre_s = -_GANGLION_ABOVE_DISC + 0.32 * (lateral - 20)
        centre_v = 4.6 - 0.06 * (lateral - 20)
        ds = ds - centre_s
        dv = dv - centre_v
        tall, deep = foramen.root
        room = foramen.clearance * np.clip((30 - lateral) / 7, 0.25, 1)
        fat = np.sqrt(((ds - 0.45 * room) / (tall + 1.45 * room)) ** 2 + ((dv - 0.2) / (deep + 0.75 * room)) ** 2) - 1
        fat *= deep + 0.75 * room
        if foramen.lower_width > 0.3:
            lower = ellipse(ds, dv, (_GANGLION_ABOVE_DISC - 0.8, -0.6), (6.2, foramen.lower_width / 2 + 0.3))
            fat = np.minimum(fat, lower)
        ends = np.maximum(9.5 - lateral, lateral - 29 - bend[area])
        fat = np.maximum(fat + 0.4 * bend[area], ends)
        canvas.paint(window, fat, contrast["fat"] * (0.95 + 0.06 * grain[area]))
        if foramen.clearance > 1.0:
            vessel = ellipse(ds, dv, (4.2, -0.8 + 0.5 * (number % 3)), (1.1, 1.0))
            canvas.paint(window, np.maximum(vessel, ends), contrast["blood"] * 1.5, opacity=0.75)
        root = np.maximum(ellipse(ds, dv, (0.0, 0.0), (tall, deep)), np.maximum(8.0 - lateral, lateral - 34))
        canvas.paint(window, root, contrast["ganglion"] * (1 + 0.05 * grain[area]))


def draw_canal(canvas: Canvas, anatomy: Anatomy, contrast: Contrast) -> None:
    """Carve epidural fat and dural sac, and fill the sac with fluid, conus and roots."""
    last = anatomy.vertebrae[-2].middle
    if not canvas.reaches(anatomy.vertebrae[0].top, last, -24, 24):
        return
    near = (
        (np.abs(canvas.coarse_u) < 22)
        & (canvas.coarse_v > 4)
        & (canvas.coarse_v < 46)
        & (canvas.coarse_s < last)
        & (canvas.coarse_s > anatomy.vertebrae[0].top - 20)
    )
    window = canvas.window(near)
    if window is None:
        return
    area = (window.rows, window.cols)
    canal = anatomy.canal
    rows = anatomy.curve.rows(window.s)
    tables = {
        name: getattr(canal, name).astype(np.float32)[rows]
        for name in ("wall", "front", "recess_u", "sac_front", "sac_depth", "sac_width", "fat", "tightness")
    }
    left, right = (canal.bulge[column].astype(np.float32)[rows] for column in (0, 1))
    u, v = window.u, window.v
    side = np.abs(u)
    half_depth, half_width = tables["sac_depth"] / 2, tables["sac_width"] / 2
    middle = tables["sac_front"] + half_depth
    grain = canvas.texture(1.2)[area]
    push = push_profile(u, tables["front"] - tables["wall"], left, right, tables["recess_u"])
    border = tables["wall"] + push + 0.5 - v
    # The sac: flat in front, tapering behind like the canal it lies in.
    a, b = u / np.maximum(half_width, 0.3), (v - middle) / np.maximum(half_depth, 0.3)
    # A closed recess takes the sac's front corner on its side with it.
    closed = [np.clip(1 - canal.recess[column].astype(np.float32)[rows] / 6, 0, 1) for column in (0, 1)]
    corner = np.where(u > 0, closed[0], closed[1]) * np.clip(0.5 - b, 0, 1)
    narrow = a * (1 + 0.42 * np.clip(0.77 * b + 0.23, 0, 1) + 0.34 * corner)
    squares = (narrow * narrow, b * b)
    front = np.cbrt(squares[0] * np.abs(narrow) + squares[1] * np.abs(b) + np.float32(1e-6))
    radius = np.where(b < 0, front, np.sqrt(squares[0] + squares[1] + np.float32(1e-6)))
    size = np.minimum(half_depth, half_width)
    # Where the sac has ended there is none: a vanishing ellipse would be "near" everything.
    sac = (radius - 1) * size + 20 * np.clip(0.9 - size, 0, 1)
    sac = np.maximum(sac, border + 0.3)
    # Epidural space: a rim round the sac, the two recesses, the fat pad behind.
    space = sac - (0.5 + 0.8 * (1 - tables["tightness"]))
    for column, sign, bulge in ((0, 1.0, left), (1, -1.0, right)):
        recess = canal.recess[column].astype(np.float32)[rows]
        centre = tables["wall"] + 0.8 + bulge + recess / 2
        part = ((sign * u - tables["recess_u"] - 0.5) / 3.8) ** 2 + ((v - centre) / np.maximum(recess / 2, 0.15)) ** 2
        space = np.minimum(space, (np.sqrt(part) - 1) * np.maximum(np.minimum(recess / 2, 3.8), 0.15))
    pad = middle + half_depth + tables["fat"]
    space = np.minimum(space, np.maximum(side - 0.5 - 0.8 * (pad - v), np.maximum(v - pad, middle - v)))
    canvas.paint(window, np.maximum(space, window.s - np.float32(last)), contrast["fat"] * (0.92 + 0.07 * grain))
    _draw_traversing_roots(canvas, window, anatomy, contrast, rows, tables, (left, right))
    near_sac = (sac < 1.5).any(0)
    hits_rows, hits_cols = np.flatnonzero(near_sac.any(1)), np.flatnonzero(near_sac.any(0))
    if not len(hits_rows):
        return
    part_rows, part_cols = slice(hits_rows[0], hits_rows[-1] + 1), slice(hits_cols[0], hits_cols[-1] + 1)
    part = (slice(None), part_rows, part_cols)
    inner = Window(
        slice(window.rows.start + part_rows.start, window.rows.start + part_rows.stop),
        slice(window.cols.start + part_cols.start, window.cols.start + part_cols.stop),
        window.s[part],
        window.u[part],
        window.v[part],
    )
    _draw_sac(
        canvas,
        inner,
        anatomy,
        contrast,
        sac[part],
        a[part],
        b[part],
        half_width[part],
        half_depth[part],
        tables["tightness"][part],
    )


def _draw_traversing_roots(
    canvas: Canvas,
    window: Window,
    anatomy: Anatomy,
    contrast: Contrast,
    rows: np.ndarray,
    tables: dict[str, np.ndarray],
    bulges: tuple[np.ndarray, np.ndarray],
) -> None:
    """The root that runs down each lateral recess to leave one level lower."""
    for column, sign in ((0, 1.0), (1, -1.0)):
        recess = anatomy.canal.recess[column].astype(np.float32)[rows]
        centre = tables["wall"] + 0.8 + bulges[column] + recess / 2
        thick = np.clip(recess / 2 - 0.3, 0.5, 1.5)
        part = ((sign * window.u - tables["recess_u"] - 0.2) / 1.8) ** 2 + ((window.v - centre) / thick) ** 2
        distance = (np.sqrt(part) - 1) * thick
        distance = np.where(window.s > anatomy.vertebrae[4].middle, distance, np.float32(9))
        canvas.paint(window, distance, contrast["root"])


def _draw_sac(
    canvas: Canvas,
    window: Window,
    anatomy: Anatomy,
    contrast: Contrast,
    sac: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    half_width: np.ndarray,
    half_depth: np.ndarray,
    tightness: np.ndarray,
) -> None:
    area = (window.rows, window.cols)
    s = window.s
    canvas.paint(window, sac - 0.45, contrast["ligament"] * 0.8, opacity=0.8)
    flow = canvas.texture(4.0)[area]
    crowd = np.clip((tightness - 0.33) / 0.28, 0, 1) * 0.88
    value = contrast["csf"] * (1 - 0.04 * np.abs(flow))
    value = value + crowd * (contrast["root"] * (1 + 0.1 * canvas.texture(0.7)[area]) - value)
    inside = np.clip(0.5 - sac / canvas.edge, 0, 1)
    conus = anatomy.habitus.conus_s
    for path in anatomy.roots:
        reach = (s > conus - 55) & (s < path.leaves)
        drift = 0.10 * np.sin(s / 26.0 + path.phase) * (1 + 2.0 * tightness)
        da = (a - path.across - drift) * half_width
        if not np.any((np.abs(da) < 2.5) & (inside > 0)):
            continue
        db = (b - path.back + 0.5 * drift) * half_depth
        distance = np.sqrt(da * da + db * db) - np.float32(path.radius)
        cover = np.clip(0.5 - distance / canvas.edge, 0, 1) * reach * np.clip((s - conus + 55) / 40, 0, 1)
        value = value + cover * (contrast["root"] - value)
    taper = np.clip((conus - s) / 32.0, 0, 1) ** 0.6
    cord = np.sqrt((a * half_width / 1.2) ** 2 + ((b + 0.05) * half_depth) ** 2) - 4.1 * taper
    cover = np.clip(0.5 - cord / canvas.edge, 0, 1) * (taper > 0)
    value = value + cover * (contrast["cord"] - value)
    canvas.blend(window, inside, value)
