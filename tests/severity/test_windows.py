"""Windows out of cubes with a margin."""

from dataclasses import replace

import pytest
import torch

from pipeline.labels import SeriesKind
from pipeline.severity.settings import JitterSettings, MixSettings
from pipeline.severity.windows import cut_windows, draw_jitter, drop_slices, middle_window, mirrored, mix, slices_around

STILL = JitterSettings(sd_mm=0, turn_degrees=0, scale=0)


def ramp(size=40):
    """(1, 1, size, size): 1 a column, 100 a row, from the middle."""
    middle = (size - 1) / 2
    row, col = torch.meshgrid(torch.arange(size) - middle, torch.arange(size) - middle, indexing="ij")
    return (col + 100 * row)[None, None]


def in_the_middle(side, spacing_mm, count=1):
    """(count, 1, 2, 3) the place of a window in the middle of a square of pixels of so many mm."""
    place = torch.zeros(count, 1, 2, 3)
    place[..., 0, 0] = place[..., 1, 1] = 1 / spacing_mm
    place[..., 2] = (side - 1) / 2
    return place


def test_without_jitter_it_is_the_middle():
    window = cut_windows(ramp(), in_the_middle(40, 0.8), 24, 0.8)
    torch.testing.assert_close(window, middle_window(ramp(), 24), atol=1e-2, rtol=0)
    still = draw_jitter(1, STILL, torch.Generator().manual_seed(0))
    torch.testing.assert_close(cut_windows(ramp(), in_the_middle(40, 0.8), 24, 0.8, still), window)


def test_every_slice_is_cut_at_its_own_place_and_resolution():
    place = in_the_middle(40, 0.5, 2).reshape(1, 2, 2, 3)
    place[0, 1, :, 2] += torch.tensor([3.0, -2.0])
    window = cut_windows(ramp().expand(1, 2, -1, -1), place, 9, 1.0)
    torch.testing.assert_close(window[0, 0, 4, 4], torch.tensor(0.0), atol=1e-3, rtol=0)
    torch.testing.assert_close(window[0, 1, 4, 4], torch.tensor(3.0 - 200.0), atol=1e-2, rtol=0)
    torch.testing.assert_close(window[0, 0, 4, 5], torch.tensor(2.0), atol=1e-3, rtol=0)  # 1 mm is 2 px


def test_shifts_are_in_millimetres():
    generator = torch.Generator().manual_seed(0)
    jitter = JitterSettings(sd_mm=1.5, limit_mm=4, turn_degrees=0, scale=0)
    change = draw_jitter(4000, jitter, generator)
    windows = cut_windows(ramp().expand(4000, -1, -1, -1), in_the_middle(40, 0.5, 4000), 8, 0.5, change)
    middles = windows[:, 0].mean((1, 2))  # 100 * row shift + column shift, px
    rows = (middles / 100).round(decimals=6)
    assert float(rows.std()) * 0.5 == pytest.approx(1.5, rel=0.06)
    assert float(rows.abs().max()) * 0.5 <= 4.1


def test_turns_and_sizes_reach_as_far_as_they_may_and_no_further():
    jitter = replace(STILL, rotation=30, resize=0.25)
    turn = draw_jitter(4000, jitter, torch.Generator().manual_seed(0)).turn
    angle, size = torch.rad2deg(torch.atan2(turn[:, 1, 0], turn[:, 0, 0])), torch.linalg.det(turn).sqrt()
    for values, low, high in ((angle, -30.0, 30.0), (size, 0.75, 1.25)):
        assert low <= float(values.min()) < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < float(values.max()) <= high
    with pytest.raises(ValueError, match="resize"):
        JitterSettings(resize=1.0)


def test_a_shifted_window_must_fit_the_margin():
    moved = middle_window(ramp(), 24, (2, 0)) - middle_window(ramp(), 24)
    torch.testing.assert_close(moved, torch.full((1, 1, 24, 24), 200.0))
    with pytest.raises(ValueError, match="does not fit"):
        middle_window(ramp(), 24, (9, 0))
    with pytest.raises(ValueError, match="does not fit"):
        middle_window(ramp(), 25)


def test_the_middle_slice_is_never_dropped():
    present = torch.ones(100, 5, dtype=torch.bool)
    kept = drop_slices(present, 0.9, torch.Generator().manual_seed(0))
    assert kept[:, 2].all()
    assert not kept[:, 0].all()


def test_slices_beside_the_middle_and_the_middle_where_there_is_none():
    pixels = torch.arange(5.0)[None, :, None, None].expand(2, 5, 1, 1)
    present = torch.tensor([[True] * 5, [True, True, True, False, False]])
    chosen, there = slices_around(pixels, present, 3, 1)
    assert chosen[:, :, 0, 0].tolist() == [[2, 3, 4], [1, 2, 3]]
    assert there.tolist() == [[True, True, True], [True, True, False]]
    back, _ = slices_around(pixels, present, 3, -1)
    assert back[:, :, 0, 0].tolist() == [[0, 1, 2], [0, 1, 2]]


def test_the_mirror_image_of_a_patient_turns_columns_of_axial_and_the_order_of_sagittal_slices():
    pixels, present = torch.arange(2 * 3 * 4 * 4).view(2, 3, 4, 4).float(), torch.tensor([[True, True, False]] * 2)
    window, mask = mirrored(pixels, present, SeriesKind.AXIAL_T2)
    assert torch.equal(window[0, 1, 2], pixels[0, 1, 2].flip(0))
    assert torch.equal(mask, present)
    window, mask = mirrored(pixels, present, SeriesKind.SAGITTAL_T2)
    assert torch.equal(window[1, 0], pixels[1, 2])
    assert mask.tolist() == [[False, True, True]] * 2


def mixable(count=6, side=20):
    pixels = torch.arange(float(count))[:, None, None, None].expand(count, 3, side, side).clone()
    present = torch.ones(count, 3, dtype=torch.bool)
    present[0, 0] = False
    return {"pixels_axial_t2": pixels, "present_axial_t2": present, "grade": torch.arange(count)[:, None]}


@pytest.mark.parametrize("kind", ["cutmix", "mixup"])
def test_labels_are_mixed_as_the_pixels_are(kind):
    before = mixable()
    settings = MixSettings(kind, share=1.0, alpha=1.0)
    for seed in range(8):
        batch = mix(before, ["axial_t2"], settings, torch.Generator().manual_seed(seed))
        share = batch["other_share"][:, None]
        expected = (1 - share) * batch["grade"] + share * batch["other_grade"]
        found = batch["pixels_axial_t2"].mean((1, 2, 3))[:, None]
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
        with_first = (batch["grade"] == 0) | (batch["other_grade"] == 0)
        assert torch.equal(batch["present_axial_t2"][:, 0], ~with_first[:, 0])


def test_nothing_is_mixed_where_it_is_not_asked_for_and_the_seed_decides():
    before = mixable()
    for settings in (MixSettings(), MixSettings("cutmix", share=0.0)):
        assert mix(before, ["axial_t2"], settings, torch.Generator().manual_seed(0)) is before
    always = MixSettings("cutmix", share=1.0)
    once, again, other = (
        mix(before, ["axial_t2"], always, torch.Generator().manual_seed(seed))["pixels_axial_t2"] for seed in (1, 1, 2)
    )
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    with pytest.raises(ValueError, match="share"):
        MixSettings("cutmix", share=1.5)
