"""From the bytes of one DICOM file to its raw elements: pydicom's parser, under a deadline and without its inflater.

pydicom inflates deflated files without a bound. Here that is done with one, and pydicom never sees the transfer syntax
that would make it try, wherever a file may have hidden it.
"""

from __future__ import annotations

import io
import math
import struct
import time
import zlib

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from pipeline.volumes.limits import ReadLimits

_ITEM = b"\xfe\xff\x00\xe0"
_DEFLATED = DeflatedExplicitVRLittleEndian.encode()
_EXPLICIT = ExplicitVRLittleEndian.encode().ljust(len(_DEFLATED), b"\0")


class BadFileError(ValueError):
    """A file that cannot become a slice.

    Attributes:
        what: a short code, the ``what`` of the :class:`~pipeline.problem.Problem` it becomes.
    """

    def __init__(self, what: str, detail: str) -> None:
        super().__init__(detail)
        self.what = what


class _TimedBytes(io.BytesIO):
    """Bytes whose reading ends at a deadline: half a gigabyte of tiny elements keeps the parser busy for minutes."""

    def __init__(self, content: bytes, deadline: float) -> None:
        super().__init__(content)
        self._deadline = deadline

    def read(self, size: int | None = -1, /) -> bytes:
        if time.monotonic() > self._deadline:
            raise BadFileError("out-of-time", "the study's seconds ended while this file was parsed")
        return super().read(size)


def parse_elements(
    content: bytes, tags: list[int], limits: ReadLimits, deadline: float = math.inf
) -> tuple[Dataset, UID]:
    """The wanted raw elements of a file and its transfer syntax.

    Args:
        content: the bytes of the file.
        tags: the elements to keep.
        limits: how far a deflated file may grow, and how many items there may be.
        deadline: the ``time.monotonic()`` until which it may be parsed.

    Raises:
        BadFileError: if the file is empty, out of time or past the limits, or a deflated one that is damaged.
        Exception: whatever pydicom raises on a broken file.
    """
    if not content:
        raise BadFileError("empty-file", "the file holds 0 bytes")
    if content.startswith(b"DICM"):  # the preamble is gone
        content = bytes(128) + content
    if _DEFLATED in content:
        content = _inflate(content, limits).replace(_DEFLATED, _EXPLICIT)
    # pydicom makes an object of a kilobyte of an item of eight bytes
    if len(content) > 8 * limits.file_items and (items := content.count(_ITEM)) > limits.file_items:
        raise BadFileError("too-large", f"{items} items in sequences or pixel data; the limit is {limits.file_items}")
    dataset = pydicom.dcmread(_TimedBytes(content, deadline), force=True, specific_tags=tags)
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        syntax = ImplicitVRLittleEndian if dataset.original_encoding[0] else ExplicitVRLittleEndian
    return dataset, UID(str(syntax))


def _inflate(content: bytes, limits: ReadLimits) -> bytes:
    """The same file, not deflated, if its meta group says in the standard's way that it is."""
    if content[128:132] != b"DICM":
        return content
    meta_end = _meta_end(content)
    if meta_end is None or _DEFLATED not in content[:meta_end]:
        return content
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        plain = inflater.decompress(content[meta_end:], limits.inflated_bytes)
    except zlib.error as error:
        raise BadFileError("unreadable-file", f"the deflated data set is damaged: {error}") from error
    if inflater.unconsumed_tail:
        raise BadFileError(
            "too-large", f"the deflated data set is larger than the limit of {limits.inflated_bytes} bytes"
        )
    return content[:meta_end] + plain


def _meta_end(content: bytes) -> int | None:
    """Where the file meta group ends, walked element by element (always explicit VR little endian)."""
    at = 132
    while at + 12 <= len(content):
        group, _, vr, length = struct.unpack_from("<HH2sH", content, at)
        if group != 2:
            return at
        if vr in (b"OB", b"OW", b"UN", b"SQ", b"UT"):
            length = 4 + struct.unpack_from("<I", content, at + 8)[0]
        at += 8 + length
    return None
