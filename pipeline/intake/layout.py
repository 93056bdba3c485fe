"""Whether a path has the competition's layout: told by names, and by a few headers where names do not tell.

The competition's layout is read as it always was, by its folders' names. What is taken here for another one is grouped
by headers instead, and said so; what is taken for the competition's and is none ends as problems of its studies.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from pipeline.competition import SPLITS
from pipeline.files import folders_and_files
from pipeline.intake.header import Header, header_of
from pipeline.storage import INDEX, Folder
from pipeline.volumes.nifti import is_nifti
from pipeline.volumes.origin import same_study

_LOOKED_AT = 20
"""Folders of one kind that are listed."""
_ASKED, _PEEKS = 5, 6
"""Studies, and files of a folder, of which headers are read."""


def why_other(path: Path) -> str | None:
    """What shows that a path has not the competition's layout; None if it has, or is no data at all."""
    if path.is_file():
        if path.name.upper() == INDEX:
            return "a medium's index (DICOMDIR)"
        return "a zip" if path.suffix.lower() == ".zip" else None
    if not path.is_dir() or _has_names_of_competition(path.resolve()):
        return None
    folders, files = _inside(path)
    if (path / INDEX).is_file():
        return "a medium with its index (DICOMDIR)"
    below = [(folder, *_inside(folder)) for folder in folders[:_LOOKED_AT]]
    if any(is_nifti(file.name) for file in (*files, *(file for _, _, inner in below for file in inner))):
        return "NIfTI files"
    if len(files) > len(folders) and any(_headers(path, files)):
        return "files of studies in one folder"
    leaves = [(folder, inner) for folder, further, inner in below if not further]
    if len(leaves) == len(below):
        headers = [_headers(folder, inner) for folder, inner in leaves]
        if _are_apart(headers):
            return "folders of several studies"
        return _why_no_series(headers)
    found = [[(one, *_inside(one)) for one in further[:_LOOKED_AT]] for _, further, _ in below if further]
    nested = [bool(further) and not inner for series in found for _, further, inner in series]
    if 2 * sum(nested) > len(nested):
        return "folders nested deeper than <study>/<series>"
    if any(is_nifti(file.name) for series in found for _, _, inner in series for file in inner):
        return "NIfTI files"
    return _why_no_series([_headers(one, inner) for series in found[:_ASKED] for one, _, inner in series])


def _has_names_of_competition(path: Path) -> bool:
    if any((path / f"{split}_images").is_dir() for split in SPLITS) or path.name in {f"{one}_images" for one in SPLITS}:
        return True
    return any(
        (folder / f"{split}_series_descriptions.csv").is_file() for folder in (path, path.parent) for split in SPLITS
    )


def _why_no_series(folders: Sequence[Sequence[Header]]) -> str | None:
    """Of folders that would be series: most of them hold several."""
    mixed = [len(_told([one.series for one in headers])) > 1 for headers in folders if headers]
    return "folders of several series" if 2 * sum(mixed) > len(mixed) else None


def _are_apart(folders: Sequence[Sequence[Header]]) -> bool:
    """Whether a study of these folders would be refused as mixed."""
    told = [one.origin for headers in folders for one in headers if _told([other.study for other in headers])]
    return bool(told) and not any(same_study(told)[0])


def _told(ids: Sequence[str]) -> set[str]:
    """What the ids of some files of a folder tell; nothing where each of many has its own."""
    known = set(ids) - {""}
    return set() if len(known) == len(ids) >= _PEEKS - 1 else known


def _headers(folder: Path, files: Sequence[Path]) -> list[Header]:
    """Of a few files of a folder, from the first to the last, those that are DICOM."""
    found: list[Header | None] = []
    storage = Folder(folder)
    for index in sorted({number * (len(files) - 1) // (_PEEKS - 1) for number in range(_PEEKS)} if files else set()):
        with contextlib.suppress(OSError):
            found.append(header_of(storage, files[index].name))
    return [header for header in found if header is not None]


def _inside(folder: Path) -> tuple[list[Path], list[Path]]:
    try:
        return folders_and_files(folder)
    except OSError:
        return [], []
