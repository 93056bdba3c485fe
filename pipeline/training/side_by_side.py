"""One fold a GPU: where there are several cards, several folds are trained at a time, each in a process that sees one.

That is faster than all cards on one fold, for nothing is exchanged between them. ``torchrun`` decides otherwise.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType

from pipeline.console import WorkError, end_signals, say
from pipeline.training.folder import Fold
from pipeline.training.interruption import TrainingStopped

LOOK_SECONDS = 1.0
"""How often it is looked whether the first fold has begun to train."""


def visible_gpus() -> list[str]:
    """What ``CUDA_VISIBLE_DEVICES`` may say to show one of the GPUs of this machine; none under ``torchrun``."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return []
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (named.split(",") if named else [str(number) for number in range(count)])[:count]


def train_side_by_side(train: Callable[[Fold], object], runs: Sequence[Fold], gpus: Sequence[str]) -> None:
    """``train`` each run, as many at a time as there are GPUs; what they print goes to ``OUT.console.txt``.

    The first is alone until it has begun to train, for it fills the cache that all read.

    Args:
        train: importable by a new process.
        runs: the folds.
        gpus: as :func:`visible_gpus` gives them.

    Raises:
        WorkError: a training failed; the others were stopped, and go on from their checkpoints when called again.
        TrainingStopped: so was this.
    """
    context = multiprocessing.get_context("spawn")  # a fork could not use the GPU that its parent has looked at
    waiting, free = deque(runs), list(gpus)
    running: dict[BaseProcess, tuple[Fold, str]] = {}
    asked: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        asked.append(number)
        waiting.clear()
        for process in running:
            process.terminate()

    before = {number: signal.signal(number, stop) for number in end_signals()}
    try:
        while waiting or running:
            while waiting and free and (not running or _has_begun(runs[0])):
                run, gpu = waiting.popleft(), free.pop(0)
                console = run.out.with_name(f"{run.out.name}.console.txt")
                process: BaseProcess = context.Process(target=_train_on, args=(gpu, console, train, run))
                process.start()
                running[process] = run, gpu
                say(f"{run.out}: on GPU {gpu}; see {console}")
            wait([process.sentinel for process in running], LOOK_SECONDS)
            for process in [one for one in running if one.exitcode is not None]:
                run, gpu = running.pop(process)
                free.append(gpu)
                if process.exitcode and not asked:
                    stop(0, None)
                    for other in running:
                        other.join()
                    raise WorkError(f"{run.out}: its training ended with {process.exitcode}; see {run.out}.console.txt")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked:
        raise TrainingStopped(asked[0], "stopped; the same command goes on from the checkpoints of the folds")


def _has_begun(run: Fold) -> bool:
    return (run.out / "config.yaml").exists()


def _train_on(gpu: str, console: Path, train: Callable[[Fold], object], run: Fold) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    console.parent.mkdir(parents=True, exist_ok=True)
    with console.open("ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    train(run)
