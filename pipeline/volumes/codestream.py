"""What a JPEG, JPEG-LS or JPEG 2000 stream declares of itself, read before a decoder is let loose on it.

A decoder trusts the stream, not the DICOM header. What it would allocate is in the first markers, and a decoder steps
over damage to find them, so that a lenient parser and a decoder can see two different images. Here nothing is stepped
over: up to the pixels every marker has to be where the standard puts it, and the size has to be there exactly once.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_SOI, _SOC_SIZ = b"\xff\xd8", b"\xff\x4f\xff\x51"
_BOXES = b"\0\0\0\x0cjP  \r\n\x87\n"
_START_OF_FRAME = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
"""JPEG markers that carry the size; 0xF7 is JPEG-LS. C4, C8 and CC are tables and extensions."""
_START_OF_SCAN, _FILL = 0xDA, 0xFF
_WITH_LENGTH = _START_OF_FRAME | {0xC4, 0xCC, 0xF8, 0xFE, *range(0xDA, 0xF0)}
"""JPEG markers that a segment follows. Any other has no place before the pixels."""


_MOST_STEPS = 10_000
"""Markers and boxes that are gone through. Profiles and comments of the largest size allowed take 300."""


@dataclass(frozen=True)
class Declared:
    """The image that a stream says it holds: ``bits`` of each component; ``tiles`` is 1 for all but JPEG 2000."""

    rows: int
    cols: int
    components: int
    bits: int
    tiles: int = 1

    def __str__(self) -> str:
        tiles = f" in {self.tiles} tiles" if self.tiles > 1 else ""
        return f"{self.rows} x {self.cols} pixels of {self.components} x {self.bits} bits{tiles}"


def without_boxes(stream: bytes) -> bytes:
    """The JPEG 2000 codestream out of a JP2 container, not allowed in DICOM and found there all the same.

    Raises:
        ValueError: the boxes do not lead to a codestream.
    """
    if not stream.startswith(_BOXES):
        return stream
    at = 0
    for _ in range(_MOST_STEPS):
        if at + 8 > len(stream):
            break
        length, kind = struct.unpack_from(">I4s", stream, at)
        head = 8
        if length == 1 and at + 16 <= len(stream):
            length, head = struct.unpack_from(">Q", stream, at + 8)[0], 16
        end = at + length if length else len(stream)
        if end < at + head or end > len(stream):
            break
        if kind == b"jp2c":
            return stream[at + head : end]
        at = end
    raise ValueError("is in a JP2 container without a whole codestream")


def read_declared(stream: bytes) -> Declared:
    """What the stream declares.

    Raises:
        ValueError: it is no such stream, or its first markers are not in order.
    """
    try:
        return _jpeg_2000(stream) if stream.startswith(_SOC_SIZ) else _jpeg(stream)
    except (struct.error, IndexError) as error:
        raise ValueError("ends before it shows a size") from error


def _jpeg_2000(stream: bytes) -> Declared:
    length, _, right, bottom, left, top, width, height, tiles_left, tiles_top, components = struct.unpack_from(
        ">HH8IH", stream, 4
    )
    depth, across, down = struct.unpack_from(">3B", stream, 42)
    if length != 38 + 3 * components or not components:
        raise ValueError(f"has a SIZ marker of {length} bytes for {components} components")
    if (across, down) != (1, 1):
        raise ValueError(f"has components of every {down}th row and {across}th column; expected all")
    if not (tiles_left <= left < right and tiles_top <= top < bottom and width and height):
        raise ValueError("has a SIZ marker without an image inside its tiles")
    tiles = -((tiles_left - right) // width) * -((tiles_top - bottom) // height)
    return Declared(bottom - top, right - left, components, (depth & 0x7F) + 1, tiles)


def _jpeg(stream: bytes) -> Declared:
    if not stream.startswith(_SOI):
        raise ValueError("shows no size")
    found: Declared | None = None
    at = len(_SOI)
    for _ in range(_MOST_STEPS):
        if stream[at] != _FILL:
            raise ValueError(f"has no marker at byte {at}, where one has to be")
        at += 1
        marker = stream[at]
        if marker == _FILL:  # any number of them may stand before a marker
            continue
        (length,) = struct.unpack_from(">H", stream, at + 1)
        if marker not in _WITH_LENGTH or length < 2:
            raise ValueError(f"has the marker FF{marker:02X} of {length} bytes before its pixels")
        if marker in _START_OF_FRAME:
            if found is not None:
                raise ValueError(f"declares a size twice: {found}, and again at byte {at}")
            bits, rows, cols, components = struct.unpack_from(">BHHB", stream, at + 3)
            found = Declared(rows, cols, components, bits)
        if marker == _START_OF_SCAN:
            if found is None:
                raise ValueError("shows no size before its pixels")
            return found
        at += 1 + length
    raise ValueError(f"does not come to its pixels after {_MOST_STEPS} markers")
