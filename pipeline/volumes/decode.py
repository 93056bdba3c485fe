"""Encoded pixel data to integer arrays, for every transfer syntax an MR file may come in.

Uncompressed data is a view of the file's bytes. RLE, the competition's own syntax, is decoded by pylibjpeg-rle where it
is installed (8 times faster) and by pydicom otherwise. The other syntaxes go to Pillow through pydicom, and then to
SimpleITK. Not to python-gdcm, because a damaged JPEG ends the process there, nor to pyjpegls, which never returns from
some damaged JPEG-LS (both found by ``tests.fuzz``), and to pylibjpeg only for High-Throughput JPEG 2000, because its
JPEG decoder, pylibjpeg-libjpeg, is GPL.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder

from pipeline.volumes.elements import BadFileError
from pipeline.volumes.headers import PixelFormat, PixelSource
from pipeline.volumes.itk_decoder import decode_with_itk

try:
    from rle.rle import decode_frame as _decode_rle  # type: ignore[import-not-found]  # pylibjpeg-rle
except ImportError:
    _decode_rle = None

_ITK = "SimpleITK"
_DECODERS: dict[str, tuple[str, ...]] = {
    uid.JPEGBaseline8Bit: ("pillow", _ITK),
    uid.JPEGExtended12Bit: (_ITK,),
    uid.JPEGLossless: (_ITK,),
    uid.JPEGLosslessSV1: (_ITK,),
    uid.JPEGLSLossless: (_ITK,),
    uid.JPEGLSNearLossless: (_ITK,),
    uid.JPEG2000Lossless: ("pillow", _ITK),
    uid.JPEG2000: ("pillow", _ITK),
    uid.HTJ2KLossless: ("pylibjpeg",),
    uid.HTJ2KLosslessRPCL: ("pylibjpeg",),
    uid.HTJ2K: ("pylibjpeg",),
    uid.RLELossless: ("pydicom",),
}
"""The decoders of each transfer syntax, in the order in which they are tried."""
_PACKAGES = {"pillow": "pillow", "pylibjpeg": "pylibjpeg pylibjpeg-openjpeg"}
_NATIVE = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
)

_J2K_START = b"\xff\x4f\xff\x51"  # SOC, SIZ
_START_OF_FRAME = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
"""JPEG markers that carry the size; 0xF7 is JPEG-LS. C4, C8 and CC are tables and extensions."""

Integers = NDArray[np.integer]


def decode(source: PixelSource, index: int) -> Integers:
    """(rows, cols) stored values of one frame, sign-extended or masked to BitsStored, and not yet scaled.

    Raises:
        BadFileError: if the data is truncated or damaged, or no installed decoder reads its transfer syntax.
    """
    pixel_format = source.format
    if pixel_format.transfer_syntax in _NATIVE:
        raw = _native(source, index)
    else:
        raw = _compressed(source, index)
    return _significant_bits(raw, pixel_format)


def stored_range(pixel_format: PixelFormat) -> tuple[int, int]:
    """The least and the greatest value that BitsStored can hold."""
    if pixel_format.signed:
        return -(1 << (pixel_format.stored - 1)), (1 << (pixel_format.stored - 1)) - 1
    return 0, (1 << pixel_format.stored) - 1


def _dtype(pixel_format: PixelFormat, order: str = "<") -> np.dtype[np.integer]:
    return np.dtype(f"{order}{'i' if pixel_format.signed else 'u'}{pixel_format.allocated // 8}")


def _native(source: PixelSource, index: int) -> Integers:
    pixel_format = source.format
    big = pixel_format.transfer_syntax == uid.ExplicitVRBigEndian
    dtype = _dtype(pixel_format, ">" if big else "<")
    count = pixel_format.rows * pixel_format.cols
    need, have = (index + 1) * count * dtype.itemsize, len(source.data)
    if have < need:
        raise BadFileError("truncated", f"PixelData holds {have} bytes; frame {index + 1} ends at byte {need}")
    flat = np.frombuffer(source.data, dtype, count, offset=index * count * dtype.itemsize)
    if big and dtype.itemsize == 1 and source.words:
        # 8-bit values travel as big-endian words, so neighbours are swapped (DICOM PS3.5 section 8.1.1)
        whole = np.frombuffer(source.data[: have // 2 * 2], ">u2").astype("<u2").view(dtype)
        flat = whole[index * count : (index + 1) * count]
        if len(flat) < count:
            raise BadFileError("truncated", f"PixelData holds {have} bytes; frame {index + 1} ends at byte {need}")
    return flat.reshape(pixel_format.rows, pixel_format.cols)


def _compressed(source: PixelSource, index: int) -> Integers:
    pixel_format = source.format
    syntax = pixel_format.transfer_syntax
    if syntax == uid.RLELossless and _decode_rle is not None:
        return _rle(source, index)
    wanted = _DECODERS.get(syntax)
    if wanted is None:
        raise BadFileError("unknown-transfer-syntax", f"no decoder for transfer syntax {syntax.name} ({syntax})")
    installed = get_decoder(syntax).available_plugins
    names = [name for name in wanted if name == _ITK or name in installed]
    if not names:
        packages = " or ".join(_PACKAGES[name] for name in wanted)
        raise BadFileError(
            "missing-decoder", f"{syntax.name} needs a decoder that is not installed: pip install {packages}"
        )
    stream = _stream(source, index)
    declared = codestream_size(stream)
    if syntax != uid.RLELossless and declared != (pixel_format.rows, pixel_format.cols):
        found = "shows no size" if declared is None else f"holds {declared[0]} x {declared[1]} pixels"
        raise BadFileError("undecodable-pixels", f"the {syntax.name} stream {found}; expected {_size(pixel_format)}")
    errors = []
    for name in names:
        try:
            array = decode_with_itk(stream, pixel_format) if name == _ITK else _by_pydicom(stream, pixel_format, name)
            if array.shape != (pixel_format.rows, pixel_format.cols):
                raise ValueError(f"decoded to {array.shape}")
            return array
        except Exception as error:  # each decoder has its own; the slice is skipped and named
            lines = str(error).strip().splitlines() or [""]
            errors.append(f"{name}: {type(error).__name__}: {lines[-1]}")
    raise BadFileError(
        "undecodable-pixels", f"{syntax.name} did not decode to {_size(pixel_format)}: {'; '.join(errors)}"
    )


def _by_pydicom(stream: bytes, pixel_format: PixelFormat, plugin: str) -> Integers:
    options: dict[str, Any] = {
        "rows": pixel_format.rows,
        "columns": pixel_format.cols,
        "number_of_frames": 1,
        "samples_per_pixel": 1,
        "photometric_interpretation": "MONOCHROME2",
        "bits_allocated": pixel_format.allocated,
        "bits_stored": pixel_format.stored,
        "pixel_representation": int(pixel_format.signed),
        "pixel_keyword": "PixelData",
    }
    decoder = get_decoder(pixel_format.transfer_syntax)
    array, _ = decoder.as_array(
        encapsulate([stream], has_bot=False), raw=True, index=0, decoding_plugin=plugin, **options
    )
    return array


def _rle(source: PixelSource, index: int) -> Integers:
    pixel_format = source.format
    stream = _stream(source, index)
    try:
        data = _decode_rle(stream, pixel_format.rows * pixel_format.cols, pixel_format.allocated, "<")
        return np.frombuffer(data, _dtype(pixel_format)).reshape(pixel_format.rows, pixel_format.cols)
    except BaseException as error:  # on damaged data pylibjpeg-rle panics, and a panic of Rust is no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise BadFileError(
            "undecodable-pixels", f"RLE Lossless did not decode to {_size(pixel_format)}: {error}"
        ) from error


def _stream(source: PixelSource, index: int) -> bytes:
    try:
        frames = source.encoded_frames
    except Exception as error:  # whatever pydicom meets in damaged fragments
        raise BadFileError("undecodable-pixels", f"the encapsulated PixelData is damaged: {error}") from error
    if index >= len(frames):
        raise BadFileError("truncated", f"PixelData holds {len(frames)} of {source.format.frames} frames")
    return frames[index]


def codestream_size(stream: bytes) -> tuple[int, int] | None:
    """(rows, cols) that a JPEG, JPEG-LS or JPEG 2000 stream itself declares; None if it shows no size.

    A decoder trusts the stream, not the DICOM header, so this is looked at before one is let loose on it.
    """
    boxed = stream[4:8] == b"jP  "  # the JP2 container, not allowed in DICOM and found there all the same
    start = stream[:4096].find(_J2K_START) if boxed else 0
    if stream.startswith(_J2K_START, start) and len(stream) >= start + 24:
        right, bottom, left, top = struct.unpack_from(">4I", stream, start + 8)
        return bottom - top, right - left
    at = 2
    while stream[:2] == b"\xff\xd8" and at + 9 <= len(stream) and stream[at] == 0xFF:
        marker = stream[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker in _START_OF_FRAME:
            rows, cols = struct.unpack_from(">2H", stream, at + 5)
            return rows, cols
        else:
            at += 2 + struct.unpack_from(">H", stream, at + 2)[0]
    return None


def _significant_bits(raw: Integers, pixel_format: PixelFormat) -> Integers:
    """Bits above BitsStored may hold anything (old files keep overlays there); they are not part of the value."""
    spare = pixel_format.allocated - pixel_format.stored
    if spare == 0:
        return raw
    native = raw.astype(raw.dtype.newbyteorder("="), copy=False)
    if pixel_format.signed:
        return np.asarray((native << spare) >> spare)
    return np.asarray(native & native.dtype.type((1 << pixel_format.stored) - 1))


def _size(pixel_format: PixelFormat) -> str:
    return f"{pixel_format.rows} x {pixel_format.cols} pixels of {pixel_format.allocated} bits"
