"""Fitting the ensemble on out-of-fold predictions: weights, calibration, context; each reported with and without.

Every figure in the report is cross-fitted: what is applied to a fold was fitted on the other folds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.optimize import minimize

from pipeline.ensemble.calibration import Calibration, calibration_error, fit_calibration, weighted_loss
from pipeline.ensemble.combine import EnsembleFit, add_context, blend, calibrate
from pipeline.ensemble.context import ContextModel, ContextSettings
from pipeline.ensemble.context_fit import cross_fitted_context, fit_context
from pipeline.labels import CELL_COLUMNS, FAMILY_COLUMNS, GRADES
from pipeline.scoring.metric import score_arrays

if TYPE_CHECKING:
    from pipeline.scoring.oof import OofTable


_TRUST = tuple(step / 10 for step in range(11))


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """What there is to fit on; every array's first axis is the study.

    Attributes:
        predictions: (studies, 25, 3) log-probabilities by recipe, NaN rows where it has none.
        grades: (studies, 25) 0, 1, 2 or NaN.
        folds: (studies,) the fold of each study.
    """

    predictions: Mapping[str, np.ndarray]
    grades: np.ndarray
    folds: np.ndarray

    def rows(self, chosen: np.ndarray) -> OutOfFold:
        """The studies where ``chosen`` (studies,) holds."""
        predictions = {name: values[chosen] for name, values in self.predictions.items()}
        return OutOfFold(predictions, self.grades[chosen], self.folds[chosen])


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
    average: str = "logits",
    with_context: bool = True,
    fixed: Mapping[str, float] | None = None,
    ablation: bool = False,
) -> FittedEnsemble:
    """Fit everything on all studies, and measure it across folds.

    Args:
        data: out-of-fold predictions and grades.
        prior: (25, 3) probabilities of cells that nothing reaches.
        settings: of the context model.
        average: ``logits`` or ``probabilities``.
        with_context: fit a study-context model.
        ablation: also measure the context model without calibration before it, which doubles the time.
        fixed: weights of recipes that are not to be fitted, e.g. 0 for networks without evidence on such studies.

    Raises:
        ValueError: fewer than two folds.
    """
    if len(np.unique(data.folds)) < 2:
        raise ValueError("cross-fitting needs out-of-fold predictions of two folds or more")
    fit = _fit_parts(data, EnsembleFit(average=average, recipes=dict(fixed or {})))  # type: ignore[arg-type]
    averaged = blend(data.predictions, fixed, fit.average)
    weighted, calibrated = np.array(averaged), np.array(averaged)
    for fold in np.unique(data.folds):
        here = data.folds == fold
        part = _fit_parts(data.rows(~here), EnsembleFit(average=fit.average, recipes=dict(fixed or {})))
        weighted[here] = blend(data.rows(here).predictions, part.recipes, part.average)
        calibrated[here] = calibrate(part, weighted[here])
    stages = {"even average": averaged, "weighted": weighted, "calibrated": calibrated}
    context = None
    if with_context:
        answers = cross_fitted_context(calibrated, data.grades, data.folds, prior, settings)
        stages["context, fully trusted"] = add_context(EnsembleFit(), calibrated, answers)
        stages["context"] = np.array(answers)
        for fold in np.unique(data.folds):
            here = data.folds == fold
            part = EnsembleFit(trust=_fit_trust(calibrated[~here], answers[~here], data.grades[~here]))
            stages["context"][here] = add_context(part, calibrated[here], answers[here])
        fit = replace(fit, trust=_fit_trust(calibrated, answers, data.grades))
        if ablation:
            uncalibrated = cross_fitted_context(weighted, data.grades, data.folds, prior, settings)
            stages["context without calibration"] = uncalibrated
        # Fitted on calibrated predictions of other folds' calibration, as it will be given.
        context = fit_context(calibrated, data.grades, prior, settings)
    report = {name: _measured(values, data.grades, prior) for name, values in stages.items()}
    report["prior alone"] = _measured(np.full_like(averaged, np.nan), data.grades, prior)
    return FittedEnsemble(replace(fit, context=with_context), context, report)


def _fit_parts(data: OutOfFold, start: EnsembleFit) -> EnsembleFit:
    """Weights of recipes, then temperature and bias of the blend, family by family."""
    recipes = dict(start.recipes)
    for columns in FAMILY_COLUMNS.values():
        mine = {n: v for n, v in data.predictions.items() if np.isfinite(v[:, columns]).any() and n not in recipes}
        recipes.update(_fit_weights(mine, data.grades, columns, start))
    fit = replace(start, recipes=recipes)
    log_p = blend(data.predictions, fit.recipes, fit.average)
    calibration: dict[str, Calibration] = {}
    for family, columns in FAMILY_COLUMNS.items():
        rows, grades = _graded(log_p[:, columns], data.grades[:, columns])
        if len(grades):
            calibration[family.value] = fit_calibration(rows, grades)
    return replace(fit, calibration=calibration)


def _fit_trust(own: np.ndarray, context: np.ndarray, grades: np.ndarray) -> dict[str, float]:
    """By family, the share of the context's answer with the lowest loss on cells with a prediction of their own."""
    best: dict[str, float] = {}
    for family, columns in FAMILY_COLUMNS.items():
        if not np.isfinite(own[:, columns]).all(-1).any():
            continue
        losses = {}
        for share in _TRUST:
            mixed = add_context(EnsembleFit(trust={family.value: share}), own, context)[:, columns]
            mixed = np.where(np.isfinite(own[:, columns]), mixed, np.nan)
            losses[share] = weighted_loss(*_graded(mixed, grades[:, columns]))
        best[family.value] = min(losses, key=lambda share: losses[share])
    return best


def _fit_weights(
    predictions: Mapping[str, np.ndarray], grades: np.ndarray, columns: list[int], start: EnsembleFit
) -> dict[str, float]:
    """Weights of the recipes of a family, adding up to 1."""
    names = list(predictions)
    if len(names) < 2:
        return dict.fromkeys(names, 1.0)

    def weights(values: np.ndarray) -> dict[str, float]:
        shares = np.exp(np.append(values, 0.0) - max(values.max(), 0.0))
        return dict(zip(names, (shares / shares.sum()).tolist(), strict=True))

    def loss(values: np.ndarray) -> float:
        log_p = blend({n: v[:, columns] for n, v in predictions.items()}, weights(values), start.average)
        rows, known = _graded(log_p, grades[:, columns])
        return weighted_loss(rows, known) + 1e-3 * float((values**2).sum())

    best = minimize(loss, np.zeros(len(names) - 1), method="Nelder-Mead", options={"maxiter": 200})
    return weights(np.asarray(best.x))


def _graded(log_p: np.ndarray, grades: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows (N, 3) and grades (N,) int of the cells that have both."""
    known = np.isfinite(log_p).all(-1) & np.isfinite(grades)
    return log_p[known], grades[known].astype(np.int64)


def _measured(log_p: np.ndarray, grades: np.ndarray, prior: np.ndarray) -> dict[str, Any]:
    """The score with the prior where nothing is known, and each family's calibration error by grade."""
    known = np.isfinite(log_p).all(-1, keepdims=True)
    score = score_arrays(grades, np.where(known, np.exp(log_p), prior[None]))
    errors = {}
    for family, columns in FAMILY_COLUMNS.items():
        rows, true = _graded(log_p[:, columns], grades[:, columns])
        if len(true):
            errors[family.value] = dict(zip(GRADES, calibration_error(rows, true).round(4).tolist(), strict=True))
    return {**score.to_dict(), "calibration_error": errors}


def report_lines(report: Mapping[str, Any]) -> list[str]:
    """The report as a table for people."""
    names = ("score", "spinal", "foraminal", "subarticular", "any_severe")
    lines = [f"{'cross-fitted':<30}" + "".join(f"{name:>14}" for name in names) + "   worst calibration error"]
    for stage, row in report.items():
        values = "".join(f"{'-' if row[name] is None else format(row[name], '.4f'):>14}" for name in names)
        errors = ", ".join(f"{family} {max(e.values()):.3f}" for family, e in row["calibration_error"].items())
        lines.append(f"{stage:<30}{values}   {errors}")
    return lines


def gather(tables: dict[str, OofTable], labels: Sequence[pd.DataFrame]) -> OutOfFold:
    """Tables and grades by study.

    Args:
        tables: by recipe.
        labels: as ``Competition.labels``; a study in two of them is taken from the first.

    Raises:
        ValueError: a study has no grades, or two recipes put it into different folds.
    """

    grades = pd.concat(list(labels))
    grades = grades[~grades.index.duplicated()]
    folds: dict[str, int] = {}
    for name, table in tables.items():
        for study_id, fold in zip(map(str, table.study_id), table.fold.tolist(), strict=True):
            if folds.setdefault(study_id, fold) != fold:
                raise ValueError(f"study {study_id}: fold {fold} in {name}, {folds[study_id]} elsewhere; use one split")
    study_ids = sorted(folds)
    missing = [study_id for study_id in study_ids if study_id not in grades.index]
    if missing:
        raise ValueError(f"{len(missing)} studies of the tables have no grades, the first is {missing[0]}; see --data")
    return OutOfFold(
        predictions={name: table.array(study_ids) for name, table in tables.items()},
        grades=grades.loc[study_ids, list(CELL_COLUMNS)].to_numpy(dtype=float),
        folds=np.array([folds[study_id] for study_id in study_ids]),
    )
