"""Draws are a function of their place, weights are kept, and nothing starves."""

import numpy as np
import pytest
import torch

from pipeline.training.sampling import BatchOrder, Draw, SeededItems, position_seed, seed_everything
from tests.training.toy import Ramp


def test_equal_weights_give_every_item_once_an_epoch_in_another_order_each_time():
    order = BatchOrder(24, 8, seed=3)
    first, second = order.order(0), order.order(1)
    assert sorted(first) == sorted(second) == list(range(24))
    assert list(first) != list(second)
    assert list(first) == list(BatchOrder(24, 8, seed=3).order(0))
    assert list(first) != list(BatchOrder(24, 8, seed=4).order(0))


def test_an_epoch_shorter_than_the_set_goes_through_it_before_repeating():
    order = BatchOrder(30, 5, batches=2)
    drawn = np.concatenate([order.order(epoch) for epoch in range(3)])
    assert sorted(drawn) == list(range(30))


def test_weights_are_kept_to_within_one_draw_and_rare_items_do_not_starve():
    weights = np.array([10.0] * 4 + [1.0] * 40 + [0.05] * 10 + [0.0])
    order = BatchOrder(len(weights), 16, weights=weights)
    epochs = 40
    counts = sum(np.bincount(order.order(epoch), minlength=len(weights)) for epoch in range(epochs))
    expected = weights / weights.sum() * order.batches * 16 * epochs
    assert np.abs(counts - expected).max() < 2
    assert counts[-1] == 0
    assert counts[44:54].min() >= 1, "an item that is due once in 34 epochs was seen within 40"


def test_random_weights_always_fill_the_epoch_exactly():
    generator = np.random.default_rng(0)
    for trial in range(30):
        weights = generator.exponential(size=generator.integers(1, 60)) ** 3
        order = BatchOrder(len(weights), int(generator.integers(1, 9)), weights=weights, seed=trial)
        for epoch in (0, 1, 7):
            assert len(order.order(epoch)) == order.batches * order.batch_size


def test_a_place_in_the_middle_continues_the_same_epoch():
    order = BatchOrder(40, 8)
    order.place(2)
    whole = list(order)
    order.place(2, 3)
    assert list(order) == whole[3:]
    assert len(order) == 2


def test_processes_share_each_batch():
    whole = list(BatchOrder(40, 8))
    parts = [list(BatchOrder(40, 8, rank=rank, ranks=2)) for rank in range(2)]
    for batch, left, right in zip(whole, *parts, strict=True):
        assert sorted(batch) == sorted(left + right)
        assert len(left) == len(right) == 4


def test_an_item_draws_the_same_randomness_whatever_was_loaded_before():
    items = SeededItems(Ramp())
    alone = items[Draw(7, 123)]["image"]
    items[Draw(1, 5)]
    assert torch.equal(items[Draw(7, 123)]["image"], alone)
    assert not torch.equal(items[Draw(7, 124)]["image"], alone)
    assert items[Draw(7, 123)]["dataset_index"] == 7


def test_near_places_have_unrelated_seeds():
    seeds = {position_seed(0, epoch, step) for epoch in range(20) for step in range(50)}
    assert len(seeds) == 1000
    seed_everything(position_seed(0, 1))
    first = torch.rand(1000)
    seed_everything(position_seed(0, 2))
    assert abs(np.corrcoef(first, torch.rand(1000))[0, 1]) < 0.15


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"items": 0, "batch_size": 4}, "training set is empty"),
        ({"items": 8, "batch_size": 3, "ranks": 2}, "batch_size 3 cannot be shared by 2"),
        ({"items": 3, "batch_size": 1, "weights": np.ones(2)}, r"shape \(2,\); the training set has 3"),
        ({"items": 2, "batch_size": 1, "weights": np.array([1, np.nan])}, "1 of 2 are not"),
        ({"items": 2, "batch_size": 1, "weights": np.array([1, -1])}, "1 of 2 are not"),
        ({"items": 2, "batch_size": 1, "weights": np.zeros(2)}, "not all 0"),
    ],
)
def test_orders_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        BatchOrder(**arguments)
