"""The folder of a run: only one that is new, empty or a run's is trained in, and only a run's results are deleted."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from pipeline.console import clock_after, say
from pipeline.owned import check_claim, claim, delete_known, is_owned


class _Run(Protocol):
    out: Path


Fold = TypeVar("Fold", bound=_Run)

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


def in_turn(runs: Sequence[Fold]) -> Iterator[Fold]:
    """Runs one after the other; of several, each is announced, and when the last will end if all take as long."""
    began = time.monotonic()
    for number, run in enumerate(runs):
        if len(runs) > 1:
            left = (time.monotonic() - began) / number * (len(runs) - number) if number else 0.0
            ends = f"; the last ends about {clock_after(left)}" if number else ""
            say(f"{run.out}: fold {number + 1} of {len(runs)}{ends}")
        yield run


def _besides(out: Path) -> list[str]:
    """What may lie in the folder of a run that has not started: the user's pause file, and folders of other runs."""
    runs = [path.name for path in out.iterdir() if is_owned(path, RUN)] if out.is_dir() else []
    return [".pause", *runs]
