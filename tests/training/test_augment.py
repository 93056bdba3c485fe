"""Augmentation moves pixels and points together, slices together, and nothing else."""

import dataclasses

import pytest
import torch

from pipeline.training.augment import StackAugmentation, move_points
from pipeline.weights.recipe import NO_CHANGE, AugmentSettings

MOVING = dataclasses.replace(NO_CHANGE, rotation=25, scale=0.2, aspect=0.1, shear=0.1, shift=0.1)
ROWS, COLS = 56, 80


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def spots(points):
    """A stack of one slice a point with a Gaussian spot at (col, row): (B, N, H, W)."""
    row, col = torch.meshgrid(torch.arange(ROWS), torch.arange(COLS), indexing="ij")
    col_away = col - points[..., 0, None, None]
    row_away = row - points[..., 1, None, None]
    return (-(col_away**2 + row_away**2) / (2 * 2.0**2)).exp()


def centroids(pixels):
    """(B, S, 2) (col, row) of the brightness of each slice."""
    row, col = torch.meshgrid(torch.arange(ROWS), torch.arange(COLS), indexing="ij")
    total = pixels.sum((2, 3))
    return torch.stack([(pixels * col).sum((2, 3)) / total, (pixels * row).sum((2, 3)) / total], -1)


def test_points_move_with_what_they_mark():
    points = torch.tensor([[30.0, 20.0], [50.0, 26.0], [44.0, 36.0]]).repeat(12, 1, 1)
    result = StackAugmentation(MOVING)(spots(points), generator(), points)
    inside = ((result.points > 8) & (result.points < torch.tensor([COLS - 9, ROWS - 9]))).all(-1)
    assert inside.sum() > 20
    found = centroids(result.pixels)
    assert (found - result.points)[inside].abs().max() < 0.15
    assert (result.points - points).norm(dim=-1).mean() > 3, "something moved"
    swapped = move_points(points.flip(-1), result.matrix)
    assert (found - swapped)[inside].abs().max() > 5, "x and y swapped would be seen"
    swapped_after = result.points.flip(-1)
    assert (found - swapped_after)[inside].abs().max() > 5


def test_a_point_moved_and_moved_back_lands_on_itself():
    points = torch.rand(16, 25, 2, generator=generator(1)) * torch.tensor([COLS - 1.0, ROWS - 1.0])
    result = StackAugmentation(AugmentSettings())(torch.rand(16, 3, ROWS, COLS), generator(), points)
    back = move_points(result.points, torch.linalg.inv(result.matrix))
    torch.testing.assert_close(back, points, atol=2e-3, rtol=0)


def test_points_that_are_not_there_stay_not_there():
    points = torch.full((2, 3, 2), torch.nan)
    points[0, 0] = 5.0
    moved = StackAugmentation(MOVING)(torch.rand(2, 1, 32, 32), generator(), points).points
    assert torch.isfinite(moved[0, 0]).all()
    assert torch.isnan(moved[0, 1:]).all()


def test_without_strengths_nothing_changes():
    pixels = torch.rand(4, 3, 20, 30)
    result = StackAugmentation(NO_CHANGE)(pixels, generator())
    torch.testing.assert_close(result.pixels, pixels, atol=1e-5, rtol=0)
    torch.testing.assert_close(result.matrix, torch.eye(3).repeat(4, 1, 1))


def test_slices_of_a_stack_change_alike_and_stacks_differ():
    settings = dataclasses.replace(
        MOVING, anisotropy_share=1, blur_share=1, ghosting_share=1, gamma_share=1, contrast_share=1
    )
    pixels = torch.rand(1, 1, 40, 40).expand(5, 4, -1, -1)
    result = StackAugmentation(settings)(pixels, generator()).pixels
    assert torch.equal(result, result[:, :1].expand_as(result))
    assert (result[0] - result[1]).abs().mean() > 0.01


def test_the_generator_decides_alone():
    pixels = torch.rand(3, 2, 24, 24)
    augment = StackAugmentation()
    torch.manual_seed(0)
    first = augment(pixels, generator(5)).pixels
    torch.manual_seed(99)
    assert torch.equal(augment(pixels, generator(5)).pixels, first)
    assert not torch.equal(augment(pixels, generator(6)).pixels, first)


def test_absent_slices_stay_blank():
    present = torch.tensor([[True, False, True]]).expand(4, -1)
    settings = AugmentSettings(inversion_share=1, noise_share=1, contrast_share=1)
    result = StackAugmentation(settings)(torch.rand(4, 3, 16, 16), generator(), present=present).pixels
    assert result[:, 1].abs().max() == 0
    assert result[:, 0].abs().max() > 0


ONE_BY_ONE = {
    "anisotropy": {"anisotropy_share": 1.0},
    "blur": {"blur_share": 1.0, "blur": 3.0},
    "ghosting": {"ghosting_share": 1.0},
    "bias": {"bias_share": 1.0},
    "gamma": {"gamma_share": 1.0},
    "contrast": {"contrast_share": 1.0},
    "noise": {"noise_share": 1.0},
    "inversion": {"inversion_share": 1.0},
}


@pytest.mark.parametrize("name", ONE_BY_ONE)
def test_each_change_of_the_image_changes_it_and_moves_nothing(name):
    pixels = spots(torch.tensor([[40.0, 28.0]]).repeat(6, 1, 1)) + 0.5
    result = StackAugmentation(dataclasses.replace(NO_CHANGE, **ONE_BY_ONE[name]))(pixels, generator())
    assert (result.pixels - pixels).abs().amax((1, 2, 3)).min() > 1e-3
    assert torch.isfinite(result.pixels).all()
    torch.testing.assert_close(result.matrix, torch.eye(3).repeat(6, 1, 1))


def test_blur_and_coarse_axes_keep_a_spot_in_place_and_brightness_in_total():
    pixels = spots(torch.tensor([[37.0, 22.0]]).repeat(8, 1, 1))
    settings = dataclasses.replace(NO_CHANGE, anisotropy_share=1, anisotropy=3, blur_share=1, blur=2)
    result = StackAugmentation(settings)(pixels, generator()).pixels
    assert (centroids(result) - centroids(pixels)).abs().max() < 0.3
    torch.testing.assert_close(result.sum((2, 3)), pixels.sum((2, 3)), rtol=0.05, atol=0)
    assert (result.amax((2, 3)) < pixels.amax((2, 3)) - 0.02).all()


def test_inverted_tissue_leaves_air_dark():
    pixels = torch.zeros(2, 1, 16, 16)
    pixels[..., 8:] = 0.8
    result = StackAugmentation(dataclasses.replace(NO_CHANGE, inversion_share=1))(pixels, generator()).pixels
    assert result[..., :8].abs().max() < 1e-4
    assert result[..., 8:].mean() == pytest.approx(0.2, abs=1e-3)


def test_what_is_outside_is_a_setting():
    pixels = torch.ones(4, 1, 20, 20)
    moved = dataclasses.replace(NO_CHANGE, shift=0.5)
    assert StackAugmentation(moved)(pixels, generator()).pixels.min() == 0
    border = dataclasses.replace(moved, outside="border")
    assert StackAugmentation(border)(pixels, generator()).pixels.min() == pytest.approx(1.0, abs=1e-5)


def test_half_precision_stacks_come_back_in_half_precision():
    assert StackAugmentation()(torch.rand(2, 1, 16, 16).half(), generator()).pixels.dtype == torch.float16


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="blur_share"):
        AugmentSettings(blur_share=1.5)
    with pytest.raises(ValueError, match="outside"):
        AugmentSettings(outside="black")
    with pytest.raises(ValueError, match=r"float stacks \(B, S, H, W\)"):
        StackAugmentation()(torch.zeros(2, 3, 4), generator())
