"""Fitting the ensemble on out-of-fold predictions, part after part, each measured against the parts before it.

Average and weights of the recipes; temperature and bias of each family; the same of each pattern of recipes that has
cells enough; the stack on neighbouring cells; the factor of the top canal cell; the study context, for cells without a
prediction. Every figure is cross-fitted: what is applied to a fold was fitted on the other folds.

Pattern, stack and factor are kept, by family, where their cross-fitted paired difference is better by more than its
standard error over studies. So that choosing does not flatter the whole, the report also has it with every fold keeping
what the *other* folds ask for; that row is too low, because a part near its standard error is lost for just the fold
that spoke for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.ensemble.combine import Average, EnsembleFit, PatternFit, add_context, blend
from pipeline.ensemble.context import ContextModel, ContextSettings
from pipeline.ensemble.context_fit import cross_fitted_context, fit_context
from pipeline.ensemble.out_of_fold import OutOfFold
from pipeline.ensemble.parts import (
    answer,
    fit_average,
    fit_calibrations,
    fit_patterns,
    fit_stacks,
    fit_top,
    fit_weights,
)
from pipeline.ensemble.report import Row, make_report, with_prior
from pipeline.labels import Family
from pipeline.scoring.paired import TERM_OF, difference

Fits = dict[int | None, EnsembleFit]
"""For each fold what was fitted on the others; for None, what was fitted on all."""
Helps = Callable[[np.ndarray, str], bool]
"""Whether a part helps a family on these studies (bool, one a study)."""
_LEAST_GAIN = 1e-4
"""Less is not worth a number in a file, however sure."""


@dataclass(frozen=True, eq=False)
class FittedEnsemble:
    """What is saved with the weights, and the report."""

    fit: EnsembleFit
    context: ContextModel | None
    report: dict[str, Any]


def fit_ensemble(
    data: OutOfFold,
    prior: np.ndarray,
    settings: ContextSettings,
    average: Average | None = None,
    with_context: bool = True,
    fixed: Mapping[str, float] | None = None,
) -> FittedEnsemble:
    """Fit everything on all studies, and measure it across folds.

    Args:
        data: out-of-fold predictions and grades.
        prior: (25, 3) probabilities of cells that nothing reaches.
        settings: of the context model.
        average: of the recipes; None takes the one that fits better.
        with_context: fit a study-context model.
        fixed: weights of recipes that are not to be fitted, e.g. 0 for networks without evidence on such studies.

    Raises:
        ValueError: fewer than two folds.
    """
    folds = [int(fold) for fold in np.unique(data.folds)]
    if len(folds) < 2:
        raise ValueError("cross-fitting needs out-of-fold predictions of two folds or more")
    start = EnsembleFit(average or "logits", dict(fixed or {}), trust={family.value: 0.0 for family in Family})
    rows = {"even average": Row(blend(data.predictions, fixed, start.average))}
    fits: Fits = dict.fromkeys([*folds, None], start)
    for name, step in (("weighted", fit_weights if average else fit_average), ("calibrated", fit_calibrations)):
        fits = _fitted(step, fits, data)
        rows[name] = Row(_crossed(fits, data))
    careful = _take_what_helps(fits, data, prior, by_others=True)[0]
    fits, chosen = _take_what_helps(fits, data, prior, by_others=False)
    rows |= chosen
    own, context = _crossed(fits, data), None
    if with_context:
        answers = cross_fitted_context(own, data.grades, data.folds, prior, settings)
        rows["context"] = Row(add_context(start, own, answers))
        # Fitted on predictions that other folds' fits have corrected, as it will be given.
        context = fit_context(own, data.grades, prior, settings)
    report = make_report(rows, _crossed(careful, data), data.grades, prior)
    return FittedEnsemble(replace(fits[None], context=with_context), context, report)


def _fitted(step: Callable[[EnsembleFit, OutOfFold], EnsembleFit], fits: Fits, data: OutOfFold) -> Fits:
    """One part more for each fold, fitted on the others."""
    return {fold: step(fit, data if fold is None else data.rows(data.folds != fold)) for fold, fit in fits.items()}


def _crossed(fits: Fits, data: OutOfFold) -> np.ndarray:
    """(studies, 25, 3) log-probabilities of each fold by the fit that has not seen it, without context."""
    result = np.full((*data.grades.shape, 3), np.nan)
    for fold, fit in fits.items():
        if fold is not None:
            result[data.folds == fold] = answer(fit, data.rows(data.folds == fold))
    return result


def _take_what_helps(fits: Fits, data: OutOfFold, prior: np.ndarray, by_others: bool) -> tuple[Fits, dict[str, Row]]:
    """The parts that have to show that they help.

    Args:
        fits: with weights and calibration.
        data: all studies.
        prior: (25, 3) probabilities of cells without a prediction.
        by_others: ask each time the studies outside of the fold, not all of them.

    Returns:
        The fits with what was kept, and a row a part.
    """
    rows = {}
    for name, step, keep in (
        ("calibrated by pattern", fit_patterns, _keep_in_patterns),
        ("neighbours", fit_stacks, _keep_in_patterns),
        ("top severe", fit_top, _keep_top),
    ):
        more = _fitted(step, fits, data)
        tried = _crossed(more, data)
        before, after = (with_prior(log_p, prior) for log_p in (_crossed(fits, data), tried))

        def helps(studies: np.ndarray, family: str, before: np.ndarray = before, after: np.ndarray = after) -> bool:
            terms = [term for term, of in TERM_OF.items() if of == family]
            gain = difference(data.grades[studies], before[studies], after[studies], terms)
            return gain.helps and gain.value < -_LEAST_GAIN

        kept = {}
        for fold, fit in more.items():
            asked = data.folds != fold if by_others and fold is not None else np.ones(len(data.folds), dtype=bool)
            kept[fold] = keep(fits[fold], fit, data.patterns, asked, helps)
        said = _new(fits[None], kept[None])
        fits = kept
        rows[name] = Row(_crossed(fits, data), tried, said)
    return fits, rows


def _keep_in_patterns(
    before: EnsembleFit, after: EnsembleFit, patterns: np.ndarray, asked: np.ndarray, helps: Helps
) -> EnsembleFit:
    """The new fits of patterns, by family, that help on the studies that are asked."""
    result = {}
    for name, new in after.patterns.items():
        old, rows = before.patterns.get(name, PatternFit()), asked & (patterns == name)
        calibration = {f: one for f, one in new.calibration.items() if f in old.calibration or helps(rows, f)}
        stack = {f: one for f, one in new.stack.items() if f in old.stack or helps(rows, f)}
        if calibration or stack:
            result[name] = PatternFit(calibration, stack)
    return replace(after, patterns=result)


def _keep_top(
    before: EnsembleFit,
    after: EnsembleFit,
    patterns: np.ndarray,  # noqa: ARG001  (of all patterns)
    asked: np.ndarray,
    helps: Helps,
) -> EnsembleFit:
    """The factor, if it helps on the studies that are asked."""
    return after if helps(asked, Family.CANAL) else before


def _new(before: EnsembleFit, after: EnsembleFit) -> str:
    """What a fit has that the one before has not, in words."""
    found = [] if after.top_severe == before.top_severe else [f"{after.top_severe:g}"]
    for name, new in after.patterns.items():
        old = before.patterns.get(name, PatternFit())
        if families := sorted((new.calibration.keys() - old.calibration) | (new.stack.keys() - old.stack)):
            found.append(f"{', '.join(families)} where {name} answer")
    return "; ".join(found) or "nothing"
