"""What the speed benchmarks share: that they run only when asked for, two threads, and one complete study."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pipeline.competition import StudyRef, open_competition
from pipeline.phantom import make_phantom

REAL_STUDY = "100206310"
THREADS = min(2, os.cpu_count() or 1)


@pytest.fixture
def only_when_measuring(request: pytest.FixtureRequest) -> None:
    """Skip unless ``--benchmark-enable`` is given."""
    if not request.config.getoption("--benchmark-enable"):
        pytest.skip("a benchmark: run with --benchmark-enable -n 0 -s")


@pytest.fixture
def two_threads() -> Iterator[None]:
    """PyTorch on the two threads that the targets are stated for."""
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def complete_study(tmp_path_factory: pytest.TempPathFactory) -> StudyRef:
    """The real complete study where ``LUMBAR_REAL_DATA`` names its folder, else a phantom of full size."""
    named = os.environ.get("LUMBAR_REAL_DATA")
    if named:
        return open_competition(Path(named) / "rsna-full", split="train").study(REAL_STUDY)
    folder = make_phantom(tmp_path_factory.mktemp("phantom"), studies=1, seed=11, size="full")
    return open_competition(folder, split="train").studies[0]
