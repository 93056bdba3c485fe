"""What a worker process settles once: how many threads it may use and on which device its networks run.

A GPU can be listed and still fail at its first operation, so one operation is tried before a GPU is given out.
Workers take GPUs in turn by the number they claim in the work folder.
"""

from __future__ import annotations

import functools
import os
import sys

from pipeline.ensemble.work import WorkFolder
from pipeline.parallel import THREAD_VARIABLES


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


@functools.cache
def work_device(choice: str, work: WorkFolder, run: str) -> str:
    """The device of this process: ``cpu`` or ``cuda:N``, each GPU to every n-th worker.

    Args:
        choice: auto, cpu or cuda; where no GPU works it is the CPU in any case.
        work: where workers claim their numbers.
        run: the run they count in.
    """
    if choice == "cpu":
        return "cpu"
    usable = usable_gpus()
    if not usable:
        return "cpu"
    return f"cuda:{usable[work.claim_slot(run) % len(usable)]}"


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
