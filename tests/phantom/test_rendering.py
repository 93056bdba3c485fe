"""What is graded can be seen: brightness at the landmarks follows the measurements."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pipeline.labels import CELLS, LEVELS, Family
from pipeline.phantom.acquisition import Pose, SlicePlane
from pipeline.phantom.contrast import Weighting, sample_contrast
from pipeline.phantom.rendering import render_slice
from pipeline.phantom.sampling import sample_anatomy
from pipeline.phantom.soft_tissue import surroundings

_STILL = Pose(np.eye(3), np.zeros(3))


def _patch(anatomy, cell_index, right, down, weighting, size=24, spacing=0.8):
    """A picture of size x size pixels about one landmark."""
    right, down = np.asarray(right, float), np.asarray(down, float)
    corner = anatomy.landmarks[cell_index] - (right + down) * spacing * (size - 1) / 2
    plane = SlicePlane(corner, right, down, spacing, size, size, 3.5)
    contrast = sample_contrast(weighting, np.random.default_rng(0))
    return render_slice(anatomy, surroundings(anatomy), _STILL, plane, contrast, 1), contrast


def _axial_axes(anatomy, level):
    row = int(anatomy.curve.rows(np.array(anatomy.lumbar_disc(level).middle)))
    across, back, _ = anatomy.curve.frames[row]
    return across, back


@pytest.fixture(scope="module")
def brightness():
    """(grade, visible share) of every L3/L4 to L5/S1 cell of a few patients, by family."""
    found: dict[Family, list[tuple[int, float]]] = {family: [] for family in Family}
    for seed in range(14):
        anatomy = sample_anatomy(np.random.default_rng(seed))
        for index, cell in enumerate(CELLS):
            level = LEVELS.index(cell.level)
            family = cell.condition.family
            if level not in (2, 3) or (family is not Family.CANAL and anatomy.grades[index] == 0 and seed > 5):
                continue
            if family is Family.FORAMINAL:
                image, contrast = _patch(anatomy, index, (0, 1, 0), (0, 0, -1), Weighting.T1)
                seen = (image[2:-2, 6:-6] > 0.75 * contrast["fat"]).mean()
            else:
                image, contrast = _patch(anatomy, index, *_axial_axes(anatomy, level), Weighting.T2)
                part = image[8:22, 4:20] if family is Family.CANAL else image[9:15, 9:15]
                floor = 0.75 * contrast["csf"] if family is Family.CANAL else 0.8 * contrast["fat"]
                seen = (part > floor).mean()
            found[family].append((int(anatomy.grades[index]), float(seen)))
    return found


@pytest.mark.parametrize("family", list(Family))
def test_fluid_and_fat_vanish_as_the_grade_rises(brightness, family):
    rows = np.array(brightness[family])
    means = [rows[rows[:, 0] == grade, 1].mean() for grade in (0, 1, 2) if (rows[:, 0] == grade).any()]
    assert len(means) >= 2
    assert all(higher > lower * 1.15 for higher, lower in itertools.pairwise(means)), means


def test_csf_is_bright_on_t2_and_dark_on_t1():
    anatomy = sample_anatomy(np.random.default_rng(2))
    t2, _ = _patch(anatomy, 0, *_axial_axes(anatomy, 0), Weighting.T2)
    t1, contrast = _patch(anatomy, 0, *_axial_axes(anatomy, 0), Weighting.T1)
    bright = t2 > 0.8 * t2.max()
    assert bright.sum() > 20
    assert t1[bright].mean() < 0.6 * contrast["fat"]


def test_stir_darkens_fat():
    rng = np.random.default_rng(0)
    for _ in range(20):
        stir, plain = sample_contrast(Weighting.STIR, rng), sample_contrast(Weighting.T2, rng)
        assert stir["fat"] < stir["muscle"] < stir["csf"]
        assert plain["muscle"] < plain["fat"]


def test_the_same_seed_draws_the_same_slice():
    anatomy = sample_anatomy(np.random.default_rng(5))
    first, second = (_patch(anatomy, 3, *_axial_axes(anatomy, 3), Weighting.T2)[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)
