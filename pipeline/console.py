"""What a person gets to see: lines of text in which no name can do harm, on streams that may be closed or break.

``submit.py`` and ``python -m pipeline`` run inside :func:`run_program`, and print nothing but through :func:`say`,
:func:`say_json` and :func:`complain`. A command raises what went wrong; :data:`EXIT_STATUS` says what it exits with.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import errno
import io
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from pipeline import __version__
from pipeline.names import shown

VERSION = f"lumbar-grading {__version__}"
OUTPUT = "standard output"
_NOBODY_READS = (errno.EPIPE, errno.EIO, *((errno.EINVAL,) if sys.platform == "win32" else ()))
"""The reader of a pipe has gone (``| head -1``), or the terminal was closed."""

EXIT_STATUS: dict[str, int] = {
    # The call was wrong: an argument, a setting, or a file or folder that it names.
    "CallError": 2,
    "BackboneError": 2,
    "CompetitionError": 2,
    "ConfigError": 2,
    "RefusedError": 2,
    "ResumeError": 2,
    "TableError": 2,
    # The call was right, but the work could not be done.
    "WorkError": 1,
    "BusyError": 1,
    "LadderError": 1,
    "WeightsError": 1,
    "WheelError": 1,
    "FloatingPointError": 1,
    "MemoryError": 1,
    "OSError": 1,
}
"""Exit status by the name of an exception's class or of a class above it; by name, so that no error loads torch.

Anything else is a fault of the program and keeps its traceback.
"""


class CallError(Exception):
    """The command was called with something that cannot be meant."""


class WorkError(Exception):
    """The call was right, but what it asks for cannot be done."""


def say(*lines: object) -> None:
    """Print lines for people, each as it is :func:`shown`."""
    if lines:
        print(_text(lines), flush=True)


def clock_after(seconds: float) -> str:
    """The local time in so many seconds, e.g. ``Fri 14:05``."""
    return (datetime.datetime.now().astimezone() + datetime.timedelta(seconds=seconds)).strftime("%a %H:%M")


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

    def work_and_flush() -> int:
        status = work()
        sys.stdout.flush()
        return status

    open_streams()
    try:
        return exit_status(name, work_and_flush)
    except KeyboardInterrupt:
        return 130


def run_command(
    prog: str,
    summary: str,
    add_arguments: Callable[[argparse.ArgumentParser], None],
    run: Callable[[argparse.Namespace], int],
    argv: Sequence[str],
) -> int:
    """Parse a command's arguments and run it; returns the exit status, also of ``--help`` and of a wrong argument."""
    parser = Parser(prog=prog, description=summary)
    add_arguments(parser)
    parser.add_argument("--version", action="version", version=VERSION)
    parser.add_argument("--verbose", action="store_true", help="say more: where an error arose, what is worked around")
    try:
        args = parser.parse_args(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    return exit_status(prog.removeprefix("python -m pipeline "), lambda: run(args), args.verbose)


def exit_status(name: str, work: Callable[[], int], verbose: bool = False) -> int:
    """The status that ``work`` returns; an error of :data:`EXIT_STATUS` becomes a line and its status.

    Before that line goes, if it is to be ``verbose``, where the error arose.
    """
    try:
        return work()
    except Exception as error:
        status = next((EXIT_STATUS[cls.__name__] for cls in type(error).__mro__ if cls.__name__ in EXIT_STATUS), None)
        if status is None:
            raise
        if verbose:
            complain(*traceback.format_exc().splitlines())
        complain(f"{name}: {_reason(error)}")
        return status


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{f'{error.filename}: ' if error.filename else ''}{error.strerror or error}"
    return f"out of memory: {error}" if isinstance(error, MemoryError) else str(error)


class Parser(argparse.ArgumentParser):
    """Complains about arguments in one line, whatever is in them."""

    def error(self, message: str) -> NoReturn:
        """As its base, with the message :func:`shown`."""
        super().error(shown(message))


def closed_terminal() -> tuple[signal.Signals, ...]:
    """The signal that says that the terminal was closed: SIGHUP, on Windows SIGBREAK."""
    return tuple(getattr(signal, name) for name in ("SIGHUP", "SIGBREAK") if hasattr(signal, name))


def end_signals() -> tuple[signal.Signals, ...]:
    """The signals that ask a program to end; a closed terminal does not where ``nohup`` said so."""
    heard = (number for number in closed_terminal() if signal.getsignal(number) is not signal.SIG_IGN)
    return (signal.SIGINT, signal.SIGTERM, *heard)


def open_streams() -> None:
    """Make the three standard streams fit to be used, however the program was started.

    A closed one is led to nothing, because its number must not be given to the next file that is opened. Characters
    that the encoding lacks are escaped. The program keeps running when nobody reads its output any more.
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
            if sys.platform == "win32" and os.isatty(number):  # its console takes text, not bytes
                before.reconfigure(errors="backslashreplace")
                continue
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
