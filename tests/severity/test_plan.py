"""What a training costs, reckoned from one forward pass."""

from __future__ import annotations

import torch
from torch import nn

from pipeline.severity.plan import _kept_bytes, _operations, _Training


def test_operations_and_what_is_kept_for_the_gradients_are_counted_an_item():
    layers = nn.Sequential(nn.Linear(8, 16, bias=False), nn.ReLU(), nn.Linear(16, 4, bias=False))
    training = _Training(layers, lambda items: layers(torch.rand(items, 8)).sum(), lambda items: None)
    for items in (1, 10):
        assert _operations(training, items) == 2 * (8 * 16 + 16 * 4)
        assert _kept_bytes(training, items) == 4 * (8 + 16), "the inputs of both layers; weights are not counted"
