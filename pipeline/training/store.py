"""The network of a training run into a weights folder, with what the manifest has to know of it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from pipeline.ensemble.manifest import Manifest, Member
from pipeline.files import write_atomically

_STATISTICS = ("running_mean", "running_var")
"""Kept in full precision: a small variance would lose its digits, and these tensors are short."""


def store_network(run: Path, weights: Path, name: str, task: str, **recorded: Any) -> Manifest:
    """Add the network of a run to a weights folder, in half precision, with the list of studies it has seen.

    Args:
        run: output folder of a training, with ``best.safetensors`` and ``seen.txt``.
        weights: the folder; its manifest must exist.
        name: of the member; a member of that name is replaced.
        task: of the member.
        recorded: what else a :class:`~pipeline.ensemble.manifest.Member` knows of it.

    Raises:
        OSError: the run is not complete.
    """
    file, seen = weights / f"{name}.safetensors", weights / f"{name}.seen.txt"
    member = Member(name=name, task=task, file=file.name, sha256="", seen=seen.name, **recorded)
    tensors = {
        key: (tensor if not tensor.is_floating_point() or key.endswith(_STATISTICS) else tensor.half()).contiguous()
        for key, tensor in load_file(run / "best.safetensors").items()
    }
    write_atomically(file, lambda partial: save_file(tensors, partial))
    write_atomically(seen, lambda partial: shutil.copyfile(run / "seen.txt", partial))
    return Manifest.load(weights).add_member(member)


def seconds_on_one_thread(forward: Callable[[], object]) -> float:
    """The shortest of three calls on one CPU thread: what else the machine does only makes a call longer."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        taken = []
        for _ in range(3):
            began = time.perf_counter()
            forward()
            taken.append(time.perf_counter() - began)
    finally:
        torch.set_num_threads(threads)
    return min(taken)
