"""The stack finds which neighbours speak for a cell, sees both sides alike, and says nothing where there is nothing."""

import numpy as np
import pytest

from pipeline.ensemble.calibration import normalised, weighted_loss
from pipeline.ensemble.stack import NEIGHBOURS, Stack, fit_stack, terms
from pipeline.labels import FAMILY_COLUMNS, MIRROR, Family
from pipeline.scoring.metric import WEIGHTS

SUBARTICULAR, FORAMINAL, CANAL = (FAMILY_COLUMNS[f] for f in (Family.SUBARTICULAR, Family.FORAMINAL, Family.CANAL))
OWN = (0.1, 0.2, 0.3, -0.1, 0.2, 0.4)
STEPS = (0.5, 0.4, -0.3, 0.2, -0.1, 0.6)


def answers(count=40, seed=0):
    return normalised(np.random.default_rng(seed).normal([1.5, 0.0, -1.0], 1.0, (count, 25, 3)))


def drawn(log_p, generator):
    """Grades whose optimum under the metric is ``log_p``."""
    p = np.exp(log_p) / WEIGHTS
    p /= p.sum(-1, keepdims=True)
    return (generator.random(p.shape[:-1])[..., None] > p.cumsum(-1)).sum(-1).clip(max=2).astype(float)


def test_a_stack_of_zeros_changes_nothing_and_missing_cells_stay_missing():
    log_p = answers()
    log_p[0, SUBARTICULAR[3]] = np.nan
    for family in Family:
        np.testing.assert_allclose(Stack().apply(log_p, family), log_p[:, FAMILY_COLUMNS[family]])
    changed = Stack(OWN, STEPS).apply(log_p, Family.SUBARTICULAR)
    assert np.isnan(changed[0, 3]).all()
    assert np.isfinite(changed).all(-1).sum() == 40 * 10 - 1
    np.testing.assert_allclose(np.exp(changed[1:]).sum(-1), 1)


@pytest.mark.parametrize("family", list(Family))
def test_a_mirrored_study_gets_the_mirrored_answer(family):
    log_p, stack, columns = answers(), Stack(OWN, STEPS), FAMILY_COLUMNS[family]
    whole = np.full_like(log_p, np.nan)
    whole[:, columns] = stack.apply(log_p[:, list(MIRROR)], family)
    np.testing.assert_allclose(whole[:, list(MIRROR)][:, columns], stack.apply(log_p, family))


@pytest.mark.parametrize(
    ("neighbour", "column"),
    [
        ("canal", CANAL[2]),
        ("foraminal", FORAMINAL[2]),
        ("foraminal opposite", FORAMINAL[7]),
        ("subarticular opposite", SUBARTICULAR[7]),
        ("above and below", SUBARTICULAR[1]),
        ("above and below", SUBARTICULAR[3]),
    ],
)
def test_each_coefficient_looks_at_the_neighbour_of_its_name(neighbour, column):
    """Of the left recess at L3/L4, the third of its ten cells."""
    log_p = answers(5)
    changed = log_p.copy()
    changed[:, column] = normalised(changed[:, column] + np.array([0.0, 0.0, 3.0]))
    moved = terms(changed, Family.SUBARTICULAR)[:, 2, 1, 6:] - terms(log_p, Family.SUBARTICULAR)[:, 2, 1, 6:]
    place = NEIGHBOURS.index(neighbour)
    assert (moved[:, place] > 0.01).all()
    np.testing.assert_allclose(np.delete(moved, place, 1), 0)


def test_a_missing_neighbour_is_a_usual_one():
    log_p = answers(5)
    log_p[:, FORAMINAL] = np.nan
    seen = terms(log_p, Family.SUBARTICULAR)[..., 6:]
    np.testing.assert_allclose(seen[..., [1, 2]], 0)
    assert (seen[..., 0] != 0).all()


def test_the_fit_finds_what_was_put_in():
    generator = np.random.default_rng(1)
    log_p = answers(3000, seed=1)
    true = Stack((0.0, 0.2, 0.0, 0.0, 0.0, 0.0), (0.0, 0.7, 0.0, 0.0, -0.4, 0.0))
    grades = np.full((3000, 25), np.nan)
    grades[:, SUBARTICULAR] = drawn(true.apply(log_p, Family.SUBARTICULAR), generator)
    found = fit_stack(log_p, grades, Family.SUBARTICULAR)
    np.testing.assert_allclose(found.neighbours, true.neighbours, atol=0.12)
    np.testing.assert_allclose(found.own, true.own, atol=0.15)
    known = grades[:, SUBARTICULAR].astype(int).ravel()
    before = weighted_loss(log_p[:, SUBARTICULAR].reshape(-1, 3), known)
    assert weighted_loss(found.apply(log_p, Family.SUBARTICULAR).reshape(-1, 3), known) < before - 0.01


def test_without_grades_there_is_nothing_to_fit():
    assert fit_stack(answers(), np.full((40, 25), np.nan), Family.CANAL) == Stack()


@pytest.mark.parametrize("value", [101.0, -1e300, float("nan")])
def test_coefficients_that_no_fit_gives_are_refused(value):
    with pytest.raises(ValueError, match="a stack has the coefficient"):
        Stack(neighbours=(0.0, value, 0.0, 0.0, 0.0, 0.0))
