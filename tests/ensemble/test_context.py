"""The study-context model: it learns what goes together, fills what is missing, and treats both sides alike."""

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

from pipeline.ensemble.context import MIRROR, ContextModel, ContextSettings, inputs
from pipeline.ensemble.context_fit import fit_context, metric_loss, visible_at_random
from pipeline.labels import CELLS, FAMILY_COLUMNS, Family, Side
from pipeline.scoring.metric import score_arrays

FAST = ContextSettings(hidden=16, steps=150, members=1, batch=128, learning_rate=0.01)
FORAMINAL, CANAL = FAMILY_COLUMNS[Family.FORAMINAL], FAMILY_COLUMNS[Family.CANAL]


def study_set(count=400, seed=0):
    """Grades in which each level's worst foramen is also the grade of canal and recesses, and foraminal predictions."""
    generator = np.random.default_rng(seed)
    grades = np.zeros((count, 25))
    levels = np.array([index % 5 for index in range(25)])
    worst = generator.choice(3, (count, 5), p=[0.6, 0.25, 0.15])
    grades[:] = worst[:, levels]
    log_p = np.full((count, 25, 3), np.nan)
    for column in FORAMINAL:
        p = np.full((count, 3), 0.1)
        p[np.arange(count), grades[:, column].astype(int)] = 0.8
        log_p[:, column] = np.log(p)
    return grades, log_p


@pytest.fixture(scope="module")
def fitted():
    grades, log_p = study_set()
    torch.set_num_threads(1)
    return fit_context(log_p, grades, np.full((25, 3), 1 / 3), FAST)


def test_missing_families_are_filled_from_what_goes_with_them(fitted):
    grades, log_p = study_set(100, seed=1)
    before = score_arrays(grades, np.full((100, 25, 3), 1 / 3))
    after = score_arrays(grades, np.exp(fitted.apply(log_p)))
    assert after.spinal < 0.6 * before.spinal
    assert after.any_severe < 0.8 * before.any_severe


def test_any_pattern_gives_distributions_and_nothing_at_all_gives_the_prior(fitted):
    grades, log_p = study_set(6, seed=2)
    log_p[0] = np.nan
    log_p[1, FORAMINAL[3:]] = np.nan
    result = np.exp(fitted.apply(log_p))
    assert grades.shape == result.shape[:2]
    np.testing.assert_allclose(result.sum(-1), 1)
    np.testing.assert_allclose(result[0], 1 / 3)


def test_a_mirrored_study_gets_mirrored_answers(fitted):
    _, log_p = study_set(5, seed=3)
    log_p[:, [c for c in FORAMINAL if CELLS[c].condition.side is Side.LEFT][2]] = np.log([0.1, 0.1, 0.8])
    mirror = list(MIRROR)
    np.testing.assert_allclose(fitted.apply(log_p)[:, mirror], fitted.apply(log_p[:, mirror]), atol=1e-9)
    assert sorted(mirror) == list(range(25))
    assert [mirror[m] for m in mirror] == list(range(25))


def test_before_training_it_changes_nothing():
    grades, log_p = study_set(20)
    model = fit_context(log_p, grades, np.full((25, 3), 1 / 3), ContextSettings(steps=4, members=1, learning_rate=1e-9))
    np.testing.assert_allclose(model.apply(log_p)[:, FORAMINAL], log_p[:, FORAMINAL], atol=1e-4)


def test_it_survives_saving(fitted):
    _, log_p = study_set(3, seed=4)
    loaded = ContextModel.load(fitted.to_bytes())
    # Not to the bit: how a library sums depends on where the loaded arrays lie in memory.
    np.testing.assert_allclose(loaded.apply(log_p), fitted.apply(log_p), rtol=1e-12)
    with pytest.raises(ValueError, match="not a study-context model"):
        ContextModel.load(b"no")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("prior", np.zeros((25, 2)), r"prior is of shape \(25, 2\), expected \(25, 3\)"),
        ("hidden", np.zeros((1, 124, 16)), "hidden is of shape"),
        ("out", np.zeros((2, 16, 9)), "out is of shape"),
        ("out_bias", np.full((1, 9), np.nan), "out_bias holds numbers that are not finite"),
        ("prior", np.full((25, 3), -np.inf), "prior holds numbers that are not finite"),
        ("hidden_bias", np.full((1, 5, 16), 1e300), "beyond 1e"),
    ],
)
def test_arrays_that_no_fit_gives_are_refused(fitted, name, value, message):
    arrays = load(fitted.to_bytes())
    assert arrays["hidden"].shape == (1, 125, 16)
    with pytest.raises(ValueError, match=message):
        ContextModel.load(save({**arrays, name: value}))


def test_the_training_loss_is_the_metric():
    generator = np.random.default_rng(0)
    grades = generator.integers(0, 3, (30, 25)).astype(float)
    grades[generator.random(grades.shape) < 0.2] = np.nan
    logits = generator.normal(size=(30, 25, 3))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = score_arrays(grades, p).score
    truth = torch.from_numpy(np.where(np.isfinite(grades), grades, -1)).long()
    assert float(metric_loss(torch.from_numpy(logits), truth)) == pytest.approx(expected, rel=1e-5)


def test_hiding_keeps_a_family_where_there_is_one():
    there = np.zeros((300, 25), dtype=bool)
    there[:, FORAMINAL] = True
    there[150:, CANAL] = True
    settings = ContextSettings(family_drop=0.9, cell_drop=0.0)
    visible = visible_at_random(there, settings, np.random.default_rng(0))
    assert visible[:150][:, FORAMINAL].all()
    assert visible.any(1).all()
    assert not visible[150:][:, CANAL].all()
    assert not (visible & ~there).any()


def test_missing_cells_are_zeros_in_the_input():
    _, log_p = study_set(2)
    features = inputs(log_p).reshape(2, 2, 25, 5)
    assert not features[:, :, CANAL].any()
    assert features[:, :, FORAMINAL, 4].all()
