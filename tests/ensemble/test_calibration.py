"""Calibration brings overconfident predictions back to the metric's optimum, and says how far off they were."""

import numpy as np
import pytest

from pipeline.ensemble.calibration import (
    Calibration,
    calibration_error,
    fit_calibration,
    normalised,
    weighted_loss,
)
from pipeline.scoring.metric import unweighted

WEIGHTS = np.array([1.0, 2.0, 4.0])


def drawn(count=6000, seed=0):
    """True class frequencies (N, 3) and grades drawn from them."""
    generator = np.random.default_rng(seed)
    p = generator.dirichlet([4.0, 1.5, 0.6], count)
    grades = (generator.random(count)[:, None] > p.cumsum(1)).sum(1)
    return p, np.minimum(grades, 2)


def reweighted(p):
    return np.log(p * WEIGHTS / (p * WEIGHTS).sum(1, keepdims=True))


def test_the_reweighted_posterior_needs_no_calibration():
    p, grades = drawn()
    fitted = fit_calibration(reweighted(p), grades)
    assert fitted.temperature == pytest.approx(1, abs=0.1)
    np.testing.assert_allclose(fitted.bias, 0, atol=0.15)
    assert calibration_error(reweighted(p), grades).max() < 0.02


def test_temperature_undoes_overconfidence():
    p, grades = drawn()
    sharp = normalised(reweighted(p) * 2.5)
    fitted = fit_calibration(sharp, grades)
    assert fitted.temperature == pytest.approx(2.5, rel=0.1)
    assert weighted_loss(fitted.apply(sharp), grades) < weighted_loss(sharp, grades) - 0.05
    assert calibration_error(fitted.apply(sharp), grades).max() < calibration_error(sharp, grades).max()


def test_bias_puts_the_weights_in_where_training_left_them_out():
    p, grades = drawn()
    plain = np.log(p)
    fitted = fit_calibration(plain, grades)
    np.testing.assert_allclose(fitted.bias[1:], np.log([2, 4]), atol=0.3)
    np.testing.assert_allclose(unweighted(reweighted(p)), p, atol=1e-9)


def test_missing_rows_stay_missing_and_sure_ones_finite():
    rows = np.array([[np.nan] * 3, [0.0, -2000.0, -2000.0]])
    result = Calibration(0.5, (0.0, 1.0, 1.0)).apply(rows)
    assert np.isnan(result[0]).all()
    assert np.isfinite(result[1]).all()
    with pytest.raises(ValueError, match="temperature"):
        Calibration(temperature=0)
