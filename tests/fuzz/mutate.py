"""Ways to damage a file: random bytes, lengths and cuts, and header values at their extremes."""

from __future__ import annotations

import struct
from random import Random

TAGS = {
    "Rows": 0x00280010,
    "Columns": 0x00280011,
    "BitsAllocated": 0x00280100,
    "BitsStored": 0x00280101,
    "PixelRepresentation": 0x00280103,
    "SamplesPerPixel": 0x00280002,
    "NumberOfFrames": 0x00280008,
    "InstanceNumber": 0x00200013,
    "ImagePositionPatient": 0x00200032,
    "ImageOrientationPatient": 0x00200037,
    "PixelSpacing": 0x00280030,
    "RescaleSlope": 0x00281053,
    "RescaleIntercept": 0x00281052,
    "TransferSyntaxUID": 0x00020010,
    "PixelData": 0x7FE00010,
    "PerFrameFunctionalGroupsSequence": 0x52009230,
}
EXTREMES = (0, 1, 7, 8, 12, 127, 128, 255, 4096, 32767, 32768, 60000, 65535)
LENGTHS = (0, 1, 2, 7, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFF0, 0xFFFFFFFF)
TEXTS = (b"nan", b"inf", b"-1e308", b"1e308", b"0", b"\\\\\\", b"99999999999", b"\xff\xfe\x80", b"1\\2", b"")


def mutate(content: bytes, other: bytes, random: Random) -> bytes:
    """``content`` after one to four random changes; ``other`` lends parts for splices."""
    data = bytearray(content)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        if data:
            data = random.choice(_CHANGES)(data, other, random)
    return bytes(data)


def _flip_bits(data: bytearray, other: bytes, random: Random) -> bytearray:
    for _ in range(random.randint(1, 16)):
        data[_place(data, random)] ^= 1 << random.randrange(8)
    return data


def _random_run(data: bytearray, other: bytes, random: Random) -> bytearray:
    start = _place(data, random)
    for at in range(start, min(start + random.randint(1, 32), len(data))):
        data[at] = random.randrange(256)
    return data


def _truncate(data: bytearray, other: bytes, random: Random) -> bytearray:
    return data[: random.randrange(len(data))]


def _remove(data: bytearray, other: bytes, random: Random) -> bytearray:
    start = _place(data, random)
    del data[start : start + random.randint(1, 64)]
    return data


def _repeat(data: bytearray, other: bytes, random: Random) -> bytearray:
    start = _place(data, random)
    part = data[start : start + random.randint(1, 64)]
    data[start:start] = part * random.choice((1, 2, 50))
    return data


def _splice(data: bytearray, other: bytes, random: Random) -> bytearray:
    return data[: random.randrange(len(data))] + other[random.randrange(max(len(other), 1)) :]


def _element(data: bytearray, random: Random) -> int:
    """Where a random known element starts; -1 if this file does not have it."""
    tag = random.choice(list(TAGS.values()))
    return data.find(struct.pack("<HH", tag >> 16, tag & 0xFFFF))


def _number(data: bytearray, other: bytes, random: Random) -> bytearray:
    at = _element(data, random)
    if 0 <= at <= len(data) - 10:
        struct.pack_into("<H", data, at + 8, random.choice(EXTREMES))
    return data


def _length(data: bytearray, other: bytes, random: Random) -> bytearray:
    at = _element(data, random)
    if 0 <= at <= len(data) - 12:
        length = random.choice(LENGTHS)
        if random.random() < 0.5:
            struct.pack_into("<H", data, at + 6, length & 0xFFFF)
        else:
            struct.pack_into("<I", data, at + 8, length)
    return data


def _text(data: bytearray, other: bytes, random: Random) -> bytearray:
    at = _element(data, random)
    if 0 <= at <= len(data) - 10:
        text = random.choice(TEXTS)
        data[at + 8 : at + 8 + len(text)] = text
    return data


def _place(data: bytearray, random: Random) -> int:
    """A byte; half the time of the first kilobyte, where the headers are."""
    return random.randrange(min(len(data), 1024) if random.random() < 0.5 else len(data))


_CHANGES = (
    _flip_bits,
    _random_run,
    _truncate,
    _remove,
    _repeat,
    _splice,
    _number,
    _number,
    _length,
    _length,
    _text,
)
