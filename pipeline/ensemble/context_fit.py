"""Fitting the study-context model on out-of-fold predictions, with the metric as the loss."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.ensemble.context import OUTPUTS, ContextModel, ContextSettings, inputs
from pipeline.labels import (
    CONDITIONS,
    FAMILY_COLUMNS,
    GRADE_WEIGHTS,
    GRADES,
    LEVELS,
    MIRROR,
    Condition,
    Family,
    Side,
)

_ANSWERS = len(OUTPUTS) * len(GRADES)
_PER_CELL = 5
"""Features of a cell in :func:`pipeline.ensemble.context.inputs`."""


def fit_context(
    log_p: np.ndarray, grades: np.ndarray, prior: np.ndarray, settings: ContextSettings, seed: int = 0
) -> ContextModel:
    """Fit a committee.

    Args:
        log_p: (studies, 25, 3) out-of-fold log-probabilities, NaN rows where there is none.
        grades: (studies, 25) 0, 1, 2 or NaN.
        prior: (25, 3) probabilities.
        settings: of the fit.
        seed: of everything random.

    Raises:
        ValueError: no study, or shapes that do not fit.
    """
    if not len(log_p) or log_p.shape[:2] != grades.shape:
        raise ValueError(f"predictions {log_p.shape} and grades {grades.shape}: expected (n, 25, 3) and (n, 25), n > 0")
    members = [_fit_one(log_p, grades, np.log(prior), settings, seed * 1000 + k) for k in range(settings.members)]
    hidden, hidden_bias, out, out_bias = (np.stack(part) for part in zip(*members, strict=True))
    return ContextModel(np.log(prior), hidden, hidden_bias, out, out_bias)


def cross_fitted_context(
    log_p: np.ndarray, grades: np.ndarray, folds: np.ndarray, prior: np.ndarray, settings: ContextSettings
) -> np.ndarray:
    """(studies, 25, 3) log-probabilities of each fold from a model fitted on the others.

    Args:
        folds: (studies,) the fold of each study.
    """
    result = np.array(log_p, dtype=np.float64)
    for fold in np.unique(folds):
        here = folds == fold
        model = fit_context(log_p[~here], grades[~here], prior, settings, seed=int(fold))
        result[here] = model.apply(log_p[here])
    return result


def _fit_one(
    log_p: np.ndarray, grades: np.ndarray, log_prior: np.ndarray, settings: ContextSettings, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    torch.manual_seed(seed)
    there = np.isfinite(log_p).all(-1)
    features = torch.from_numpy(inputs(log_p)).float()
    own = torch.from_numpy(np.where(there[..., None], log_p, log_prior)).float()
    start = torch.from_numpy(log_prior).float()
    mirror = torch.tensor(MIRROR)
    hidden, out = nn.Linear(features.shape[-1], settings.hidden, bias=False), nn.Linear(settings.hidden, _ANSWERS)
    level = nn.Parameter(torch.randn(len(LEVELS), settings.hidden) * 0.3)
    nn.init.zeros_(out.weight)
    nn.init.zeros_(out.bias)
    parameters = [*hidden.parameters(), level, *out.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps=settings.steps)
    truth = torch.from_numpy(np.where(np.isfinite(grades), grades, -1)).long()
    for _ in range(settings.steps):
        rows = torch.from_numpy(generator.choice(len(log_p), min(settings.batch, len(log_p)), replace=False))
        seen = torch.from_numpy(visible_at_random(there[rows.numpy()], settings, generator))
        base = torch.where(seen[..., None], own[rows], start)
        mask = torch.stack([seen, seen[:, mirror]], 1).repeat_interleave(_PER_CELL, -1)
        activation = torch.relu(hidden(features[rows] * mask)[:, :, None] + level)
        answers = out(nn.functional.dropout(activation, settings.dropout))
        loss = metric_loss(base + _to_cells(answers), truth[rows])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    arrays = (hidden.weight.T, level, out.weight.T, out.bias)
    first, second, third, fourth = (array.detach().numpy().astype(np.float64) for array in arrays)
    return first, second, third, fourth


def visible_at_random(there: np.ndarray, settings: ContextSettings, generator: np.random.Generator) -> np.ndarray:
    """Which predictions to show: whole families and single cells are hidden, never the last family of a study.

    Args:
        there: (studies, 25) bool, the predictions there are.

    Returns:
        (studies, 25) bool, a part of ``there``.
    """
    families = np.stack([there[:, columns].any(1) for columns in FAMILY_COLUMNS.values()], 1)
    drop = (generator.random(families.shape) < settings.family_drop) & families
    drop &= (families & ~drop).any(1, keepdims=True)
    visible = there & (generator.random(there.shape) >= settings.cell_drop)
    for number, columns in enumerate(FAMILY_COLUMNS.values()):
        visible[np.ix_(np.flatnonzero(drop[:, number]), np.asarray(columns))] = False
    return visible


def metric_loss(logits: Tensor, grades: Tensor) -> Tensor:
    """The competition's score of logits (studies, 25, 3) against grades (studies, 25), -1 for none; differentiable."""
    log_p = torch.log_softmax(logits, -1)
    weights = torch.tensor([0.0, *map(float, GRADE_WEIGHTS)])[grades + 1]
    losses = -log_p.gather(-1, grades.clamp(min=0)[..., None])[..., 0] * weights
    terms = []
    for columns in FAMILY_COLUMNS.values():
        total = weights[:, columns].sum()
        if total > 0:
            terms.append(losses[:, columns].sum() / total)
    canal = FAMILY_COLUMNS[Family.CANAL]
    known = grades[:, canal] >= 0
    rated = known.any(1)
    if bool(rated.any()):
        severe = log_p[:, canal, 2].masked_fill(~known, -60.0).amax(1)[rated].clamp(max=-1e-6)
        worst = grades[:, canal].amax(1)[rated]
        weight = torch.tensor([float(w) for w in GRADE_WEIGHTS])[worst]
        binary = -torch.where(worst == len(GRADES) - 1, severe, torch.log(-torch.expm1(severe)))
        terms.append((weight * binary).sum() / weight.sum())
    return torch.stack(terms).mean()


def _to_cells(values: Tensor) -> Tensor:
    """As :func:`pipeline.ensemble.context.to_cells`, differentiable."""
    shaped = values.reshape(*values.shape[:3], len(OUTPUTS), len(GRADES))
    columns = []
    for condition in CONDITIONS:
        answers = shaped[:, :, :, OUTPUTS.index(Condition(condition.value.replace("right", "left")))]
        if condition.side is None:
            columns.append(answers.mean(1))
        else:
            columns.append(answers[:, 0 if condition.side is Side.LEFT else 1])
    return torch.cat(columns, 1)
