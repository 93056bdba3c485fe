"""A task small enough to train in milliseconds, with everything random that a real one has."""

import multiprocessing
import os
import signal
import socket
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from pipeline.training.task import Batch, Task
from pipeline.weights.recipe import LoopSettings

SETTINGS = LoopSettings(epochs=3, batch_size=8, learning_rate=0.01, device="cpu")


class Ramp(Dataset):
    """Noisy 8 x 8 images whose mean is the target; the noise comes from all three global generators."""

    def __init__(self, items: int = 40) -> None:
        self.items = items

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, index: int) -> dict[str, object]:
        noise = torch.randn(1, 8, 8) + float(np.random.normal()) / 10  # noqa: NPY002
        return {
            "image": noise / 4 + index / self.items,
            "target": torch.tensor(index / self.items),
            "name": f"n{index}",
        }


class ToyTask(Task):
    """Regress the mean; dropout, batch norm and augmentation take part. Hooks stand in for what happens outside."""

    name = "toy"

    def __init__(self, stop_at: int = 0, fail_above: int = 0, poison: int = -1, batch_norm: bool = True) -> None:
        torch.manual_seed(1)
        norm = nn.BatchNorm2d(8) if batch_norm else nn.Identity()
        self.model = nn.Sequential(
            nn.Conv2d(1, 8, 3), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(8, 1)
        )
        self.train_set = Ramp()
        self.stop_at, self.fail_above, self.poison = stop_at, fail_above, poison
        self.calls = 0
        self.sizes: list[int] = []
        self.seen: list[int] = []

    def augment(self, batch: Batch, generator: torch.Generator) -> Batch:
        noise = torch.randn(batch["image"].shape, generator=generator, device=generator.device)
        return {**batch, "image": batch["image"] + 0.1 * noise}

    def loss(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        self.calls += 1
        size = len(batch["target"])
        if self.fail_above and size > self.fail_above:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        if self.calls == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        self.sizes.append(size)
        self.seen.extend(batch["dataset_index"].tolist())
        image = torch.where((batch["dataset_index"] == self.poison)[:, None, None, None], torch.nan, batch["image"])
        error = (model(image)[:, 0] - batch["target"]).abs().mean()
        return error, {"l1": float(error.detach())}

    def evaluate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        target = torch.linspace(0, 1, 16, device=device)
        predicted = model(target[:, None, None, None].expand(-1, 1, 8, 8))[:, 0]
        return {"score": float((predicted - target).abs().mean())}

    def picture(self, model: nn.Module, device: torch.device) -> np.ndarray:
        return np.full((4, 6, 3), 200, np.uint8)

    def item_name(self, index: int) -> str:
        return f"study {index}"


def in_two_processes(target: Callable[..., None], *args: object) -> list[int | None]:
    """Call a function as ``torchrun`` would in two processes; returns their exit codes."""
    with socket.socket() as free:
        # Kept until the end, so that nobody else is given the port; who sets this option too may listen on it.
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        context = multiprocessing.get_context("spawn")  # a fork of a process whose threads have worked may hang
        processes = [context.Process(target=_ranked, args=(rank, port, target, args)) for rank in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(180)
            process.kill()
    return [process.exitcode for process in processes]


def _ranked(rank: int, port: int, target: Callable[..., None], args: tuple[object, ...]) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    target(*args)
    torch.distributed.destroy_process_group()
