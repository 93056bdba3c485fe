"""The paired difference of two sets of predictions: its value is the score's, its error a bootstrap's."""

import numpy as np
import pytest

from pipeline.labels import FAMILY_COLUMNS, Family
from pipeline.scoring.metric import score_arrays
from pipeline.scoring.paired import TERM_OF, difference, differences


def made(count=300, seed=0):
    """Grades with holes, and two sets of predictions of them, the second a little nearer."""
    generator = np.random.default_rng(seed)
    grades = generator.choice(3, (count, 25), p=[0.7, 0.2, 0.1]).astype(float)
    logits = generator.normal(size=(count, 25, 3))
    nearer = logits.copy()
    np.put_along_axis(nearer, grades[..., None].astype(int), 0.2 + np.take_along_axis(
        logits, grades[..., None].astype(int), -1), -1)  # fmt: skip
    grades[generator.random(grades.shape) < 0.1] = np.nan
    first, second = (np.exp(each) / np.exp(each).sum(-1, keepdims=True) for each in (logits, nearer))
    return grades, first, second


def test_the_difference_is_that_of_the_scores():
    grades, first, second = made()
    found = differences(grades, first, second)
    before, after = score_arrays(grades, first).to_dict(), score_arrays(grades, second).to_dict()
    assert found.keys() == before.keys()
    for term, change in found.items():
        assert change.value == pytest.approx(after[term] - before[term], abs=1e-12)
    assert found["score"].helps
    assert not differences(grades, second, first)["score"].helps
    assert not differences(grades, first, first)["score"].helps, "the same is no better"


@pytest.mark.parametrize("term", ["spinal", "any_severe", "score"])
def test_the_error_is_that_of_a_bootstrap_over_studies(term):
    grades, first, second = made()
    generator = np.random.default_rng(1)
    drawn = []
    for _ in range(400):
        rows = generator.integers(len(grades), size=len(grades))
        before, after = (score_arrays(grades[rows], each[rows]).to_dict()[term] for each in (first, second))
        drawn.append(after - before)
    assert differences(grades, first, second)[term].error == pytest.approx(np.std(drawn), rel=0.15)


def test_terms_add_up_study_by_study():
    grades, first, second = made()
    both = difference(grades, first, second, ["spinal", "any_severe"])
    apart = differences(grades, first, second)
    assert both.value == pytest.approx(apart["spinal"].value + apart["any_severe"].value)
    assert difference(grades, first, second, TERM_OF).error / 4 == pytest.approx(apart["score"].error)


def test_where_nothing_is_graded_nothing_is_known():
    grades, first, second = made(20)
    grades[:, FAMILY_COLUMNS[Family.CANAL]] = np.nan
    found = differences(grades, first, second)
    assert np.isnan(found["spinal"].value)
    assert np.isnan(found["score"].error)
    assert not found["spinal"].helps
    assert np.isfinite(found["foraminal"].error)
    assert np.isnan(differences(grades[:1], first[:1], second[:1])["foraminal"].error), "one study has no spread"
