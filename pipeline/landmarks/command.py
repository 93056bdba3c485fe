"""The arguments of ``train landmarks`` and ``train axial``; torch is imported only when a run starts."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What only the point networks take; the arguments common to all training are the dispatcher's."""
    parser.add_argument(
        "--cache", type=Path, default=Path("cache"), help="folder for the decoded slices (default: %(default)s)"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes that fill the cache (default: %(default)s)")


def run_sagittal(args: argparse.Namespace) -> int:
    """``train landmarks``."""
    from pipeline.landmarks.train import train

    return train("landmarks", args)


def run_axial(args: argparse.Namespace) -> int:
    """``train axial``."""
    from pipeline.landmarks.train import train

    return train("axial", args)
