"""PALETTE COLOR: pixel values that are places in a table of greys (DICOM PS3.3 C.7.6.3.1.5)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from pipeline.volumes.elements import BadFileError
from pipeline.volumes.values import numbers_of

_DESCRIPTORS = (0x00281101, 0x00281102, 0x00281103)
_TABLES = (0x00281201, 0x00281202, 0x00281203)
PALETTE_TAGS = (*_DESCRIPTORS, *_TABLES)
"""The elements that :func:`read_palette` looks at: red, green and blue."""


@dataclass(frozen=True, eq=False)
class Greys:
    """A table of greys and the stored value that stands for its first entry."""

    first: int
    values: NDArray[np.uint16]

    def look_up(self, stored: NDArray[np.integer]) -> NDArray[np.integer]:
        """The greys of stored values; values beyond an end of the table are those of that end."""
        return self.values[np.clip(stored.astype(np.int64) - self.first, 0, len(self.values) - 1)]


def read_palette(dataset: Dataset) -> Greys:
    """The greys of an image whose palette is grey.

    Raises:
        BadFileError: the tables are missing, damaged, or of colours.
    """
    tables = [_read_table(dataset, descriptor, table) for descriptor, table in zip(_DESCRIPTORS, _TABLES, strict=True)]
    first, red = tables[0]
    if any(start != first or not np.array_equal(table, red) for start, table in tables[1:]):
        raise BadFileError("unsupported-pixels", "PALETTE COLOR with a palette of colours; expected a grey image")
    return Greys(first, red)


def _read_table(dataset: Dataset, descriptor: int, table: int) -> tuple[int, NDArray[np.uint16]]:
    described = numbers_of(dataset, descriptor)
    data = dataset.get_item(table).value if table in dataset else None
    if len(described) != 3 or not isinstance(data, bytes):
        raise BadFileError("unsupported-pixels", "PALETTE COLOR without its lookup tables (0028,1101) to (0028,1203)")
    entries, first, bits = (int(value) for value in described)
    entries = entries or 65536
    order = "<" if dataset.original_encoding[1] else ">"
    values = np.frombuffer(data, np.uint8 if bits <= 8 and len(data) < 2 * entries else f"{order}u2", count=-1)[
        :entries
    ]
    if len(values) < entries:
        raise BadFileError("bad-header", f"a palette of {len(values)} entries; its descriptor promises {entries}")
    return first, values.astype(np.uint16)
