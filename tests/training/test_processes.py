"""Two processes train as one does, over gloo on the CPU as over NCCL on two GPUs."""

import dataclasses
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.training.interruption import TrainingStopped
from pipeline.training.loop import fit
from tests.training.test_loop import Plain
from tests.training.toy import SETTINGS, in_two_processes


class Cut(Plain):
    """The second process alone runs out of memory: both must halve."""

    def loss(self, model, batch):
        if os.environ["RANK"] == "1" and len(batch["target"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().loss(model, batch)


def train(out: Path) -> None:
    for task in (Plain(), Cut()):
        fit(task, dataclasses.replace(SETTINGS, epochs=2), out / type(task).__name__)


@pytest.mark.slow
def test_two_processes_give_the_weights_of_one_and_run_out_of_memory_together(tmp_path):
    fit(Plain(), dataclasses.replace(SETTINGS, epochs=2), tmp_path / "one")
    assert in_two_processes(train, tmp_path) == [0, 0]
    one = load_file(tmp_path / "one" / "last.safetensors")
    for name in ("Plain", "Cut"):
        two = load_file(tmp_path / name / "last.safetensors")
        for tensor in one:
            torch.testing.assert_close(one[tensor], two[tensor], rtol=1e-4, atol=1e-5)
    assert "micro-batch halved" in (tmp_path / "Cut" / "log.txt").read_text()


class Stopped(Plain):
    """Asked to stop at its third step, so that a checkpoint is there; both of two processes stop after it."""

    def __init__(self):
        super().__init__()
        self.stop_at = 3


def go_on(out: Path) -> None:
    fit(Plain(), dataclasses.replace(SETTINGS, epochs=2), out / "by one")


def stop(out: Path) -> None:
    with pytest.raises(TrainingStopped):
        fit(Stopped(), dataclasses.replace(SETTINGS, epochs=2), out / "by two")


@pytest.mark.slow
def test_a_checkpoint_of_one_process_is_resumed_by_two_and_of_two_by_one(tmp_path):
    settings = dataclasses.replace(SETTINGS, epochs=2)
    fit(Plain(), settings, tmp_path / "whole")
    with pytest.raises(TrainingStopped):
        fit(Stopped(), settings, tmp_path / "by one")
    assert in_two_processes(go_on, tmp_path) == [0, 0]
    assert in_two_processes(stop, tmp_path) == [0, 0]
    fit(Plain(), settings, tmp_path / "by two")
    whole = load_file(tmp_path / "whole" / "last.safetensors")
    for name in ("by one", "by two"):
        assert "continuing" in (tmp_path / name / "log.txt").read_text()
        parts = load_file(tmp_path / name / "last.safetensors")
        for tensor in whole:
            torch.testing.assert_close(whole[tensor], parts[tensor], rtol=1e-4, atol=1e-5)
