"""Files of a run that must never be half written: the resume state and the weights.

Both are safetensors: tensors, and text in the header. Nothing that is read to resume a run can carry code.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.files import write_atomically

_STATE = "state"
HALF_LIMIT = 65504.0
"""Largest number in half precision."""

INPUTS = ("model", "examples", "network", "views", "item")
"""The parts of a stage's settings that make a network what it is: a run is not resumed with others."""


class ResumeError(RuntimeError):
    """The checkpoint in the output folder belongs to another run than the one asked for."""


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a resume state (tensors and plain values only) atomically."""
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_flat(state, tensors))
    write_atomically(path, lambda file: save_file(tensors, file, metadata={_STATE: text}))


def load_state(path: Path) -> dict[str, Any]:
    """Read a resume state onto the CPU.

    Raises:
        ResumeError: if the file is not a checkpoint of this program.
    """
    try:
        if path.is_symlink() or not path.is_file():  # safetensors would wait for a pipe
            raise ValueError("it is no regular file")
        with safe_open(path, "pt") as file:
            return dict(_nested(json.loads(file.metadata()[_STATE]), file))
    except Exception as error:  # safetensors raises its own kinds
        raise ResumeError(
            f"{path}: not a readable checkpoint of this version ({error}); start over with --restart"
        ) from error


def _flat(value: Any, tensors: dict[str, Tensor]) -> Any:
    """A value for JSON: what JSON has no word for is a pair of a word and a list, a tensor the number it is kept by."""
    if isinstance(value, Tensor):
        tensors[str(len(tensors))] = value.detach().cpu().contiguous().clone()
        return ["tensor", [len(tensors) - 1]]
    if isinstance(value, dict):
        return ["dict", [[key, _flat(item, tensors)] for key, item in value.items()]]
    if isinstance(value, list | tuple):
        return [type(value).__name__, [_flat(item, tensors) for item in value]]
    return value


def _nested(value: Any, file: Any) -> Any:
    """The inverse of :func:`_flat`."""
    if not isinstance(value, list):
        return value
    word, parts = value
    if word == "tensor":
        return file.get_tensor(str(parts[0]))
    if word == "dict":
        return {key: _nested(item, file) for key, item in parts}
    return {"list": list, "tuple": tuple}[word](_nested(item, file) for item in parts)


def save_weights(path: Path, model: nn.Module, metadata: dict[str, str]) -> None:
    """Write a model's tensors as safetensors, atomically, with string metadata in its header.

    Matrices and filters are written in half precision, half the size; packing takes 8 bits of them
    (:func:`pipeline.training.store.store_network`). The resume state keeps all.
    """
    # Cloned: safetensors refuses tensors that share memory, and channels_last ones are not contiguous.
    tensors = {name: _short(tensor.detach().cpu()).contiguous().clone() for name, tensor in model.state_dict().items()}
    write_atomically(path, lambda file: save_file(tensors, file, metadata=metadata))


def _short(tensor: Tensor) -> Tensor:
    fits = tensor.ndim >= 2 and tensor.dtype == torch.float32 and bool(tensor.abs().amax() < HALF_LIMIT)
    return tensor.half() if fits else tensor


def differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    """What changed between two sets of settings, in words; empty if nothing did."""
    changed = [name for name in now if now[name] != before.get(name)]
    return "; ".join(f"{name} was {before.get(name)!r}, is {now[name]!r}" for name in changed)


def changes_since(path: Path, state: dict[str, Any], now: dict[str, Any]) -> str:
    """What changed in the settings of a run since a checkpoint, in words; empty if nothing did.

    Args:
        path: of the checkpoint, for messages.
        state: of the checkpoint: ``fingerprint``, ``settings`` of the loop and ``config`` of the stage.
        now: the same of this run.

    Raises:
        ResumeError: it is of another run, or the network or its inputs are others, so that these are not its weights.
    """
    if differing := differences(state.get("fingerprint", {}), now["fingerprint"]):
        raise ResumeError(f"{path}: another run ({differing}); use --restart or another --out")
    before = {name: value for name, value in state.get("config", {}).items() if name != "loop"}
    changed = {name: value for name, value in now["config"].items() if name in before and before[name] != value}
    if inputs := {name: value for name, value in changed.items() if name in INPUTS}:
        raise ResumeError(f"{path}: {differences(before, inputs)}; use --restart or another --out")
    return "; ".join(filter(None, [differences(state["settings"], now["settings"]), differences(before, changed)]))
