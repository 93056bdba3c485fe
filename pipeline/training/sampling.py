"""Which items each step trains on, as a pure function of (seed, epoch, step).

Weighted sampling with replacement starves: in an epoch of n draws over n equal items 37 % are never seen, and a rare
item can stay unseen for many epochs. Here item i with expected count c_i an epoch is due at the times (k + u_i) / c_i,
k = 0, 1, 2, ..., with a fixed random offset u_i; an epoch takes the next n draws in order of time and shuffles them. So
equal weights give each item exactly once an epoch, and any item comes at least once in every 1 / c_i epochs.

Because the order is a function and not a state, resuming in the middle of an epoch needs only two numbers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler


class Draw(NamedTuple):
    """One item to load and the seed of everything random about it."""

    item: int
    seed: int


def position_seed(*position: int) -> int:
    """A 32-bit seed for a place in the run, e.g. (seed, epoch, step, rank); near places give unrelated seeds."""
    return int(np.random.SeedSequence(position).generate_state(1)[0])


def seed_everything(seed: int) -> None:
    """Seed the global generators of ``random``, ``numpy.random`` and ``torch`` (every device)."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (libraries that a dataset calls use the global generator)
    # torch.manual_seed would format a stack trace for CUDA's queue each time, 0.7 ms an item
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


class BatchOrder(Sampler[list[Draw]]):
    """The batches of an epoch; give it to a ``DataLoader`` as ``batch_sampler`` and set the place with :meth:`place`.

    Args:
        items: length of the dataset.
        batch_size: items a batch over all processes.
        weights: how often each item is drawn relative to the others, (items,); None for equally often.
        batches: batches an epoch; None for about as many draws as items.
        seed: of the order.
        rank, ranks: this process and their number; every process takes its share of each batch.

    Raises:
        ValueError: for an empty dataset, weights that do not fit, or a batch that the processes cannot share.
    """

    def __init__(
        self,
        items: int,
        batch_size: int,
        *,
        weights: np.ndarray | None = None,
        batches: int | None = None,
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        if items < 1:
            raise ValueError("the training set is empty: check --data and the fold")
        if batch_size % ranks:
            raise ValueError(f"batch_size {batch_size} cannot be shared by {ranks} processes: choose a multiple")
        self.weights = _checked_weights(weights, items)
        self.batch_size = batch_size
        self.batches = batches if batches is not None else max(1, round(items / batch_size))
        self.seed, self.rank, self.ranks = seed, rank, ranks
        self.epoch, self.start = 0, 0

    def place(self, epoch: int, start: int = 0) -> None:
        """Continue at batch ``start`` of ``epoch`` (both from 0)."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        return self.batches - self.start

    def __iter__(self) -> Iterator[list[Draw]]:
        order = self.order(self.epoch)
        for step in range(self.start, self.batches):
            first = step * self.batch_size
            places = range(first + self.rank, first + self.batch_size, self.ranks)
            yield [Draw(int(order[place]), position_seed(self.seed, self.epoch, place)) for place in places]

    def order(self, epoch: int) -> np.ndarray:
        """The item of every draw of an epoch, (batches * batch_size,) int64."""
        draws = self.batches * self.batch_size
        expected = self.weights * draws
        offset = np.random.default_rng((self.seed, 0)).random(len(expected))

        def drawn_before(time: float) -> np.ndarray:
            return np.maximum(0, np.ceil(expected * time - offset)).astype(np.int64)

        first, last = float(epoch), float(epoch + 1)
        while drawn_before(first).sum() > epoch * draws:
            first -= 1
        while drawn_before(last).sum() < (epoch + 1) * draws:
            last += 1
        before, after = drawn_before(first), drawn_before(last)
        items = np.repeat(np.arange(len(expected)), after - before)
        run_start = np.cumsum(after - before) - (after - before)
        k = np.arange(len(items)) - np.repeat(run_start - before, after - before)
        times = (k + offset[items]) / expected[items]
        skip = epoch * draws - int(before.sum())
        order = items[np.argsort(times, kind="stable")][skip : skip + draws]
        return np.random.default_rng((self.seed, 1, epoch)).permutation(order)


class SeededItems(Dataset[dict[str, Any]]):
    """A dataset read by :class:`Draw`: seeds the global generators, fetches, and notes ``dataset_index``."""

    def __init__(self, items: Dataset[dict[str, Any]]) -> None:
        self.items = items

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        seed_everything(draw.seed)
        return {**self.items[draw.item], "dataset_index": draw.item}

    def __getitems__(self, draws: list[Draw]) -> list[dict[str, Any]] | dict[str, Any]:
        """What a loader asks for; a dataset that has ``fetch`` gives the batch at once, seeded by its first draw."""
        fetch = getattr(self.items, "fetch", None)
        if fetch is None:
            return [self[draw] for draw in draws]
        seed_everything(draws[0].seed)
        indices = np.array([draw.item for draw in draws])
        return {**fetch(indices), "dataset_index": torch.from_numpy(indices)}


def _checked_weights(weights: np.ndarray | None, items: int) -> np.ndarray:
    """Weights that sum to 1, (items,) float64."""
    if weights is None:
        return np.full(items, 1.0 / items)
    weights = np.asarray(weights, dtype=np.float64)
    if weights.shape != (items,):
        raise ValueError(f"sample_weights have shape {weights.shape}; the training set has {items} items")
    if not np.isfinite(weights).all() or (weights < 0).any() or weights.sum() <= 0:
        bad = int((~np.isfinite(weights) | (weights < 0)).sum())
        raise ValueError(f"sample_weights must be finite, >= 0 and not all 0; {bad} of {items} are not")
    return weights / weights.sum()
