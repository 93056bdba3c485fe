"""The slice being drawn: its coordinates, its windows, and many depths at once."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.phantom.drawing import Canvas
from pipeline.phantom.sampling import sample_anatomy

_ANATOMY = sample_anatomy(np.random.default_rng(6))
_OFFSETS = np.array([[-1.0, 0.0, 0.5], [1.2, 0.3, 0.0]])


def _canvas(spacing=1.3, origin=(1.0, -60.0, 90.0), right=(0, 1, 0), down=(0, 0, -1), shape=(140, 120)):
    """A slice about the middle of the lumbar spine; sagittal unless told otherwise."""
    steps = [np.asarray(axis, float) * spacing for axis in (right, down)]
    return Canvas(_ANATOMY.curve, np.asarray(origin), *steps, shape, np.random.default_rng(0))


def _truth(canvas, offset=(0, 0, 0)):
    """Spine coordinates of every pixel, solved one by one, and where the spine can be."""
    rows, cols = (np.arange(count, dtype=float) for count in canvas.shape)
    points = (
        canvas.origin + np.asarray(offset) + rows[:, None, None] * canvas.step_row + cols[:, None] * canvas.step_col
    )
    s, u, v, _ = canvas.curve.locate(points)
    return np.stack([s, u, v]), (np.abs(u) < 30) & (np.abs(v) < 30)


@pytest.mark.parametrize("spacing", [0.4, 0.7, 1.3])
@pytest.mark.parametrize(
    ("right", "down"), [((0, 1, 0), (0, 0, -1)), ((1, 0, 0), (0, 1, 0))], ids=["sagittal", "axial"]
)
def test_pixels_near_the_spine_know_where_they_are(spacing, right, down):
    origin = np.array([0.0, 0, 5]) - 60 * np.add(right, down)
    canvas = _canvas(spacing, origin, right, down, (round(120 / spacing),) * 2)
    truth, near = _truth(canvas)
    found = np.stack([canvas.s, canvas.u, canvas.v])
    assert near.sum() > 500
    assert np.percentile(np.abs(found - truth)[:, near], 95) < 0.35


def test_a_pile_is_its_slices_one_by_one():
    canvas = _canvas()
    canvas.image[:] = 0.5
    pile = canvas.moved(_OFFSETS, np.random.default_rng(1))
    assert pile.image.shape == (2, *canvas.shape)
    assert (pile.image == 0.5).all()
    for depth, offset in enumerate(_OFFSETS):
        truth, near = _truth(canvas, offset)
        found = np.stack([pile.s[depth], pile.u[depth], pile.v[depth]])
        assert np.percentile(np.abs(found - truth)[:, near], 95) < 0.35
    window = pile.window(np.abs(pile.coarse_u) < 10)
    assert window is not None
    pile.paint(window, window.u, 1.0)
    for depth in range(2):
        u = pile.u[depth][window.rows, window.cols]
        image = pile.image[depth][window.rows, window.cols]
        assert (image[u < -1] == 1).all()
        assert (image[u > 1] == 0.5).all()
    assert (canvas.image == 0.5).all()


def test_a_window_holds_every_pixel_that_fulfils_its_condition():
    canvas = _canvas()
    window = canvas.window((canvas.coarse_s > -20) & (canvas.coarse_s < 15) & (np.abs(canvas.coarse_v) < 20))
    assert window is not None
    truth, _ = _truth(canvas)
    rows, cols = np.nonzero((truth[0] > -18) & (truth[0] < 13) & (np.abs(truth[2]) < 18))
    assert window.rows.start <= rows.min() <= rows.max() < window.rows.stop
    assert window.cols.start <= cols.min() <= cols.max() < window.cols.stop
    assert window.s.size < 0.6 * truth[0].size


def test_far_from_the_spine_nothing_is_reached():
    canvas = _canvas(origin=(150.0, -60.0, 90.0))
    assert not canvas.reaches(-200, 200)
    assert not canvas.s.any()


def test_a_field_at_the_coarse_nodes_is_the_fields_own_value():
    canvas = _canvas()
    rows, cols = np.mgrid[: canvas.shape[0], : canvas.shape[1]].astype(np.float32)
    step = np.diff(canvas.coarsen(rows)[1:-1], axis=0)
    assert set(step.ravel()) == {canvas.factor}
    refined = canvas.refine(canvas.coarsen(cols))
    inner = slice(3 * canvas.factor, -3 * canvas.factor)
    assert np.abs(refined - cols)[inner, inner].max() <= canvas.factor / 2
