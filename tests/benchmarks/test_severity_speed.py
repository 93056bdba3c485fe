"""Stages one to four on one complete study, beside the classifiers of published solutions, in one run.

Run by hand, on an idle machine, as it takes about two minutes::

    python -m pytest tests/benchmarks/test_severity_speed.py --benchmark-enable -n 0 -s

Ours is everything that one worker of ``submit.py`` does, from DICOM files to 25 rows, with the default weights, in a
process of its own so that its peak memory can be read. Theirs is a forward pass alone, with random weights, which
changes no time: no reading, no localiser, one network of one fold, where ours are the folds of several recipes. They
see five slices of each of the 25 cells, once in our cubes' size, for comparison, and once in a size that was published
with them, which ours have to stay below.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import timm
import torch

from pipeline.cubes.settings import ViewSettings
from pipeline.labels import CELLS, SeriesKind
from tests.benchmarks.timing import Timing, quickest, table
from tests.commands.mounts import ROOT

LIMIT_SECONDS = {"torch": 2.5, "openvino": 1.5}
"""What a complete study may take with two cores, by what computes the networks."""
LIMIT_MB = 2048
SLICES = 5
THEIRS = {"ConvNeXt-small": "convnext_small", "EfficientNetV2-S": "tf_efficientnetv2_s"}
PUBLISHED_PX = 224
TIMED_CELLS = 5
"""Cells that are timed at the published size, of 25."""

pytestmark = pytest.mark.usefixtures("only_when_measuring", "two_threads")


def cells_time(backbone: str, pixels: int, cells: int) -> Timing:
    """The slices of some cells through a network, scaled to 25 cells."""
    model = timm.create_model(backbone, pretrained=False, num_classes=3).eval().to(memory_format=torch.channels_last)
    images = torch.rand(SLICES, 3, pixels, pixels).contiguous(memory_format=torch.channels_last)

    def run() -> None:
        for _ in range(cells):
            model(images)

    with torch.inference_mode():
        model(images)
        return quickest(run, warm_up=0).scaled(len(CELLS) / cells)


def test_a_study_beside_the_published_classifiers(complete_study, capsys):
    """DICOM to 25 rows in the limits above, and in less time than one of theirs needs for its forward pass."""
    command = [sys.executable, "-m", "tests.benchmarks.one_study", str(complete_study.path)]
    found = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    ours = Timing(found["wall_s"], found["cpu_s"])
    own_px = ViewSettings(SeriesKind.SAGITTAL_T1).pixels
    theirs = {
        (name, pixels): cells_time(backbone, pixels, cells)
        for name, backbone in THEIRS.items()
        for pixels, cells in ((own_px, len(CELLS)), (PUBLISHED_PX, TIMED_CELLS))
    }
    rows = [
        (f"{name}, {len(CELLS)} cells x {SLICES} slices of {pixels} px", timing)
        for (name, pixels), timing in theirs.items()
    ]
    stages = ", ".join(f"{name} {seconds:.2f}" for name, seconds in found["stages_s"].items())
    with capsys.disabled():
        print("\n" + table((f"stages one to four, {found['networks']} networks by {found['runtime']}", ours), rows))
        print(f"ours by stage, wall s: {stages}; {found['graded']} of {len(CELLS)} rows from networks")
        print(f"the first study, which loads the networks: {found['first_s']:.2f} s; peak {found['peak_mb']:.0f} MB")
    assert ours.wall <= LIMIT_SECONDS[found["runtime"]]
    assert found["peak_mb"] <= LIMIT_MB
    assert all(ours.cpu < timing.cpu for (_, pixels), timing in theirs.items() if pixels == PUBLISHED_PX)
