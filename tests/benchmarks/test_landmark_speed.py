"""Stage two on one complete study, beside the localisers of the competition's winners, in one run.

Run by hand, as benchmarks are off in the normal run::

    pytest tests/benchmarks/test_landmark_speed.py --benchmark-enable --benchmark-only

The study is the real one where ``LUMBAR_REAL_DATA`` names its folder, else a phantom of full size. Stage two is timed
as it stands, from decoded volumes to the table's points (reading is stage one's benchmark). The winners' networks have
random weights, which changes no time, and see a few slices only: the time of their whole study is *scaled by the
number of slices* (``extra_info`` holds both), because several of them need minutes on a CPU.

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

import os
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.competition import open_competition
from pipeline.labels import SeriesKind
from pipeline.landmarks.load import load_predictor
from pipeline.landmarks.model import PointModelSettings, PointNet
from pipeline.landmarks.predict import LandmarkPredictor
from pipeline.phantom import make_phantom
from pipeline.volumes import StudyVolumes, read_study

WEIGHTS = Path(__file__).parents[2] / "weights" / "default"
REAL_STUDY = "100206310"
THREADS = min(2, os.cpu_count() or 1)
LIMIT_SECONDS = 1.0
"""What stage two may take on one complete study with two cores."""
TIMED_SLICES = 2

pytestmark = pytest.mark.benchmark(group="stage two of one study", min_rounds=3, warmup=False)


@pytest.fixture(scope="module", autouse=True)
def _two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _only_when_measuring(request):
    if not request.config.getoption("--benchmark-enable") and not request.config.getoption("--benchmark-only"):
        pytest.skip("a benchmark: run with --benchmark-enable --benchmark-only")


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> StudyVolumes:
    """One complete study, decoded."""
    named = os.environ.get("LUMBAR_REAL_DATA")
    if named:
        return read_study(open_competition(Path(named) / "rsna-full", split="train").study(REAL_STUDY))
    folder = make_phantom(tmp_path_factory.mktemp("phantom"), studies=1, seed=11, size="full")
    return read_study(open_competition(folder, split="train").studies[0])


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


def test_stage_two(benchmark, study):
    """From decoded volumes to 25 points, with the committed networks, or random ones where there are none."""
    if (WEIGHTS / "manifest.json").is_file():
        predictor, source = load_predictor(WEIGHTS), "committed"
    else:
        sagittal = PointNet(PointModelSettings(initial="random", size_px=160))
        axial = PointNet(PointModelSettings(initial="random", size_px=96, channels=1))
        predictor, source = LandmarkPredictor(sagittal, axial), "random, as there are no committed weights"
    benchmark.pedantic(predictor.predict, args=(study,), rounds=5, warmup_rounds=1)
    slices = slices_of(study, SeriesKind.SAGITTAL_T1, SeriesKind.SAGITTAL_T2)
    benchmark.extra_info |= {"threads": THREADS, "weights": source, "sagittal_slices": slices}
    if source == "committed" and THREADS == 2:
        assert benchmark.stats.stats.min <= LIMIT_SECONDS


@pytest.mark.parametrize("name", ["EfficientNetV2-L", "CenterNet-B6", "U-Net-B5"])
def test_winners_localiser(benchmark, study, name):
    """A forward pass of a few slices; ``whole_study_s`` is scaled by the study's number of slices."""
    kinds = [SeriesKind.SAGITTAL_T1, SeriesKind.SAGITTAL_T2]
    if name != "EfficientNetV2-L":
        kinds.append(SeriesKind.AXIAL_T2)
    model = winners(name).eval().to(memory_format=torch.channels_last)
    images = torch.rand(TIMED_SLICES, 3, 512, 512).contiguous(memory_format=torch.channels_last)

    def run() -> Tensor:
        with torch.inference_mode():
            result: Tensor = model(images)
        return result

    output = benchmark.pedantic(run, rounds=2, warmup_rounds=1)
    assert len(output) == TIMED_SLICES
    slices = slices_of(study, *kinds)
    best = benchmark.stats.stats.min
    benchmark.extra_info |= {
        "threads": THREADS,
        "timed_slices": TIMED_SLICES,
        "study_slices": slices,
        "whole_study_s": round(best / TIMED_SLICES * slices, 2),
    }
    print(f"{name}: {best:.2f} s for {TIMED_SLICES} slices, {best / TIMED_SLICES * slices:.1f} s scaled to {slices}")
