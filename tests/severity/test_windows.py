"""Windows out of cubes with a margin."""

import pytest
import torch

from pipeline.severity.settings import JitterSettings, MixSettings
from pipeline.severity.windows import drop_slices, middle_window, mix, random_window, slices_around

STILL = JitterSettings(sd_mm=0, turn_degrees=0, scale=0)


def ramp(size=40):
    """(1, 1, size, size): 1 a column, 100 a row, from the middle."""
    middle = (size - 1) / 2
    row, col = torch.meshgrid(torch.arange(size) - middle, torch.arange(size) - middle, indexing="ij")
    return (col + 100 * row)[None, None]


def test_without_jitter_it_is_the_middle():
    generator = torch.Generator().manual_seed(0)
    window = random_window(ramp(), 24, 0.8, STILL, generator)
    torch.testing.assert_close(window, middle_window(ramp(), 24), atol=1e-2, rtol=0)


def test_shifts_are_in_millimetres():
    generator = torch.Generator().manual_seed(0)
    jitter = JitterSettings(sd_mm=1.5, limit_mm=4, turn_degrees=0, scale=0)
    windows = random_window(ramp().expand(4000, -1, -1, -1), 8, 0.5, jitter, generator)
    middles = windows[:, 0].mean((1, 2))  # 100 * row shift + column shift, px
    rows = (middles / 100).round(decimals=6)
    assert float(rows.std()) * 0.5 == pytest.approx(1.5, rel=0.06)
    assert float(rows.abs().max()) * 0.5 <= 4.1


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
