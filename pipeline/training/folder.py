"""The folder of a run: only one that is new, empty or a run's is trained in, and only a run's results are deleted."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.owned import check_claim, claim, delete_known, is_owned

RUN = "run"
"""What the mark of a run's folder says, and that of a folder of runs."""
_RESULTS = re.compile(
    r"(last|complete)\.ckpt|(best|last)\.safetensors|history\.csv|curves\.png|tensorboard/events\.out\.tfevents\.[^/]*|"
    r"pictures/(epoch|chart)\d+\.png"
)
"""What :func:`clear_run` deletes."""


def is_begun(out: Path) -> bool:
    """Whether the folder holds a run that would be continued, or is complete."""
    return any((out / name).exists() for name in ("last.ckpt", "complete.ckpt"))


def claim_run(out: Path) -> None:
    """Make a folder that of a run, or of several.

    Raises:
        RefusedError: it holds what no run of this program wrote.
    """
    claim(out, RUN, _besides(out))


def check_run(out: Path) -> None:
    """Say before any work whether :func:`claim_run` would be refused; writes nothing.

    Raises:
        RefusedError: as there.
    """
    check_claim(out, RUN, _besides(out))


def clear_run(out: Path) -> None:
    """Delete an old run's results, and nothing else, from its folder."""
    delete_known(out, RUN, _RESULTS)


def _besides(out: Path) -> list[str]:
    """What may lie in the folder of a run that has not started: the user's pause file, and folders of other runs."""
    runs = [path.name for path in out.iterdir() if is_owned(path, RUN)] if out.is_dir() else []
    return [".pause", *runs]
