"""Compressed streams that declare, or make a decoder take, far more than they are: made by surgery on sound ones."""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

SIDE = 64
SOF = b"\xff\xc0"
ITEM = b"\xfe\xff\x00\xe0"


def compressed(syntax: str, side: int, bits: int, stream: bytes):
    """A change of a slice: a square image of so many pixels a side, stored as ``stream``."""

    def change(data: Dataset) -> None:
        data.file_meta.TransferSyntaxUID = syntax
        data.Rows = data.Columns = side
        data.BitsAllocated = data.BitsStored = bits
        data.HighBit = bits - 1
        data.PixelData = encapsulate([stream], has_bot=False)
        data["PixelData"].is_undefined_length = True

    return change


def image(side: int = SIDE, dtype: type = np.uint8) -> np.ndarray:
    """(side, side) a slanted ramp."""
    return (np.indices((side, side)).sum(0) % 251).astype(dtype)


def jpeg(side: int = SIDE, progressive: bool = False) -> bytes:
    """8 bits, one component."""
    stream = io.BytesIO()
    Image.fromarray(image(side)).save(stream, "JPEG", progressive=progressive)
    return stream.getvalue()


def frame_header(rows: int, cols: int) -> bytes:
    """The segment of a JPEG in which its size is."""
    return SOF + struct.pack(">HBHHB3B", 11, 8, rows, cols, 1, 1, 0x11, 0)


def jpeg_of(rows: int, cols: int, first: bytes = b"") -> bytes:
    """A JPEG that declares this size; ``first`` comes before all its other segments."""
    stream = jpeg()
    at = stream.index(SOF)
    return stream[:2] + first + stream[2:at] + frame_header(rows, cols) + stream[at + 13 :]


def jpeg_of_scans(count: int, side: int) -> bytes:
    """A progressive JPEG whose last scan, 35 bytes, comes ``count`` times: each time a decoder goes over all pixels."""
    stream = io.BytesIO()
    Image.fromarray(np.zeros((side, side), np.uint8)).save(stream, "JPEG", progressive=True)
    whole = stream.getvalue()
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * count + whole[-2:]


def j2k(side: int = SIDE) -> bytes:
    """16 bits, one component, one tile."""
    stream = io.BytesIO()
    Image.fromarray(image(side, np.uint16)).save(stream, "JPEG2000", no_jp2=True)
    return stream.getvalue()


def j2k_of(side: int = SIDE, **changes: int) -> bytes:
    """A JPEG 2000 stream with other values in its SIZ marker (names as in the standard, and ``Csiz`` components)."""
    stream = j2k(side)
    length = struct.unpack_from(">H", stream, 4)[0]
    names = ("Lsiz", "Rsiz", "Xsiz", "Ysiz", "XOsiz", "YOsiz", "XTsiz", "YTsiz", "XTOsiz", "YTOsiz", "Csiz")
    values = dict(zip(names, struct.unpack_from(">HH8IH", stream, 4), strict=True))
    component = bytearray(stream[42:45])
    for index, name in enumerate(("Ssiz", "XRsiz", "YRsiz")):
        component[index] = changes.pop(name, component[index])
    values |= changes
    values["Lsiz"] = changes.get("Lsiz", 38 + 3 * values["Csiz"])
    return stream[:4] + struct.pack(">HH8IH", *values.values()) + component * values["Csiz"] + stream[4 + length :]


def j2k_of_precincts(side: int) -> bytes:
    """A JPEG 2000 stream in precincts of two pixels: a decoder makes hundreds of bytes of each before it reads one."""
    stream = j2k(side)
    at = stream.index(b"\xff\x52")  # COD
    length = struct.unpack_from(">H", stream, at + 2)[0]
    style, levels = stream[at + 4] | 1, stream[at + 9]
    body = bytes([style]) + stream[at + 5 : at + 14] + b"\x11" * (levels + 1)
    return stream[: at + 2] + struct.pack(">H", 2 + len(body)) + body + stream[at + 2 + length :]


def box(kind: bytes, content: bytes, extended: bool = False) -> bytes:
    """A box of a JP2 container; its length in four bytes or, extended, in eight more."""
    if extended:
        return struct.pack(">I4sQ", 1, kind, 16 + len(content)) + content
    return struct.pack(">I4s", 8 + len(content), kind) + content


def jp2(*boxes: bytes, side: int = SIDE) -> bytes:
    """A JP2 container that declares a 16-bit image and holds these boxes."""
    header = box(b"ihdr", struct.pack(">IIHBBBB", side, side, 1, 15, 7, 0, 0))
    header += box(b"colr", b"\1\0\0" + struct.pack(">I", 17))
    start = box(b"jP  ", b"\r\n\x87\n") + box(b"ftyp", b"jp2 \0\0\0\0jp2 ")
    return start + box(b"jp2h", header) + b"".join(boxes)


def rle_bomb(megabytes: int) -> bytes:
    """An RLE frame of 16 bits: two bytes after two bytes, each of which says 128 zeros."""
    half = b"\x81\0" * (megabytes * 2**18)
    return struct.pack("<16I", 2, 64, 64 + len(half), *[0] * 13) + half * 2


HUGE = {"Xsiz": 20_000, "Ysiz": 20_000, "XTsiz": 20_000, "YTsiz": 20_000}
SMALL = frame_header(SIDE, SIDE)
JPEGS = {
    "another size": jpeg_of(60_000, 60_000),
    "a size that comes after the scan": jpeg_of(0, SIDE),
    "a small size in an application segment": jpeg_of(60_000, 60_000, b"\xff\xe5\0\x0f" + SMALL),
    "a small size in a comment": jpeg_of(60_000, 60_000, b"\xff\xfe\0\x0f" + SMALL),
    "a small size after fill bytes": jpeg_of(60_000, 60_000, b"\xff" * 50 + SMALL),
    "a small size first": jpeg_of(60_000, 60_000, SMALL),
    "a small size last": jpeg_of(SIDE, SIDE, frame_header(60_000, 60_000)),
    "a small size after a stuffed byte": jpeg_of(60_000, 60_000, b"\xff\0\0\2" + SMALL),
    "a small size after a restart marker": jpeg_of(60_000, 60_000, b"\xff\xd0\0\2" + SMALL),
    "a small size after a marker without a length": jpeg_of(60_000, 60_000, b"\xff\1\0\2" + SMALL),
    "a small size after a second start": jpeg_of(60_000, 60_000, b"\xff\xd8\0\2" + SMALL),
    "a small size after rubbish": jpeg_of(60_000, 60_000, b"rubbish" + SMALL),
    "three components": jpeg_of(SIDE, SIDE).replace(
        SMALL, SOF + struct.pack(">HBHHB", 17, 8, SIDE, SIDE, 3) + bytes(9)
    ),
    "12 bits": jpeg_of(SIDE, SIDE).replace(SMALL, SMALL[:4] + b"\x0c" + SMALL[5:]),
    "no size": jpeg().replace(SOF, b"\xff\xe0"),
}
"""JPEG streams for a header of SIDE x SIDE pixels of 8 bits, none of which may reach a decoder."""
J2KS = {
    "another size": j2k_of(**HUGE),
    "16,384 components": j2k_of(Csiz=16_384),
    "no component": j2k_of(Csiz=0),
    "components that are not there": j2k_of(Csiz=1, Lsiz=38 + 3 * 1000),
    "one-pixel tiles": j2k_of(256, XTsiz=1, YTsiz=1),
    "tiles of no width": j2k_of(XTsiz=0),
    "an image beside its tiles": j2k_of(XTOsiz=32, YTOsiz=32),
    "an image that ends before it begins": j2k_of(XOsiz=100, YOsiz=100),
    "an image far away": j2k_of(Xsiz=2**32 - 1, Ysiz=2**32 - 1, XTsiz=1, YTsiz=1),
    "every 255th pixel": j2k_of(XRsiz=255, YRsiz=255),
    "38 bits": j2k_of(Ssiz=37),
    "a marker before its size": j2k()[:2] + b"\xff\x64\0\4\0\1" + j2k()[2:],
    "a small size in a box before it": jp2(box(b"xml ", j2k()[:60]), box(b"jp2c", j2k_of(**HUGE)), side=20_000),
    "the same in boxes of extended length": jp2(
        box(b"xml ", j2k()[:60], True), box(b"jp2c", j2k_of(**HUGE), True), side=20_000
    ),
    "a box longer than the file": jp2(struct.pack(">I4sQ", 1, b"uuid", 2**63), box(b"jp2c", j2k())),
    "a box shorter than its head": jp2(struct.pack(">I4s", 4, b"uuid"), box(b"jp2c", j2k())),
}
"""JPEG 2000 streams for a header of SIDE x SIDE pixels of 16 bits (256 x 256 for the tiles), likewise."""


def sides(name: str) -> int:
    """The side of the image that the DICOM header of one of ``J2KS`` declares."""
    return 256 if name == "one-pixel tiles" else SIDE
