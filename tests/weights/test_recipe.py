"""What weights carry of their training is read without it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOAD_EVERY_NETWORK = """
import sys
from pathlib import Path
import pipeline.ensemble.networks, pipeline.run.study
from pipeline.landmarks.load import LANDMARK_TASKS, load_predictor
from pipeline.severity.predict import load_member
from pipeline.weights.manifest import Manifest

weights = Path("weights/phantom")
load_predictor(weights)
graders = [m for m in Manifest.load(weights).members if m.task not in LANDMARK_TASKS]
for member in graders:
    load_member(weights, member, "cpu")
assert graders
print(*(name for name in sys.modules if name.startswith(("pipeline.training", "albumentations", "accelerate"))))
"""


def test_the_networks_of_a_set_are_loaded_without_training_and_what_it_needs():
    ended = subprocess.run([sys.executable, "-c", LOAD_EVERY_NETWORK], cwd=ROOT, capture_output=True, text=True)
    assert (ended.stdout.split(), ended.stderr) == ([], ""), ended.stderr
