"""Optimiser groups, and the weights that follow the model."""

import pytest
import torch
from torch import nn

from pipeline.training.averaging import AveragedModel
from pipeline.training.task import decayed_groups


def network():
    model = nn.Sequential()
    model.add_module("encoder", nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)))
    model.add_module("head", nn.Linear(4, 2))
    return model


def test_norms_and_biases_do_not_decay_and_prefixes_train_slower():
    groups = decayed_groups(network(), 0.05, {"encoder.": 0.1, "encoder.1.": 0.01})
    found = {(group["weight_decay"], group["lr_factor"]): len(group["params"]) for group in groups}
    assert found == {(0.05, 0.1): 1, (0.0, 0.1): 1, (0.0, 0.01): 2, (0.05, 1.0): 1, (0.0, 1.0): 1}


def test_a_prefix_that_names_nothing_is_refused():
    with pytest.raises(ValueError, match=r"'backbone\.'.*encoder, head"):
        decayed_groups(network(), 0.05, {"backbone.": 0.1})


def test_frozen_parameters_are_left_out():
    model = network()
    model.encoder.requires_grad_(False)
    assert sum(len(group["params"]) for group in decayed_groups(model, 0.05)) == 2


def test_the_average_warms_up_then_decays():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 0.0)
    average = AveragedModel(model, 0.5)
    nn.init.constant_(model.weight, 1.0)
    average.update(model, 0)
    assert float(average.model.weight) == pytest.approx(0.9)  # decay 1 / 10
    average = AveragedModel(model, 0.5)
    nn.init.constant_(model.weight, 3.0)
    average.update(model, 10_000)
    assert float(average.model.weight) == pytest.approx(2.0)


def test_running_statistics_follow_and_counters_are_copied():
    model = nn.BatchNorm2d(2)
    average = AveragedModel(model, 0.9)
    model(torch.full((4, 2, 3, 3), 10.0))
    average.update(model, 0)
    assert float(average.model.running_mean[0]) == pytest.approx(0.9 * float(model.running_mean[0]))
    assert int(average.model.num_batches_tracked) == 1


def test_without_decay_the_average_is_the_model():
    model = nn.Linear(1, 1)
    assert AveragedModel(model, 0.0).model is model
    with pytest.raises(ValueError, match="ema_decay"):
        AveragedModel(model, 1.0)
