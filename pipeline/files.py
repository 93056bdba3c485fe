"""Files that readers find whole or not at all, also after a kill or on a full disk."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: Path, write: Callable[[Path], object], sync: bool = True) -> None:
    """Let ``write`` make a file beside ``path``, bring it to the disk, then give it the name ``path``.

    Args:
        path: its folder is made if it is missing.
        write: gets the path to write to.
        sync: wait until the bytes are on the disk; without it they outlive a kill of the program, but not always a
            failure of the machine.

    Raises:
        OSError: writing failed; it names a file, ``path`` is as it was and no partial file is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        write(partial)
        if sync:
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        if error.filename in (None, str(partial)):
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def check_space(folder: Path, needed: int, what: str) -> None:
    """Say before a long work that the disk is too small for its result: a sparse file is only full hours later.

    Args:
        folder: where it is written.
        needed: bytes still to be written.
        what: they are, and where else they could go, for the message.

    Raises:
        OSError: less is free.
    """
    if (free := shutil.disk_usage(folder).free) < needed:
        text = f"{needed / 1e9:.1f} GB are needed for {what}, {free / 1e9:.1f} GB are free"
        raise OSError(errno.ENOSPC, text, str(folder))


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8 as :func:`write_atomically` does.

    Raises:
        OSError: as there.
    """
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8", newline="\n"))
