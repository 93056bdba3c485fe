"""Threads, cores and GPUs of this process; torch is imported by what needs it, and not before.

A GPU can be listed and still fail at its first operation, so one operation is tried before a GPU is given out.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipeline.parallel import THREAD_VARIABLES

if TYPE_CHECKING:
    import torch
    from torch import nn


@functools.cache
def limit_threads(threads: int) -> None:
    """Hold every library of this process to ``threads``; several workers would otherwise fight for the same cores."""
    for name in THREAD_VARIABLES:
        os.environ[name] = str(threads)
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(threads)
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:  # it only caps a BLAS that was loaded before the variables above were set
        return
    threadpool_limits(threads)


@functools.cache
def limit_torch_threads(threads: int) -> None:
    """The same for torch; apart, because importing it takes seconds that a run without networks need not spend."""
    import torch

    torch.set_num_threads(threads)


def usable_gpus() -> list[int]:
    """The GPUs that carry out a convolution."""
    import torch

    usable = []
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        try:
            layer = torch.nn.Conv2d(1, 2, 3).to(f"cuda:{number}")
            layer(torch.ones(1, 1, 8, 8, device=f"cuda:{number}")).sum().item()
        except RuntimeError:  # listed, but too old for this build, broken, or taken by another process
            continue
        usable.append(number)
    return usable


def usable_cpus() -> int:
    """The cores this process may use, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0))


def own_gpu() -> torch.device:
    """The CUDA device of this process, one of several under ``torchrun``, where there is one."""
    import torch

    # Not simply "cuda": every process of torchrun would open a context on the first card.
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def working_gpu() -> bool:
    """Whether this process's CUDA device is there and survives one forward and backward convolution."""
    import torch

    if not torch.cuda.is_available():
        return False
    device = own_gpu()
    try:
        layer = torch.nn.Conv2d(1, 2, 3).to(device)
        layer(torch.ones(1, 1, 8, 8, device=device)).sum().backward()
        torch.cuda.synchronize(device)
    except RuntimeError:
        return False
    return True


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """So many threads on the CPU inside, as many as before afterwards."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def channels_last(model: nn.Module) -> nn.Module:
    """The model in the memory layout that is 1.1 to 1.6 times faster; a volumetric network has no such one."""
    import torch

    if any(parameter.dim() == 5 for parameter in model.parameters()):
        return model
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def seconds_on_one_thread(forward: Callable[[], object]) -> float:
    """The shortest of three calls on one CPU thread: what else the machine does only makes a call longer."""
    taken = []
    with torch_threads(1):
        for _ in range(3):
            began = time.perf_counter()
            forward()
            taken.append(time.perf_counter() - began)
    return min(taken)
