"""The network while it learns: its optimiser, its average, and one optimiser step at a time.

**Out of memory** halves the micro-batch and doubles the accumulation, and repeats the step. Batch norm then sees
smaller batches, nothing else changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from pipeline.device import channels_last, release_memory
from pipeline.training import accelerator as devices
from pipeline.training.averaging import AveragedModel
from pipeline.training.processes import Processes
from pipeline.training.sampling import position_seed, seed_everything
from pipeline.training.schedule import apply_schedule
from pipeline.training.task import Batch, Task, not_finite_in
from pipeline.weights.recipe import LoopSettings


class Learnt(NamedTuple):
    """What a step found: its loss and the parts of it, its learning rate, and the gradient's norm before clipping."""

    loss: float
    parts: dict[str, float]
    learning_rate: float
    gradient: float


class Learner:
    """What of a run has tensors.

    Attributes:
        model: the network, on the device of the run.
        averaged: its average, which is evaluated and saved.
        optimizer: AdamW on the task's groups.
        split: parts into which every micro-batch is cut, because memory ran out.
    """

    def __init__(
        self, task: Task, settings: LoopSettings, accelerator: Accelerator, say: Callable[[str], None]
    ) -> None:
        self.task, self.settings, self.accelerator, self.say = task, settings, accelerator, say
        self.processes = Processes(accelerator)
        self.model = task.model.to(accelerator.device)
        if settings.channels_last:
            self.model = channels_last(self.model)
        self.processes.share_weights(self.model)
        groups = task.parameter_groups(settings.weight_decay)
        self.optimizer = accelerator.prepare(torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True))
        self.averaged = AveragedModel(self.model, settings.ema_decay)
        if settings.compile:
            self.model.compile()  # in place: what is saved and averaged keeps its names
        self.split = 1

    def learn(self, batch: Batch, epoch: int, step: int, steps: int) -> Learnt:
        """One optimiser step.

        Args:
            batch: what to learn from.
            epoch, step: the place in the run, from 0.
            steps: of an epoch.

        Raises:
            MemoryError: not even a single item fits.
            FloatingPointError: the loss or the gradient is not finite.
        """
        settings, position = self.settings, epoch * steps + step
        rate = apply_schedule(
            self.optimizer,
            settings.schedule,
            settings.learning_rate,
            position / (settings.epochs * steps),
            settings.warmup,
        )
        while True:
            failed = False
            try:
                loss, parts = self._backward(batch, epoch, step)
            except Exception as error:
                if not devices.is_out_of_memory(error):
                    raise
                failed = True
            if not self.processes.anywhere(failed):
                break
            self._halve(len(batch["dataset_index"]))
        where = f"at epoch {epoch + 1}, step {step + 1}"
        self.processes.average_gradients(self.model)
        self._check_finite(loss, batch, "loss", where)
        norm = float(self.accelerator.clip_grad_norm_(self.model.parameters(), settings.gradient_clip or math.inf))
        if self.accelerator.scaler is None:  # fp16 overflows now and then by design; its scaler skips the step
            self._check_finite(norm, batch, "gradient", where)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.averaged.update(self.model, position)
        return Learnt(loss, parts, rate, norm)

    def _backward(self, batch: Batch, epoch: int, step: int) -> tuple[float, dict[str, float]]:
        """Gradients of a batch, added up over micro-batches."""
        seed = position_seed(self.settings.seed, epoch, step, self.accelerator.process_index)
        seed_everything(seed)
        generator = torch.Generator(device=self.accelerator.device).manual_seed(seed)
        items = len(batch["dataset_index"])
        size = math.ceil(items / min(items, self.settings.accumulate * self.split))
        losses: list[Tensor] = []
        totals: dict[str, float] = {}
        for first in range(0, items, size):
            micro = devices.on_device(
                {name: value[first : first + size] for name, value in batch.items()}, self.accelerator.device
            )
            share = len(micro["dataset_index"]) / items
            micro = self.task.augment(micro, generator)
            with self.accelerator.autocast():
                loss, parts = self.task.loss(self.model, micro)
            self.accelerator.backward(loss * share)
            losses.append(loss.detach() * share)
            for name, value in parts.items():
                totals[name] = totals.get(name, 0.0) + float(value) * share
        return float(torch.stack(losses).sum()), totals

    def _halve(self, items: int) -> None:
        """Answer to running out of memory.

        Raises:
            MemoryError: if a micro-batch is a single item already.
        """
        self.optimizer.zero_grad()
        release_memory()
        parts = self.settings.accumulate * self.split
        if parts >= items:
            raise MemoryError(f"{self.task.name}: not one item fits into memory; choose a smaller input or network")
        self.split *= 2
        self.say(
            f"out of memory: micro-batch halved to {math.ceil(items / (2 * parts))} items, accumulation doubled to "
            f"{2 * parts}; set batch_size and accumulate so to start with it"
        )

    def _check_finite(self, value: float, batch: Batch, what: str, where: str) -> None:
        """Raise FloatingPointError, naming the items, if ``value`` is not finite on any process."""
        if self.processes.anywhere(not math.isfinite(value)):
            raise FloatingPointError(
                f"{self.task.name}: {what} is {value} {where}; {not_finite_in(self.task, batch)}. Lower learning_rate "
                f"(now {self.settings.learning_rate:g}) or set precision=fp32; last.ckpt is older."
            )

    def move(self, place: torch.device) -> None:
        """Take everything to a device."""
        self.model.to(place)
        self.averaged.model.to(place)
        devices.move_optimizer(self.optimizer, place)

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        scaler = self.accelerator.scaler
        return {
            "model": self.model.state_dict(),
            "averaged": self.averaged.model.state_dict() if self.settings.ema_decay else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "split": self.split,
        }

    def load(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state`.

        Raises:
            RuntimeError, ValueError: the network is another one.
        """
        self.model.load_state_dict(state["model"])
        if state["averaged"] is not None:
            self.averaged.model.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.split = state["split"]
