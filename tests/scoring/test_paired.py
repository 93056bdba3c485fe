"""The paired difference against a bootstrap over studies and against cases that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.labels import FAMILY_COLUMNS, Family
from pipeline.scoring.figures import family_score
from pipeline.scoring.oof import OofTable
from pipeline.scoring.paired import paired_difference

CANAL = list(FAMILY_COLUMNS[Family.CANAL])


def table(grades: np.ndarray, log_p: np.ndarray) -> OofTable:
    """Canal cells of studies: grades (studies, 5), log_p (studies, 5, 3)."""
    count = grades.size
    return OofTable(
        study_id=np.repeat([f"s{n}" for n in range(len(grades))], grades.shape[1]),
        cell=np.tile(CANAL, len(grades)),
        fold=np.zeros(count, int),
        grade=grades.ravel(),
        predicted_point=np.ones(count, bool),
        log_p=log_p.reshape(-1, 3),
    )


def answers(generator: np.random.Generator, grades: np.ndarray, skill: float) -> np.ndarray:
    """Log-probabilities that know the grade a little; whole studies are easier or harder."""
    logits = generator.normal(size=(*grades.shape, 3)) * 0.5 + skill * np.eye(3)[np.maximum(grades, 0)]
    logits += generator.normal(size=(len(grades), 1, 3))
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.fixture
def pair():
    generator = np.random.default_rng(5)
    grades = generator.choice(4, (150, 5), p=[0.6, 0.2, 0.1, 0.1]) - 0
    grades = np.where(grades == 3, -1, grades)
    return grades, answers(generator, grades, 1.2), answers(generator, grades, 1.0)


def test_the_difference_is_that_of_the_scores(pair):
    grades, own, other = pair
    found, _, cells = paired_difference(table(grades, own), table(grades, other), CANAL)
    flat = grades.ravel()
    assert found == pytest.approx(family_score(own.reshape(-1, 3), flat) - family_score(other.reshape(-1, 3), flat))
    assert cells == (grades >= 0).sum()


def test_the_standard_error_is_that_of_a_bootstrap_over_studies(pair):
    grades, own, other = pair
    generator = np.random.default_rng(0)
    drawn = []
    for _ in range(400):
        rows = generator.integers(len(grades), size=len(grades))
        flat = grades[rows].ravel()
        scores = [family_score(one[rows].reshape(-1, 3), flat) for one in (own, other)]
        drawn.append(scores[0] - scores[1])
    assert paired_difference(table(grades, own), table(grades, other), CANAL)[1] == pytest.approx(
        np.std(drawn), rel=0.1
    )


def test_a_recipe_is_exactly_as_good_as_itself_whatever_the_order(pair):
    grades, own, _ = pair
    first, second = table(grades, own), table(grades[::-1], own[::-1])
    names = {"study_id": second.study_id.reshape(-1, 5)[::-1].ravel()}
    second = OofTable(**{**vars(second), **names})
    assert paired_difference(first, second, CANAL)[:2] == pytest.approx((0.0, 0.0), abs=1e-12)


def test_only_cells_that_both_have_count_and_none_is_no_number(pair):
    grades, own, other = pair
    small = table(grades[:1], other[:1])
    difference, error, cells = paired_difference(table(grades, own), small, CANAL)
    assert math.isfinite(difference)
    assert math.isnan(error)
    assert cells == (grades[:1] >= 0).sum()
    assert paired_difference(table(grades, own), small, [])[2] == 0
