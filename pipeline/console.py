"""What a person gets to see: lines of text in which no name can do harm, on streams that may be closed or break.

``submit.py`` and ``python -m pipeline`` run inside :func:`run_program`, and print nothing but through :func:`say`,
:func:`say_json` and :func:`complain`.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from pipeline.names import shown

OUTPUT = "standard output"
_NOBODY_READS = (errno.EPIPE, errno.EIO)
"""The reader of a pipe has gone (``| head -1``), or the terminal was closed."""


def say(*lines: object) -> None:
    """Print lines for people, each as it is :func:`shown`."""
    if lines:
        print(_text(lines), flush=True)


def say_json(content: Any, indent: int | None = None) -> None:
    """Print an object for programs, in ASCII."""
    print(json.dumps(content, indent=indent), flush=True)


def complain(*lines: object) -> None:
    """Print lines for people on the stream for errors."""
    print(_text(lines), file=sys.stderr, flush=True)


def run_program(name: str, work: Callable[[], int]) -> int:
    """Run ``work`` on streams that hold; returns the exit status.

    Args:
        name: of the program, for what goes wrong outside any command.
        work: returns 0 all well, 1 the work could not be done, 2 the call was wrong.
    """
    open_streams()
    try:
        status = work()
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except MemoryError as error:
        complain(f"{name}: out of memory: {error}")
        return 1
    except OSError as error:
        complain(f"{name}: {f'{error.filename}: ' if error.filename else ''}{error.strerror or error}")
        return 1
    return status


class Parser(argparse.ArgumentParser):
    """Complains about arguments in one line, whatever is in them."""

    def error(self, message: str) -> NoReturn:
        """As its base, with the message :func:`shown`."""
        super().error(shown(message))


def end_signals() -> tuple[signal.Signals, ...]:
    """The signals that ask a program to end; a closed terminal does not where ``nohup`` said so."""
    hangs_up = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    return (signal.SIGINT, signal.SIGTERM, *((signal.SIGHUP,) if hangs_up else ()))


def open_streams() -> None:
    """Make the three standard streams fit to be used, however the program was started.

    A closed one leads to nothing; its number must not be given to the next file that is opened. Signs that the
    encoding lacks are escaped. Where nobody reads any more the program goes on.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it takes the lowest free number
    for name, number in (("stdout", 1), ("stderr", 2)):
        before = getattr(sys, name)
        if before is not None:
            with contextlib.suppress(OSError):
                before.flush()
        stream = io.TextIOWrapper(
            io.BufferedWriter(_Patient(number, "w", closefd=False)),
            encoding="utf-8" if before is None else before.encoding,
            errors="backslashreplace",
            line_buffering=number == 2 or os.isatty(number),
        )
        setattr(sys, name, stream)


def _text(lines: Iterable[object]) -> str:
    return "\n".join(shown(line, longest=10_000) for line in lines)


class _Patient(io.FileIO):
    """A stream that leads to nothing once it cannot be written to; what is in its buffer then breaks no exit."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self.fileno())
            os.close(nothing)
            if error.errno in _NOBODY_READS:
                return len(data)
            error.filename = OUTPUT
            raise
