"""What the first bytes of a file say of the patient, the examination and the series it belongs to."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

from pydicom.dataset import Dataset
from pydicom.filereader import read_partial
from pydicom.uid import DeflatedExplicitVRLittleEndian

from pipeline.storage import Storage
from pipeline.volumes.elements import parse_elements
from pipeline.volumes.limits import DEFAULT_LIMITS
from pipeline.volumes.origin import ORIGIN_TAGS, Origin, read_origin
from pipeline.volumes.values import text_of

HEAD = 64 * 2**10
"""Bytes of a file in which its origin usually stands; where it does not, the whole file is read."""
_NAME, _PATIENT, _OTHER, _ACCESSION, _BIRTH, _STUDY_ID = (
    0x00100010,
    0x00100020,
    0x00101000,
    0x00080050,
    0x00100030,
    0x00200010,
)
_PERSON = (_NAME, _PATIENT, _OTHER, _ACCESSION, _BIRTH, _STUDY_ID)
_LAST = 0x00200200
_NUMBER = 0x00200011
_UID = re.compile(r"[0-9][0-9.]{0,127}")
_MULTI_FRAME = {f"1.2.840.10008.5.1.4.1.1.4.{end}" for end in (1, 3, 4)}


@dataclass(frozen=True)
class Header:
    """The origin of a file and what names its patient; the latter is compared with file names and goes no further.

    Attributes:
        origin: patient, examination and series, see :class:`pipeline.volumes.origin.Origin`.
        study: StudyInstanceUID, "" without one.
        series: SeriesInstanceUID, likewise.
        number: SeriesNumber, "" without one.
        person: words and numbers that name the patient or the order, as they stand in the header.
    """

    origin: Origin
    study: str
    series: str
    number: str
    person: tuple[str, ...] = field(repr=False)

    @property
    def is_multi_frame(self) -> bool:
        """Whether the file is of a kind that holds a whole series, so that an id of its own is to be believed."""
        return self.origin.sop_class in _MULTI_FRAME


def header_of(storage: Storage, name: str) -> Header | None:
    """The header of a file; None if it is no DICOM file.

    Raises:
        OSError: it cannot be read.
    """
    size = min(storage.size(name), DEFAULT_LIMITS.file_bytes)
    return read_header(storage.read(name, HEAD), lambda: storage.read(name, size))


def read_header(head: bytes, whole: Callable[[], bytes]) -> Header | None:
    """The header of a DICOM file; None if it is none.

    Args:
        head: its first :data:`HEAD` bytes.
        whole: reads all of it.
    """
    named = head[128:132] == b"DICM" or head.startswith(b"DICM")
    tags = [*ORIGIN_TAGS, *_PERSON]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what matters is checked below
        try:
            if DeflatedExplicitVRLittleEndian.encode() in head:
                dataset, _ = parse_elements(whole(), tags, DEFAULT_LIMITS)
            else:
                dataset = _first_elements(head, tags)
                if named and len(head) == HEAD and not text_of(dataset, 0x0020000E):
                    dataset, _ = parse_elements(whole(), tags, DEFAULT_LIMITS)
            return _header(dataset, named)
        except OSError:
            raise
        except Exception:  # whatever pydicom meets in a broken file: it is grouped by its folder, and named when read
            return Header(Origin(), "", "", "", ()) if named else None


def _first_elements(head: bytes, tags: list[int]) -> Dataset:
    if head.startswith(b"DICM"):  # the preamble is gone
        head = bytes(128) + head
    return read_partial(io.BytesIO(head), lambda tag, *_: tag > _LAST, force=True, specific_tags=tags)


def _header(dataset: Dataset, named: bool) -> Header | None:
    origin = read_origin(dataset, text_of(dataset, 0x00080008))
    series = text_of(dataset, 0x0020000E)
    if not named and not _UID.fullmatch(origin.study) and not _UID.fullmatch(series):
        return None
    person = (text_of(dataset, tag) for tag in _PERSON)
    return Header(origin, origin.study, series, text_of(dataset, _NUMBER), tuple(filter(None, person)))
