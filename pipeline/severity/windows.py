"""Windows out of cubes with a margin: the exact middle, or one that is shifted, turned and scaled at random.

Both run on batches on the training device. A shift is in millimetres, like the localiser's error that it imitates.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.severity.settings import JitterSettings


def middle_window(pixels: Tensor, size: int, shift: tuple[int, int] = (0, 0)) -> Tensor:
    """The middle ``size`` pixels of (B, S, H, W), moved by ``shift`` (rows, cols) pixels; float32.

    Raises:
        ValueError: the window does not lie on the grid, or the shift leaves the margin.
    """
    height = pixels.shape[-1]
    margin, odd = divmod(height - size, 2)
    if odd or margin < max(abs(shift[0]), abs(shift[1])):
        raise ValueError(f"a window of {size} px shifted by {shift} does not fit the middle of {height} px")
    top, left = margin + shift[0], margin + shift[1]
    return pixels[..., top : top + size, left : left + size].float()


def random_window(
    pixels: Tensor, size: int, spacing_mm: float, jitter: JitterSettings, generator: torch.Generator
) -> Tensor:
    """Windows of (B, S, H, W), jittered; the same for all slices of a cube.

    Args:
        pixels: cubes with their margin, any float type.
        size: pixels of a window.
        spacing_mm: of a pixel.
        jitter: how much.
        generator: on the device of ``pixels``; all randomness comes from it.

    Returns:
        (B, S, size, size) float32; 0 beyond the margin.
    """
    batch, _, height, width = pixels.shape
    noise = torch.randn(batch, 4, device=pixels.device, generator=generator)
    shift = (noise[:, :2] * jitter.sd_mm).clamp(-jitter.limit_mm, jitter.limit_mm) / spacing_mm
    angle = torch.deg2rad(noise[:, 2] * jitter.turn_degrees)
    factor = torch.exp(noise[:, 3] * jitter.scale)
    cosine, sine = torch.cos(angle) * factor, torch.sin(angle) * factor
    # affine_grid wants the map from output to input in units of half extents, x before y (align_corners=True).
    ratio = (size - 1) / (width - 1)
    theta = torch.stack(
        [
            torch.stack([cosine * ratio, -sine * ratio, 2 * shift[:, 0] / (width - 1)], 1),
            torch.stack([sine * ratio, cosine * ratio, 2 * shift[:, 1] / (height - 1)], 1),
        ],
        1,
    )
    grid = functional.affine_grid(theta, [batch, 1, size, size], align_corners=True)
    return functional.grid_sample(pixels.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=True)


def drop_slices(present: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """(B, S) ``present`` with slices beside the middle hidden at random."""
    hidden = torch.rand(present.shape, device=present.device, generator=generator) < share
    hidden[:, present.shape[1] // 2] = False
    return present & ~hidden


def slices_around(pixels: Tensor, present: Tensor, count: int, step: int) -> tuple[Tensor, Tensor]:
    """``count`` slices around the one ``step`` away from the middle; around the middle itself where that is absent.

    Args:
        pixels: (B, S, H, W) with at least ``|step|`` slices more than ``count`` on both ends.
        present: (B, S) bool.
        count: odd.
        step: 0 for the middle.
    """
    middle = present.shape[1] // 2
    centre = torch.where(present[:, middle + step], middle + step, middle)
    index = centre[:, None] + torch.arange(-(count // 2), count // 2 + 1, device=centre.device)
    rows = torch.arange(len(pixels), device=centre.device)[:, None]
    return pixels[rows, index], present[rows, index]
