"""Every command of ``python -m pipeline`` and ``submit.py``: its arguments, and what it says at the end."""

import importlib.util
import os
from pathlib import Path

from pipeline.console import CallError

ROOT = Path(__file__).resolve().parents[2]
"""The folder of ``submit.py``, or where the package is installed."""
IS_CLONE = (ROOT / "submit.py").is_file()
"""Whether this is a clone of the repository, or a copy of it such as the one for Kaggle, and no installed package."""
DEFAULT_WEIGHTS = Path(os.environ.get("LUMBAR_WEIGHTS") or (ROOT if IS_CLONE else Path()) / "weights" / "default")
"""The set of the repository; of an installed package, which brings none, that below the current folder."""


def check_cluster(address: str | None) -> None:
    """Say before any work what ``--cluster`` lacks.

    Raises:
        CallError: its package.
    """
    if address is not None and importlib.util.find_spec("distributed") is None:
        raise CallError("--cluster: needs the package distributed; pip install -r requirements-cluster.txt")
