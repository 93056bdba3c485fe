"""The exponential moving average of the weights, which is what is evaluated and saved."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class AveragedModel:
    """A copy of a model that follows it slowly.

    The decay warms up as min(decay, (1 + t) / (10 + t)) after t updates (as TensorFlow's ``ExponentialMovingAverage``),
    otherwise the random initial weights would dominate a short run. Floating buffers (running statistics of batch norm)
    are averaged like weights, so that they belong to the averaged weights; integer buffers are copied.

    Args:
        model: the model to follow, on its training device.
        decay: 0 keeps no copy: ``model`` of this object is then the trained model itself.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), not {decay}")
        self.decay = decay
        self.model = copy.deepcopy(model).requires_grad_(False).eval() if decay else model

    @torch.no_grad()
    def update(self, model: nn.Module, updates: int) -> None:
        """Follow ``model``; ``updates`` is the number of updates before this one."""
        if not self.decay:
            return
        decay = min(self.decay, (1 + updates) / (10 + updates))
        averaged, current = _tensors(self.model), _tensors(model)
        floating = [index for index, tensor in enumerate(averaged) if tensor.is_floating_point()]
        torch._foreach_lerp_([averaged[i] for i in floating], [current[i] for i in floating], 1 - decay)
        for index in set(range(len(averaged))).difference(floating):
            averaged[index].copy_(current[index])


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*(parameter.data for parameter in model.parameters()), *model.buffers()]
