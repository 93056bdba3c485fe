"""From files with headers to studies and series: by StudyInstanceUID and SeriesInstanceUID, else by folder.

An id that every file of a folder has for itself, as some anonymisers write, tells no files apart; the folder does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.intake.header import Header

_DIGITS = re.compile(r"([0-9]+)")


@dataclass(frozen=True)
class Found:
    """A file that may be an image; ``header`` is None for NIfTI, which has none."""

    name: str
    header: Header | None

    @property
    def folder(self) -> str:
        """Its folder, "" at the top."""
        return self.name.replace("\\", "/").rpartition("/")[0]


@dataclass
class Group:
    """The files of one study, series by series; ``uid`` is "" where the study was told by its folder."""

    uid: str
    series: dict[str, list[Found]] = field(default_factory=dict)

    @property
    def files(self) -> list[Found]:
        """All of them."""
        return [one for files in self.series.values() for one in files]


def group(files: Sequence[Found]) -> list[Group]:
    """The studies that the files belong to, in the order of their first files' names."""
    folders: dict[str, list[Found]] = {}
    for one in sorted(files, key=lambda one: _natural(one.name)):
        folders.setdefault(one.folder, []).append(one)
    groups: dict[tuple[str, str], Group] = {}
    for folder, members in folders.items():
        headed = [one for one in members if one.header is not None]
        studies = _believed([one.header for one in headed if one.header], "study")
        series = _believed([one.header for one in headed if one.header], "series")
        for one, study, own in zip(headed, studies, series, strict=True):
            key = ("uid", study) if study else ("folder", folder.rpartition("/")[0] if folder else "")
            groups.setdefault(key, Group(study)).series.setdefault(own or f"folder {folder}", []).append(one)
        for one in members:
            if one.header is None:
                key = ("nifti", f"{folder}/{_subject(one.name)}")
                groups.setdefault(key, Group("")).series.setdefault(one.name, []).append(one)
    return list(groups.values())


def _natural(name: str) -> list[tuple[int, str]]:
    """A key by which IM9 comes before IM10."""
    return [(int(part), "") if part.isdigit() and len(part) < 40 else (-1, part) for part in _DIGITS.split(name)]


def _believed(headers: Sequence[Header], what: str) -> list[str]:
    """The ids of a folder's files; "" for those that have none, or one that tells nothing."""
    ids = [str(getattr(header, what)) for header in headers]
    known = set(ids) - {""}
    if len(known) == 1:
        return [next(iter(known))] * len(ids)
    alone = len(known) == len(ids) > 2 and not any(header.is_multi_frame for header in headers)
    return [""] * len(ids) if alone and len({header.origin.patient for header in headers}) == 1 else ids


def _subject(name: str) -> str:
    """What BIDS puts before a file's name to say whose it is: ``sub-01`` or ``sub-01_ses-2``; "" elsewhere."""
    entities = name.rpartition("/")[2].split("_")
    return "_".join(entity for entity in entities[:2] if entity.startswith(("sub-", "ses-")))
