"""Stage two on one complete study, beside the localisers of the competition's winners, in one run.

Run by hand, on an idle machine, as it takes up to four minutes::

    python -m pytest tests/benchmarks/test_landmark_speed.py --benchmark-enable -n 0 -s

The study is the real one where ``LUMBAR_REAL_DATA`` names its folder, else a phantom of full size. Stage two is timed
as it stands, from decoded volumes to the table's points (reading is stage one's benchmark). The winners' networks have
random weights, which changes no time, and see one slice after one to warm up: the time of their whole study is that
*times the number of slices* (the printed table says so), because several of them need minutes on a CPU.

==================================  =====================  ======================================================
network                             input                  slices a study
==================================  =====================  ======================================================
EfficientNetV2-L, regression        512 x 512, 3 channels  sagittal T1 and T2: as many as this study has
EfficientNet-B6, CenterNet-like     512 x 512, 3 channels  all slices of the three series
EfficientNet-B5, U-Net-like         512 x 512, 3 channels  all slices of the three series
==================================  =====================  ======================================================

The two decoders are drawn about as large as the published ones; the encoders, which take nearly all of the time, are
timm's own.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.labels import SeriesKind
from pipeline.landmarks.load import load_predictor
from pipeline.volumes import StudyVolumes, read_study
from tests.benchmarks.timing import Timing, quickest, table

WEIGHTS = Path(__file__).parents[2] / "weights" / "default"
LIMIT_SECONDS = 1.0
"""What stage two may take on one complete study with two cores."""
SAGITTAL = (SeriesKind.SAGITTAL_T1, SeriesKind.SAGITTAL_T2)
WINNERS = {
    "EfficientNetV2-L": SAGITTAL,
    "CenterNet-B6": (*SAGITTAL, SeriesKind.AXIAL_T2),
    "U-Net-B5": (*SAGITTAL, SeriesKind.AXIAL_T2),
}
"""The series of which each network sees every slice."""

pytestmark = pytest.mark.usefixtures("only_when_measuring", "two_threads")


def slices_of(study: StudyVolumes, *kinds: SeriesKind) -> int:
    return sum(len(volume.pixels) for kind in kinds for volume in study.of_kind(kind))


class PyramidHeatMaps(nn.Module):
    """An encoder with a decoder of convolutions that goes up to a stride: CenterNet at 4, U-Net at 1."""

    def __init__(self, backbone: str, stride: int, outputs: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.encoder = timm.create_model(backbone, pretrained=False, features_only=True)
        channels = self.encoder.feature_info.channels()
        self.stride = stride
        steps, above = [], channels[-1]
        for skip, width in zip([*reversed(channels[:-1]), 0], widths, strict=False):
            steps.append(
                nn.Sequential(
                    nn.Conv2d(above + skip, width, 3, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(inplace=True),
                    nn.Conv2d(width, width, 3, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(inplace=True),
                )
            )
            above = width
        self.steps = nn.ModuleList(steps)
        self.head = nn.Conv2d(above, outputs, 1)

    def forward(self, images: Tensor) -> Tensor:
        features = self.encoder(images)
        merged, skips = features[-1], list(reversed(features[:-1]))
        for number, step in enumerate(self.steps):
            merged = functional.interpolate(merged, scale_factor=2)
            if number < len(skips):
                merged = torch.cat([merged, skips[number]], dim=1)
            merged = step(merged)
        result: Tensor = self.head(merged)
        return result


def winners(name: str) -> nn.Module:
    if name == "EfficientNetV2-L":
        return timm.create_model("tf_efficientnetv2_l", pretrained=False, num_classes=30)
    if name == "CenterNet-B6":
        return PyramidHeatMaps("tf_efficientnet_b6", 4, 12, (256, 128, 64))
    return PyramidHeatMaps("tf_efficientnet_b5", 1, 10, (256, 128, 64, 32, 16))


def winners_time(name: str, slices: int) -> Timing:
    """One slice through a winner's network, times ``slices``."""
    model = winners(name).eval().to(memory_format=torch.channels_last)
    image = torch.rand(1, 3, 512, 512).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        return quickest(lambda: model(image)).scaled(slices)


def test_stage_two_beside_the_winners_localisers(complete_study, capsys):
    """From decoded volumes to 25 points with the committed networks."""
    study = read_study(complete_study)
    predictor = load_predictor(WEIGHTS)
    ours = quickest(lambda: predictor.predict(study), rounds=3)
    theirs = [(name, winners_time(name, slices_of(study, *kinds))) for name, kinds in WINNERS.items()]
    rows = [(f"{name}, {slices_of(study, *WINNERS[name])} slices of 512 px", timing) for name, timing in theirs]
    title = f"stage two, {slices_of(study, *SAGITTAL)} sagittal slices, 10 axial windows"
    with capsys.disabled():
        print("\n" + table((title, ours), rows))
    assert ours.wall <= LIMIT_SECONDS
    assert all(ours.cpu < timing.cpu for _, timing in theirs)
