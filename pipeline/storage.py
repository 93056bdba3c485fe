"""Files by their names below a folder or inside a zip. A zip is read where it lies: nothing of it is ever written.

Names are POSIX paths below the folder or in the zip. What a zip declares is checked before anything is unpacked, so a
small one that would grow without end costs no memory, and a name in it can lead nowhere.
"""

from __future__ import annotations

import contextlib
import errno
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Protocol

from pipeline.files import folders_and_files, is_meant

MOST_FILES = 500_000
"""In one folder or zip; the competition's own training set has 150,000."""
_MOST_DIRECTORY = 128 * 2**20
"""Bytes of a zip's table of contents, which is read as a whole."""
_END, _END_64 = b"PK\x05\x06", b"PK\x06\x06"
_TAIL = 2**16 + 1024
INDEX = "DICOMDIR"
"""Name of the index of a medium (DICOM PS3.10); the one of :data:`pipeline.files.LEFTOVERS` that may be read."""


class Storage(Protocol):
    """A folder or a zip."""

    def names(self) -> Iterator[tuple[str, str | None]]:
        """Each file that a person put there, or an index, and why it is not to be read, None if it is.

        Raises:
            OSError: there are too many.
        """

    def size(self, name: str) -> int:
        """Bytes of a file.

        Raises:
            OSError: it is not there, or is no regular file.
        """

    def read(self, name: str, most: int) -> bytes:
        """The first ``most`` bytes of a file.

        Raises:
            OSError: it cannot be read.
        """


class Folder:
    """The files below a folder. Links to folders are not followed: they may lead back, or anywhere."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def names(self) -> Iterator[tuple[str, str | None]]:
        """As :meth:`Storage.names`, folder by folder."""
        waiting, count = [self._path], 0
        while waiting:
            place = waiting.pop()
            try:
                folders, files = folders_and_files(place)
            except OSError as error:
                yield self._name(place), f"the folder cannot be listed: {error.strerror or error}"
                continue
            index = place / INDEX
            for path in (*files, *([index] if index.is_file() else [])):
                count += 1
                if count > MOST_FILES:
                    raise OSError(errno.E2BIG, f"holds more than {MOST_FILES} files; name a smaller folder")
                yield self._name(path), None
            for folder in reversed(folders):
                if folder.is_symlink():
                    yield self._name(folder), "a link to a folder is not followed; name that folder itself"
                else:
                    waiting.append(folder)

    def _name(self, path: Path) -> str:
        return path.relative_to(self._path).as_posix()

    def size(self, name: str) -> int:
        """As :meth:`Storage.size`: a folder, a pipe or a device would block or never end, so it is refused unopened."""
        status = (self._path / name).stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise OSError(f"it is {kind}; expected a DICOM file")
        return status.st_size

    def read(self, name: str, most: int) -> bytes:
        """As :meth:`Storage.read`."""
        with (self._path / name).open("rb") as file:
            return file.read(most)


class Zip:
    """The files of a zip; stored or deflated ones, whose unpacking is bounded by the length they declare."""

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            OSError: it cannot be read, is no zip, or has a table of contents without end.
        """
        _check_directory(path)
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise OSError(errno.EINVAL, f"is no zip that can be read: {error}", str(path)) from error
        if len(self._zip.infolist()) > MOST_FILES:
            raise OSError(errno.E2BIG, f"holds more than {MOST_FILES} files", str(path))

    def names(self) -> Iterator[tuple[str, str | None]]:
        """As :meth:`Storage.names`, in the order of names."""
        for name, info in sorted(self._zip.NameToInfo.items()):
            parts = PurePosixPath(name.replace("\\", "/")).parts
            if not parts or name.endswith(("/", "\\")):
                continue
            if not all(is_meant(part) or part == ".." for part in parts[:-1]):
                continue
            if not is_meant(parts[-1]) and parts[-1].upper() != INDEX:
                continue
            yield name, self._why_not(info, parts)

    @staticmethod
    def _why_not(info: zipfile.ZipInfo, parts: tuple[str, ...]) -> str | None:
        if ".." in parts or parts[0].startswith("/") or parts[0].endswith(":"):
            return "its name leads out of the zip"
        if stat.S_ISLNK(info.external_attr >> 16):
            return "a link in a zip is not followed"
        if info.flag_bits & 1:
            return "it is encrypted; unpack the zip yourself"
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            return f"it is packed by method {info.compress_type}, expected deflate; unpack the zip yourself"
        return None

    def size(self, name: str) -> int:
        """As :meth:`Storage.size`, of the unpacked file as the zip declares it."""
        return self._info(name).file_size

    def read(self, name: str, most: int) -> bytes:
        """As :meth:`Storage.read`."""
        try:
            with self._zip.open(self._info(name)) as file:
                return file.read(most)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, ValueError) as error:
            raise OSError(errno.EIO, f"cannot be unpacked: {error}", name) from error

    def _info(self, name: str) -> zipfile.ZipInfo:
        try:
            return self._zip.getinfo(name)
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "is not in the zip any more", name) from None

    def close(self) -> None:
        """Close the file."""
        self._zip.close()


@contextlib.contextmanager
def open_storage(path: Path) -> Iterator[Storage]:
    """The folder, or the zip.

    Raises:
        OSError: as :class:`Zip`.
    """
    if path.is_dir():
        yield Folder(path)
        return
    with contextlib.closing(Zip(path)) as opened:
        yield opened


def is_index(name: str) -> bool:
    """Whether a file is the index of a medium, and no image."""
    return name.rpartition("/")[2].upper() == INDEX


def _check_directory(path: Path) -> None:
    """Refuse a table of contents that would fill the memory.

    Raises:
        OSError: it says that it is larger than any real one.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(size - _TAIL, 0))
        tail = file.read()
    at, at_64 = tail.rfind(_END), tail.rfind(_END_64)
    declared = 0
    if 0 <= at <= len(tail) - 16:
        declared = struct.unpack_from("<I", tail, at + 12)[0]
    if declared == 0xFFFFFFFF and 0 <= at_64 <= len(tail) - 48:
        declared = struct.unpack_from("<Q", tail, at_64 + 40)[0]
    if declared > _MOST_DIRECTORY:
        text = f"its table of contents has {declared} bytes; the limit is {_MOST_DIRECTORY}"
        raise OSError(errno.EFBIG, text, str(path))
