"""Two processes train as one does, over gloo on the CPU as over NCCL on two GPUs."""

import dataclasses
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

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
