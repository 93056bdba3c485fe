"""Working copies of training data: arrays in files that end with the process.

They are as fast as main memory while that lasts, and on the disk when it does not. Loading processes share them: a
forked one has the mapping, a spawned one is handed the open file, or its name, instead of a copy of its content.

On Linux the file has no name, so that it ends with the process whatever that ends by. Elsewhere it has one, with the
number of its process in it: what a killed process has left is deleted by the next one that works in the folder.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import secrets
import tempfile
import weakref
from multiprocessing import reduction
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import DTypeLike, NDArray

from pipeline.files import check_space

OPEN_FILES = Path("/proc/self/fd")
"""Where a system shows a process its open files, so that they need no name."""
_NAME = re.compile(r"\.scratch-(\d+)-[0-9a-f]{12}")


class Scratch:
    """A memory-mapped array of zeros to be filled.

    Args:
        folder: on whose disk it lies.
        shape: of the array.
        dtype: of the array.
        what: it holds, for the message where the disk is too small.

    Attributes:
        values: the array.

    Raises:
        OSError: the disk has not enough room.
    """

    values: NDArray[Any]

    def __init__(self, folder: Path, shape: tuple[int, ...], dtype: DTypeLike, what: str) -> None:
        size = max(1, math.prod(shape)) * np.dtype(dtype).itemsize
        check_space(folder, size, what)
        self._name: str | None = None
        if not OPEN_FILES.is_dir():
            self._name = _named(folder, size)
            self._remove = weakref.finalize(self, _unlink, Path(self._name))
            self._map(self._name, shape, dtype)
            return
        with tempfile.TemporaryFile(dir=folder) as file:
            file.truncate(size)
            self._map(os.dup(file.fileno()), shape, dtype)

    def _map(self, place: int | str, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        if isinstance(place, int):
            self._handle = place
        with open(place, "r+b", closefd=isinstance(place, str)) as file:
            # An empty array cannot be mapped, so one element more than none always is
            flat = np.memmap(file, dtype, "r+", shape=(max(1, math.prod(shape)),))
        self.values = flat[: math.prod(shape)].reshape(shape)

    @property
    def path(self) -> str:
        """By which other processes of this user may open the file while this one lives."""
        return self._name or f"/proc/{os.getpid()}/fd/{self._handle}"

    def __getstate__(self) -> tuple[Any, tuple[int, ...], str]:
        return self._name or reduction.DupFd(self._handle), self.values.shape, self.values.dtype.str

    def __setstate__(self, state: tuple[Any, tuple[int, ...], str]) -> None:
        place, shape, dtype = state
        self._name = place if isinstance(place, str) else None
        self._map(place if isinstance(place, str) else place.detach(), shape, dtype)

    def __del__(self) -> None:
        if hasattr(self, "_handle"):
            os.close(self._handle)
        if hasattr(self, "_remove"):
            del self.values  # Windows deletes no file that is mapped
            self._remove()


def _named(folder: Path, size: int) -> str:
    """A new file of zeros, after those of processes that are no more were deleted."""
    for left in folder.glob(".scratch-*"):
        if (match := _NAME.fullmatch(left.name)) and not psutil.pid_exists(int(match[1])):
            _unlink(left)
    path = folder / f".scratch-{os.getpid()}-{secrets.token_hex(6)}"
    with path.open("xb") as file:
        file.truncate(size)
    return str(path)


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def write_at(path: str, first: int, values: NDArray[Any]) -> None:
    """Write into the file of another process's :class:`Scratch` from its element ``first`` on."""
    with Path(path).open("r+b") as file:
        file.seek(first * values.dtype.itemsize)
        file.write(np.ascontiguousarray(values).data)
