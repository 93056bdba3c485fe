"""The values of pydicom's raw elements as numbers and texts: whatever a file holds there, never an exception."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

_STRUCTS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}
_BINARY = {
    **dict.fromkeys((0x00280002, 0x00280010, 0x00280011, 0x00280100, 0x00280101, 0x00280102, 0x00280103), "H"),
    **dict.fromkeys((0x00280120, 0x00280121, 0x00281101, 0x00281102, 0x00281103), "H"),
    0x00189082: "d",
}
"""The numbers behind tags whose value representation a file does not give, or not rightly (UN, OB)."""
_WIDTHS = {"H": 2, "h": 2, "I": 4, "i": 4, "f": 4, "d": 8}
_LONGEST_VALUE = 1024
"""Bytes of a text, or of a list of numbers. The standard's own bounds are far below."""


def item_of(dataset: Dataset | None, tag: int, index: int) -> Dataset | None:
    if dataset is None or tag not in dataset:
        return None
    try:
        items = dataset[tag].value
        return items[index] if index < len(items) else None
    except Exception:  # a sequence that pydicom cannot convert says nothing about the slice
        return None


def numbers_of(dataset: Dataset | None, tag: int) -> tuple[float, ...]:
    """The numbers of an element; () if it is absent, empty or not a number in full."""
    if dataset is None or tag not in dataset:
        return ()
    element = dataset.get_item(tag)
    value = element.value
    try:
        if isinstance(element, RawDataElement) and isinstance(value, bytes):
            if len(value) > _LONGEST_VALUE:
                return ()
            code = _STRUCTS.get(element.VR or "") or (_BINARY.get(tag) if element.VR in (None, "UN", "OB") else None)
            if code is None:
                return _decimals(value.decode("ascii"))
            order = "<" if element.is_little_endian else ">"
            return tuple(map(float, struct.unpack(f"{order}{len(value) // _WIDTHS[code]}{code}", value)))
        if isinstance(value, str):
            return _decimals(value)
        parts = value if isinstance(value, Sequence) else [value]
        return tuple(float(part) for part in parts)
    except (ValueError, TypeError, struct.error, OverflowError):
        return ()


def first_of(numbers: tuple[float, ...]) -> float | None:
    return numbers[0] if numbers and abs(numbers[0]) < 1e9 else None  # NaN and infinity fail the comparison too


def integer_of(dataset: Dataset, tag: int) -> int | None:
    value = first_of(numbers_of(dataset, tag))
    return int(value) if value is not None else None


def text_of(dataset: Dataset, tag: int) -> str:
    if tag not in dataset:
        return ""
    value = dataset.get_item(tag).value
    text = value[:_LONGEST_VALUE].decode("latin-1") if isinstance(value, bytes) else str(value or "")
    return text.strip(" \0")


def _decimals(text: str) -> tuple[float, ...]:
    """The numbers of a decimal string; some writers put the decimal comma of their country, or commas between numbers.

    >>> _decimals("0,5\\\\0,5"), _decimals("0.5, 0.5"), _decimals("1,0,0,0,1,0")
    ((0.5, 0.5), (0.5, 0.5), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0))
    """
    text = text.strip(" \0")
    if "," in text:
        between = "\\" not in text and ("." in text or text.count(",") > 1)
        text = text.replace(",", "\\" if between else ".")
    return tuple(float(part) for part in text.split("\\"))
