"""Every rung breaks for the bug it is there for, and holds otherwise."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.training.ladder import LadderError, LadderSettings, check_initial_loss, check_sides, check_spread, climb
from tests.training.toy import SETTINGS, ToyTask

LADDER = LadderSettings(steps=150, learning_rate=0.03, items=6)


def predict(model, batch):
    return model(batch["image"])


def test_a_sound_task_climbs_and_keeps_its_weights():
    task = ToyTask()
    before = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    report = climb(
        task, SETTINGS, LADDER, training_studies=["1", "2"], held_out_studies=["3"], prior_loss=None, predict=predict
    )
    assert report.overfit_loss < 0.5 * report.initial_loss
    assert report.parameters == 6
    assert "sanity ladder passed" in str(report)
    assert all(torch.equal(tensor, before[name]) for name, tensor in task.model.state_dict().items())
    assert task.model[5].p == 0.2, "dropout of the real network is untouched"


def test_a_study_on_both_sides():
    with pytest.raises(LadderError, match=r"no study on both sides: 1 .*100206310"):
        check_sides(["7", "100206310"], ["8", "100206310"])
    with pytest.raises(LadderError, match="both sides"):
        climb(ToyTask(), SETTINGS, LADDER, training_studies=["4"], held_out_studies=["4"])


def test_initial_loss_far_from_the_prior():
    check_initial_loss(1.0, 1.1)
    check_initial_loss(1.0, 0.7, chance=0.2)  # few items
    with pytest.raises(LadderError, match=r"found 4, expected 1 ± 30%"):
        check_initial_loss(4.0, 1.0)
    with pytest.raises(LadderError, match="initial loss"):
        climb(ToyTask(), SETTINGS, LADDER, prior_loss=50.0)
    with pytest.raises(LadderError, match="nan"):
        check_initial_loss(float("nan"), None)


def test_a_part_that_gets_no_gradient():
    class Cut(ToyTask):
        def __init__(self):
            super().__init__()
            self.model.spare = nn.Linear(3, 3)

        def loss(self, model, batch):
            parts = list(model.children())[:-1]
            error = (nn.Sequential(*parts)(batch["image"])[:, 0] - batch["target"]).abs().mean()
            return error, {}

    with pytest.raises(LadderError, match=r"none came to 2 of 8: spare\.bias, spare\.weight"):
        climb(Cut(), SETTINGS, LADDER)


def test_targets_that_cannot_be_learnt():
    class Shuffled(ToyTask):
        def loss(self, model, batch):
            target = torch.rand(len(batch["target"])) * 10
            return (model(batch["image"])[:, 0] - target).abs().mean(), {}

    with pytest.raises(LadderError, match="overfits one batch: after 20 steps"):
        climb(Shuffled(), SETTINGS, dataclasses.replace(LADDER, steps=20))


def test_predictions_that_ignore_the_input():
    assert check_spread(np.arange(4.0)) > 1
    with pytest.raises(LadderError, match="ignores its input"):
        check_spread(np.ones((5, 3)))
    with pytest.raises(LadderError, match="needs two"):
        check_spread(np.ones((1, 3)))
    with pytest.raises(LadderError, match="not constant"):
        climb(ToyTask(), SETTINGS, LADDER, predict=lambda model, batch: torch.zeros(len(batch["target"]), 3))
