"""What the processes of one training have to agree on; with one process, nothing happens here.

Gradients are averaged in one message after the backward passes, instead of by DistributedDataParallel: the networks are
small, parameters of a view that was dropped may have no gradient, and a process that ran out of memory can tell the
others before any of them waits for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, broadcast_object_list
from torch import nn

from pipeline.device import working_gpu
from pipeline.training.accelerator import WAIT


def is_main_process() -> bool:
    """Whether this is the process of ``torchrun`` that writes files, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def wait_for_everyone() -> None:
    """Let the other processes of ``torchrun`` catch up; what the first wrote is there after it."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate.state import PartialState

        PartialState(cpu=not working_gpu(), timeout=WAIT).wait_for_everyone()


@contextmanager
def main_process_first() -> Iterator[None]:
    """The first process does the body alone, a cache say; then the others do, and find it done."""
    if not is_main_process():
        wait_for_everyone()
    yield
    if is_main_process():
        wait_for_everyone()


class Processes:
    """The other processes of this training, seen from one of them."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.alone = accelerator.num_processes == 1

    def anywhere(self, here: bool) -> bool:
        """Whether something is so on any process."""
        if self.alone:
            return here
        flag = torch.tensor([float(here)], device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum").item() > 0)

    def from_main(self, value: float) -> float:
        """The main process's value."""
        return value if self.alone else float(broadcast_object_list([value])[0])

    def share_weights(self, model: nn.Module) -> None:
        """Give every process the main one's parameters and buffers."""
        if not self.alone:
            for tensor in [*model.parameters(), *model.buffers()]:
                tensor.data = broadcast(tensor.data)

    def average_gradients(self, model: nn.Module) -> None:
        """The mean over processes; a missing gradient counts as zero."""
        if self.alone:
            return
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = self.accelerator.reduce(torch.cat([gradient.reshape(-1) for gradient in gradients]), "mean")
        for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = part.reshape(parameter.shape).to(parameter.dtype)
