"""The end of a study that takes too long: an exception where Python runs, the end of the process where it does not."""

from __future__ import annotations

import _thread
import faulthandler
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType

AGAIN_SECONDS = 5.0
"""The alarm of a slow study rings again, should the first exception have been swallowed by a callback."""
_BELL = getattr(signal, "SIGALRM", signal.SIGABRT)
"""The signal that carries the alarm. Windows has no SIGALRM; a real abort ends a process there as before."""


class StudyTimeout(BaseException):
    """The study used up its seconds. Not an ``Exception``, so that no stage takes it for a fault of its own."""


@contextmanager
def alarm(seconds: float, hang_seconds: float | None) -> Iterator[Callable[[float], None]]:
    """Raise :class:`StudyTimeout` in this thread once the seconds are over; only in a main thread.

    A library that hangs in compiled code never sees the exception. The process is then ended
    ``hang_seconds`` later, and the run goes on without it; not where they are None, as in the main process.

    Yields:
        A function that gives what follows so many seconds, after which, and the hang's, the process is ended.
    """

    over = False

    def ring(_number: int, _frame: FrameType | None) -> None:
        if not over:
            raise StudyTimeout

    try:
        before = signal.signal(_BELL, ring)
    except ValueError:  # not the main thread: the limits of the reader remain
        yield lambda _: None
        return
    stop = _start_timer(seconds)
    try:
        with Path(os.devnull).open("w") as nowhere:

            def watch(limit: float) -> None:
                if hang_seconds is not None:
                    faulthandler.dump_traceback_later(limit + hang_seconds, exit=True, file=nowhere)

            watch(seconds)
            try:
                yield watch
            finally:
                over = True
                if hang_seconds is not None:
                    faulthandler.cancel_dump_traceback_later()
    finally:
        over = True
        stop()
        signal.signal(_BELL, before)


def _start_timer(seconds: float) -> Callable[[], object]:
    """Ring after the seconds, and then again and again, until what is returned is called."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_SECONDS)
        return partial(signal.setitimer, signal.ITIMER_REAL, 0)
    ended = threading.Event()

    def count() -> None:
        wait = seconds
        while not ended.wait(wait):
            _thread.interrupt_main(_BELL)
            wait = AGAIN_SECONDS

    threading.Thread(target=count, daemon=True).start()
    return ended.set
