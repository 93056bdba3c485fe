"""What every test may use: the folder of real studies, and one thread so that the suite is the same on any machine."""

from __future__ import annotations

import inspect
import os
import random
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from pipeline.labels import CELL_COLUMNS, GRADE_NAMES

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

settings.register_profile("always the same", derandomize=True, deadline=None)  # others: python -m tests.fuzz properties
settings.load_profile("always the same")

NOT_EVERYWHERE = re.compile(
    r"/proc|/dev/(full|null|zero|shm)|mkfifo|SIGKILL|SIGHUP|SIGALRM|start_new_session|unshare|killpg|umask|chown|"
    r"os\.link|O_NOFOLLOW|surrogate|fsencode|setrlimit|pthread_sigmask|b\"caf"
)
"""What a test does by which it can be a test of Linux alone, or of POSIX."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """On other systems leave out the tests that themselves need what those have not; what is left has to pass."""
    if sys.platform == "linux":
        return
    for item in items:
        if (code := getattr(item, "function", None)) and (found := NOT_EVERYWHERE.search(inspect.getsource(code))):
            item.add_marker(pytest.mark.skip(f"does with {found.group()} what is Linux's"))


@pytest.fixture(autouse=True)
def _same_chance() -> None:
    """The global generators begin each test alike, whatever other tests this process has run."""
    random.seed(0)
    for name, seed in (("numpy.random", "seed"), ("torch", "manual_seed")):
        if name in sys.modules:
            getattr(sys.modules[name], seed)(0)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder that holds ``rsna-full``, ``rsna-t1`` and ``spider``; the test is skipped where it is not set."""
    named = os.environ.get("LUMBAR_REAL_DATA")
    if not named:
        pytest.skip("LUMBAR_REAL_DATA is not set")
    folder = Path(named)
    if not folder.is_dir():
        pytest.fail(f"LUMBAR_REAL_DATA names {folder}, which is not a folder")
    return folder


@pytest.fixture
def write_labels(tmp_path: Path) -> Callable[..., Path]:
    """Write grades (studies, 25), NaN for none, as a ``train.csv``."""

    import numpy as np
    import pandas as pd

    def write(grades: np.ndarray, study_ids: list[str] | None = None, name: str = "train.csv") -> Path:
        ids = study_ids or [str(1000 + number) for number in range(len(grades))]
        text = [["" if np.isnan(g) else GRADE_NAMES[int(g)] for g in row] for row in grades]
        frame = pd.DataFrame(text, columns=list(CELL_COLUMNS))
        frame.insert(0, "study_id", ids)
        path = tmp_path / name
        frame.to_csv(path, index=False)
        return path

    return write
