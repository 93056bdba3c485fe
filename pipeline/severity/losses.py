"""The losses a classifier can be trained with. All take logits: nothing here or in the network applies a softmax.

``ordinal`` reads the network's three numbers as a softmax too and scores the two cumulative events "at least moderate"
and "severe", so every network gives class probabilities in the same way whatever it was trained with.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.labels import GRADE_WEIGHTS
from pipeline.severity.settings import LossSettings


def severity_loss(logits: Tensor, grades: Tensor, settings: LossSettings, reweighted: bool = False) -> Tensor:
    """Mean loss over graded cells.

    Args:
        logits: (B, 3).
        grades: (B,) 0, 1, 2 or -1 for no grade, which is masked.
        settings: which loss.
        reweighted: the cells were drawn by their weight already, so the loss must not weigh them again.

    Returns:
        A scalar; 0 (with a gradient of 0) if no cell of the batch has a grade.
    """
    known = grades >= 0
    if not bool(known.any()):
        return logits.sum() * 0
    logits, grades = logits[known].float(), grades[known]
    by_grade = logits.new_tensor(GRADE_WEIGHTS)[grades]
    weights = torch.ones_like(by_grade) if reweighted or settings.kind in ("plain", "focal") else by_grade
    if settings.kind == "ordinal":
        losses = _cumulative(logits, grades)
    elif settings.kind == "focal":
        log_p = functional.log_softmax(logits, 1).gather(1, grades[:, None])[:, 0]
        alpha = logits.new_tensor(settings.alpha)[grades]
        losses = -alpha * (1 - log_p.exp()) ** settings.gamma * log_p
    else:
        losses = functional.cross_entropy(logits, grades, reduction="none", label_smoothing=settings.smoothing)
    total = (losses * weights).sum() / weights.sum()
    if settings.any_severe:
        severe = functional.log_softmax(logits, 1)[:, 2]
        total = total + settings.any_severe * (weights * _binary(severe, grades == 2)).sum() / weights.sum()
    return total


def _cumulative(logits: Tensor, grades: Tensor) -> Tensor:
    """(B,) mean of the binary losses of "at least moderate" and "severe"."""
    log_p = functional.log_softmax(logits, 1)
    at_least_moderate = torch.logsumexp(log_p[:, 1:], 1)
    return (_binary(at_least_moderate, grades >= 1) + _binary(log_p[:, 2], grades == 2)) / 2


def _binary(log_p: Tensor, truth: Tensor) -> Tensor:
    """(B,) binary cross-entropy from log-probabilities."""
    log_p = log_p.clamp(max=-1e-7)
    return -torch.where(truth, log_p, torch.log(-torch.expm1(log_p)))
