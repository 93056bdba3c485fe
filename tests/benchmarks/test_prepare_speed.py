"""What the training cache costs: processor time and bytes of a complete study, for every network of a preset.

``LUMBAR_REAL_DATA=DIR python -m pytest tests/benchmarks/test_prepare_speed.py --benchmark-enable -n 0 -s``
"""

from __future__ import annotations

import pytest

from pipeline.landmarks.prepare import ExamplesOf, prepare
from pipeline.landmarks.train import load_train_settings
from tests.benchmarks.timing import quickest
from tests.stacks.complete import complete_studies

LIMIT_SECONDS = 1.2
"""Of a processor, a study: one decode of every series, stacks, and slices of both localisers."""
LIMIT_BYTES = 9_000_000

pytestmark = pytest.mark.usefixtures("only_when_measuring")


@pytest.mark.real
def test_a_complete_study_is_prepared_in_seconds_and_megabytes(real_data, tmp_path, capsys):
    studies = complete_studies(real_data)
    examples = [
        ExamplesOf("sagittal", load_train_settings("landmarks", "cpu", [], 1).examples),
        ExamplesOf("axial", load_train_settings("axial", "cpu", [], 1).examples),
    ]
    rounds = iter(range(10))

    def make() -> None:
        folder = tmp_path / str(next(rounds))
        folder.mkdir()
        for competition, predicted in studies:
            prepare([competition], folder, examples, predicted, workers=1)

    seconds = quickest(make, rounds=3).cpu / len(studies)
    sizes = {
        name: sum(path.stat().st_size for path in (tmp_path / "0").glob(f"{name}-*/*/*.safetensors")) / len(studies)
        for name in ("stacks", "sagittal", "axial")
    }
    with capsys.disabled():
        parts = ", ".join(f"{name} {size / 1e6:.2f}" for name, size in sizes.items())
        print(f"\na study: {seconds:.2f} s of processor; {sum(sizes.values()) / 1e6:.2f} MB ({parts})")
    assert seconds <= LIMIT_SECONDS
    assert sum(sizes.values()) <= LIMIT_BYTES
