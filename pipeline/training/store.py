"""The network of a training run into a weights folder, with what the manifest has to know of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pipeline.ensemble.manifest import Manifest, Member, WeightsError
from pipeline.ensemble.seen import seen_list
from pipeline.training.checkpoint import INPUTS, differences

Network = TypeVar("Network", bound=nn.Module)

_STATISTICS = ("running_mean", "running_var")
"""Kept in full precision: a small variance would lose its digits, and these tensors are short."""
_SCALE = ".scale"
_INITIAL = frozenset({"normal_", "uniform_", "trunc_normal_", "kaiming_normal_", "kaiming_uniform_"})
_BYTES_FROM, _FAN_IN_FROM = 4096, 16
"""Tensors with fewer numbers, or fewer a channel, are not worth a scale for each channel."""


def store_network(runs: Sequence[Path], weights: Path, name: str, task: str, **recorded: Any) -> Manifest:
    """Add the network of a run to a weights folder, with the list of studies it has seen.

    Large tensors are stored as 8-bit integers with a scale for each output channel, the others in half precision: half
    the size of half precision alone. Measured: the held-out score of a foraminal classifier moved by 0.0003, no
    probability by more than 0.01; the median error of five localisers on SPIDER went from 1.783 to 1.789 mm.

    Args:
        runs: folders with ``last.safetensors`` and ``seen.txt``; of several the :func:`averaged` network is stored.
        weights: the folder; its manifest must exist.
        name: of the member; a member of that name is replaced.
        task: of the member.
        recorded: what else a :class:`~pipeline.ensemble.manifest.Member` knows of it.

    Raises:
        OSError: a run is not complete.
        WeightsError: the runs are not of one network.
    """
    member = Member(name, task, f"{name}.safetensors", "", seen=f"{name}.seen.txt", **recorded)
    tensors: dict[str, Tensor] = {}
    for key, tensor in averaged(runs).items():
        if tensor.is_floating_point() and tensor.numel() >= _BYTES_FROM and tensor[0].numel() >= _FAN_IN_FROM:
            tensors[key], tensors[key + _SCALE] = to_int8(tensor)
        else:
            whole = not tensor.is_floating_point() or key.endswith(_STATISTICS)
            tensors[key] = (tensor if whole else tensor.half()).contiguous()
    hashes = {line for run in runs for line in (run / "seen.txt").read_text(encoding="utf-8").split()}
    return Manifest.load(weights).add_member(member, save(tensors), seen_list(sorted(hashes)))


def check_runs(runs: Sequence[Path], task: str, fold: int | None) -> None:
    """Refuse folders that are no runs, runs of another task or fold, and runs that saw their inputs differently.

    Args:
        runs: folders that are to become one network.
        task: of that network.
        fold: that it is to have held out; runs of point networks do not record theirs.

    Raises:
        WeightsError: naming the run and what it is.
    """
    seen: dict[str, Any] = {}
    for run in runs:
        missing = [name for name in ("config.yaml", "last.safetensors", "seen.txt") if not (run / name).is_file()]
        if missing:
            place = f"{run}: not a finished run of one fold, such as RUN/fold0"
            raise WeightsError(f"{place} (it has no {', '.join(missing)})")
        content = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        of, _, held_out = str(content["task"]).partition(" fold ")
        if of != task:
            raise WeightsError(f"{run}: a run of {of}, not of {task}")
        if held_out and held_out != str(fold):
            raise WeightsError(f"{run}: fold {held_out} was held out there, not {fold}")
        inputs = {name: _without_start(content["config"].get(name)) for name in INPUTS}
        if changed := differences(seen, inputs) if seen else "":
            raise WeightsError(f"{run} and {runs[0]} are not runs of one network: {changed}")
        seen = inputs


def _without_start(settings: Any) -> Any:
    return {k: v for k, v in settings.items() if k != "initial"} if isinstance(settings, dict) else settings


def averaged(runs: Sequence[Path]) -> dict[str, Tensor]:
    """The mean of the weights of some runs of one network, each of which went on from another or from a common start.

    It costs no more to use than one of them, and is often better than each (Wortsman et al. 2022, "Model soups",
    arXiv:2203.05482). Runs that began apart have nothing in common, and their mean is no network at all.

    Raises:
        OSError: a run is not complete.
        WeightsError: their tensors differ in name or shape.
    """
    first, *others = (read_network((run / "last.safetensors").read_bytes()) for run in runs)
    shapes = {name: tensor.shape for name, tensor in first.items()}
    for run, other in zip(runs[1:], others, strict=True):
        if {name: tensor.shape for name, tensor in other.items()} != shapes:
            raise WeightsError(f"{run} and {runs[0]} are not runs of one network: their tensors differ")
    return {
        name: torch.stack([tensor, *(other[name] for other in others)]).mean(0)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in first.items()
    }


def to_int8(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """A tensor (out, ...) as int8 and the scale (out,) of each output channel: symmetric, to the nearest."""
    scale = (tensor.float().flatten(1).abs().amax(1) / 127).clamp(min=1e-12)
    return (tensor.float() / _along_first(scale, tensor)).round().to(torch.int8).contiguous(), scale


def load_network(name: str, content: bytes, build: Callable[[], Network]) -> Network:
    """A network of a set of weights, ready for inference.

    It is laid out without memory first (on torch's ``meta`` device), so that settings that ask for more than any
    machine has are refused for not being those of the stored tensors. Its answers are looked at whenever it gives one.

    Args:
        name: of the member, for messages.
        content: of its safetensors file.
        build: makes the network of its settings.

    Raises:
        WeightsError: the settings make no network, or the tensors are not exactly those of the network, or not finite.
    """
    try:
        with torch.device("meta"), _WithoutInitialValues():
            model = build()
        layout = model.state_dict()
        tensors = read_network(content)
        _check_tensors(tensors, layout)
        kept = [value for part in model.modules() for value in vars(part).values() if isinstance(value, Tensor)]
        kept += [value for key, value in model.named_buffers() if key not in layout]
        if kept:  # what no file holds, a table of positions say, is made where there is memory for it
            model = build()
        model.load_state_dict(tensors, assign=not kept)
    except Exception as error:  # timm and safetensors raise whatever their code runs into
        raise WeightsError(f"network {name} cannot be loaded: {error!r:.500}") from error

    def check(_model: nn.Module, _given: object, answer: Tensor | dict[str, Tensor]) -> None:
        for values in answer.values() if isinstance(answer, dict) else (answer,):
            if not bool(values.isfinite().all()):
                raise WeightsError(f"network {name}: its answer is not finite")

    model.register_forward_hook(check)
    return model.eval()


class _WithoutInitialValues(TorchFunctionMode):
    """Networks are built without drawing the numbers that their tensors begin with: half of the time it takes."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(function, "__name__", "") in _INITIAL:
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


def _check_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are not exactly those of a network, in name, shape, kind and being finite.

    Raises:
        ValueError: naming the tensor.
    """
    if differing := sorted(found.keys() ^ expected.keys()):
        where = "file" if differing[0] in found else "network"
        raise ValueError(f"the tensor {differing[0]!r:.100} is only in the {where}")
    for name, tensor in found.items():
        wanted = expected[name]
        if tensor.shape != wanted.shape or tensor.dtype != wanted.dtype:
            there, asked = (f"{tuple(one.shape)} {one.dtype}" for one in (tensor, wanted))
            raise ValueError(f"the tensor {name!r} is {there}, the settings ask for {asked}")
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(f"the tensor {name!r} holds numbers that are not finite")


def read_network(content: bytes) -> dict[str, Tensor]:
    """The tensors of a stored network or of a training run, in full precision, from the content of its file.

    Raises:
        safetensors.SafetensorError: it is no such file.
    """
    stored = load(content)
    tensors = {name: tensor for name, tensor in stored.items() if not name.endswith(_SCALE)}
    for name, tensor in tensors.items():
        if (scale := stored.get(name + _SCALE)) is not None:
            tensors[name] = tensor.float() * _along_first(scale, tensor)
        elif tensor.is_floating_point():
            tensors[name] = tensor.float()
    return tensors


def _along_first(scale: Tensor, tensor: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (tensor.dim() - 1))
