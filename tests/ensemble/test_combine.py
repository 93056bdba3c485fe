"""Blending members, and what a fitted file does to their answers."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import to_dict
from pipeline.ensemble.calibration import Calibration, normalised
from pipeline.ensemble.combine import (
    EnsembleFit,
    PatternFit,
    add_context,
    blend,
    combine,
    even_blend,
    hidden_answers,
    member_weights,
    pattern_of,
    raise_top,
)
from pipeline.ensemble.context import ContextModel
from pipeline.ensemble.networks import Networks
from pipeline.ensemble.stack import Stack
from pipeline.labels import FAMILY_COLUMNS, Family
from pipeline.weights.manifest import Manifest, Member, WeightsError

CANAL = FAMILY_COLUMNS[Family.CANAL]
FORAMINAL = FAMILY_COLUMNS[Family.FORAMINAL]


def network(name, fold=None, task="canal"):
    return Member(name, task, "x", "", fold=fold)


def rows(*probabilities):
    """(1, 25, 3) log-probabilities, the first foraminal cells given."""
    result = np.full((1, 25, 3), np.nan)
    for column, p in zip(FORAMINAL, probabilities, strict=False):
        result[0, column] = np.log(p)
    return result


def test_logits_and_probabilities_average_as_they_say():
    a, b = rows([0.8, 0.1, 0.1]), rows([0.2, 0.4, 0.4])
    cell = FORAMINAL[0]
    mean = np.exp(blend({"a": a, "b": b}, average="probabilities"))[0, cell]
    np.testing.assert_allclose(mean, [0.5, 0.25, 0.25])
    geometric = np.sqrt(np.array([0.16, 0.04, 0.04]))
    np.testing.assert_allclose(np.exp(blend({"a": a, "b": b}))[0, cell], geometric / geometric.sum())


def test_a_recipe_that_the_fit_has_not_seen_counts_as_much_as_the_usual_one():
    members = [network("canal-fold0", 0), network("sharp-fold1", 1), network("other", task="foraminal")]
    fit = EnsembleFit(recipes={"canal": 0.25, "sharp": 0.35, "other": 0.9})
    new = network("foraminal-by-name-canal-by-task")
    weights = member_weights(fit, [*members, new], ["canal-fold0", new.name])
    assert weights == {"canal-fold0": 0.25, new.name: pytest.approx(0.3)}


def test_folds_of_a_recipe_share_its_weight():
    members = [network("a-fold0", 0), network("a-fold1", 1), network("a-fold2", 2), network("b-fold9")]
    assert [member.recipe for member in members] == ["a", "a", "a", "b-fold9"], "the last was held out of nothing"
    fit = EnsembleFit(recipes={"a": 3.0, "b-fold9": 1.0})
    weights = member_weights(fit, members, ["a-fold0", "a-fold1", "b-fold9"])
    assert weights == {"a-fold0": 1.5, "a-fold1": 1.5, "b-fold9": 1.0}
    a, b = rows([0.8, 0.1, 0.1]), rows([0.2, 0.4, 0.4])
    one = blend({"a": a, "b": b}, {"a": 3.0, "b": 1.0})
    np.testing.assert_allclose(one, blend({"a-fold0": a, "a-fold1": a, "b-fold9": b}, weights))


def test_a_member_without_input_or_weight_is_left_out():
    a, b = rows([0.8, 0.1, 0.1], [0.6, 0.2, 0.2]), rows([0.2, 0.4, 0.4])
    result = np.exp(blend({"a": a, "b": b}))
    np.testing.assert_allclose(result[0, FORAMINAL[1]], [0.6, 0.2, 0.2])
    only = np.exp(blend({"a": a, "b": b}, {"b": 0.0}))
    np.testing.assert_allclose(only[0, FORAMINAL[0]], [0.8, 0.1, 0.1])
    assert np.isnan(blend({"a": a, "b": b}, {"a": 0.0, "b": 0.0})).all()
    with pytest.raises(ValueError, match="nothing to blend"):
        blend({})


def test_trust_moves_only_cells_with_a_prediction_of_their_own():
    own, context = rows([0.8, 0.1, 0.1]), np.log(np.full((1, 25, 3), 1 / 3))
    fit = EnsembleFit(trust={"foraminal": 0.0})
    result = np.exp(add_context(fit, own, context))
    np.testing.assert_allclose(result[0, FORAMINAL[0]], [0.8, 0.1, 0.1])
    np.testing.assert_allclose(result[0, FORAMINAL[1]], 1 / 3)
    half = np.exp(add_context(EnsembleFit(trust={"foraminal": 0.5}), own, context))[0, FORAMINAL[0]]
    assert 1 / 3 < half[0] < 0.8
    np.testing.assert_allclose(add_context(EnsembleFit(), own, context), context)


def test_weights_without_fitted_files_average_evenly(tmp_path):
    Manifest(tmp_path, "test", "nothing").save()
    p, from_context = combine(Manifest.load(tmp_path), {"a": rows([0.8, 0.1, 0.1])[0]})
    np.testing.assert_allclose(p[FORAMINAL[0]], [0.8, 0.1, 0.1])
    assert np.isnan(p[0]).all()
    assert not from_context.any()


def complete(seed=0):
    """(25, 3) log-probabilities of all cells."""
    return normalised(np.random.default_rng(seed).normal(size=(25, 3)))


def stored(folder, fit, *members):
    """A set of these members with a fit."""
    manifest = Manifest(folder, "test", "nothing", members)
    return manifest.add_file("ensemble.json", json.dumps(to_dict(fit)).encode())


def test_stack_and_calibration_of_a_pattern_are_for_studies_in_which_just_these_recipes_answer(tmp_path):
    stack = Stack(neighbours=(0.5, 0.0, 0.0, 0.0, 0.0, 0.0))
    sure = Calibration(0.5)
    special = PatternFit({"canal": sure}, {"foraminal": stack})
    fit = EnsembleFit(patterns={pattern_of(["b", "a"]): special})
    assert fit.patterns.keys() == {"a+b"}
    manifest = stored(tmp_path, fit, network("a-fold0", 0), network("a-fold1", 1), network("b", task="foraminal"))
    p = complete()
    both, _ = combine(manifest, {"a-fold0": p, "b": p})
    calibrated = p.copy()
    calibrated[CANAL] = sure.apply(p[CANAL])
    np.testing.assert_allclose(both[CANAL], np.exp(calibrated[CANAL]))
    np.testing.assert_allclose(both[FORAMINAL], np.exp(stack.apply(calibrated[None], Family.FORAMINAL)[0]))
    alone, _ = combine(manifest, {"a-fold0": p, "b": np.full((25, 3), np.nan)})
    np.testing.assert_allclose(alone, np.exp(p), err_msg="the other recipe says nothing, so the pattern is another")
    folds, _ = combine(manifest, {"a-fold0": p, "a-fold1": p, "b": p})
    np.testing.assert_allclose(folds, both, err_msg="folds of a recipe are one")


def test_the_top_canal_cell_is_raised_and_no_other(tmp_path):
    p = complete()
    raised, _ = combine(stored(tmp_path, EnsembleFit(top_severe=2.0), network("a")), {"a": p})
    top = CANAL[int(p[CANAL, 2].argmax())]
    odds = np.exp(p[top, 2]) / (1 - np.exp(p[top, 2]))
    assert raised[top, 2] / (1 - raised[top, 2]) == pytest.approx(2 * odds)
    np.testing.assert_allclose(np.delete(raised, top, 0), np.exp(np.delete(p, top, 0)))


def test_without_canal_predictions_nothing_is_raised():
    values = rows([0.8, 0.1, 0.1])
    np.testing.assert_array_equal(raise_top(values, 2.0), values)


def test_a_recipe_counts_by_family_where_the_fit_says_so(tmp_path):
    fit = EnsembleFit(recipes={"a": 1.0, "b": 0.0}, by_family={"foraminal": {"a": 0.0, "b": 1.0}})
    manifest = stored(tmp_path, fit, network("a"), network("b"))
    a, b = complete(1), complete(2)
    p, _ = combine(manifest, {"a": a, "b": b})
    np.testing.assert_allclose(p[FORAMINAL], np.exp(b[FORAMINAL]))
    np.testing.assert_allclose(p[CANAL], np.exp(a[CANAL]))


def test_an_unknown_family_in_the_calibration_is_refused():
    with pytest.raises(ValueError, match=r"trust of disc, expected of canal, foraminal, subarticular"):
        EnsembleFit(calibration={"disc": Calibration()})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"calibration": {"canal": {"temperature": NaN}}}', "not finite"),
        ('{"calibration": {"canal": {"temperature": "nan"}}}', "finite number"),
        ('{"calibration": {"canal": {"temperature": 1e-9}}}', "temperature is 1e-09, expected at least 0.01"),
        ('{"calibration": {"canal": {"bias": [0, 0, 1e9]}}}', "between -100 and 100"),
        ('{"trust": {"canal": 1e999}}', "not finite"),
        ('{"trust": {"canal": 7}}', "trust has 7.0, expected 0 to 1"),
        ('{"recipes": {"canal": -1}}', "recipes has -1.0"),
        ('{"average": "median"}', "'logits', 'probabilities'"),
        ('{"top_severe": 0}', "top_severe is 0.0, expected at least 0.1"),
        ('{"top_severe": 1e9}', "top_severe is 1000000000.0, expected"),
        ('{"by_family": {"disc": {}}}', "of disc, expected of canal"),
        ('{"by_family": {"canal": {"a": -1}}}', "by_family has -1.0, expected 0"),
        ('{"patterns": {"a": {"stack": {"disc": {}}}}}', "stack of a pattern of disc"),
        ('{"patterns": {"a": {"stack": {"canal": {"own": [1e9, 0, 0, 0, 0, 0]}}}}}', "the coefficient 1000000000.0"),
        ('{"patterns": {"a": {"stack": {"canal": {"neighbours": [1]}}}}}', "neighbours"),
        ('{"patterns": {"a": {"calibration": {"canal": {"temperature": 0}}}}}', "temperature is 0.0"),
        ("[" * 5000, "nested deeper"),
        ('{"context": true}', "context"),
    ],
)
def test_a_fit_that_no_fitting_gives_is_left_out_by_name(tmp_path, text, message):
    manifest = Manifest(tmp_path, "test", "").add_file("ensemble.json", text.encode())
    manifest = manifest.add_file("context.safetensors", b"no context")
    with pytest.raises(WeightsError, match=message):
        combine(manifest, {"a": rows([0.8, 0.1, 0.1])[0]})
    networks, problems = Networks.open(manifest)  # a run goes on with the even average
    assert [problem.what for problem in problems] == ["weights-refused"]
    p, _ = networks.combine({"a": rows([0.8, 0.1, 0.1])[0]})
    np.testing.assert_allclose(p[FORAMINAL[0]], [0.8, 0.1, 0.1])


def test_a_recipe_without_weight_is_measured_all_the_same():
    values = np.full((1, 25, 3), np.nan)
    values[0, 0] = np.log([0.2, 0.3, 0.5])
    manifest = Manifest(Path(), "test", "", (network("canal-x-fold0", 0),))
    fit = EnsembleFit(recipes={"canal-x": 0.0})
    np.testing.assert_allclose(np.exp(even_blend(manifest, fit, {"canal-x-fold0": values})[0, 0]), [0.2, 0.3, 0.5])


def test_the_context_answers_for_a_family_without_seeing_it():
    inputs = 125
    context = ContextModel(
        np.log(np.full((25, 3), 1 / 3)),
        np.zeros((1, inputs, 2)), np.zeros((1, 5, 2)), np.zeros((1, 2, 9)), np.zeros((1, 9)),
    )  # fmt: skip
    seen = []
    changed = replace(context)
    object.__setattr__(changed, "apply", lambda log_p: (seen.append(log_p.copy()), np.nan_to_num(log_p, nan=-7.0))[1])
    own = np.full((2, 25, 3), np.log(1 / 3))
    own[1, FAMILY_COLUMNS[Family.CANAL]] = np.nan
    own[1, FAMILY_COLUMNS[Family.SUBARTICULAR]] = np.nan
    answers = hidden_answers(own, changed)
    for family, asked in zip(Family, seen, strict=True):
        assert np.isnan(asked[:, FAMILY_COLUMNS[family]]).all(), family
    assert (answers[0] == -7).all()
    assert np.isnan(answers[1, FAMILY_COLUMNS[Family.FORAMINAL]]).all(), "nothing else is known of the second study"
    assert (answers[1, FAMILY_COLUMNS[Family.CANAL]] == -7).all()
