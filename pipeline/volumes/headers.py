"""From the bytes of one DICOM file to frames with a checked header, still compressed.

Values are taken from pydicom's raw elements, which is faster than its conversions and does not warn about or stumble
over tags that reading does not need. Everything a header declares is checked against the limits before a pixel is
decoded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import UID, ExplicitVRLittleEndian

from pipeline.volumes.classify import Acquisition
from pipeline.volumes.elements import BadFileError, parse_elements
from pipeline.volumes.limits import ReadLimits
from pipeline.volumes.origin import ORIGIN_TAGS, Origin, read_origin
from pipeline.volumes.palette import PALETTE_TAGS, Greys, read_palette
from pipeline.volumes.values import first_of, integer_of, item_of, numbers_of, text_of

_DESCRIPTION, _PROTOCOL = 0x0008103E, 0x00181030
_TR, _TE, _TI = 0x00180080, 0x00180081, 0x00180082
_EFFECTIVE_TE = 0x00189082
_THICKNESS, _BETWEEN, _DIAMETER = 0x00180050, 0x00180088, 0x00181100
_INSTANCE, _POSITION, _ORIENTATION, _LOCATION = 0x00200013, 0x00200032, 0x00200037, 0x00201041
_SAMPLES, _PHOTOMETRIC, _FRAMES = 0x00280002, 0x00280004, 0x00280008
_ROWS, _COLS, _SPACING = 0x00280010, 0x00280011, 0x00280030
_SPACINGS = (_SPACING, 0x00182010, 0x00181164)  # PixelSpacing, NominalScannedPixelSpacing, ImagerPixelSpacing
_ALLOCATED, _STORED, _HIGH, _SIGNED = 0x00280100, 0x00280101, 0x00280102, 0x00280103
_PADDING, _PADDING_LIMIT, _IMAGE_TYPE, _FRAME_TYPE = 0x00280120, 0x00280121, 0x00080008, 0x00089007
_INTERCEPT, _SLOPE = 0x00281052, 0x00281053
_PIXELS, _SHARED, _PER_FRAME = 0x7FE00010, 0x52009229, 0x52009230
_MEASURES_GROUP, _POSITION_GROUP, _ORIENTATION_GROUP = 0x00289110, 0x00209113, 0x00209116
_VALUE_GROUP, _ECHO_GROUP, _TIMING_GROUP, _TYPE_GROUP = 0x00289145, 0x00189114, 0x00189112, 0x00189226

_WANTED = [
    *(_DESCRIPTION, _PROTOCOL, _TR, _TE, _TI, _EFFECTIVE_TE, _THICKNESS, _BETWEEN, _DIAMETER),
    *(_INSTANCE, _POSITION, _ORIENTATION, _SAMPLES, _PHOTOMETRIC, _FRAMES, _ROWS, _COLS, _SPACING),
    *(_ALLOCATED, _STORED, _SIGNED, _INTERCEPT, _SLOPE, _PIXELS, _SHARED, _PER_FRAME),
    *(_HIGH, _PADDING, _PADDING_LIMIT, _LOCATION, _IMAGE_TYPE, *_SPACINGS[1:], *ORIGIN_TAGS, *PALETTE_TAGS),
]
_SPARE_BYTES = 65536


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
    high: int | None = None
    """HighBit, where it is not the usual BitsStored - 1: the value stands in the upper bits."""
    padding: tuple[int, int] | None = None
    """PixelPaddingValue and its range limit: values from one to the other are no image."""


@dataclass(frozen=True)
class PixelSource:
    """The still encoded pixel data of one file, shared by its frames."""

    format: PixelFormat
    data: bytes = field(repr=False)
    words: bool
    """Native 8-bit values travel as 16-bit words (VR OW), which matters if the words are big-endian."""
    palette: Greys | None = field(default=None, repr=False)
    """PALETTE COLOR: the values are places in this table."""

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
    location: float | None
    acquisition: Acquisition
    origin: Origin = field(repr=False)
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
    palette = read_palette(dataset) if text_of(dataset, _PHOTOMETRIC) == "PALETTE COLOR" else None
    return _frames(name, dataset, PixelSource(pixel_format, data, words=element.VR == "OW", palette=palette))


def _pixel_format(dataset: Dataset, syntax: UID, limits: ReadLimits) -> PixelFormat:
    rows, cols = integer_of(dataset, _ROWS), integer_of(dataset, _COLS)
    if not rows or not cols or rows < 0 or cols < 0:
        raise BadFileError("bad-header", f"Rows is {rows} and Columns is {cols}; expected both from 1 to 65535")
    samples = integer_of(dataset, _SAMPLES) or 1
    if samples != 1:
        raise BadFileError("unsupported-pixels", f"SamplesPerPixel is {samples}; expected 1, a grey image")
    if rows * cols > limits.frame_pixels:
        raise BadFileError("too-large", f"{rows} x {cols} pixels declared; the limit is {limits.frame_pixels} a slice")
    frames = integer_of(dataset, _FRAMES)
    frames = 1 if frames is None else frames
    if frames < 1:
        raise BadFileError("bad-header", f"NumberOfFrames is {frames}; expected 1 or more")
    if frames > limits.series_slices or frames * rows * cols > limits.series_pixels:
        raise BadFileError(
            "too-large",
            f"{frames} frames of {rows} x {cols} pixels declared; the limit is {limits.series_slices} frames and "
            f"{limits.series_pixels} pixels a series",
        )
    allocated = integer_of(dataset, _ALLOCATED) or 0
    stored = integer_of(dataset, _STORED) or allocated
    if allocated not in (8, 16, 32) or not 1 <= stored <= allocated:
        raise BadFileError(
            "bad-header",
            f"BitsAllocated is {allocated} and BitsStored {stored}; expected 8, 16 or 32, and no more stored",
        )
    high, padding = integer_of(dataset, _HIGH), integer_of(dataset, _PADDING)
    limit = integer_of(dataset, _PADDING_LIMIT)
    return PixelFormat(
        transfer_syntax=syntax,
        rows=rows,
        cols=cols,
        frames=frames,
        allocated=allocated,
        stored=stored,
        signed=integer_of(dataset, _SIGNED) == 1,
        inverted=text_of(dataset, _PHOTOMETRIC) == "MONOCHROME1",
        high=high if high is not None and stored <= high < allocated else None,
        padding=None if padding is None else (padding, padding if limit is None else limit),
    )


def _frames(name: str, dataset: Dataset, source: PixelSource) -> list[Frame]:
    count = source.format.frames
    shared = item_of(dataset, _SHARED, 0)
    per_frame = [item_of(dataset, _PER_FRAME, index) for index in range(count)] if _PER_FRAME in dataset else []
    instance = integer_of(dataset, _INSTANCE)
    multi = count > 1
    frames = []
    for index in range(count):
        own = per_frame[index] if per_frame else None
        look = [item for item in (own, shared) if item is not None]

        def numbers(group: int, tag: int, look: Sequence[Dataset] = look) -> tuple[float, ...]:
            return next(
                (found for item in look if (found := numbers_of(item_of(item, group, 0), tag))),
                numbers_of(dataset, tag),
            )

        types = (text_of(group, _FRAME_TYPE) for item in look if (group := item_of(item, _TYPE_GROUP, 0)) is not None)
        origin = read_origin(dataset, next(filter(None, types), text_of(dataset, _IMAGE_TYPE)))
        slope, intercept = first_of(numbers(_VALUE_GROUP, _SLOPE)), first_of(numbers(_VALUE_GROUP, _INTERCEPT))
        frames.append(
            Frame(
                file=name,
                index=index,
                instance_number=index + 1 if multi else (instance if instance is not None else -1),
                numbered=multi or instance is not None,
                # one position for a file of many frames places only the first of them
                position=numbers(_POSITION_GROUP, _POSITION) if own is not None or index == 0 else (),
                orientation=numbers(_ORIENTATION_GROUP, _ORIENTATION),
                spacing=next(filter(_is_spacing, (numbers(_MEASURES_GROUP, tag) for tag in _SPACINGS)), ()),
                slope=slope if slope else 1.0,
                intercept=intercept or 0.0,
                thickness_mm=first_of(numbers(_MEASURES_GROUP, _THICKNESS)),
                between_mm=first_of(numbers(_MEASURES_GROUP, _BETWEEN)),
                diameter_mm=first_of(numbers_of(dataset, _DIAMETER)),
                location=first_of(numbers_of(dataset, _LOCATION)) if not multi else None,
                origin=origin,
                acquisition=Acquisition(
                    description=" ".join((text_of(dataset, _DESCRIPTION), text_of(dataset, _PROTOCOL))).strip(),
                    echo_ms=first_of(numbers(_ECHO_GROUP, _EFFECTIVE_TE)) or first_of(numbers_of(dataset, _TE)),
                    repetition_ms=first_of(numbers(_TIMING_GROUP, _TR)),
                    inversion_ms=first_of(numbers_of(dataset, _TI)),
                ),
                source=source,
            )
        )
    return frames


def _is_spacing(numbers: tuple[float, ...]) -> bool:
    """One number for both directions, or one for each, of a size that pixels have."""
    return len(numbers) in (1, 2) and all(0.01 <= value <= 20 for value in numbers)
