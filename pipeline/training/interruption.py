"""Stopping politely: SIGTERM, Ctrl-C and a closed terminal end a run after the current step, with a checkpoint;
``.pause`` parks it.
"""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from pipeline.console import end_signals


class TrainingStopped(SystemExit):
    """A run was stopped by a signal after saving its checkpoint; the exit status is 128 + the signal."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(128 + number)
        self.message = message

    def __str__(self) -> str:
        return self.message


class StopRequest:
    """Notes that the process was asked to stop; inside :meth:`at_once` it stops immediately instead.

    The second Ctrl-C always stops immediately. Outside the main thread signals cannot be caught and nothing happens.
    """

    def __init__(self) -> None:
        self.number = 0
        self._immediate = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in end_signals()}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous = {}

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """For work that loses nothing when interrupted, because a checkpoint was just written."""
        self._immediate = True
        try:
            if self.number:
                self._stop(self.number)
            yield
        finally:
            self._immediate = False

    def _note(self, number: int, _: FrameType | None) -> None:
        if self._immediate or self.number:
            self._stop(number)
        self.number = number

    def _stop(self, number: int) -> None:
        raise TrainingStopped(number, f"stopped by {signal.Signals(number).name}; the same command continues")


def pause_file(out: Path) -> Path | None:
    """The file that parks a run: in its folder or, for a fold's, where all folds or all stages of it lie."""
    folders = [out, out.parent, out.parent.parent] if re.fullmatch(r"fold\d+", out.name) else [out]
    return next((folder / ".pause" for folder in folders if (folder / ".pause").exists()), None)
