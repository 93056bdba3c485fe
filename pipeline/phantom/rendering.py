"""What a slice shows: the anatomy drawn in order of depth, averaged over the slice's thickness."""

from __future__ import annotations

import numpy as np

from pipeline.phantom.acquisition import Pose, SlicePlane
from pipeline.phantom.anatomy import Anatomy
from pipeline.phantom.bones import draw_column, draw_posterior
from pipeline.phantom.canal import draw_canal, draw_foramina, draw_ligaments
from pipeline.phantom.canvas import Canvas
from pipeline.phantom.contrast import Contrast
from pipeline.phantom.soft_tissue import Surroundings, draw_pelvis, draw_soft_tissue

_SUBSLICES = (-0.27, 0.27)
"""Depths at which a slice is drawn, in shares of its thickness; their mean makes partial volume."""


def render_slice(
    anatomy: Anatomy, around: Surroundings, pose: Pose, plane: SlicePlane, contrast: Contrast, seed: int
) -> np.ndarray:
    """Draw one slice: (rows, cols) float32, about 0..1, without coil profile, noise or blur.

    Args:
        seed: of the textures, the same for all depths of the slice.
    """
    total = np.zeros((plane.rows, plane.cols), np.float32)
    back = pose.rotation.T
    for depth in _SUBSLICES:
        origin = back @ (plane.position + depth * plane.thickness * plane.normal - pose.shift)
        canvas = Canvas(anatomy.curve, origin, back @ plane.right * plane.spacing, back @ plane.down * plane.spacing,
                        (plane.rows, plane.cols), np.random.default_rng(seed))
        draw_soft_tissue(canvas, anatomy, around, contrast)
        draw_pelvis(canvas, anatomy, around, contrast)
        draw_ligaments(canvas, anatomy, contrast)
        draw_posterior(canvas, anatomy, contrast)
        draw_column(canvas, anatomy, contrast)
        draw_canal(canvas, anatomy, contrast)
        draw_foramina(canvas, anatomy, contrast)
        total += canvas.image
    return total / len(_SUBSLICES)
