"""Fitting the study-context model on out-of-fold predictions, with the metric as the loss."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.ensemble.context import OUTPUTS, ContextModel, ContextSettings, inputs
from pipeline.ensemble.metric import FAMILY_COLUMNS
from pipeline.labels import CONDITIONS, GRADE_WEIGHTS, GRADES, LEVELS, Condition, Family, Side


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
    width = inputs(log_p[:1]).shape[-1]
    hidden, out = nn.Linear(width, settings.hidden, bias=False), nn.Linear(settings.hidden, 3 * len(OUTPUTS))
    level = nn.Parameter(torch.randn(len(LEVELS), settings.hidden) * 0.3)
    nn.init.zeros_(out.weight)
    nn.init.zeros_(out.bias)
    parameters = [*hidden.parameters(), level, *out.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps=settings.steps)
    truth = torch.from_numpy(np.where(np.isfinite(grades), grades, -1)).long()
    for _ in range(settings.steps):
        rows = generator.choice(len(log_p), min(settings.batch, len(log_p)), replace=False)
        seen = _hidden_at_random(log_p[rows], settings, generator)
        known = np.isfinite(seen).all(-1)
        base = torch.from_numpy(np.where(known[..., None], seen, log_prior)).float()
        activation = torch.relu(hidden(torch.from_numpy(inputs(seen)).float())[:, :, None] + level)
        answers = out(nn.functional.dropout(activation, settings.dropout))
        loss = metric_loss(base + _to_cells(answers), truth[rows])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    arrays = (hidden.weight.T, level, out.weight.T, out.bias)
    first, second, third, fourth = (array.detach().numpy().astype(np.float64) for array in arrays)
    return first, second, third, fourth


def _hidden_at_random(log_p: np.ndarray, settings: ContextSettings, generator: np.random.Generator) -> np.ndarray:
    """A copy with whole families and single cells hidden; never the last family that a study has."""
    result = log_p.copy()
    there = np.stack([np.isfinite(log_p[:, c]).all(-1).any(1) for c in FAMILY_COLUMNS.values()], 1)
    drop = (generator.random(there.shape) < settings.family_drop) & there
    drop &= (there & ~drop).any(1, keepdims=True)
    for number, columns in enumerate(FAMILY_COLUMNS.values()):
        result[np.ix_(drop[:, number], columns)] = np.nan
    single = generator.random(result.shape[:2]) < settings.cell_drop
    result[single] = np.nan
    return result


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
