"""What a stage has to say about itself so that the shared loop can train it.

The loop knows nothing of spines: it asks a :class:`Task` for its model, its items, its loss and its score. Everything
that is the same for landmarks and severity (devices, precision, averaging, resume, pictures on disk) stays in the loop.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

Batch = dict[str, Any]
"""A collated batch: tensors (and lists) whose first axis is the item, plus ``dataset_index`` (B,) int64."""


class Task(abc.ABC):
    """One network to train: its data, loss, score and picture.

    ``train_set[i]`` returns a dictionary of tensors, arrays, numbers or strings. It may use the global generators of
    ``random``, ``numpy.random`` and ``torch``: the loop seeds all three before each item from (seed, epoch, position),
    so an interrupted run draws the same items again whatever the number of loading processes. A set that also has
    ``fetch(indices)`` gives whole batches at once; then they are seeded once a batch.
    """

    name: str
    model: nn.Module
    train_set: Dataset[dict[str, Any]]
    sample_weights: np.ndarray | None = None
    """How often to draw each item, relative to the others, (items,) >= 0; None draws all equally often."""

    @abc.abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """The loss of a batch, a scalar averaged over its items, and named parts of it for the log."""

    @abc.abstractmethod
    def evaluate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Figures on the held-out studies; must hold ``score``, lower is better. Called without gradients.

        A ``score`` that is not a number says that nothing was held out: the latest weights then count as the best.
        """

    def augment(self, batch: Batch, generator: torch.Generator) -> Batch:  # noqa: ARG002
        """Random changes on the training device; all randomness from ``generator``. The default changes nothing."""
        return batch

    def collate(self, items: Sequence[dict[str, Any]] | Batch) -> Batch:
        """Items to a batch; the default stacks tensors and lists strings. What is a batch already stays as it is."""
        if isinstance(items, dict):
            return items
        return torch.utils.data.default_collate(list(items))  # type: ignore[no-any-return]

    def picture(self, model: nn.Module, device: torch.device) -> np.ndarray | None:  # noqa: ARG002
        """Predictions against truth as (rows, cols, 3) uint8, drawn after each epoch; None for no picture."""
        return None

    def chart(self) -> np.ndarray | None:
        """What the last evaluation found, as (rows, cols, 3) uint8, e.g. confusion matrices; None for nothing."""
        return None

    def item_name(self, index: int) -> str:
        """What an error message calls an item, e.g. study, series and level."""
        return f"item {index}"

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Optimiser groups; ``lr_factor`` in a group scales its learning rate against the setting's."""
        return decayed_groups(self.model, weight_decay)


@dataclass(frozen=True)
class FitResult:
    """What a run reached: the best score and its epoch (from 1), one row an epoch, and the last weights' file.

    The score is infinite if nothing was held out.
    """

    best_score: float
    epoch: int
    history: tuple[dict[str, float], ...]
    weights: Path


def decayed_groups(
    model: nn.Module, weight_decay: float, lr_factors: dict[str, float] | None = None
) -> list[dict[str, Any]]:
    """Trainable parameters in groups: matrices decay, norms and biases do not; name prefixes may train slower.

    Args:
        model: the network.
        weight_decay: of parameters with two or more axes.
        lr_factors: learning rate factor by prefix of the parameter's name, e.g. ``{"encoder.": 0.3}``; longest wins.

    Raises:
        ValueError: if a prefix names no parameter.
    """
    factors = lr_factors or {}
    unused = set(factors)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        prefixes = [prefix for prefix in factors if name.startswith(prefix)]
        unused.difference_update(prefixes)
        if not parameter.requires_grad:
            continue
        factor = factors[max(prefixes, key=len)] if prefixes else 1.0
        groups.setdefault((weight_decay if parameter.ndim >= 2 else 0.0, factor), []).append(parameter)
    if unused:
        known = sorted({name.split(".")[0] for name, _ in model.named_parameters()})
        raise ValueError(f"lr_factors {sorted(unused)} name no parameter; the model's parts are {', '.join(known)}")
    return [
        {"params": parameters, "weight_decay": decay, "lr_factor": factor}
        for (decay, factor), parameters in groups.items()
    ]


def not_finite_in(task: Task, batch: Batch) -> str:
    """Which items of a batch hold values that are not finite, in words; all items where none does."""
    indices = [int(index) for index in batch["dataset_index"]]
    tensors = [value for value in batch.values() if isinstance(value, Tensor) and value.is_floating_point()]
    bad = [n for n in range(len(indices)) if any(not bool(torch.isfinite(value[n]).all()) for value in tensors)]
    names = ", ".join(task.item_name(indices[n]) for n in (bad or range(len(indices))))
    found = "these items hold values that are not finite" if bad else "the items are finite; the batch held"
    return f"{found}: {names}"
