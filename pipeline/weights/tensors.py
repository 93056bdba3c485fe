"""Tensors of a network on the disk: 8-bit integers with a scale a channel, and half precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from safetensors.torch import load
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pipeline.weights.manifest import WeightsError

_STATISTICS = ("running_mean", "running_var")
"""Kept in full precision: a small variance would lose its digits, and these tensors are short."""
_SCALE = ".scale"
_BYTES_FROM, _FAN_IN_FROM = 4096, 16
"""Tensors with fewer numbers, or fewer a channel, are not worth a scale for each channel."""
Network = TypeVar("Network", bound=nn.Module)
_INITIAL = frozenset({"normal_", "uniform_", "trunc_normal_", "kaiming_normal_", "kaiming_uniform_"})


def compress(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as a weights folder keeps them; :func:`read_network` makes full precision of them again.

    Large ones become 8-bit integers with a scale for each output channel, the others half precision; statistics of
    batch norms stay as they are, for as a half a small variance would be 0.
    """
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.numel() >= _BYTES_FROM and tensor[0].numel() >= _FAN_IN_FROM:
            stored[name], stored[name + _SCALE] = to_int8(tensor)
        else:
            whole = not tensor.is_floating_point() or name.endswith(_STATISTICS)
            stored[name] = (tensor if whole else tensor.half()).contiguous()
    return stored


def to_int8(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """A tensor (out, ...) as int8 and the scale (out,) of each output channel: symmetric, to the nearest."""
    scale = (tensor.float().flatten(1).abs().amax(1) / 127).clamp(min=1e-12)
    return (tensor.float() / _along_first(scale, tensor)).round().to(torch.int8).contiguous(), scale


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


def _along_first(scale: Tensor, tensor: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (tensor.dim() - 1))


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
