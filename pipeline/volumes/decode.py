"""Encoded pixel data to integer arrays, for every transfer syntax an MR file may come in.

Uncompressed data is a view of the file's bytes. RLE, the competition's own syntax, is decoded by pylibjpeg-rle where it
is installed (8 times faster) and by pydicom otherwise. The other syntaxes go to Pillow through pydicom, and then to
SimpleITK, in a process of their own and only if the stream declares what the header does. Not to python-gdcm, because a
damaged JPEG ends the process there, nor to pyjpegls, which never returns from some damaged JPEG-LS (both found by
``tests.fuzz``), and to pylibjpeg only for High-Throughput JPEG 2000, because its JPEG decoder is GPL.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.pixels import get_decoder

from pipeline.volumes.codestream import read_declared, without_boxes
from pipeline.volumes.decoder_process import ITK, DecoderProcess, UndecodableError, Wanted, decode_with
from pipeline.volumes.elements import BadFileError
from pipeline.volumes.headers import PixelFormat, PixelSource

try:
    from rle.rle import decode_frame as _decode_rle  # type: ignore[import-not-found]  # pylibjpeg-rle
except ImportError:
    _decode_rle = None

_DECODERS: dict[str, tuple[str, ...]] = {
    uid.JPEGBaseline8Bit: ("pillow", ITK),
    uid.JPEGExtended12Bit: (ITK,),
    uid.JPEGLossless: (ITK,),
    uid.JPEGLosslessSV1: (ITK,),
    uid.JPEGLSLossless: (ITK,),
    uid.JPEGLSNearLossless: (ITK,),
    uid.JPEG2000Lossless: ("pillow", ITK),
    uid.JPEG2000: ("pillow", ITK),
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

_MOST_TILES = 4096
"""Tiles of 64 x 64 pixels for the largest slice; a decoder takes 10 kB for a tile of one pixel."""
_RLE_BYTES_HERE = 4 * 2**20
"""pydicom's RLE decoder makes 64 bytes of one and does not stop at the slice's size: what is longer goes elsewhere."""
_MUCH = 0.01
"""Share of an image from which on values that cannot be of it are padding."""
_process = DecoderProcess()

Integers = NDArray[np.integer]


def decode(source: PixelSource, index: int, seconds: float = 10.0) -> Integers:
    """(rows, cols) stored values of one frame, sign-extended or masked to BitsStored, and not yet scaled.

    Values that are places in a palette come back as the greys they stand for.

    Args:
        source: the pixel data of a file.
        index: which of its frames, from 0.
        seconds: a decoder that is not done after this time is ended.

    Raises:
        BadFileError: if the data is truncated or damaged, or no installed decoder reads its transfer syntax.
    """
    pixel_format = source.format
    if pixel_format.transfer_syntax in _NATIVE:
        raw = _native(source, index)
    else:
        raw = _compressed(source, index, seconds)
    as_stored = pixel_format.transfer_syntax in (*_NATIVE, uid.RLELossless)  # other streams hold values, not words
    values = _significant_bits(_lowered(raw, pixel_format) if as_stored else raw, pixel_format)
    return values if source.palette is None else source.palette.look_up(values)


def padded(values: Integers, pixel_format: PixelFormat) -> NDArray[np.bool_] | None:
    """Where stored values are padding around the image, not image; None if nowhere.

    Undeclared padding is known where a signed image holds many of the least value that there is, and nothing near it.
    """
    if pixel_format.padding is None:
        least, _ = stored_range(pixel_format)
        if not pixel_format.signed or int(values.min()) != least:
            return None
        mask: NDArray[np.bool_] = values == least
        return mask if mask.mean() >= _MUCH and not ((values < least // 2) & ~mask).any() else None
    first, last = sorted(_wrapped(value, pixel_format) for value in pixel_format.padding)
    mask = (values >= first) & (values <= last)
    return mask if mask.any() else None


def _wrapped(value: int, pixel_format: PixelFormat) -> int:
    """A value as the pixels hold it: files write the padding of signed pixels as unsigned, and the other way round."""
    low, _ = stored_range(pixel_format)
    return (value - low) % (1 << pixel_format.stored) + low


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


def _compressed(source: PixelSource, index: int, seconds: float) -> Integers:
    pixel_format = source.format
    syntax = pixel_format.transfer_syntax
    if syntax == uid.RLELossless and _decode_rle is not None:
        return _rle(source, index)
    known = _DECODERS.get(syntax)
    if known is None:
        raise BadFileError("unknown-transfer-syntax", f"no decoder for transfer syntax {syntax.name} ({syntax})")
    installed = get_decoder(syntax).available_plugins
    names = [name for name in known if name == ITK or name in installed]
    if not names:
        packages = " or ".join(_PACKAGES[name] for name in known)
        raise BadFileError(
            "missing-decoder", f"{syntax.name} needs a decoder that is not installed: pip install {packages}"
        )
    stream = _stream(source, index)
    wanted = Wanted(
        str(syntax),
        pixel_format.rows,
        pixel_format.cols,
        pixel_format.allocated,
        pixel_format.stored,
        pixel_format.signed,
    )
    try:
        if syntax == uid.RLELossless:
            if len(stream) <= _RLE_BYTES_HERE:
                return decode_with(names[0], stream, wanted)
        else:
            stream = _as_declared(stream, pixel_format)
        return _process.decode(names, stream, wanted, seconds)
    except Exception as error:  # each decoder has its own; the slice is skipped and named
        raise BadFileError(
            "undecodable-pixels", f"{syntax.name} did not decode to {_size(pixel_format)}: {error}"
        ) from error


def _as_declared(stream: bytes, pixel_format: PixelFormat) -> bytes:
    """The bare stream, if what it declares is what the header does.

    Raises:
        UndecodableError: it declares something else.
    """
    stream = without_boxes(stream)
    found = read_declared(stream)
    size = (pixel_format.rows, pixel_format.cols, 1)
    if (found.rows, found.cols, found.components) != size or found.bits > pixel_format.allocated:
        raise UndecodableError(f"the stream declares {found}")
    if found.tiles > _MOST_TILES:
        raise UndecodableError(f"the stream declares {found}; the limit is {_MOST_TILES} tiles")
    return stream


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


def _lowered(raw: Integers, pixel_format: PixelFormat) -> Integers:
    """Values that HighBit puts into the upper bits of their words, moved to the lower ones.

    Some writers give a wrong HighBit: small values that use the lower bits are where they belong.
    """
    if pixel_format.high is None:
        return raw
    shift = pixel_format.high + 1 - pixel_format.stored
    native = raw.astype(raw.dtype.newbyteorder("="), copy=False)
    words = native.view(f"u{native.dtype.itemsize}")
    if int(words.max(initial=0)) >> pixel_format.stored == 0 and np.any(words & ((1 << shift) - 1)):
        return raw
    return np.asarray(words >> shift).view(native.dtype)


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
