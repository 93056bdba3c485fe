"""Random changes of whole stacks, batched, in float, on the training device.

What can be different about the next scanner or patient: position and size in the plane (the same for every slice of a
stack), resolution of one axis, focus, motion along the phase axis, coil sensitivity, contrast and noise. Parts follow
TorchIO's transforms (Pérez-García et al. 2021) in idea; here one call changes a batch, because one stack at a time on
the CPU is what would starve a GPU. There are no flips: a flip must also swap sides, labels and key points, which only
the stages know how to do.

Pixels are about 0..1 with air at 0 (percentile normalised), so augment *before* any further standardisation.
Points are (col, row) in pixels of the plane, the centre of the first pixel at (0, 0).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from pipeline.weights.recipe import AugmentSettings


class Augmented(NamedTuple):
    """A changed batch and how it was moved.

    Attributes:
        pixels: (B, S, H, W).
        points: (B, N, 2) (col, row) moved with the pixels, or None.
        matrix: (B, 3, 3) float32; takes a point (col, row, 1) of the source to the changed image.
    """

    pixels: Tensor
    points: Tensor | None
    matrix: Tensor


class StackAugmentation(nn.Module):
    """Applies ``AugmentSettings`` to batches of stacks; holds no state and no parameters."""

    def __init__(self, settings: AugmentSettings | None = None) -> None:
        super().__init__()
        self.settings = s = settings or AugmentSettings()
        self._moves = any((s.rotation, s.scale, s.aspect, s.shear, s.shift))

    @torch.no_grad()
    def forward(
        self, pixels: Tensor, generator: torch.Generator, points: Tensor | None = None, present: Tensor | None = None
    ) -> Augmented:
        """Change a batch.

        Args:
            pixels: (B, S, H, W) about 0..1.
            generator: on the device of ``pixels``; the only source of randomness.
            points: (B, N, 2) (col, row); not-a-number stays so.
            present: (B, S) bool; absent slices come back as zeros.
        """
        if pixels.ndim != 4 or not pixels.is_floating_point():
            raise ValueError(f"expected float stacks (B, S, H, W), found {tuple(pixels.shape)} {pixels.dtype}")
        draw = _Draw(generator, len(pixels), pixels.device)
        rows, cols = pixels.shape[2:]
        matrix = random_affine(self.settings, draw, rows, cols)
        result = warp(pixels.float(), matrix, self.settings.outside) if self._moves else pixels.float()
        result = self._degrade(result, draw)
        result = self._recolour(result, draw)
        if present is not None:
            result = result * present[:, :, None, None]
        moved = None if points is None else move_points(points, matrix)
        return Augmented(result.to(pixels.dtype), moved, matrix)

    def _degrade(self, pixels: Tensor, draw: _Draw) -> Tensor:
        """Coarser axis, blur and ghosts: linear along each axis, so each is one matrix product."""
        settings, (rows, cols) = self.settings, pixels.shape[2:]
        coarse = 1 + draw.uniform(0, settings.anisotropy - 1) * draw.chosen(settings.anisotropy_share)
        along_rows = draw.chosen(0.5) > 0
        sigma = draw.uniform(0, settings.blur) * draw.chosen(settings.blur_share)
        strength = draw.uniform(0, settings.ghosting) * draw.chosen(settings.ghosting_share)
        distance = draw.uniform(0.05, 0.4)
        ghost_rows = draw.chosen(0.5) > 0
        changed = ((coarse > 1) | (sigma > 0) | (strength > 0)).nonzero()[:, 0]
        if not len(changed):
            return pixels
        coarse, sigma, strength, distance = (v[changed] for v in (coarse, sigma, strength, distance))
        along_rows, ghost_rows = along_rows[changed], ghost_rows[changed]
        down, across = (
            _axis_operator(
                size, torch.where(along_rows == first, coarse, 1.0), sigma, strength * (ghost_rows == first), distance
            )
            for size, first in ((rows, True), (cols, False))
        )
        result = pixels.clone()
        result[changed] = down[:, None] @ pixels[changed] @ across[:, None].transpose(2, 3)
        return result

    def _recolour(self, pixels: Tensor, draw: _Draw) -> Tensor:
        """Coil sensitivity, gamma, inverted tissue contrast, gain and offset, noise."""
        settings = self.settings

        def each(values: Tensor) -> Tensor:
            return values[:, None, None, None]

        strength = settings.bias * draw.chosen(settings.bias_share)
        pixels = pixels * (_log_field(pixels.shape[1:], draw) * each(strength)).exp()
        exponent = (draw.uniform(-settings.gamma, settings.gamma) * draw.chosen(settings.gamma_share)).exp()
        pixels = pixels.sign() * pixels.abs().clamp(min=1e-6) ** each(exponent) if settings.gamma_share else pixels
        inverted = each(draw.chosen(settings.inversion_share))
        if settings.inversion_share:
            tissue = (pixels / 0.1).clamp(0, 1)
            pixels = torch.where(inverted > 0, (1 - pixels.clamp(0, 1)) * tissue, pixels)
        chosen = draw.chosen(settings.contrast_share)
        gain = 1 + draw.uniform(-settings.contrast, settings.contrast) * chosen
        offset = draw.uniform(-settings.contrast, settings.contrast) / 2 * chosen
        pixels = pixels * each(gain) + each(offset)
        sigma = draw.uniform(0, settings.noise) * draw.chosen(settings.noise_share)
        if settings.noise_share:
            pixels = pixels + each(sigma) * draw.normal(pixels.shape)
        return pixels


def random_affine(settings: AugmentSettings, draw: _Draw, rows: int, cols: int) -> Tensor:
    """Affine maps about the image centre, (B, 3, 3), from source (col, row, 1) to changed image, in pixels."""
    angle = draw.uniform(-settings.rotation, settings.rotation) * math.pi / 180
    size = draw.uniform(-settings.scale, settings.scale).exp()
    aspect = draw.uniform(-settings.aspect / 2, settings.aspect / 2).exp()
    shear = draw.uniform(-settings.shear, settings.shear)
    shift_col = draw.uniform(-settings.shift, settings.shift) * cols
    shift_row = draw.uniform(-settings.shift, settings.shift) * rows
    cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    rotation = torch.stack([torch.stack([cosine, -sine], -1), torch.stack([sine, cosine], -1)], -2)
    stretch = torch.stack([torch.stack([size * aspect, size * shear], -1), torch.stack([zero, size / aspect], -1)], -2)
    linear = rotation @ stretch
    centre = torch.tensor([(cols - 1) / 2, (rows - 1) / 2], device=linear.device)
    matrix = torch.eye(3, device=linear.device).repeat(len(linear), 1, 1)
    matrix[:, :2, :2] = linear
    matrix[:, :2, 2] = centre - linear @ centre + torch.stack([shift_col, shift_row], -1)
    return matrix


def warp(pixels: Tensor, matrix: Tensor, outside: str = "zeros") -> Tensor:
    """Move stacks (B, S, H, W) by (B, 3, 3) maps of (col, row, 1); every slice of a stack alike, bilinear."""
    rows, cols = pixels.shape[2:]
    device = pixels.device
    row, col = torch.meshgrid(
        torch.arange(rows, device=device, dtype=torch.float32),
        torch.arange(cols, device=device, dtype=torch.float32),
        indexing="ij",
    )
    target = torch.stack([col, row], -1).reshape(1, -1, 2).expand(len(pixels), -1, -1)
    source = move_points(target, torch.linalg.inv(matrix)).reshape(-1, rows, cols, 2)
    # grid_sample without aligned corners: pixel c of n has its centre at (2c + 1) / n - 1
    grid = (2 * source + 1) / torch.tensor([cols, rows], device=device) - 1
    return F.grid_sample(pixels, grid.to(pixels.dtype), mode="bilinear", padding_mode=outside, align_corners=False)


def move_points(points: Tensor, matrix: Tensor) -> Tensor:
    """Points (B, N, 2) (col, row) under maps (B, 3, 3); use ``torch.linalg.inv(matrix)`` for the way back."""
    linear, shift = matrix[:, :2, :2].to(points.dtype), matrix[:, :2, 2].to(points.dtype)
    return points @ linear.transpose(1, 2) + shift[:, None]


class _Draw:
    """Random numbers for each stack of a batch, (B,), from one generator."""

    def __init__(self, generator: torch.Generator, size: int, device: torch.device) -> None:
        self.generator, self.size, self.device = generator, size, device

    def uniform(self, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(self.size, generator=self.generator, device=self.device)

    def chosen(self, share: float) -> Tensor:
        """1.0 for about ``share`` of the stacks, else 0.0."""
        return (torch.rand(self.size, generator=self.generator, device=self.device) < share).float()

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=self.generator, device=self.device)


def _axis_operator(size: int, coarse: Tensor, sigma: Tensor, ghost: Tensor, distance: Tensor) -> Tensor:
    """What happens to one axis of ``size`` px as a matrix, (B, size, size): ghost @ blur @ coarse sampling.

    Coarse sampling averages boxes of ``coarse`` px and interpolates linearly between their centres, as a scanner's
    reconstruction of a coarser matrix would.
    """
    place = torch.arange(size, device=coarse.device, dtype=torch.float32)
    factor = coarse[:, None, None]
    knots = place[None, None, :] * factor
    hat = (1 - (place[None, :, None] - knots).abs() / factor).clamp(min=0)
    box = ((factor + 1) / 2 - (place[None, :, None] - knots).abs()).clamp(min=0).minimum(torch.ones_like(factor))
    box = box / box.sum(1, keepdim=True).clamp(min=1e-6)
    sampling = hat @ box.transpose(1, 2)

    width = sigma.clamp(min=1e-3)[:, None, None]
    blur = (-((place[:, None] - place[None, :]) ** 2) / (2 * width**2)).exp()
    blur = blur / blur.sum(2, keepdim=True)

    shift = (distance * size).round().long()[:, None]
    index = place.long()[None]
    copies = F.one_hot((index + shift) % size, size).float() + F.one_hot((index - shift) % size, size).float()
    strength = ghost[:, None, None]
    ghosting = (torch.eye(size, device=coarse.device) + strength * copies / 2) / (1 + strength)
    operator = ghosting @ blur @ sampling
    return operator / operator.sum(2, keepdim=True).clamp(min=1e-6)


def _log_field(shape: torch.Size, draw: _Draw) -> Tensor:
    """A smooth random field of mean 0 and deviation 1, (B, S, H, W): cubic polynomials, linear across slices."""
    slices, rows, cols = shape
    z, y, x = torch.meshgrid(
        *(torch.linspace(-1, 1, size, device=draw.device) if size > 1 else torch.zeros(1, device=draw.device)
          for size in (slices, rows, cols)),
        indexing="ij",
    )  # fmt: skip
    powers = [(i, j, k) for k in (0, 1) for i in range(4) for j in range(4) if 0 < i + j + k <= 3]
    basis = torch.stack([x**i * y**j * z**k for i, j, k in powers])
    basis = basis - basis.mean((1, 2, 3), keepdim=True)
    coefficients = draw.normal((draw.size, len(powers)))
    field = torch.einsum("bk,kshw->bshw", coefficients, basis)
    return field / field.flatten(1).std(1).clamp(min=1e-6)[:, None, None, None]
