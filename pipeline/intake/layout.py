"""Whether a path has the competition's layout: told by names, and by a few headers where names do not tell.

The competition's layout is read as it always was, by its folders' names. What is taken here for another one is grouped
by headers instead, and said so; what is taken for the competition's and is none ends as problems of its studies.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.competition import SPLITS
from pipeline.files import folders_and_files
from pipeline.intake.header import HEAD, Header, read_header
from pipeline.storage import INDEX, Folder
from pipeline.volumes.nifti import is_nifti
from pipeline.volumes.origin import same_study

_LOOKED_AT = 20
"""Folders of one kind that are looked into."""


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
    leaves = [(folder, inner) for folder, further, inner in below if not further]
    if len(leaves) == len(below):
        if any(_headers(path, files)):
            return "files of several series in one folder"
        return _why_no_study(leaves)
    series = {folder: [(one, *_inside(one)) for one in further[:_LOOKED_AT]] for folder, further, _ in below if further}
    nested = [bool(further) and not inner for found in series.values() for _, further, inner in found]
    if 2 * sum(nested) > len(nested):
        return "folders nested deeper than <study>/<series>"
    for found in series.values():
        if any(is_nifti(file.name) for _, _, inner in found for file in inner):
            return "NIfTI files"
        headers = [_headers(folder, inner) for folder, _, inner in found]
        if any(len({one.series for one in some if one.series}) > 1 for some in headers) and _are_apart(headers):
            return "patients' folders with several studies"
    return None


def _has_names_of_competition(path: Path) -> bool:
    if any((path / f"{split}_images").is_dir() for split in SPLITS) or path.name in {f"{one}_images" for one in SPLITS}:
        return True
    return any(
        (folder / f"{split}_series_descriptions.csv").is_file() for folder in (path, path.parent) for split in SPLITS
    )


def _why_no_study(leaves: Sequence[tuple[Path, list[Path]]]) -> str | None:
    """Of a folder of folders of files, which would be one study with its series."""
    headers = [_headers(folder, files) for folder, files in leaves]
    return "folders of several studies, no series each" if _are_apart(headers) else None


def _are_apart(folders: Sequence[Sequence[Header]]) -> bool:
    """Whether a study of these folders would be refused as mixed. Ids that each file has for itself count for none."""
    origins = [one.origin for headers in folders for one in headers if len({h.study for h in headers}) < 3]
    return bool(origins) and not any(same_study(origins)[0])


def _headers(folder: Path, files: Sequence[Path]) -> list[Header]:
    """Of the first, the middle and the last file of a folder, those that are DICOM."""
    found = []
    storage = Folder(folder)
    for index in sorted({0, len(files) // 2, len(files) - 1} if files else set()):
        name = files[index].name
        try:
            size = storage.size(name)
            header = read_header(storage.read(name, HEAD), lambda name=name, size=size: storage.read(name, size))
        except OSError:
            continue
        if header is not None:
            found.append(header)
    return found


def _inside(folder: Path) -> tuple[list[Path], list[Path]]:
    try:
        return folders_and_files(folder)
    except OSError:
        return [], []
