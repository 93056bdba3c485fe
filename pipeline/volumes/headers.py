"""From the bytes of one DICOM file to frames with a checked header, still compressed.

Values are taken from pydicom's raw elements, which is faster than its conversions and does not warn about or stumble
over tags that reading does not need. Everything a header declares is checked against the limits before a pixel is
decoded.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import UID, ExplicitVRLittleEndian

from pipeline.volumes.classify import Acquisition
from pipeline.volumes.elements import BadFileError, parse_elements
from pipeline.volumes.limits import ReadLimits

_DESCRIPTION, _PROTOCOL = 0x0008103E, 0x00181030
_TR, _TE, _TI = 0x00180080, 0x00180081, 0x00180082
_EFFECTIVE_TE = 0x00189082
_THICKNESS, _BETWEEN, _DIAMETER = 0x00180050, 0x00180088, 0x00181100
_INSTANCE, _POSITION, _ORIENTATION = 0x00200013, 0x00200032, 0x00200037
_SAMPLES, _PHOTOMETRIC, _FRAMES = 0x00280002, 0x00280004, 0x00280008
_ROWS, _COLS, _SPACING = 0x00280010, 0x00280011, 0x00280030
_ALLOCATED, _STORED, _SIGNED = 0x00280100, 0x00280101, 0x00280103
_INTERCEPT, _SLOPE = 0x00281052, 0x00281053
_PIXELS, _SHARED, _PER_FRAME = 0x7FE00010, 0x52009229, 0x52009230
_MEASURES_GROUP, _POSITION_GROUP, _ORIENTATION_GROUP = 0x00289110, 0x00209113, 0x00209116
_VALUE_GROUP, _ECHO_GROUP, _TIMING_GROUP = 0x00289145, 0x00189114, 0x00189112

_WANTED = [
    *(_DESCRIPTION, _PROTOCOL, _TR, _TE, _TI, _EFFECTIVE_TE, _THICKNESS, _BETWEEN, _DIAMETER),
    *(_INSTANCE, _POSITION, _ORIENTATION, _SAMPLES, _PHOTOMETRIC, _FRAMES, _ROWS, _COLS, _SPACING),
    *(_ALLOCATED, _STORED, _SIGNED, _INTERCEPT, _SLOPE, _PIXELS, _SHARED, _PER_FRAME),
]
_BINARY = {_SAMPLES: "H", _ROWS: "H", _COLS: "H", _ALLOCATED: "H", _STORED: "H", _SIGNED: "H", _EFFECTIVE_TE: "d"}
_STRUCTS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}
_LONGEST_VALUE = 1024
"""Bytes of a text, or of a list of numbers. The standard's own bounds are far below."""
_SPARE_BYTES = 65536
_WIDTHS = {"H": 2, "h": 2, "I": 4, "i": 4, "f": 4, "d": 8}


@dataclass(frozen=True)
class PixelFormat:
    """How the pixels of a file are stored."""

    transfer_syntax: UID
    rows: int
    cols: int
    frames: int
    allocated: int
    stored: int
    signed: bool
    inverted: bool
    """MONOCHROME1: low values are bright."""


@dataclass(frozen=True)
class PixelSource:
    """The still encoded pixel data of one file, shared by its frames."""

    format: PixelFormat
    data: bytes = field(repr=False)
    words: bool
    """Native 8-bit values travel as 16-bit words (VR OW), which matters if the words are big-endian."""

    @cached_property
    def encoded_frames(self) -> list[bytes]:
        """The compressed stream of each frame, taken out of its DICOM fragments.

        Raises:
            ValueError: the fragments are damaged.
        """
        table = int.from_bytes(self.data[4:8], "little")  # of offsets, four bytes each
        if table > 4 * self.format.frames + _SPARE_BYTES:
            raise ValueError(f"a Basic Offset Table of {table} bytes for {self.format.frames} frames")
        return list(generate_frames(self.data, number_of_frames=self.format.frames))


@dataclass(frozen=True)
class Frame:
    """One slice of a file: its place, its scale and where its pixels are. None and () where the header does not say."""

    file: str
    index: int
    instance_number: int
    numbered: bool
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    slope: float
    intercept: float
    thickness_mm: float | None
    between_mm: float | None
    diameter_mm: float | None
    acquisition: Acquisition
    source: PixelSource


def parse_file(name: str, content: bytes, limits: ReadLimits, deadline: float = math.inf) -> list[Frame]:
    """The frames of one file, undecoded.

    Args:
        name: the file's name, for messages.
        content: its bytes.
        limits: what it may declare.
        deadline: the ``time.monotonic()`` until which it may be parsed.

    Raises:
        BadFileError: if the file is not DICOM, declares what cannot be, or is past the limits.
    """
    try:
        return _parse_file(name, content, limits, deadline)
    except BadFileError:
        raise
    except Exception as error:  # whatever pydicom meets in a broken file; the file is skipped and named
        raise BadFileError("unreadable-file", f"pydicom cannot parse it: {type(error).__name__}: {error}") from error


def _parse_file(name: str, content: bytes, limits: ReadLimits, deadline: float) -> list[Frame]:
    dataset, syntax = parse_elements(content, _WANTED, limits, deadline)
    for tag in (_SHARED, _PER_FRAME):
        raw = dataset.get_item(tag).value if tag in dataset else None
        if isinstance(raw, bytes) and len(raw) > limits.sequence_bytes:
            raise BadFileError(
                "too-large", f"functional groups of {len(raw)} bytes; the limit is {limits.sequence_bytes}"
            )
    if _PIXELS not in dataset:
        if content[128:132] != b"DICM":
            raise BadFileError("not-dicom", "the file is not DICOM: no 'DICM' at byte 128 and no pixel data")
        raise BadFileError("missing-pixel-data", "no PixelData (7FE0,0010)")
    pixel_format = _pixel_format(dataset, syntax, limits)
    element = dataset.get_item(_PIXELS)
    data = element.value
    if not isinstance(data, bytes) or not data:
        raise BadFileError("missing-pixel-data", "PixelData (7FE0,0010) is empty")
    if syntax == ExplicitVRLittleEndian:  # a deflated file, which may hold a thousand times what its frames need
        frames, size = pixel_format.frames, pixel_format.rows * pixel_format.cols * pixel_format.allocated // 8
        data = data[: frames * size]
    return _frames(name, dataset, PixelSource(pixel_format, data, words=element.VR == "OW"))


def _pixel_format(dataset: Dataset, syntax: UID, limits: ReadLimits) -> PixelFormat:
    rows, cols = _integer(dataset, _ROWS), _integer(dataset, _COLS)
    if not rows or not cols or rows < 0 or cols < 0:
        raise BadFileError("bad-header", f"Rows is {rows} and Columns is {cols}; expected both from 1 to 65535")
    samples = _integer(dataset, _SAMPLES) or 1
    if samples != 1:
        raise BadFileError("unsupported-pixels", f"SamplesPerPixel is {samples}; expected 1, a grey image")
    if rows * cols > limits.frame_pixels:
        raise BadFileError("too-large", f"{rows} x {cols} pixels declared; the limit is {limits.frame_pixels} a slice")
    frames = _integer(dataset, _FRAMES)
    frames = 1 if frames is None else frames
    if frames < 1:
        raise BadFileError("bad-header", f"NumberOfFrames is {frames}; expected 1 or more")
    if frames > limits.series_slices or frames * rows * cols > limits.series_pixels:
        raise BadFileError(
            "too-large",
            f"{frames} frames of {rows} x {cols} pixels declared; the limit is {limits.series_slices} frames and "
            f"{limits.series_pixels} pixels a series",
        )
    allocated = _integer(dataset, _ALLOCATED) or 0
    stored = _integer(dataset, _STORED) or allocated
    if allocated not in (8, 16, 32) or not 1 <= stored <= allocated:
        raise BadFileError(
            "bad-header",
            f"BitsAllocated is {allocated} and BitsStored {stored}; expected 8, 16 or 32, and no more stored",
        )
    return PixelFormat(
        transfer_syntax=syntax,
        rows=rows,
        cols=cols,
        frames=frames,
        allocated=allocated,
        stored=stored,
        signed=_integer(dataset, _SIGNED) == 1,
        inverted=_text(dataset, _PHOTOMETRIC) == "MONOCHROME1",
    )


def _frames(name: str, dataset: Dataset, source: PixelSource) -> list[Frame]:
    count = source.format.frames
    shared = _item(dataset, _SHARED, 0)
    per_frame = [_item(dataset, _PER_FRAME, index) for index in range(count)] if _PER_FRAME in dataset else []
    instance = _integer(dataset, _INSTANCE)
    multi = count > 1
    frames = []
    for index in range(count):
        own = per_frame[index] if per_frame else None
        look = [item for item in (own, shared) if item is not None]

        def numbers(group: int, tag: int, look: Sequence[Dataset] = look) -> tuple[float, ...]:
            return next(
                (found for item in look if (found := _numbers(_item(item, group, 0), tag))), _numbers(dataset, tag)
            )

        slope, intercept = _first(numbers(_VALUE_GROUP, _SLOPE)), _first(numbers(_VALUE_GROUP, _INTERCEPT))
        frames.append(
            Frame(
                file=name,
                index=index,
                instance_number=index + 1 if multi else (instance if instance is not None else -1),
                numbered=multi or instance is not None,
                # one position for a file of many frames places only the first of them
                position=numbers(_POSITION_GROUP, _POSITION) if own is not None or index == 0 else (),
                orientation=numbers(_ORIENTATION_GROUP, _ORIENTATION),
                spacing=numbers(_MEASURES_GROUP, _SPACING),
                slope=slope if slope else 1.0,
                intercept=intercept or 0.0,
                thickness_mm=_first(numbers(_MEASURES_GROUP, _THICKNESS)),
                between_mm=_first(numbers(_MEASURES_GROUP, _BETWEEN)),
                diameter_mm=_first(_numbers(dataset, _DIAMETER)),
                acquisition=Acquisition(
                    description=" ".join((_text(dataset, _DESCRIPTION), _text(dataset, _PROTOCOL))).strip(),
                    echo_ms=_first(numbers(_ECHO_GROUP, _EFFECTIVE_TE)) or _first(_numbers(dataset, _TE)),
                    repetition_ms=_first(numbers(_TIMING_GROUP, _TR)),
                    inversion_ms=_first(_numbers(dataset, _TI)),
                ),
                source=source,
            )
        )
    return frames


def _item(dataset: Dataset | None, tag: int, index: int) -> Dataset | None:
    if dataset is None or tag not in dataset:
        return None
    try:
        items = dataset[tag].value
        return items[index] if index < len(items) else None
    except Exception:  # a sequence that pydicom cannot convert says nothing about the slice
        return None


def _numbers(dataset: Dataset | None, tag: int) -> tuple[float, ...]:
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
                return tuple(float(part) for part in value.decode("ascii").strip(" \0").split("\\"))
            order = "<" if element.is_little_endian else ">"
            return tuple(map(float, struct.unpack(f"{order}{len(value) // _WIDTHS[code]}{code}", value)))
        parts = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        return tuple(float(part) for part in parts)
    except (ValueError, TypeError, struct.error, OverflowError):
        return ()


def _first(numbers: tuple[float, ...]) -> float | None:
    return numbers[0] if numbers and abs(numbers[0]) < 1e9 else None  # NaN and infinity fail the comparison too


def _integer(dataset: Dataset, tag: int) -> int | None:
    value = _first(_numbers(dataset, tag))
    return int(value) if value is not None else None


def _text(dataset: Dataset, tag: int) -> str:
    if tag not in dataset:
        return ""
    value = dataset.get_item(tag).value
    text = value[:_LONGEST_VALUE].decode("latin-1") if isinstance(value, bytes) else str(value or "")
    return text.strip(" \0")
