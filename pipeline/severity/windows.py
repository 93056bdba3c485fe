"""Windows out of stacks while training: where the point is, or shifted, turned and scaled at random; and mixtures.

All of it runs on batches on the training device. A shift is in mm, like the localiser's error that it imitates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.labels import SeriesKind
from pipeline.severity.settings import JitterSettings, MixSettings


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


class Jitter(NamedTuple):
    """A change of windows in their plane: a point (mm right, mm down) shows what lies at ``turn @ point + shift``.

    Attributes:
        turn: (B, 2, 2) turns and sizes.
        shift: (B, 2) mm.
    """

    turn: Tensor
    shift: Tensor


def draw_jitter(count: int, jitter: JitterSettings, generator: torch.Generator) -> Jitter:
    """Random changes of ``count`` windows; all randomness comes from ``generator``, on its device."""
    device = generator.device
    noise = torch.randn(count, 4, device=device, generator=generator)
    even = torch.rand(count, 2, device=device, generator=generator) * 2 - 1
    shift = (noise[:, :2] * jitter.sd_mm).clamp(-jitter.limit_mm, jitter.limit_mm)
    angle = torch.deg2rad(noise[:, 2] * jitter.turn_degrees + even[:, 0] * jitter.rotation)
    size = torch.exp(noise[:, 3] * jitter.scale) * (1 + even[:, 1] * jitter.resize)
    cosine, sine = torch.cos(angle) * size, torch.sin(angle) * size
    return Jitter(torch.stack([torch.stack([cosine, -sine], 1), torch.stack([sine, cosine], 1)], 1), shift)


def cut_windows(around: Tensor, place: Tensor, size: int, spacing_mm: float, jitter: Jitter | None = None) -> Tensor:
    """Windows out of what lies around them, one bilinear sample a pixel.

    Args:
        around: (B, S, side, side) any float type.
        place: (B, S, 2, 3) gives (col, row) in ``around`` of (mm right, mm down, 1) from the window's middle.
        size: pixels of a window.
        spacing_mm: of its pixels.
        jitter: the same change for all slices of a cell; None for none.

    Returns:
        (B, S, size, size) float32; 0 beyond what is around.
    """
    batch, slices, side, _ = around.shape
    turn, shift = place[..., :2], place[..., 2]
    if jitter is not None:
        shift = shift + (turn @ jitter.shift[:, None, :, None])[..., 0]
        turn = turn @ jitter.turn[:, None]
    # affine_grid wants the map from output to input in units of half extents, x before y (align_corners=True)
    half = (size - 1) / 2 * spacing_mm
    theta = torch.cat([turn * half, shift[..., None] - (side - 1) / 2], -1) * (2 / (side - 1))
    grid = functional.affine_grid(theta.flatten(0, 1), [batch * slices, 1, size, size], align_corners=True)
    flat = around.reshape(batch * slices, 1, side, side).float()
    result = functional.grid_sample(flat, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
    return result.view(batch, slices, size, size)


def drop_slices(present: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """(B, S) ``present`` with slices beside the middle hidden at random."""
    hidden = torch.rand(present.shape, device=present.device, generator=generator) < share
    hidden[:, present.shape[1] // 2] = False
    return present & ~hidden


def mirrored(pixels: Tensor, present: Tensor, kind: SeriesKind, partner: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Windows (B, S, H, W) and their masks (B, S) as of the patient's mirror image.

    Around the midline, left and right run along the columns of axial slices, and from slice to slice of sagittal ones.
    Windows of the right side are mirror images of the left one's already, so those of the two change places.

    Args:
        pixels, present: of B cells.
        kind: of their slices.
        partner: (B,) the row of the same cell on the other side, its own around the midline; None where all are there.
    """
    other = pixels.flip(-1) if kind is SeriesKind.AXIAL_T2 else pixels.flip(1)
    hidden = present if kind is SeriesKind.AXIAL_T2 else present.flip(1)
    if partner is not None:
        midline = partner == torch.arange(len(partner), device=partner.device)
        other = torch.where(midline[:, None, None, None], other, pixels[partner])
        hidden = torch.where(midline[:, None], hidden, present[partner])
    return other, hidden


def mix(
    batch: dict[str, Tensor], views: Sequence[str], settings: MixSettings, generator: torch.Generator
) -> dict[str, Tensor]:
    """A batch with its windows mixed with those of its cells in another order, or as it is.

    Args:
        batch: ``pixels_<view>`` (B, ..., S, H, W), ``present_<view>`` (B, ..., S), ``grade`` (B, families or cells).
        views: names.
        settings: what is done, and how often.
        generator: on the device of the batch.

    Returns:
        The batch; where it was mixed, ``other_grade`` (like ``grade``) are the grades of the other items and
        ``other_share`` (B,) is how much they count, the same for all. A slice is present
        where it is in both, or as it was where they share none.
    """
    if settings.kind == "none" or len(batch["grade"]) < 2:
        return batch
    device = batch["grade"].device
    draw = np.random.default_rng(int(torch.randint(2**31, (1,), device=device, generator=generator)))
    if draw.random() >= settings.share:
        return batch
    share = float(draw.beta(settings.alpha, settings.alpha))
    order = torch.from_numpy(draw.permutation(len(batch["grade"]))).to(device)
    box = draw.random(2)
    result, shares = dict(batch), []
    for view in views:
        mine, present = batch[f"pixels_{view}"], batch[f"present_{view}"]
        if settings.kind == "mixup":
            result[f"pixels_{view}"] = torch.lerp(mine, mine[order], share)
            shares.append(share)
        else:
            side = mine.shape[-1]
            length = round(side * share**0.5)
            top, left = ((side - length) * box).astype(int)
            place = (..., slice(top, top + length), slice(left, left + length))
            result[f"pixels_{view}"] = mine.clone()
            result[f"pixels_{view}"][place] = mine[place][order]
            shares.append((length / side) ** 2)  # what was really put in, in whole pixels
        both = present & present[order]
        result[f"present_{view}"] = torch.where(both.any(-1, keepdim=True), both, present)
    result["other_grade"] = batch["grade"][order]
    result["other_share"] = torch.full((len(order),), sum(shares) / len(shares), device=device)
    return result


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
