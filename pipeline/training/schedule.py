"""The learning rate as a pure function of the position in the run, so that resuming needs no scheduler state."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pipeline.weights.recipe import Schedule

if TYPE_CHECKING:
    import torch

_ONECYCLE_RISE = 0.3
_ONECYCLE_START, _ONECYCLE_END = 1 / 25, 1e-4
_ONECYCLE_MOMENTUM = (0.85, 0.95)
"""Shares, factors and momenta of torch's ``OneCycleLR`` (Smith and Topin 2017, arXiv 1708.07120)."""


def rate_factor(schedule: Schedule, position: float, warmup: float) -> float:
    """The learning rate at ``position`` (0 at the first step, 1 after the last), relative to the setting's.

    ``cosine`` and ``constant`` rise linearly over the first ``warmup`` of the run, ``onecycle`` over 30 % as a cosine.
    """
    if schedule == "onecycle":
        if position < _ONECYCLE_RISE:
            return _cosine(_ONECYCLE_START, 1.0, position / _ONECYCLE_RISE)
        return _cosine(1.0, _ONECYCLE_START * _ONECYCLE_END, (position - _ONECYCLE_RISE) / (1 - _ONECYCLE_RISE))
    if position < warmup:
        # Not from 0: the first step would be lost, which matters in runs of a few dozen steps.
        return 0.01 + 0.99 * position / warmup
    return 1.0 if schedule == "constant" else _cosine(1.0, 0.0, (position - warmup) / (1 - warmup))


def momentum(schedule: Schedule, position: float) -> float | None:
    """AdamW's first beta at ``position``: one-cycle lowers it while the rate is high; None leaves it alone."""
    if schedule != "onecycle":
        return None
    low, high = _ONECYCLE_MOMENTUM
    if position < _ONECYCLE_RISE:
        return _cosine(high, low, position / _ONECYCLE_RISE)
    return _cosine(low, high, (position - _ONECYCLE_RISE) / (1 - _ONECYCLE_RISE))


def apply_schedule(
    optimizer: torch.optim.Optimizer, schedule: Schedule, rate: float, position: float, warmup: float
) -> float:
    """Set the rates (and momenta) of every group for ``position``; returns the rate of a group with factor 1."""
    current = rate * rate_factor(schedule, position, warmup)
    beta = momentum(schedule, position)
    for group in optimizer.param_groups:
        group["lr"] = current * group.get("lr_factor", 1.0)
        if beta is not None:
            group["betas"] = (beta, group["betas"][1])
    return current


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, share))) / 2
