"""Choosing a device and precision that really work, and running out of memory gracefully.

A GPU can be "available" and fail at its first operation (a driver too old, a card too old for the build), so one is
tried before it is believed.
"""

from __future__ import annotations

import datetime
import shutil
import sys
from typing import Any

import psutil
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
        ConfigError: if ``cuda`` or ``mps`` is asked for and no such GPU works, or if fp16 is asked for elsewhere than
            on ``cuda``, where nothing would scale the gradients.
    """
    kind = own_gpu().type if device != "cpu" and working_gpu() else "cpu"
    gpu = kind != "cpu"
    if device not in ("auto", kind):
        raise ConfigError(f"device={device} was asked for, but no such GPU completes one convolution; use device=auto")
    if precision == "fp16" and kind != "cuda":
        raise ConfigError(f"precision=fp16 needs a GPU of kind cuda; on {kind} use auto, fp32 or bf16")
    if precision == "auto":
        half = half_type(own_gpu()) if gpu else None
        precision = "fp32" if half is None else "bf16" if half is torch.bfloat16 else "fp16"
    # The states are singletons; without a reset, the second fit of a process would have the first one's device and
    # could not choose another precision. The process group of torchrun outlives it.
    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(
        cpu=not gpu,
        mixed_precision="no" if precision == "fp32" else precision,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=WAIT)],
    )


def describe(accelerator: Accelerator) -> str:
    """Where a training runs and how precisely, for its first line; with a warning where a GPU is left unused."""
    precision = "fp32" if accelerator.mixed_precision == "no" else accelerator.mixed_precision
    if accelerator.device.type == "cuda":
        card = torch.cuda.get_device_properties(accelerator.device)
        where = f"{accelerator.device}, {card.name}, {card.total_memory / 2**30:.0f} GiB"
    elif accelerator.device.type == "cpu":
        where = f"the CPU with {torch.get_num_threads()} threads"
    else:
        where = str(accelerator.device)
    processes = f", {accelerator.num_processes} processes" if accelerator.num_processes > 1 else ""
    return f"on {where}{processes}, {precision}{_unused_gpu() if accelerator.device.type == 'cpu' else ''}"


def _unused_gpu() -> str:
    """A warning if the machine has an NVIDIA GPU that this torch cannot use."""
    if shutil.which("nvidia-smi") is None:
        return ""
    if torch.version.cuda is None:
        return (
            f"; WARNING: there is an NVIDIA driver, but this torch ({torch.__version__}) was built without CUDA, as "
            "PyPI's is for Windows; install it from https://download.pytorch.org/whl/cu126"
        )
    return f"; WARNING: there is an NVIDIA driver, but no GPU works with torch {torch.__version__}"


def peak_megabytes(device: torch.device) -> float:
    """The most memory that this process has held: of the GPU where it trains on one, else of the machine."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows
        memory = psutil.Process().memory_info()
        return float(getattr(memory, "peak_wset", memory.rss)) / 2**20
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that the batch did not fit, on a GPU or in main memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, Exception) and (
        should_reduce_batch_size(error) or "MPS backend out of memory" in str(error)
    )


def on_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """A batch with its tensors on a device; lists stay. ``mps`` has no double precision and gets single."""
    return {name: _moved(value, device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}


def _moved(value: torch.Tensor, device: torch.device) -> torch.Tensor:
    if device.type == "mps" and value.dtype == torch.float64:
        value = value.float()
    return value.to(device, non_blocking=True)


def move_optimizer(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Move an optimiser's state (moments) to ``device``; its parameters are the model's and move with it."""
    for state in optimizer.state.values():
        for key, value in state.items():
            # AdamW keeps its step counter on the CPU on purpose: it is read there at every step.
            if isinstance(value, torch.Tensor) and key != "step":
                state[key] = value.to(device)
