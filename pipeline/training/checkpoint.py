"""Files of a run that must never be half written: the resume state and the weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from pipeline.files import write_atomically

_RUN_FILES = ("last.ckpt", "best.safetensors", "last.safetensors", "history.csv", "tensorboard", "pictures")


INPUTS = ("model", "examples", "network", "views")
"""The parts of a stage's settings that make a network what it is: a run does not go on with others."""


class ResumeError(RuntimeError):
    """The checkpoint in the output folder belongs to another run than the one asked for."""


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a resume state (tensors and plain values only) atomically."""
    write_atomically(path, lambda file: torch.save(state, file))


def load_state(path: Path) -> dict[str, Any]:
    """Read a resume state onto the CPU; nothing but tensors and plain values is unpickled.

    Raises:
        ResumeError: if the file is not a checkpoint of this program.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ResumeError(f"{path}: not a readable checkpoint ({error}); start over with --restart") from error
    return dict(state)


def save_weights(path: Path, model: nn.Module, metadata: dict[str, str]) -> None:
    """Write a model's tensors as safetensors, atomically, with string metadata in its header."""
    # Cloned: safetensors refuses tensors that share memory, and channels_last ones are not contiguous.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    write_atomically(path, lambda file: save_file(tensors, file, metadata=metadata))


def clear_run(out: Path) -> None:
    """Remove an old run's files, and nothing else, from a folder."""
    for name in _RUN_FILES:
        path = out / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    """What changed between two sets of settings, in words; empty if nothing did."""
    changed = [name for name in now if now[name] != before.get(name)]
    return "; ".join(f"{name} was {before.get(name)!r}, is {now[name]!r}" for name in changed)


def changed_config(path: Path, state: dict[str, Any], now: dict[str, Any]) -> str:
    """What changed in a stage's own settings since a checkpoint, in words; the loop's are compared by themselves.

    Args:
        path: of the checkpoint, for messages.
        state: of the checkpoint.
        now: the settings of this run.

    Raises:
        ResumeError: the network or its inputs are others, so that these are not its weights.
    """
    before = {name: value for name, value in state.get("config", {}).items() if name != "loop"}
    changed = {name: value for name, value in now.items() if name in before and before[name] != value}
    if inputs := {name: value for name, value in changed.items() if name in INPUTS}:
        raise ResumeError(f"{path}: {differences(before, inputs)}; use --restart or another --out")
    return differences(before, changed)
