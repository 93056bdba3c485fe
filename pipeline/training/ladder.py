"""The sanity ladder: cheap checks before a long run, each of which has a bug that it alone finds.

| rung | what a failure means |
| --- | --- |
| no study on both sides | the fold leaks: the score would be too good |
| initial loss near the prior's | wrong loss weights, targets, masks, or a badly initialised head |
| gradients reach every parameter | a part of the network is cut off, frozen or never used |
| overfits one batch | the loss cannot be lowered: targets and inputs do not belong together, or the rate is wrong |
| predictions not constant | the network ignores its input |

The rungs train a copy of the network; the run that follows starts from untouched weights.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from pipeline.training.sampling import BatchOrder, SeededItems, position_seed, seed_everything
from pipeline.training.task import Batch, Task
from pipeline.weights.recipe import LoopSettings

_ITEMS = 96
"""Items over which the initial loss is averaged."""


class LadderError(RuntimeError):
    """A rung broke; the message says which, what was found and expected, and where to look."""


@dataclass(frozen=True)
class LadderSettings:
    """How far the ladder goes.

    Attributes:
        items: of the batch that is to be overfitted.
        steps: at most this many optimiser steps.
        learning_rate: of these steps.
        reach: share of the first loss that the batch must fall below.
        tolerance: largest relative distance of the initial loss from the prior's.
        spread: smallest standard deviation of the predictions over items, in their own unit.
    """

    items: int = 8
    steps: int = 60
    learning_rate: float = 1e-3
    reach: float = 0.5
    tolerance: float = 0.3
    spread: float = 1e-3


@dataclass(frozen=True)
class LadderReport:
    """What the rungs found; the fields are the figures that were judged."""

    initial_loss: float
    prior_loss: float | None
    overfit_loss: float
    overfit_steps: int
    parameters: int
    spread: float | None

    def __str__(self) -> str:
        prior = "" if self.prior_loss is None else f" (prior {self.prior_loss:.3f})"
        spread = "" if self.spread is None else f", predictions spread {self.spread:.3g}"
        return (
            f"sanity ladder passed: initial loss {self.initial_loss:.3f}{prior}, one batch {self.overfit_loss:.3f} "
            f"after {self.overfit_steps} steps, gradients reach all {self.parameters} parameters{spread}"
        )


def climb(
    task: Task,
    loop: LoopSettings,
    settings: LadderSettings | None = None,
    *,
    training_studies: Collection[str] = (),
    held_out_studies: Collection[str] = (),
    prior_loss: float | None = None,
    predict: Callable[[nn.Module, Batch], torch.Tensor] | None = None,
) -> LadderReport:
    """Run every rung for which there is something to check.

    Args:
        task: what is about to be trained.
        loop: its settings; batch size and seed are used.
        settings: of the ladder.
        training_studies, held_out_studies: ids on either side of the fold.
        prior_loss: loss of the class frequencies alone, under the same weights and sampling.
        predict: predictions of a batch, (B, ...), to see that they differ between items.

    Raises:
        LadderError: at the first rung that breaks.
    """
    settings = settings or LadderSettings()
    check_sides(training_studies, held_out_studies)
    device = next(task.model.parameters()).device
    model = copy.deepcopy(task.model).to(device).train()
    batches = _first_batches(task, loop, device)
    with torch.no_grad():
        seed_everything(loop.seed)
        untrained = copy.deepcopy(model)
        losses = np.array([float(task.loss(untrained, batch)[0]) for batch in batches])
    initial, batch = float(losses.mean()), batches[0]
    chance = 3 * float(losses.std(ddof=1)) / math.sqrt(len(losses))
    check_initial_loss(initial, prior_loss, settings.tolerance, chance)
    small = {name: value[: settings.items] for name, value in batch.items()}
    first, last, steps = _overfit(task, model, small, settings, loop.seed)
    if not last < settings.reach * first:
        raise LadderError(
            f"{task.name}: overfits one batch: after {steps} steps on the same {len(small['dataset_index'])} items the "
            f"loss is {last:.4g}, expected below {settings.reach:g} of the first, {first:.4g}. Inputs and targets do "
            f"not belong together, or the learning rate ({settings.learning_rate:g}) is wrong"
        )
    spread = None
    if predict is not None:
        with torch.no_grad():
            spread = check_spread(predict(model.eval(), small).float().cpu().numpy(), settings.spread)
    return LadderReport(initial, prior_loss, last, steps, sum(p.requires_grad for p in model.parameters()), spread)


def check_sides(training_studies: Collection[str], held_out_studies: Collection[str]) -> None:
    """No study on both sides of the fold.

    Raises:
        LadderError: naming some of those that are.
    """
    both = sorted(set(map(str, training_studies)) & set(map(str, held_out_studies)))
    if both:
        raise LadderError(
            f"no study on both sides: {len(both)} are in training and held out, for example {', '.join(both[:5])}; "
            "make folds by study"
        )


def check_initial_loss(initial: float, prior: float | None, tolerance: float = 0.3, chance: float = 0.0) -> None:
    """The untrained network is about as good as the class frequencies.

    Args:
        initial: its mean loss over some batches.
        prior: loss of the frequencies; None checks only that ``initial`` is finite.
        tolerance: relative distance that is allowed.
        chance: further distance that few items may make, three standard errors of ``initial``.

    Raises:
        LadderError: if it is not, or not finite.
    """
    if not math.isfinite(initial):
        raise LadderError(f"initial loss near the prior's: the loss of the untrained network is {initial}")
    if prior is not None and abs(initial - prior) > tolerance * prior + chance:
        raise LadderError(
            f"initial loss near the prior's: found {initial:.4g}, expected {prior:.4g} ± {tolerance:.0%}; look at the "
            "loss weights, the masks and the initial bias of the head"
        )


def check_spread(predictions: np.ndarray, least: float = 1e-3) -> float:
    """Predictions (items, ...) differ between items; returns the largest standard deviation over items.

    Raises:
        LadderError: if they do not, or there are fewer than two.
    """
    if len(predictions) < 2:
        raise LadderError(f"predictions not constant: needs two items, found {len(predictions)}")
    spread = float(np.asarray(predictions, np.float64).std(axis=0).max())
    if not spread >= least:
        raise LadderError(
            f"predictions not constant: over {len(predictions)} items they spread by {spread:.3g}, expected at least "
            f"{least:g}; the network ignores its input"
        )
    return spread


def _overfit(
    task: Task, model: nn.Module, batch: Batch, settings: LadderSettings, seed: int
) -> tuple[float, float, int]:
    """Train on one batch until it is learnt; returns first loss, last loss and steps.

    Raises:
        LadderError: if a trainable parameter never had a gradient.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d | nn.Dropout3d):
            module.p = 0.0
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    silent = set(named)
    optimizer = torch.optim.AdamW(named.values(), lr=settings.learning_rate, weight_decay=0.0)
    losses: list[float] = []
    for step in range(settings.steps):
        seed_everything(position_seed(seed, step))
        optimizer.zero_grad()
        loss, _ = task.loss(model, batch)
        losses.append(float(loss.detach()))
        loss.backward()
        silent = {name for name in silent if (grad := named[name].grad) is None or not bool((grad != 0).any())}
        optimizer.step()
        # Not before every part had its chance: views are dropped at random, a zero head passes nothing back at first
        if losses[-1] < settings.reach * losses[0] and not silent:
            break
    if silent:
        raise LadderError(
            f"{task.name}: gradients reach every parameter: in {len(losses)} steps none came to {len(silent)} of "
            f"{len(named)}: {', '.join(sorted(silent)[:8])}; the part is cut off, or never used by this data"
        )
    return losses[0], losses[-1], len(losses)


def _first_batches(task: Task, loop: LoopSettings, device: torch.device) -> list[Batch]:
    """The first batches of the run, augmented: about as many items as tell a loss, in at least three batches."""
    count = min(16, max(3, math.ceil(_ITEMS / loop.batch_size)))
    order = BatchOrder(
        len(task.train_set),  # type: ignore[arg-type]
        loop.batch_size,
        weights=task.sample_weights,
        batches=count,
        seed=loop.seed,
    )
    items = SeededItems(task.train_set)
    seed = position_seed(loop.seed)
    generator = torch.Generator(device=device).manual_seed(seed)
    batches = []
    for draws in order:
        batch = task.collate([items[draw] for draw in draws])
        moved = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
        seed_everything(seed)
        batches.append(task.augment(moved, generator))
    return batches
