"""Working copies of training data: arrays in files that have no name and end with the process, whatever its end.

They are as fast as main memory while that lasts, and on the disk when it does not. Loading processes share them: a
forked one has the mapping, a spawned one is handed the open file instead of a copy of its content.
"""

from __future__ import annotations

import math
import os
import tempfile
from multiprocessing import reduction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from pipeline.files import check_space


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
        with tempfile.TemporaryFile(dir=folder) as file:
            file.truncate(size)
            self._map(os.dup(file.fileno()), shape, dtype)

    def _map(self, handle: int, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self._handle = handle
        with open(handle, "r+b", closefd=False) as file:
            # An empty array cannot be mapped, so one element more than none always is
            flat = np.memmap(file, dtype, "r+", shape=(max(1, math.prod(shape)),))
        self.values = flat[: math.prod(shape)].reshape(shape)

    @property
    def path(self) -> str:
        """By which other processes of this user may open the file while this one lives."""
        return f"/proc/{os.getpid()}/fd/{self._handle}"

    def __getstate__(self) -> tuple[Any, tuple[int, ...], str]:
        return reduction.DupFd(self._handle), self.values.shape, self.values.dtype.str

    def __setstate__(self, state: tuple[Any, tuple[int, ...], str]) -> None:
        handle, shape, dtype = state
        self._map(handle.detach(), shape, dtype)

    def __del__(self) -> None:
        if hasattr(self, "_handle"):
            os.close(self._handle)


def write_at(path: str, first: int, values: NDArray[Any]) -> None:
    """Write into the file of another process's :class:`Scratch` from its element ``first`` on."""
    with Path(path).open("r+b") as file:
        file.seek(first * values.dtype.itemsize)
        file.write(np.ascontiguousarray(values).data)
