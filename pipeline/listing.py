"""Which folders are studies and which are series. Names and, where a name does not tell, the first bytes of files."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.files import folders_and_files
from pipeline.labels import SeriesKind
from pipeline.names import file_name, plain_id
from pipeline.problem import Problem

_IMAGE_NAMES = (".dcm", ".ima", ".dicom")
_LOOKED_INTO = 5
"""Files of a folder that are opened to see whether they are DICOM."""


@dataclass(frozen=True, slots=True)
class Remote:
    """Where a study lies that is not on a disk: the folder ``name`` below ``url``; what a table says of its series."""

    url: str
    name: str
    kinds: tuple[tuple[str, SeriesKind | None], ...]


def is_single_study(path: Path) -> bool:
    """True where the folders below hold files and no further folder: they are series, not studies."""
    has_files = False
    for folder in _folders_and_files(path)[0]:
        folders, files = _folders_and_files(folder)
        if folders:
            return False
        has_files = has_files or _holds_images(files)
    return has_files


def _folders_and_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Those of a folder that can be listed, else none."""
    try:
        return folders_and_files(folder)
    except OSError:
        return [], []


def list_studies(folders: Iterable[Path], problems: list[Problem]) -> dict[str, tuple[Path, dict[str, Path]]]:
    """The folder of each study and of each of its series, by id."""
    found: dict[str, tuple[Path, dict[str, Path]]] = {}
    for folder in folders:
        name = file_name(folder.name)
        study_id = plain_id(name)
        if study_id != name:
            detail = "the folder's name cannot be written or shown as it is; its rows are under this id"
            problems.append(Problem(study_id, None, None, "name-escaped", detail))
        found[study_id] = folder, _list_series(study_id, folder, problems)
    return found


def _list_series(study_id: str, folder: Path, problems: list[Problem]) -> dict[str, Path]:
    try:
        folders, files = folders_and_files(folder)
    except OSError as error:
        problems.append(Problem(study_id, None, None, "study-unreadable", f"{folder}: {error.strerror or error}"))
        return {}
    if not folders and _holds_images(files):  # the series, told apart by their headers when they are read
        return {study_id: folder}
    for file in files:
        problems.append(Problem(study_id, None, file.name, "stray-file", "a file among the series folders; not read"))
    if not folders:
        problems.append(Problem(study_id, None, None, "study-empty", f"{folder} has no series folder"))
    return {plain_id(file_name(series.name)): series for series in folders}


def _holds_images(files: Sequence[Path]) -> bool:
    """Whether a folder's files are DICOM, by their names or, of the first few, by their content."""
    return any(file.suffix.lower() in _IMAGE_NAMES for file in files) or any(map(_is_dicom, files[:_LOOKED_INTO]))


def _is_dicom(path: Path) -> bool:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would block
            return False
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False
