"""The parts of an ensemble, each a function from what is fitted already and out-of-fold predictions to one part more.

In the order in which they are applied: average and weights, calibration, calibration by pattern, stack, top factor.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from scipy.optimize import minimize

from pipeline.ensemble.calibration import Calibration, fit_calibration, weighted_loss
from pipeline.ensemble.combine import (
    Average,
    EnsembleFit,
    PatternFit,
    blend,
    calibrate,
    correct,
    raise_top,
    recipe_weight,
)
from pipeline.ensemble.out_of_fold import OutOfFold, graded
from pipeline.ensemble.stack import fit_stack
from pipeline.labels import FAMILY_COLUMNS, GRADES, Family
from pipeline.scoring.metric import any_severe_log_loss, score_arrays

FEWEST = 500
"""Graded cells of a family in a pattern without which it gets no fit of its own."""
_FACTORS = tuple(step / 20 for step in range(20, 41))


def answer(fit: EnsembleFit, data: OutOfFold) -> np.ndarray:
    """(studies, 25, 3) log-probabilities as :func:`pipeline.ensemble.combine.combine` gives them, without context."""
    return correct(fit, _blended(fit, data), data.patterns)


def fit_weights(fit: EnsembleFit, data: OutOfFold) -> EnsembleFit:
    """Weights of the recipes that have none yet, family by family."""
    recipes, by_family = dict(fit.recipes), {}
    for family, columns in FAMILY_COLUMNS.items():
        mine = {n: v for n, v in data.predictions.items() if n not in fit.recipes and np.isfinite(v[:, columns]).any()}
        weights = _fit_weights(mine, data.grades, family, fit.average)
        if again := {name: weight for name, weight in weights.items() if recipes.get(name, weight) != weight}:
            by_family[family.value] = again
        recipes = weights | recipes
    return replace(fit, recipes=recipes, by_family=by_family)


def fit_average(fit: EnsembleFit, data: OutOfFold) -> EnsembleFit:
    """The average whose blend scores better once it is calibrated, and its weights."""
    kinds: tuple[Average, ...] = ("logits", "probabilities")
    return min((fit_weights(replace(fit, average=kind), data) for kind in kinds), key=lambda one: _score(one, data))


def fit_calibrations(fit: EnsembleFit, data: OutOfFold) -> EnsembleFit:
    """Temperature and bias of the blend, family by family."""
    return replace(fit, calibration=_fit_calibrations(_blended(fit, data), data.grades, 1))


def fit_patterns(fit: EnsembleFit, data: OutOfFold) -> EnsembleFit:
    """The same for each pattern with cells enough, where there are two of them: one alone is what all studies are."""
    log_p = _blended(fit, data)
    found: dict[str, dict[str, Calibration]] = {}
    for name in data.named_patterns:
        here = data.patterns == name
        found[name] = _fit_calibrations(log_p[here], data.grades[here], FEWEST)
    several = {family.value for family in Family if sum(family.value in one for one in found.values()) > 1}
    patterns = {
        name: PatternFit({family: each for family, each in one.items() if family in several})
        for name, one in found.items()
        if one.keys() & several
    }
    return replace(fit, patterns=patterns)


def fit_stacks(fit: EnsembleFit, data: OutOfFold) -> EnsembleFit:
    """The stack of each pattern and family that has cells enough."""
    log_p = calibrate(fit, _blended(fit, data), data.patterns)
    patterns = dict(fit.patterns)
    for name in data.named_patterns:
        here = data.patterns == name
        stack = {
            family.value: fit_stack(log_p[here], data.grades[here], family)
            for family, columns in FAMILY_COLUMNS.items()
            if len(graded(log_p[np.ix_(here, columns)], data.grades[np.ix_(here, columns)])[1]) >= FEWEST
        }
        if stack:
            patterns[name] = replace(patterns.get(name, PatternFit()), stack=stack)
    return replace(fit, patterns=patterns)


def fit_top(fit: EnsembleFit, data: OutOfFold) -> EnsembleFit:
    """The factor of the top canal cell with the lowest sum of both terms that look at the canal."""
    log_p = answer(fit, data)
    canal = FAMILY_COLUMNS[Family.CANAL]
    rows = np.isfinite(log_p[:, canal]).all((1, 2)) & np.isfinite(data.grades[:, canal]).any(1)
    if not rows.any():
        return fit

    def loss(factor: float) -> float:
        return _family_loss(Family.CANAL, raise_top(log_p[rows], factor)[:, canal], data.grades[np.ix_(rows, canal)])

    return replace(fit, top_severe=min(_FACTORS, key=loss))


def _blended(fit: EnsembleFit, data: OutOfFold) -> np.ndarray:
    return blend(data.predictions, {name: recipe_weight(fit, name) for name in data.predictions}, fit.average)


def _score(fit: EnsembleFit, data: OutOfFold) -> float:
    """The sum of the terms that have a grade, by a fit that has yet to be calibrated."""
    log_p = answer(fit_calibrations(fit, data), data)
    p = np.where(np.isfinite(log_p), np.exp(log_p), 1 / 3)
    return sum(value for name, value in score_arrays(data.grades, p).to_dict().items() if name != "score" and value)


def _fit_calibrations(log_p: np.ndarray, grades: np.ndarray, fewest: int) -> dict[str, Calibration]:
    """By family, where it has so many graded cells."""
    result = {}
    for family, columns in FAMILY_COLUMNS.items():
        rows, true = log_p[:, columns], grades[:, columns]
        both = graded(rows, true)
        if len(both[1]) < fewest:
            continue
        if family is Family.CANAL:
            result[family.value] = fit_calibration(rows, true, loss=functools.partial(_family_loss, family))
        else:
            result[family.value] = fit_calibration(*both)
    return result


def _family_loss(family: Family, log_p: np.ndarray, grades: np.ndarray) -> float:
    """What the metric takes of a family: its own term, and the canal's cells count in "any severe" too.

    Args:
        family: of the cells.
        log_p: (studies, cells of the family, 3), NaN rows where there is no prediction, which do not count.
        grades: (studies, cells of the family), NaN for no grade.
    """
    loss = weighted_loss(*graded(log_p, grades))
    if family is Family.CANAL:
        known = np.isfinite(log_p).all(-1)
        p = np.where(known[..., None], np.exp(log_p), 1 / len(GRADES))
        loss += any_severe_log_loss(np.where(known, grades, np.nan), p)
    return loss


def _fit_weights(
    predictions: Mapping[str, np.ndarray], grades: np.ndarray, family: Family, average: Average
) -> dict[str, float]:
    """Weights of the recipes of a family, adding up to 1."""
    names, columns = list(predictions), FAMILY_COLUMNS[family]
    own, grades = {name: values[:, columns] for name, values in predictions.items()}, grades[:, columns]
    if family is not Family.CANAL:  # whose cells count by study too
        own, grades = {name: values[np.isfinite(grades)] for name, values in own.items()}, grades[np.isfinite(grades)]
    if len(names) < 2:
        return dict.fromkeys(names, 1.0)

    def weights(values: np.ndarray) -> dict[str, float]:
        shares = np.exp(np.append(values, 0.0) - max(values.max(), 0.0))
        return dict(zip(names, (shares / shares.sum()).tolist(), strict=True))

    def loss(values: np.ndarray) -> float:
        log_p = blend(own, weights(values), average)
        return _family_loss(family, log_p, grades) + 1e-3 * float((values**2).sum())

    best = minimize(loss, np.zeros(len(names) - 1), method="L-BFGS-B", bounds=[(-20, 20)] * (len(names) - 1))
    return weights(np.asarray(best.x))
