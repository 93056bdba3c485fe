"""Every command of ``python -m pipeline`` and ``submit.py``: its arguments, and what it says at the end."""

import argparse
import importlib.util
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The folder of ``submit.py``, or where the package is installed."""
IS_CLONE = (ROOT / "submit.py").is_file()
"""Whether this is a clone of the repository, or a copy of it such as the one for Kaggle, and no installed package."""
DEFAULT_WEIGHTS = Path(os.environ.get("LUMBAR_WEIGHTS") or (ROOT if IS_CLONE else Path()) / "weights" / "default")
"""The set of the repository; of an installed package, which brings none, that below the current folder."""


def add_cluster_argument(parser: argparse.ArgumentParser | argparse._ArgumentGroup, what: str) -> None:
    """``--cluster``, which gives ``what`` to the workers of a Dask scheduler; its package is asked for at once."""
    parser.add_argument(
        "--cluster",
        type=_cluster,
        metavar="ADDRESS",
        help=f"{what} on the workers of a Dask scheduler (extra: cluster)",
    )


def _cluster(address: str) -> str:
    if importlib.util.find_spec("distributed") is None:
        raise argparse.ArgumentTypeError("needs the package distributed; pip install -r requirements-cluster.txt")
    return address
