"""From the windows of a view to tokens: each slice alone, all slices as channels, or a small 3D network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.severity.settings import NetworkSettings
from pipeline.weights.backbones import create_backbone, has_fixed_size

PIXEL_MEAN, PIXEL_SD = 0.35, 0.25
"""Of windows normalised by their stack's percentiles; measured on T1 windows of 200 studies."""


_SIDE_STEP, _LEAST_SIDE = 32, 64
"""Networks of a fixed input size halve it five times, and attend to what is left: to more than one place."""


def make_backbone(settings: NetworkSettings, channels: int, pretrained: bool, pixels: int) -> nn.Module:
    """A timm network without its classifier, pooled, for grey slices as channels.

    Colour filters are summed over colours and shared out over the channels, so that every slice starts out equal. A
    network of a fixed input size is built for the next size up that it can have, and sees windows in a grey frame.

    Args:
        settings: the network.
        channels: slices that it sees at once.
        pretrained: start from ``settings.initial``; False where trained weights are loaded afterwards.
        pixels: side of the windows, at most.

    Raises:
        BackboneError: an unknown network, or initial weights that do not fit it.
    """
    extra: dict[str, Any] = {"drop_path_rate": settings.drop_path} if settings.drop_path else {}
    if not has_fixed_size(settings.backbone):
        return _bare_backbone(settings, channels, pretrained, extra)
    side = max(_LEAST_SIDE, -(-pixels // _SIDE_STEP) * _SIDE_STEP)
    return Framed(_bare_backbone(settings, channels, pretrained, extra | {"img_size": side}), side)


class Framed(nn.Module):
    """A network of a fixed input size that takes smaller images: in the middle of a frame of mean grey.

    Args:
        network: pooled, with ``num_features``.
        side: of its input in pixels.
    """

    def __init__(self, network: nn.Module, side: int) -> None:
        super().__init__()
        self.network, self.side, self.num_features = network, side, network.num_features

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) standardised, H and W at most ``side``, to features (B, num_features)."""
        rows, cols = (self.side - have for have in images.shape[-2:])
        framed = functional.pad(images, (cols // 2, cols - cols // 2, rows // 2, rows - rows // 2))
        features: Tensor = self.network(framed)
        return features


def _bare_backbone(settings: NetworkSettings, channels: int, pretrained: bool, extra: dict[str, Any]) -> nn.Module:
    if not pretrained or settings.initial == "random":
        return create_backbone(settings.backbone, in_chans=channels, **extra)
    model = create_backbone(settings.backbone, settings.initial, in_chans=1, **extra)
    if channels == 1:
        return model
    wide = create_backbone(settings.backbone, in_chans=channels, **extra)
    state, target = model.state_dict(), wide.state_dict()
    for name, tensor in state.items():
        if tensor.shape != target[name].shape:  # the first convolution: (out, 1, k, k) to (out, channels, k, k)
            state[name] = tensor.expand_as(target[name]) / channels
    wide.load_state_dict(state)
    return wide


def fixed_shapes(pixels: Tensor) -> bool:
    """Whether batches keep their shape whatever is absent.

    On a GPU they do: what is absent is computed and masked, so kernels are chosen once and the CPU never waits for a
    count. On a CPU it is left out, because computing it costs more than anything it saves. A network that is written
    as a graph has to do the same whatever is absent.
    """
    return pixels.is_cuda or torch.onnx.is_in_onnx_export()


class PlaneEncoder(nn.Module, ABC):
    """Tokens of one network for images, whichever view they are of.

    Args:
        backbone: pooled, with ``num_features``.
        width: of a token.
    """

    def __init__(self, backbone: nn.Module, width: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.project = nn.Linear(int(backbone.num_features), width)  # type: ignore[arg-type]

    def forward(self, pixels: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S, H, W) and (B, S) to tokens (B, T, width), 0 where absent, and their mask (B, T)."""
        return self.together([pixels], [present])[0]

    def together(self, pixels: Sequence[Tensor], present: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """The tokens of several views of one size in one pass.

        In training, batch norm has to see all views in one batch, because its running means are of all of them. View by
        view it would normalise each by its own, which no evaluation does.
        """
        masks = [self.tokens_of(one) for one in present]
        images = torch.cat([self.images_of(*one) for one in zip(pixels, present, strict=True)])
        kept = torch.cat([mask.reshape(-1) for mask in masks])
        if fixed_shapes(images):
            every = self._features(images) * kept[:, None]
        else:
            every = images.new_zeros(len(images), self.project.out_features)
            if bool(kept.any()):
                features = self._features(images[kept])
                every = every.to(features.dtype).index_put((kept.nonzero()[:, 0],), features)
        parts = every.split([mask.numel() for mask in masks])
        return [(part.view(*mask.shape, -1), mask) for part, mask in zip(parts, masks, strict=True)]

    @abstractmethod
    def images_of(self, pixels: Tensor, present: Tensor) -> Tensor:
        """(B * T, C, H, W): an image a token."""

    @abstractmethod
    def tokens_of(self, present: Tensor) -> Tensor:
        """(B, T): which tokens there are."""

    def _features(self, images: Tensor) -> Tensor:
        features: Tensor = self.project(self.backbone(images.contiguous(memory_format=torch.channels_last)))
        return features


class SliceEncoder(PlaneEncoder):
    """One token a slice; absent slices have none."""

    def images_of(self, pixels: Tensor, present: Tensor) -> Tensor:
        """Each slice alone; for absent ones, where they are computed, the middle one, seen twice by batch norm."""
        if fixed_shapes(pixels):
            pixels = torch.where(present[:, :, None, None], pixels, pixels[:, present.shape[1] // 2, None])
        return standardise(pixels).flatten(0, 1).unsqueeze(1)

    def tokens_of(self, present: Tensor) -> Tensor:
        """A token a slice."""
        return present


class ChannelsEncoder(PlaneEncoder):
    """One token a view: its slices are the input channels; absent ones are grey."""

    def images_of(self, pixels: Tensor, present: Tensor) -> Tensor:
        """All slices at once."""
        return standardise(pixels) * present[:, :, None, None]

    def tokens_of(self, present: Tensor) -> Tensor:
        """A token where there is any slice."""
        return present.any(1, keepdim=True)


class VolumeEncoder(nn.Module):
    """A small 3D network: strides in plane only, because slices are thick and few; a token a view.

    Group norm, not batch norm: batches of cubes are small.
    """

    def __init__(self, width: int, channels: tuple[int, ...] = (24, 48, 96, 160)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 1
        for after in channels:
            for stride in (2, 1):
                layers += [
                    nn.Conv3d(before, after, 3, stride=(1, stride, stride), padding=1, bias=False),
                    nn.GroupNorm(8, after),
                    nn.SiLU(inplace=True),
                ]
                before = after
        self.layers = nn.Sequential(*layers)
        self.project = nn.Linear(before, width)

    def forward(self, pixels: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S, H, W) and (B, S) to a token (B, 1, width) and its mask (B, 1)."""
        weight = present[:, None, :, None, None].to(pixels.dtype)
        features = self.layers(standardise(pixels)[:, None] * weight).mean((3, 4))  # (B, C, S)
        pooled = (features * weight[..., 0, 0]).sum(2) / weight[..., 0, 0].sum(2).clamp(min=1)
        return self.project(pooled)[:, None], present.any(1)[:, None]


def standardise(pixels: Tensor) -> Tensor:
    """Pixels with about zero mean and unit deviation."""
    return (pixels - PIXEL_MEAN) / PIXEL_SD
