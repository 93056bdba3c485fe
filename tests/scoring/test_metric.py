"""The metric against hand-computed cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import log_loss

from pipeline.labels import CELL_INDEX, CELLS, Cell, Condition
from pipeline.scoring.metric import CLIP, score_arrays

CANAL = [CELL_INDEX[Cell(Condition.CANAL, level)] for level in ("l1_l2", "l2_l3", "l3_l4", "l4_l5", "l5_s1")]


def uniform(studies: int) -> np.ndarray:
    return np.full((studies, len(CELLS), 3), 1 / 3)


def test_uniform_thirds_give_the_log_of_three_on_each_condition():
    grades = np.random.default_rng(0).integers(0, 3, (40, 25)).astype(float)
    score = score_arrays(grades, uniform(40))
    assert score.spinal == pytest.approx(1.0986, abs=1e-4)
    assert score.foraminal == pytest.approx(math.log(3))
    assert score.subarticular == pytest.approx(math.log(3))


def test_any_severe_of_uniform_thirds_is_the_binary_loss_at_one_third():
    grades = np.zeros((2, 25))
    grades[0, CANAL[3]] = 2
    expected = (4 * -math.log(1 / 3) + 1 * -math.log(2 / 3)) / 5
    assert score_arrays(grades, uniform(2)).any_severe == pytest.approx(expected)


def test_cells_are_weighted_by_true_grade():
    grades = np.full((1, 25), np.nan)
    grades[0, CANAL[:3]] = [0, 1, 2]
    probabilities = uniform(1)
    probabilities[0, CANAL[0]] = [0.5, 0.25, 0.25]
    probabilities[0, CANAL[1]] = [0.25, 0.5, 0.25]
    probabilities[0, CANAL[2]] = [0.1, 0.2, 0.7]
    score = score_arrays(grades, probabilities)
    assert score.spinal == pytest.approx(-(math.log(0.5) + 2 * math.log(0.5) + 4 * math.log(0.7)) / 7)
    assert score.any_severe == pytest.approx(-math.log(0.7))
    assert math.isnan(score.foraminal)
    assert math.isnan(score.score)
    assert score.cells == 3


def test_any_severe_takes_the_largest_probability_and_the_heaviest_weight_of_the_study():
    grades = np.zeros((2, 25))
    grades[0, CANAL[1]] = 1  # no severe level, weight 2
    grades[1, CANAL[4]] = 2  # severe, weight 4
    probabilities = uniform(2)
    probabilities[0, CANAL] = [[0.9, 0.08, 0.02]] * 4 + [[0.3, 0.3, 0.4]]
    probabilities[1, CANAL] = [[0.2, 0.2, 0.6]] + [[0.8, 0.1, 0.1]] * 4
    expected = (2 * -math.log(0.6) + 4 * -math.log(0.6)) / 6
    assert score_arrays(grades, probabilities).any_severe == pytest.approx(expected)


def test_left_and_right_are_pooled():
    grades = np.full((1, 25), np.nan)
    left = CELL_INDEX[Cell(Condition.LEFT_FORAMINAL, "l4_l5")]
    right = CELL_INDEX[Cell(Condition.RIGHT_FORAMINAL, "l4_l5")]
    grades[0, [left, right]] = [2, 0]
    probabilities = uniform(1)
    probabilities[0, left], probabilities[0, right] = [0.2, 0.2, 0.6], [0.5, 0.3, 0.2]
    expected = -(4 * math.log(0.6) + math.log(0.5)) / 5
    assert score_arrays(grades, probabilities).foraminal == pytest.approx(expected)


def test_rows_are_normalised_and_clipped():
    grades = np.zeros((1, 25))
    grades[0, 0] = 2
    probabilities = uniform(1) * 60
    probabilities[0, CANAL] = [[9, 1, 0]] * 5
    score = score_arrays(grades, probabilities)
    assert score.foraminal == pytest.approx(math.log(3))
    assert score.any_severe == pytest.approx(-math.log(CLIP))
    assert score.spinal == pytest.approx((4 * -math.log(CLIP) + 4 * -math.log(0.9)) / 8)


def test_a_study_without_canal_grades_does_not_count_for_any_severe():
    grades = np.full((2, 25), np.nan)
    grades[0, CANAL] = 0
    probabilities = uniform(2)
    probabilities[1, CANAL] = [[0, 0, 1]] * 5
    assert score_arrays(grades, probabilities).any_severe == pytest.approx(-math.log(2 / 3))


def test_rows_that_do_not_sum_to_1_are_scored_as_the_competitions_code_does():
    """Its log loss divides each row by its sum, but any-severe takes the column of the table as it stands."""
    rng = np.random.default_rng(3)
    grades = rng.integers(0, 3, (30, 25)).astype(float)
    raw = rng.uniform(0.05, 0.9, (30, 25, 3))
    score = score_arrays(grades, raw)
    worst = grades[:, CANAL].max(axis=1)
    weights = 2.0**worst
    expected = log_loss(worst == 2, raw[:, CANAL, 2].max(axis=1), sample_weight=weights)
    assert score.any_severe == pytest.approx(expected)
    rows = (raw / raw.sum(-1, keepdims=True))[:, CANAL].reshape(-1, 3)
    canal = grades[:, CANAL].ravel()
    assert score.spinal == pytest.approx(log_loss(canal, rows, sample_weight=2.0**canal))
