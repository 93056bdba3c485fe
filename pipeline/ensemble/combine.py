"""From the networks' answers to one table: average, calibrate, and let the study's own cells speak for each other.

What was fitted on out-of-fold predictions lies beside the weights as data: ``ensemble.json`` (how members are averaged,
temperature and bias, the stack on neighbouring cells, the factor of the top canal cell) and ``context.safetensors``
(the study-context model, for cells without a prediction). Weights without these files are averaged evenly and left as
they are.

A *pattern* is the set of recipes that answer in a study, which says what series it has and whether all networks were
run. Calibration and stack may be fitted for a pattern; a study of another one gets the family's calibration alone. A
cell is its networks' where they answer, of whatever series, in the shares of their weights; so a recipe that
reads another series speaks alone where the better ones are silent.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.config import check_range, from_dict
from pipeline.ensemble.calibration import Calibration, normalised
from pipeline.ensemble.context import ContextModel
from pipeline.ensemble.stack import Stack
from pipeline.labels import CELLS, FAMILY_COLUMNS, Family
from pipeline.untrusted import parse_json
from pipeline.weights.manifest import Manifest, Member, WeightsError

ENSEMBLE_FILE = "ensemble.json"
CONTEXT_FILE = "context.safetensors"
FITTED = (ENSEMBLE_FILE, CONTEXT_FILE)

Average = Literal["logits", "probabilities"]

MOST_FACTOR = 10.0
"""More on the severe probability of the top canal cell is no fit."""


@dataclass(frozen=True)
class PatternFit:
    """What was fitted for the studies of one pattern; a family that is not named has nothing of its own.

    Attributes:
        calibration: by family, in place of that of all studies.
        stack: by family, after calibration.
    """

    calibration: dict[str, Calibration] = field(default_factory=dict)
    stack: dict[str, Stack] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_families("calibration and stack of a pattern", self.calibration, self.stack)


@dataclass(frozen=True)
class EnsembleFit:
    """What was fitted on out-of-fold predictions.

    Attributes:
        average: logits (a geometric mean) or probabilities.
        recipes: weight of each recipe, that is of all folds of one kind of network together; a recipe that is not
            named counts as the mean of those of its task, or 1; one with 0 is not used.
        by_family: weights of recipes that grade several families, by family, where they differ from ``recipes``.
        calibration: by family; a family that is not named is left as it is.
        context: whether there is a study-context model.
        trust: by family, how far the context model moves cells that have a prediction of their own, from 0 (not at
            all) to 1; cells without one are always the context's. Fits of today say 0.
        patterns: by :func:`pattern_of`.
        top_severe: factor on the odds of severe of the canal cell where they are highest; the metric asks for "any
            level severe" and takes the highest of five for it, which is too low.
    """

    average: Average = "logits"
    recipes: dict[str, float] = field(default_factory=dict)
    calibration: dict[str, Calibration] = field(default_factory=dict)
    context: bool = False
    trust: dict[str, float] = field(default_factory=dict)
    patterns: dict[str, PatternFit] = field(default_factory=dict)
    top_severe: float = 1.0
    by_family: dict[str, dict[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_families("calibration and trust", self.calibration, self.trust, self.by_family)
        check_range(self, "top_severe", least=1 / MOST_FACTOR, most=MOST_FACTOR)
        weights = [("by_family", 1e6, values) for values in self.by_family.values()]
        for name, most, values in (("recipes", 1e6, self.recipes), ("trust", 1.0, self.trust), *weights):
            if wrong := [value for value in values.values() if not 0 <= value <= most]:
                raise ValueError(f"{name} has {wrong[0]}, expected 0 to {most:g}")


def combine(manifest: Manifest, predictions: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """A study's probabilities from its networks' answers.

    Args:
        manifest: of the weights.
        predictions: (25, 3) log-probabilities by member, NaN rows where it has no input.

    Returns:
        (25, 3) probabilities, NaN in rows that nothing reaches, and (25,) bool: the row comes from context alone.

    Raises:
        WeightsError: a fitted file is damaged.
    """
    fit, context = fitted(manifest)
    weights = member_weights(fit, manifest.members, predictions)
    blended = blend({name: values[None] for name, values in predictions.items()}, weights, fit.average)
    silent = {name for name, values in predictions.items() if not np.isfinite(values).any()}
    answering = {m.recipe for m in manifest.members if m.name in predictions.keys() - silent}
    log_p = correct(fit, blended, [pattern_of(answering)])
    known = np.isfinite(log_p[0]).all(-1)
    if context is None or not known.any():
        return np.exp(log_p[0]), np.zeros(len(CELLS), dtype=bool)
    return np.exp(add_context(fit, log_p, context.apply(log_p))[0]), ~known


def fitted(manifest: Manifest) -> tuple[EnsembleFit, ContextModel | None]:
    """What was fitted for a set of weights; the plain average and None where nothing was.

    Raises:
        WeightsError: a fitted file is damaged, or holds what no fit gives.
    """
    return _fitted(manifest.folder, tuple(sorted(manifest.files.items())))


def member_weights(
    fit: EnsembleFit, members: Sequence[Member], answering: Collection[str]
) -> dict[str, float | np.ndarray]:
    """What each member that answers counts: the weight of its recipe, which the folds that answer share evenly.

    A recipe that the fit has not seen counts as the mean of those of its task, or 1 where there is none. One number,
    or (25,) where the recipe counts differently by family.
    """
    folds = Counter(member.recipe for member in members if member.name in answering)
    fitted_of: dict[str, dict[str, float]] = {}
    for member in members:
        if member.recipe in fit.recipes:
            fitted_of.setdefault(member.task, {})[member.recipe] = fit.recipes[member.recipe]
    usual = {task: sum(weights.values()) / len(weights) for task, weights in fitted_of.items()}
    return {
        member.name: recipe_weight(fit, member.recipe, usual.get(member.task, 1.0)) / folds[member.recipe]
        for member in members
        if member.name in answering
    }


def recipe_weight(fit: EnsembleFit, recipe: str, usual: float = 1.0) -> float | np.ndarray:
    """The weight of a recipe, ``usual`` where the fit has not seen it; (25,) where it differs by family."""
    weight = fit.recipes.get(recipe, usual)
    own = {family: weights[recipe] for family, weights in fit.by_family.items() if recipe in weights}
    if not own:
        return weight
    result = np.full(len(CELLS), weight)
    for family, value in own.items():
        result[FAMILY_COLUMNS[Family(family)]] = value
    return result


def blend(
    predictions: Mapping[str, np.ndarray],
    weights: Mapping[str, float | np.ndarray] | None = None,
    average: Average = "logits",
) -> np.ndarray:
    """The weighted average of networks over those that have an answer.

    Args:
        predictions: (studies, 25, 3) log-probabilities by name, NaN rows where it has none.
        weights: by name, one number or (25,); 1 for one that is not named.
        average: what is averaged.

    Returns:
        (studies, 25, 3) log-probabilities, NaN where none with a weight has an answer.

    Raises:
        ValueError: there is no prediction.
    """
    if not predictions:
        raise ValueError("nothing to blend: no network gave a prediction")
    shape = next(iter(predictions.values())).shape
    total, reached = np.zeros(shape), np.zeros(shape[:-1])
    for name, log_p in predictions.items():
        weight = 1.0 if weights is None else weights.get(name, 1.0)
        known = np.isfinite(log_p).all(-1)
        values = np.where(known[..., None], log_p, 0.0)
        values = values if average == "logits" else np.exp(values)
        share = weight * known
        total += share[..., None] * values
        reached += share
    mean = total / np.where(reached > 0, reached, 1.0)[..., None]
    if average == "probabilities":
        mean = np.log(np.maximum(mean, 1e-12))
    return np.where(reached[..., None] > 0, normalised(mean), np.nan)


def pattern_of(recipes: Iterable[str]) -> str:
    """The name of a pattern: the recipes that answer in a study, e.g. ``foraminal+subarticular``."""
    return "+".join(sorted(recipes))


def correct(fit: EnsembleFit, log_p: np.ndarray, patterns: Sequence[str] | np.ndarray) -> np.ndarray:
    """Blended log-probabilities calibrated, stacked on their neighbours, and the top canal cell raised.

    Args:
        fit: what was fitted.
        log_p: (studies, 25, 3), NaN rows where there is no prediction, which stay so.
        patterns: of the studies.
    """
    result = calibrate(fit, log_p, patterns)
    names = np.asarray(patterns)
    for name in np.unique(names):
        here = np.flatnonzero(names == name)
        before = result[here]
        for family, stack in fit.patterns.get(str(name), PatternFit()).stack.items():
            result[np.ix_(here, np.asarray(FAMILY_COLUMNS[Family(family)]))] = stack.apply(before, Family(family))
    return raise_top(result, fit.top_severe)


def calibrate(fit: EnsembleFit, log_p: np.ndarray, patterns: Sequence[str] | np.ndarray | None = None) -> np.ndarray:
    """(studies, 25, 3) log-probabilities with temperature and bias of each family, or of its pattern where there is."""
    result = np.array(log_p, dtype=np.float64)
    names = np.asarray([""] * len(result) if patterns is None else patterns)
    for name in np.unique(names):
        special = fit.patterns.get(str(name), PatternFit()).calibration
        for family, columns in FAMILY_COLUMNS.items():
            calibration = special.get(family.value, fit.calibration.get(family.value))
            if calibration is not None:
                chosen = np.ix_(names == name, columns)
                result[chosen] = calibration.apply(result[chosen])
    return result


def raise_top(log_p: np.ndarray, factor: float) -> np.ndarray:
    """The odds of severe times ``factor`` in the canal cell of each study where severe is likeliest.

    Args:
        log_p: (studies, 25, 3), NaN rows where there is no prediction; a study without any of the canal stays as it is.
        factor: above 0.
    """
    result = np.array(log_p, dtype=np.float64)
    if factor != 1:
        canal = FAMILY_COLUMNS[Family.CANAL]
        severe = result[:, canal, -1]
        studies = np.flatnonzero(np.isfinite(severe).any(1))
        top = np.asarray(canal)[np.nanargmax(severe[studies], 1)]
        result[studies, top, -1] += np.log(factor)
        result[studies, top] = normalised(result[studies, top])
    return result


def add_context(fit: EnsembleFit, own: np.ndarray, context: np.ndarray) -> np.ndarray:
    """Cells with a prediction of their own, moved towards the context's answer as far as it is trusted.

    Args:
        fit: how far.
        own: (studies, 25, 3) calibrated log-probabilities, NaN where there is none.
        context: (studies, 25, 3) log-probabilities of the context model.

    Returns:
        (studies, 25, 3) log-probabilities, the context's where there is no own prediction.
    """
    result = np.array(context, dtype=np.float64)
    for family, columns in FAMILY_COLUMNS.items():
        share = fit.trust.get(family.value, 1.0)
        mine, theirs = own[:, columns], context[:, columns]
        mixed = normalised((1 - share) * mine + share * theirs)
        known = np.isfinite(mine).all(-1, keepdims=True)
        result[:, columns] = np.where(known, mixed, theirs)
    return result


def even_blend(manifest: Manifest, fit: EnsembleFit, predictions: Mapping[str, np.ndarray]) -> np.ndarray:
    """(studies, 25, 3) calibrated log-probabilities; every recipe counts, those of weight 0 in the fit too.

    A recipe has no weight where there is no evidence for it, and evidence is what is asked for here.
    """
    return calibrate(fit, blend(predictions, member_weights(EnsembleFit(), manifest.members, predictions), fit.average))


def hidden_answers(own: np.ndarray, context: ContextModel) -> np.ndarray:
    """(studies, 25, 3) what the context says of each family when that family's own predictions are hidden from it.

    NaN where nothing of the study remains to answer from.
    """
    result = np.full_like(own, np.nan)
    for columns in FAMILY_COLUMNS.values():
        rest = own.copy()
        rest[:, columns] = np.nan
        known = np.isfinite(rest).all(-1).any(1)
        if known.any():
            result[np.ix_(known, columns)] = context.apply(rest[known])[:, columns]
    return result


def _check_families(what: str, *fitted_of: Collection[str]) -> None:
    """Refuse names that are no family's."""
    if unknown := {name for names in fitted_of for name in names} - {family.value for family in Family}:
        raise ValueError(f"{what} of {', '.join(sorted(unknown)):.200}, expected of {', '.join(Family)}")


@functools.lru_cache(maxsize=8)
def _fitted(folder: Path, files: tuple[tuple[str, str], ...]) -> tuple[EnsembleFit, ContextModel | None]:
    """The fitted files of a weights folder; ``files`` (name and checksum) makes the cache notice a change."""
    manifest = Manifest(folder, "", "", files=dict(files))
    content = manifest.file(ENSEMBLE_FILE)
    if content is None:
        return EnsembleFit(), None
    name = ENSEMBLE_FILE
    try:
        fit = from_dict(EnsembleFit, parse_json(content))
        name, stored = CONTEXT_FILE, manifest.file(CONTEXT_FILE) if fit.context else None
        return fit, None if stored is None else ContextModel.load(stored)
    except WeightsError:
        raise
    except ValueError as error:
        raise WeightsError(f"{folder / name}: {error}") from error
