"""A GPU in name only: tensors that say they are on ``cuda:0`` or ``mps:0`` and are computed on the CPU.

What a real GPU refuses is refused here too: an operation on tensors of both devices, numpy reading memory that is not
the host's, and, on ``mps``, double precision. The rest is the CPU's arithmetic, so results are those of the CPU, and
nothing is measured of speed, memory or kernels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

CUDA, MPS = torch.device("cuda", 0), torch.device("mps", 0)
_MOVES = ("_to_copy", "copy_")
_INDEXES = ("index", "index_put", "index_put_", "_index_put_impl_")
"""Of these a GPU takes the places from the CPU too."""

_MAKES_TENSORS = torch.nn.functional.one_hot, torch.Tensor.new_tensor
"""Inside, PyTorch makes tensors on the device that it takes these for, the CPU."""


class OnGpu(torch.Tensor):
    """A tensor in the memory of the GPU that is not there; ``inner`` holds it."""

    inner: torch.Tensor
    place = CUDA
    """Of all of them."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> OnGpu:
        if cls.place == MPS and inner.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")
        result = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device="cpu",  # for autograd, which has no queue for a GPU that is not there
        )
        result.inner = inner
        return result

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func == torch.Tensor.device.__get__:  # type: ignore[attr-defined]
            return cls.place
        if func in (torch.Tensor.is_cuda.__get__, torch.Tensor.is_mps.__get__):  # type: ignore[attr-defined]
            return (func == torch.Tensor.is_cuda.__get__) == (cls.place == CUDA)  # type: ignore[attr-defined]
        if func in (torch.Tensor.numpy, torch.Tensor.__array__):
            raise TypeError(f"can't convert {cls.place} device type tensor to numpy; use Tensor.cpu() first")
        if func in _MAKES_TENSORS:
            return OnGpu(func(args[0].inner, *args[1:], **kwargs))
        if func is torch.Tensor.cpu:
            return _Fetch.apply(args[0])
        if func is torch.Tensor.to:
            device, dtype, _, layout = torch._C._nn._parse_to(
                *args[1:], **{k: v for k, v in kwargs.items() if k != "copy"}
            )
            tensor = _Fetch.apply(args[0]) if device is not None and device.type == "cpu" else args[0]
            told = {"copy": kwargs.get("copy", False)} | ({} if layout is None else {"memory_format": layout})
            with torch._C.DisableTorchFunctionSubclass():
                return torch.Tensor.to(tensor, dtype or tensor.dtype, **told)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:
        return f"OnGpu({self.inner})"

    def __format__(self, form: str) -> str:
        return format(self.inner, form)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.inner.__reduce_ex__(protocol)

    def __deepcopy__(self, memo: dict[int, Any]) -> OnGpu:
        result = OnGpu(self.inner.clone()).requires_grad_(self.requires_grad)
        if isinstance(self, torch.nn.Parameter):
            result._is_param = True
        return memo.setdefault(id(self), result)


class _Fetch(torch.autograd.Function):
    """To the host's memory."""

    @staticmethod
    def forward(ctx: Any, tensor: OnGpu) -> torch.Tensor:
        return tensor.inner.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return OnGpu(gradient)


def _compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, OnGpu)]
    here = [tensor for tensor in tensors if not isinstance(tensor, OnGpu) and tensor.ndim]
    name = func.overloadpacket.__name__
    target = kwargs.get("device")
    if name in _INDEXES:
        here = [tensor for tensor in here if tensor.dtype not in (torch.int64, torch.bool)]
    if there and here and name not in _MOVES:
        raise RuntimeError(f"{func}: Expected all tensors to be on the same device, but found {OnGpu.place} and cpu")
    if not there and (target is None or torch.device(target).type != OnGpu.place.type):
        return func(*args, **kwargs)
    plain, told = tree_map_only(OnGpu, lambda tensor: tensor.inner, (args, kwargs))
    if target is not None:
        told["device"] = torch.device("cpu")
    result = func(*plain, **told)
    if name == "copy_" and not isinstance(args[0], OnGpu):
        return args[0]
    known = {id(tensor.inner): tensor for tensor in there}  # what is changed in place is the same tensor afterwards
    return tree_map_only(
        torch.Tensor, lambda tensor: known[id(tensor)] if id(tensor) in known else OnGpu(tensor), result
    )


class _Mode(TorchDispatchMode):
    """For tensors that are made on the GPU or taken to it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


class _Numbered(TorchFunctionMode):
    """``cuda`` is ``cuda:0``, and so for ``mps``; PyTorch would ask the driver for the number."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map_only((str, torch.device), _numbered, (args, kwargs or {}))
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") == OnGpu.place:  # would wake the driver
            return func(*args, **(kwargs | {"device": "cpu"})).to(OnGpu.place)
        return func(*args, **kwargs)


def _numbered(value: Any) -> Any:
    kind = OnGpu.place.type
    return OnGpu.place if value in (kind, torch.device(kind)) else value


class _Generator(torch.Generator):
    """The CPU's, which says that it is the GPU's."""

    def __new__(cls, device: Any = "cpu") -> _Generator:
        result = super().__new__(cls)
        result.named = torch.device("cpu") if torch.device(device).type == "cpu" else OnGpu.place
        return result

    @property
    def device(self) -> torch.device:
        return self.named


@contextmanager
def fake_gpu(place: torch.device = CUDA, capability: tuple[int, int] = (8, 0)) -> Iterator[None]:
    """One GPU that all of PyTorch in this process believes in.

    Args:
        place: whose it is.
        capability: of an NVIDIA GPU; (7, 5) is a T4's, without bf16.
    """
    autocast = torch.autocast
    name = "a GPU in name only"
    card = SimpleNamespace(name=name, total_memory=24 * 2**30, major=capability[0], minor=capability[1])

    class Autocast(autocast):  # type: ignore[misc, valid-type]
        """The CPU's tables of what is computed in half precision."""

        def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
            super().__init__("cpu", *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        for function, value in (
            ("_lazy_init", None),
            ("is_available", place == CUDA),
            ("device_count", 1),
            ("current_device", 0),
            ("set_device", None),
            ("synchronize", None),
            ("empty_cache", None),
            ("manual_seed_all", None),
            ("get_device_capability", capability),
            ("get_device_name", name),
            ("get_device_properties", card),
            ("is_bf16_supported", capability >= (8, 0)),
            ("reset_peak_memory_stats", None),
            ("max_memory_allocated", 0),
        ):
            patch.setattr(torch.cuda, function, lambda *_, value=value, **__: value)
        patch.setattr(OnGpu, "place", place)
        for function, value in (("is_available", place == MPS), ("is_built", place == MPS)):
            patch.setattr(torch.backends.mps, function, lambda value=value: value)
        for function in ("empty_cache", "synchronize"):
            patch.setattr(torch.mps, function, lambda: None)
        for check in ("_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check"):
            patch.setattr(torch.optim.Optimizer, check, lambda _: None, raising=False)
        patch.setattr(torch, "autocast", Autocast)
        patch.setattr(torch.amp, "autocast", Autocast)
        patch.setattr(torch, "Generator", _Generator)
        patch.setattr(torch, "inference_mode", torch.no_grad)  # inference tensors have no views by way of Python
        patch.setattr(torch.Tensor, "pin_memory", lambda tensor, *_: tensor)
        before = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        AcceleratorState._reset_state(reset_partial_state=True)
        try:
            with _Mode(), _Numbered():
                yield
        finally:
            AcceleratorState._reset_state(reset_partial_state=True)
            torch.__future__.set_overwrite_module_params_on_conversion(before)
