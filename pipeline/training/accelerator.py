"""Choosing a device and precision that really work, and running out of memory gracefully.

A GPU can be "available" and fail at its first operation (a driver too old, a card too old for the build), so one is
tried before it is believed.
"""

from __future__ import annotations

import datetime
import gc
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs
from accelerate.utils.memory import should_reduce_batch_size

from pipeline.config import ConfigError
from pipeline.device import half_type, own_gpu, working_gpu
from pipeline.weights.recipe import Device, Precision

WAIT = datetime.timedelta(days=1)
"""How long the other processes wait while the first one fills a cache, evaluates, draws or measures the localisers."""


def open_accelerator(device: Device, precision: Precision) -> Accelerator:
    """The accelerator of this process, one of several under ``torchrun`` or ``accelerate launch``.

    Raises:
        ConfigError: if ``cuda`` is asked for and no GPU works, or if fp16 is asked for on a CPU, whose gradients
            nothing would scale.
    """
    gpu = device != "cpu" and working_gpu()
    if device == "cuda" and not gpu:
        raise ConfigError("device=cuda was asked for, but no CUDA GPU completes one convolution; use device=auto")
    if precision == "fp16" and not gpu:
        raise ConfigError("precision=fp16 needs a GPU; on a CPU use auto, fp32 or bf16")
    if precision == "auto":
        half = half_type(own_gpu()) if gpu else None
        precision = "fp32" if half is None else "bf16" if half is torch.bfloat16 else "fp16"
    # The state is a singleton; without a reset, the second fit of a process could not choose another precision.
    AcceleratorState._reset_state()
    return Accelerator(
        cpu=not gpu,
        mixed_precision="no" if precision == "fp32" else precision,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=WAIT)],
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that the batch did not fit, on a GPU or in main memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, Exception) and bool(should_reduce_batch_size(error))


def release_memory() -> None:
    """Give cached accelerator memory back to the driver, so that other processes can have it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def on_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """A batch with its tensors on a device; lists stay."""
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
        for name, value in batch.items()
    }


def move_optimizer(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Move an optimiser's state (moments) to ``device``; its parameters are the model's and move with it."""
    for state in optimizer.state.values():
        for key, value in state.items():
            # AdamW keeps its step counter on the CPU on purpose: it is read there at every step.
            if isinstance(value, torch.Tensor) and key != "step":
                state[key] = value.to(device)
