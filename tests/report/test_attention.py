"""Grad-CAM lies where the network looks, whatever form its slices take."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.cubes.settings import ViewSettings
from pipeline.labels import CELL_INDEX, Cell, Condition, Family, SeriesKind
from pipeline.report.attention import attend
from pipeline.severity.encoders import ChannelsEncoder, SliceEncoder, VolumeEncoder
from pipeline.severity.predict import SeverityGrader
from pipeline.severity.settings import SeveritySettings

SIZE, SLICES = 48, 3
CELLS_ = [CELL_INDEX[Cell(Condition.CANAL, level)] for level in ("l1_l2", "l2_l3", "l3_l4")]


class Brightness(nn.Module):
    """A backbone whose features are how bright the image is: what is bright is all that it can look at."""

    num_features = 2

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.map = nn.Conv2d(channels, 2, 4, stride=4)
        nn.init.constant_(self.map.weight, 0.1)
        nn.init.zeros_(self.map.bias)

    def forward(self, pixels):
        return torch.relu(self.map(pixels)).mean((2, 3))


def grader(encoder, present, pixels):
    """A classifier of one view whose answer for *severe* grows with the brightness of its windows."""
    view = ViewSettings(SeriesKind.SAGITTAL_T2, 80.0, SIZE, SLICES)
    settings = SeveritySettings(views=(view,), margin_mm=0, shift_mm=0, beside=0.0)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.only = encoder

        def encoder(self, name):
            return self.only

        def log_probabilities(self, given, there, level):
            tokens, seen = self.only(given["sagittal_t2"], there["sagittal_t2"])
            bright = (tokens * seen[..., None]).sum((1, 2))
            return torch.log_softmax(torch.stack([-bright, bright * 0, bright], 1), 1)[:, None]

    made = SeverityGrader(Network(), settings, Family.CANAL)
    batch = {"level": torch.zeros(len(CELLS_), dtype=torch.long)}
    batch |= {"pixels_sagittal_t2": pixels, "present_sagittal_t2": present}
    made.batch = lambda *_: batch
    return made


def encoders():
    one, all_ = SliceEncoder(Brightness(1), 4), ChannelsEncoder(Brightness(SLICES), 4)
    volume = VolumeEncoder(4, (8,))
    for encoder in (one, all_, volume):
        nn.init.constant_(encoder.project.weight, 1.0)
        nn.init.zeros_(encoder.project.bias)
    return {"slices": one, "channels": all_, "volume": volume}


@pytest.mark.parametrize("form", ["slices", "channels"])
def test_the_map_is_bright_where_the_spot_is(form):
    pixels = torch.full((len(CELLS_), SLICES, SIZE, SIZE), 0.35)  # the mean, which the encoder makes 0
    present = torch.ones(len(CELLS_), SLICES, dtype=torch.bool)
    spots = [(8, 8), (36, 12), (20, 40)]
    for cell, (row, col) in enumerate(spots):
        pixels[cell, :, row - 4 : row + 4, col - 4 : col + 4] = 1.0
    present[1, 0] = False  # the stack of one cell ends
    called = np.full(25, 2)
    maps = attend(grader(encoders()[form], present, pixels), SimpleNamespace(), CELLS_, called)
    for cell, (row, col) in zip(CELLS_, spots, strict=True):
        found = maps[cell, cell, SeriesKind.SAGITTAL_T2]
        assert found.shape == (SLICES, 12, 12)
        middle = found[1]
        assert middle.max() == pytest.approx(1)
        assert np.unravel_index(middle.argmax(), middle.shape) == pytest.approx((row / 4, col / 4), abs=1.5)
    if form == "slices":
        assert maps[CELLS_[1], CELLS_[1], SeriesKind.SAGITTAL_T2][0].max() == 0


@pytest.mark.parametrize("form", ["slices", "channels", "volume"])
def test_cells_without_the_view_have_no_map(form):
    pixels, present = torch.rand(len(CELLS_), SLICES, SIZE, SIZE), torch.ones(len(CELLS_), SLICES, dtype=torch.bool)
    present[2] = False
    maps = attend(grader(encoders()[form], present, pixels), SimpleNamespace(), CELLS_, np.full(25, 2))
    assert {cell for cell, _, _ in maps} == set(CELLS_[:2])
    present[:] = False
    assert attend(grader(encoders()[form], present, pixels), SimpleNamespace(), CELLS_, np.full(25, 2)) == {}
