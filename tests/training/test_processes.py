"""Two processes train as one does, over gloo on the CPU as over NCCL on two GPUs."""

import dataclasses
import multiprocessing
import os
import socket
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from pipeline.training.loop import fit
from tests.training.test_loop import Plain
from tests.training.toy import SETTINGS


class Cut(Plain):
    """The second process alone runs out of memory: both must halve."""

    def loss(self, model, batch):
        if os.environ["RANK"] == "1" and len(batch["target"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().loss(model, batch)


def train(rank: int, port: int, out: Path) -> None:
    """What ``torchrun`` starts: a process that knows its rank from the environment."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    AcceleratorState._reset_state(True)  # forked from a process that was alone
    for task in (Plain(), Cut()):
        fit(task, dataclasses.replace(SETTINGS, epochs=2), out / type(task).__name__)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_give_the_weights_of_one_and_run_out_of_memory_together(tmp_path):
    fit(Plain(), dataclasses.replace(SETTINGS, epochs=2), tmp_path / "one")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=train, args=(rank, port, tmp_path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(180)
        process.kill()
    assert [process.exitcode for process in processes] == [0, 0]
    one = load_file(tmp_path / "one" / "last.safetensors")
    for name in ("Plain", "Cut"):
        two = load_file(tmp_path / name / "last.safetensors")
        for tensor in one:
            torch.testing.assert_close(one[tensor], two[tensor], rtol=1e-4, atol=1e-5)
    assert "micro-batch halved" in (tmp_path / "Cut" / "log.txt").read_text()
