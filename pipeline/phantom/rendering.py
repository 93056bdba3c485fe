"""What a slice shows: the anatomy drawn in order of depth, averaged over the slice's thickness."""

from __future__ import annotations

import numpy as np

from pipeline.phantom.acquisition import Pose, SlicePlane
from pipeline.phantom.anatomy import Anatomy
from pipeline.phantom.bones import draw_column, draw_posterior
from pipeline.phantom.canal import draw_canal, draw_foramina, draw_ligaments
from pipeline.phantom.contrast import Contrast
from pipeline.phantom.drawing import Canvas
from pipeline.phantom.soft_tissue import Surroundings, draw_pelvis, draw_soft_tissue

_SUBSLICES = (-0.27, 0.27)
"""Depths at which bodies, discs, canal and foramina are drawn, in shares of the slice's thickness; their mean makes
partial volume. What lies around them is drawn once, in the middle."""


def render_slice(
    anatomy: Anatomy, around: Surroundings, pose: Pose, plane: SlicePlane, contrast: Contrast, seed: int
) -> np.ndarray:
    """Draw one slice: (rows, cols) float32, about 0..1, without coil profile, noise or blur.

    Args:
        seed: of the textures, the same for all depths of the slice.
    """
    back = pose.rotation.T
    step_col, step_row = back @ plane.right * plane.spacing, back @ plane.down * plane.spacing
    shape = (plane.rows, plane.cols)

    origin = back @ (plane.position - pose.shift)
    middle = Canvas(anatomy.curve, origin, step_col, step_row, shape, np.random.default_rng((seed, 0)))
    draw_soft_tissue(middle, anatomy, around, contrast)
    draw_pelvis(middle, around, contrast)
    if not middle.reaches(anatomy.vertebrae[0].top, anatomy.vertebrae[-1].bottom):
        return middle.image
    draw_ligaments(middle, anatomy, contrast)
    draw_posterior(middle, anatomy, contrast)
    offsets = np.outer(_SUBSLICES, plane.thickness * (back @ plane.normal))
    pile = middle.moved(offsets, np.random.default_rng((seed, 1)))
    draw_column(pile, anatomy, contrast)
    draw_canal(pile, anatomy, contrast)
    draw_foramina(pile, anatomy, contrast)
    mean: np.ndarray = pile.image.mean(0)
    return mean
