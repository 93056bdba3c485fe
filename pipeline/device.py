"""Threads, cores and GPUs of this process; torch is imported by what needs it, and not before.

A GPU can be listed and still fail at its first operation, so one operation is tried before a GPU is given out.
"""

from __future__ import annotations

import functools
import gc
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from pipeline.parallel import THREAD_VARIABLES

if TYPE_CHECKING:
    import torch
    from torch import nn

T = TypeVar("T")

MOST_PARTS = 4
"""What does not fit into a GPU's memory in quarters is the CPU's."""


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
    _start_blas()
    import torch

    torch.set_num_threads(threads)


def _start_blas() -> None:
    """Before torch takes its share of memory: scipy's OpenBLAS spins for ever where it finds none at its start."""
    import scipy.special  # noqa: F401


def _listed_gpus() -> list[str]:
    """What PyTorch calls the GPUs that the machine says it has: ``cuda:0``, ..., or an Apple computer's ``mps``."""
    import torch

    if torch.cuda.is_available():
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return ["mps"] if torch.backends.mps.is_available() else []


def usable_gpus() -> list[str]:
    """The GPUs that carry out a convolution, as PyTorch calls them."""
    _start_blas()
    import torch

    usable = []
    for name in _listed_gpus():
        try:
            layer = torch.nn.Conv2d(1, 2, 3).to(name)
            layer(torch.ones(1, 1, 8, 8, device=name)).sum().item()
        except RuntimeError:  # listed, but too old for this build, broken, or taken by another process
            continue
        usable.append(name)
    return usable


def usable_cpus() -> int:
    """The cores this process may use, which in a container are fewer than the machine has."""
    from joblib import cpu_count

    return int(cpu_count())


def own_gpu() -> torch.device:
    """The GPU of this process, one of several under ``torchrun``, where there is one."""
    import torch

    # Not simply "cuda": every process of torchrun would open a context on the first card.
    listed = _listed_gpus()
    return torch.device(listed[int(os.environ.get("LOCAL_RANK", "0")) % len(listed)])


def working_gpu() -> bool:
    """Whether this process's GPU is there and survives one forward and backward convolution."""
    import torch

    if not _listed_gpus():
        return False
    device = own_gpu()
    try:
        layer = torch.nn.Conv2d(1, 2, 3).to(device)
        layer(torch.ones(1, 1, 8, 8, device=device)).sum().backward()
        layer.weight.grad.sum().item()  # type: ignore[union-attr]  # waits until it is done
    except RuntimeError:
        return False
    return True


def wait_for(device: torch.device) -> None:
    """Until the device has done all that it was given; a GPU is given work long before it does it."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def release_memory() -> None:
    """Give cached memory of GPUs back to the driver, so that other processes can have it."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()


def half_type(device: torch.device) -> torch.dtype | None:
    """Half precision on a device: bf16 where a GPU computes it, from compute capability 8.0 on, fp16 before (T4).

    None on a CPU. PyTorch's own ``is_bf16_supported`` is also true where bf16 is emulated, several times slower.
    """
    import torch

    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16


@contextmanager
def half_precision(device: torch.device) -> Iterator[None]:
    """Networks compute in :func:`half_type` inside, where the device has one; their weights stay as they are."""
    import torch

    half = half_type(device)
    with torch.autocast(device.type, dtype=half, enabled=half is not None):
        yield


class GpuFallback:
    """What one process does where a GPU fails.

    Too little memory: the same work in twice as many parts, from then on too, and after two attempts on the CPU.
    Anything else, such as a failed assertion in a kernel: nothing on that GPU works any more, and it is not used again.

    Args:
        free: gives up what holds memory of the GPU.
        tell: takes a sentence for each work that the CPU does because the GPU failed at it; of a GPU that is not used
            again, for the first.
    """

    def __init__(self, free: Callable[[], None], tell: Callable[[str], None]) -> None:
        self._free, self._tell = free, tell
        self._broken: set[str] = set()
        self._parts: dict[str, int] = {}

    def run(self, name: str, device: str, work: Callable[[str, int], T]) -> T:
        """``work(device, parts)``, on the CPU whole if it has to be.

        Args:
            name: of the work; the number of parts that it needed is remembered by it.
            device: cpu or a GPU.
            work: what to do, where, and in how many parts.

        Raises:
            RuntimeError: it fails on the CPU too.
        """
        failure = ""
        for _ in range(2):
            if device == "cpu" or device in self._broken:
                break
            parts = self._parts.get(name, 1)
            try:
                return work(device, parts)
            except (RuntimeError, TypeError) as error:  # mps refuses double precision with a TypeError
                failure = f"{device} failed at {name}: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
                if _is_short_of_memory(error):
                    self._parts[name] = min(2 * parts, MOST_PARTS)
                    self._free()
                else:
                    self._broken.add(device)
                    failure += "; it is not used again"
        if failure:
            self._tell(f"{failure}; the CPU computes it")
        return work("cpu", 1)


def _is_short_of_memory(error: Exception) -> bool:
    import torch

    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "alloc" in text


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
