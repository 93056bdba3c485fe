"""The point network of stage two: a timm encoder, a light decoder, heat maps, sub-pixel points and visibilities.

One network serves every sagittal series (ten channels: five canal, five foraminal points, sides told apart by geometry
later) and, with a single channel, the axial slices. Coordinates come from the expectation of a softmax heat map (DSNT,
Nibali et al. 2018, arXiv:1801.07372), so that the loss acts on millimetres and not on a rounded maximum; the heat map
term keeps the map unimodal. A visibility per channel, read from the features where the map looks, chooses the slice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.config import check_range
from pipeline.weights.backbones import create_backbone

CANAL_CHANNELS = slice(0, 5)
FORAMINAL_CHANNELS = slice(5, 10)
SAGITTAL_CHANNELS = 10
AXIAL_CHANNELS = 1


@dataclass(frozen=True)
class PointModelSettings:
    """The network.

    Attributes:
        backbone: any timm name that supports ``features_only``.
        initial: ``pretrained`` (timm's, needs a network), ``random`` or the path of a weights file.
        channels: heat maps; ten for sagittal series, one for axial.
        size_px: side of the square input in pixels.
        width: channels of the decoder.
    """

    backbone: str = "mobilenetv2_100"
    initial: str = "pretrained"
    channels: int = 10
    size_px: int = 192
    width: int = 64

    def __post_init__(self) -> None:
        check_range(self, "channels", least=1, most=100)
        check_range(self, "size_px", least=16, most=1024)
        check_range(self, "width", least=1, most=4096)


class PointNet(nn.Module):
    """(B, 1, S, S) images in 0..1 → points (B, C, 2) in pixels (x = column, y = row), maps and visibilities.

    Args:
        settings: the network; ``initial`` is only read here, at construction.
    """

    def __init__(self, settings: PointModelSettings) -> None:
        super().__init__()
        self.settings = settings
        self.encoder = create_backbone(settings.backbone, settings.initial, in_chans=1, features_only=True)
        stages: Any = self.encoder.feature_info
        channels: list[int] = stages.channels()
        reductions: list[int] = stages.reduction()
        self.used = [i for i, reduction in enumerate(reductions) if reduction >= 4]
        self.stride: int = reductions[self.used[0]]
        self.lateral = nn.ModuleList(nn.Conv2d(channels[i], settings.width, 1) for i in self.used)
        self.smooth = nn.ModuleList(_separable(settings.width) for _ in self.used)
        self.heat = nn.Conv2d(settings.width, settings.channels, 1)
        self.visible_weight = nn.Parameter(torch.zeros(settings.channels, settings.width))
        self.visible_bias = nn.Parameter(torch.zeros(settings.channels))
        nn.init.normal_(self.visible_weight, std=settings.width**-0.5)
        self.converted: nn.Module | None = None

    def convert(self, converted: nn.Module) -> None:
        """From now on let ``converted`` answer in place of :meth:`features`, whose layers are given up."""
        self.converted = converted
        del self.encoder, self.lateral, self.smooth

    def features(self, images: Tensor) -> Tensor:
        """(B, 1, S, S) images in 0..1 to the feature map (B, width, H, W) that maps and visibilities are read from."""
        features = self.encoder((images - 0.5) / 0.5)
        merged: Tensor | None = None
        for lateral, smooth, index in reversed(list(zip(self.lateral, self.smooth, self.used, strict=True))):
            level = lateral(features[index])
            if merged is not None:
                level = level + functional.interpolate(merged, size=level.shape[-2:], mode="nearest")
            merged = smooth(level)
        assert merged is not None  # a backbone always has a stage of stride 4 or more
        return merged

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Run the network.

        Returns:
            ``points`` (B, C, 2) expected x, y in input pixels; ``heat`` (B, C, H, W) logits over the map;
            ``visible`` (B, C) logits.
        """
        merged = self.features(images) if self.converted is None else self.converted(images)
        heat = self.heat(merged).float()
        probability = heat.flatten(2).softmax(dim=-1)
        grid = map_grid(heat.shape[-2:], self.stride, heat.device)
        # Autocast would take these products in half precision, and bfloat16 has eight bits: whole pixels from 128 on.
        with torch.autocast(heat.device.type, enabled=False):
            points = torch.einsum("bcp,pk->bck", probability, grid)
            looked_at = torch.einsum("bcp,bwp->bcw", probability, merged.float().flatten(2))
            visible = (looked_at * self.visible_weight).sum(-1) + self.visible_bias
        return {"points": points, "heat": heat, "visible": visible}


class FeatureNet(nn.Module):
    """The part of a point network that costs time, :meth:`PointNet.features`, as a module."""

    def __init__(self, network: PointNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """See there."""
        return self.network.features(images)


def map_grid(shape: tuple[int, ...] | torch.Size, stride: int, device: torch.device) -> Tensor:
    """The (H·W, 2) input-pixel positions (x, y) of the centres of a heat map's cells."""
    rows, columns = shape
    offset = (stride - 1) / 2
    y = torch.arange(rows, device=device, dtype=torch.float32) * stride + offset
    x = torch.arange(columns, device=device, dtype=torch.float32) * stride + offset
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2)


def _separable(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
        nn.Conv2d(width, width, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.SiLU(inplace=True),
    )


@dataclass(frozen=True)
class PointLossSettings:
    """The loss.

    Attributes:
        sigma_px: standard deviation of the target on the heat map, in input pixels.
        heat: weight of the cross-entropy between map and target.
        coordinate: weight of the Huber loss on the expected coordinates.
        huber_px: where the Huber loss turns linear, in input pixels.
        visible: weight of the binary cross-entropy of the visibilities.
    """

    sigma_px: float = 4.0
    heat: float = 1.0
    coordinate: float = 0.2
    huber_px: float = 4.0
    visible: float = 0.5


def point_loss(
    output: dict[str, Tensor],
    points: Tensor,
    point_weight: Tensor,
    visible: Tensor,
    visible_weight: Tensor,
    stride: int,
    settings: PointLossSettings,
) -> tuple[Tensor, dict[str, float]]:
    """The loss of a batch; a channel of weight 0 (point missing) contributes nothing.

    Args:
        output: of :class:`PointNet`.
        points: (B, C, 2) true x, y in input pixels; anything where ``point_weight`` is 0.
        point_weight: (B, C) weight of a point, 0 where it is missing or outside the image.
        visible: (B, C) whether this slice is the one on which the point is marked, 0 to 1.
        visible_weight: (B, C) weight of that statement, 0 where unknown.
        stride: of the heat map.
        settings: weights of the terms.
    """
    known = point_weight > 0
    points = torch.where(known[..., None], points, torch.zeros_like(points))
    heat = output["heat"].flatten(2)
    grid = map_grid(output["heat"].shape[-2:], stride, heat.device)
    distance = (grid[None, None] - points[:, :, None]).square().sum(-1)
    target = (-distance / (2 * settings.sigma_px**2)).softmax(dim=-1)
    total = point_weight.sum().clamp(min=1e-6)
    heat_loss = (-(target * heat.log_softmax(dim=-1)).sum(-1) * point_weight).sum() / total
    huber = functional.huber_loss(output["points"], points, delta=settings.huber_px, reduction="none").sum(-1)
    coordinate_loss = (huber * point_weight).sum() / total
    entropy = functional.binary_cross_entropy_with_logits(output["visible"], visible, reduction="none")
    visible_loss = (entropy * visible_weight).sum() / visible_weight.sum().clamp(min=1e-6)
    loss = settings.heat * heat_loss + settings.coordinate * coordinate_loss + settings.visible * visible_loss
    return loss, {
        "heat": heat_loss.item(),
        "coordinate": coordinate_loss.item(),
        "visible": visible_loss.item(),
    }
