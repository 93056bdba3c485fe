"""Files that readers find whole or not at all, also after a kill or on a full disk."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path

LEFTOVERS = frozenset(
    [
        "__macosx",
        "@eadir",
        "@recycle",
        "#recycle",
        "#snapshot",
        "lost+found",
        "$recycle.bin",
        "recycler",
        "found.000",
        "thumbs.db",
        "desktop.ini",
        "dicomdir",
    ]
) | {"system volume information"}
"""Names, in small letters, of what no user puts among images: bins, thumbnails, indexes."""
WINDOWS = os.name == "nt"
WAITS = (0.01, 0.05, 0.2, 0.5)
"""Seconds before a refused rename is tried again on Windows."""


class DamagedError(ValueError):
    """A file that this program wrote and that is not as it was written."""


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
    partial = path.with_name(f".{path.name}.{secrets.token_hex(6)}.partial")  # a name that nobody else's file has
    try:
        write(partial)
        if sync:
            with partial.open("rb+") as file:  # Windows brings nothing to the disk through a handle that only reads
                os.fsync(file.fileno())
        _replace(partial, path)
    except OSError as error:
        if error.filename in (None, str(partial)):
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def _replace(partial: Path, path: Path) -> None:
    """Rename; on Windows a scanner or an indexer that just looks at either file refuses it for a moment."""
    for wait in WAITS if WINDOWS else ():
        try:
            partial.replace(path)
        except PermissionError:
            time.sleep(wait)
        else:
            return
    partial.replace(path)


def read_bounded(path: Path, most: int) -> bytes:
    """The content of a regular file of at most ``most`` bytes. No link is followed, no pipe or device waited for.

    Raises:
        OSError: it is missing, cannot be read, is no regular file, is larger, or grows while it is read.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    a_link = OSError(errno.ELOOP, "is a link; put the file itself there", str(path))
    if not hasattr(os, "O_NOFOLLOW") and path.is_symlink():  # Windows
        raise a_link
    try:
        handle = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise a_link from error
        raise
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "is no regular file", str(path))
        if found.st_size > most:
            raise OSError(errno.EFBIG, f"has {found.st_size} bytes, more than the {most} that it may have", str(path))
        with open(handle, "rb", closefd=False) as file:  # a handle has no path to open it by
            content = file.read(found.st_size + 1)
    finally:
        os.close(handle)
    if len(content) > found.st_size:
        raise OSError(errno.EAGAIN, "grows while it is read", str(path))
    return content


def file_states(folder: Path) -> list[tuple[str, int, int, int]] | int:
    """Name, size and times of change of every file a reader would see, links followed; an error's number for none.

    The second time, of the file's entry, also changes where the first is set back; no file is opened, because on a
    disk of the network each would be fetched.
    """
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_meant(entry.name):
                    found.append((entry.name, *file_state(entry)))
    except OSError as error:
        return error.errno or -1
    return sorted(found)


def file_state(file: Path | os.DirEntry[str]) -> tuple[int, int, int]:
    """Size and times of change of one file; -1 and the error's number where it has none."""
    try:
        now = file.stat()
    except OSError as error:
        return -1, error.errno or 0, 0
    return now.st_size, now.st_mtime_ns, now.st_ctime_ns


def is_meant(name: str) -> bool:
    """Whether a file or folder of this name was put there by a person: not hidden, and none of :data:`LEFTOVERS`."""
    return not name.startswith(".") and name.lower() not in LEFTOVERS


def folders_and_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The folders and everything else in a folder, each by name. A link in a circle is a file.

    Hidden ones are left out, and those that systems and devices make for themselves (:data:`LEFTOVERS`).

    Raises:
        OSError: it cannot be listed.
    """
    with os.scandir(folder) as listing:
        entries = sorted((entry for entry in listing if is_meant(entry.name)), key=lambda entry: entry.name)
    folders: list[Path] = []
    files: list[Path] = []
    for entry in entries:
        try:
            is_folder = entry.is_dir()
        except OSError:  # a link in a circle
            is_folder = False
        (folders if is_folder else files).append(Path(entry.path))
    return folders, files


def write_sealed(path: Path, key: str, body: bytes) -> None:
    """Write ``body`` with its checksum and the ``key`` (a word) of what it was made from, for :func:`read_sealed`.

    It outlives a kill of the program, not always a failure of the machine; then it counts as damaged.

    Raises:
        OSError: as :func:`write_atomically`.
    """
    write_atomically(path, lambda partial: partial.write_bytes(_seal(key, body) + body), sync=False)


def read_sealed(path: Path, key: str, most: int) -> bytes | None:
    """The body of a file of :func:`write_sealed`; None where there is none, or one of another key.

    Raises:
        DamagedError: it is no regular file, has more than ``most`` bytes, or is not what was written.
    """
    try:
        content = read_bounded(path, most)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DamagedError(f"{path.name}: {error.strerror or error}") from error
    seal, _, body = content.partition(b"\n")
    words = seal.split(b" ")
    if len(words) == 3 and words[1] != key.encode() and seal + b"\n" == _seal(words[1].decode("latin-1"), body):
        return None
    if seal + b"\n" != _seal(key, body):
        raise DamagedError(f"{path.name}: its {len(content)} bytes are not what was written")
    return body


def sealed_key(path: Path) -> str | None:
    """The key that a file of :func:`write_sealed` says it has; None where it is no such file.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        words = file.readline(1000).split(b" ")
    return words[1].decode("latin-1") if len(words) == 3 else None


def _seal(key: str, body: bytes) -> bytes:
    return f"lumbar-grading {key} {hashlib.sha256(body).hexdigest()}\n".encode("latin-1")


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
