"""Class frequencies, correlations and the label noise of the phantoms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pipeline.labels import CELLS, GRADE_WEIGHTS, LEVELS, Condition, Family
from pipeline.phantom.anatomy import MEASUREMENTS, grade_of_measurement
from pipeline.phantom.grades import (
    CLASS_FREQUENCIES,
    NARROWING_BANDS,
    LabelSettings,
    noise_floor,
    sample_narrowing,
    written_grades,
)
from pipeline.scoring.metric import score_arrays


def grade_of(narrowing: float) -> int:
    """The grade (0, 1, 2) of a narrowing: thresholds lie in the middle of the margins between the bands."""
    (_, low), (middle, high), (top, _) = NARROWING_BANDS
    return int(narrowing > (low + middle) / 2) + int(narrowing > (high + top) / 2)


@pytest.fixture(scope="module")
def grades() -> np.ndarray:
    rng = np.random.default_rng(3)
    return np.array([[grade_of(value) for value in sample_narrowing(rng)] for _ in range(4000)])


def test_frequencies_are_the_real_ones_per_family_and_level(grades):
    for index, cell in enumerate(CELLS):
        moderate, severe = CLASS_FREQUENCIES[cell.condition.family][LEVELS.index(cell.level)]
        assert (grades[:, index] == 1).mean() == pytest.approx(moderate, abs=0.025)
        assert (grades[:, index] == 2).mean() == pytest.approx(severe, abs=0.025)


def test_studies_with_any_severe_canal_are_as_common_as_in_the_competition(grades):
    canal = [index for index, cell in enumerate(CELLS) if cell.condition is Condition.CANAL]
    assert (grades[:, canal] == 2).any(axis=1).mean() == pytest.approx(0.185, abs=0.03)


def test_sides_levels_and_families_degenerate_together(grades):
    table = np.corrcoef(grades.T).reshape(5, 5, 5, 5)
    left, right = 3, 4
    assert np.mean([table[left, level, right, level] for level in range(5)]) > 0.3
    assert np.mean([table[left, level, left, level + 1] for level in range(4)]) > 0.15
    assert np.mean([table[0, level, left, level] for level in range(5)]) > 0.15
    # Over the competition's studies the two sides' foramina correlate by 0.33 at a level (recesses by 0.49), less than
    # the same side's at neighbouring levels.
    foramina = [np.mean([table[1, level, 2, level] for level in range(5)])]
    foramina.append(np.mean([table[1, level, 1, level + 1] for level in range(4)]))
    assert foramina == pytest.approx([0.33, 0.40], abs=0.06)
    assert np.mean([table[left, level, right, level] for level in range(5)]) == pytest.approx(0.49, abs=0.08)
    near = np.mean([table[left, level, left, level + 1] for level in range(4)])
    assert near > np.mean([table[left, level, left, level + 3] for level in range(2)])


def test_narrowing_leaves_the_margins_between_grades_empty():
    rng = np.random.default_rng(0)
    values = np.concatenate([sample_narrowing(rng) for _ in range(200)])
    for (_, low), (high, _) in itertools.pairwise(NARROWING_BANDS):
        assert not ((values > low + 1e-9) & (values < high - 1e-9)).any()


@pytest.mark.parametrize("family", list(Family))
def test_measurements_tell_the_same_grade_as_the_narrowing(family):
    knots = [edge for band in NARROWING_BANDS for edge in band]
    shapes = [150.0, *MEASUREMENTS[family][1:]] if family is Family.CANAL else MEASUREMENTS[family]
    for narrowing, value in zip(knots, shapes, strict=True):
        assert grade_of_measurement(family, value) == grade_of(narrowing)


def test_label_noise_moves_the_stated_share_by_one_grade():
    rng = np.random.default_rng(1)
    true = np.array([0, 1, 2] * 8 + [0])
    written = np.array([written_grades(true, LabelSettings(noise=0.1, missing=0.0), rng) for _ in range(400)])
    assert (written != true).mean() == pytest.approx(0.1, abs=0.01)
    assert np.abs(written - true).max() == 1


def test_missing_labels_are_those_of_one_family_at_the_first_level():
    rng = np.random.default_rng(1)
    written = written_grades(np.zeros(25, int), LabelSettings(noise=0.0, missing=1.0), rng)
    lost = [cell for cell, grade in zip(CELLS, written, strict=True) if grade < 0]
    assert len({cell.condition.family for cell in lost}) == 1
    assert {cell.level for cell in lost} == {"l1_l2"}


def test_noise_floor_is_nothing_without_noise_and_grows_with_it():
    assert noise_floor(0.0) == {"canal": 0.0, "foraminal": 0.0, "subarticular": 0.0}
    assert all(noise_floor(0.02)[family] > noise_floor(0.005)[family] > 0.01 for family in noise_floor(0.0))


def test_a_perfect_reader_of_the_geometry_scores_the_noise_floor(grades):
    noise, rng = 0.005, np.random.default_rng(9)
    settings = LabelSettings(noise=noise, missing=0.0)
    written = np.array([written_grades(row, settings, rng) for row in grades]).astype(float)
    flips = np.array([[1 - noise, noise, 0.0], [noise / 2, 1 - noise, noise / 2], [0.0, noise, 1 - noise]])
    answers = flips * GRADE_WEIGHTS
    score = score_arrays(written, (answers / answers.sum(1, keepdims=True))[grades])
    floor = noise_floor(noise)
    terms = (score.spinal, score.foraminal, score.subarticular)
    assert terms == pytest.approx([floor[name] for name in ("canal", "foraminal", "subarticular")], rel=0.2)
    assert score.score == pytest.approx(0.038, abs=0.006)


def test_settings_reject_impossible_shares():
    with pytest.raises(ValueError, match="LabelSettings: noise is"):
        LabelSettings(noise=0.7)
