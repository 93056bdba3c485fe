"""The way in: any path that holds studies becomes a :class:`~pipeline.competition.Competition`."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pandas as pd
from tqdm import tqdm

from pipeline.competition import Competition, CompetitionError, SeriesRef, StudyRef, open_competition
from pipeline.files import write_text
from pipeline.intake.grouping import Found, Group, group
from pipeline.intake.header import header_of
from pipeline.intake.layout import why_other
from pipeline.intake.masking import masked, person_words
from pipeline.intake.medium import compare_index
from pipeline.problem import Problem
from pipeline.storage import Storage, is_index, open_storage
from pipeline.tables import guarded_frame
from pipeline.volumes.nifti import is_nifti

SOURCE_COLUMNS: Final = ("study_id", "series_id", "files", "folder", "first_file", "study_uid_sha256")
"""The table that says which id is which study.

Paths are :func:`~pipeline.intake.masking.masked`; ids follow the order of the files' names, hidden ones included. Of
the StudyInstanceUID there are 16 digits of its SHA-256, for some systems build UIDs from the patient's number: whoever
has the study can compute them (``printf %s UID | sha256sum``). They are no secret to somebody who can guess the UID.
"""
SOURCES_TABLE = "studies.csv"
"""Its name, beside the submission."""
BAR_AFTER_SECONDS = 2.0
_SIDECARS = (".json", ".bval", ".bvec")
_NUMBER = re.compile(r"\d{1,9}")


def open_data(
    path: Path | str, series_csv: Path | None = None, split: str | None = None, quiet: bool = True
) -> Competition:
    """The studies of a path, by :func:`~pipeline.competition.open_competition` if it has the competition's layout.

    Else its files are grouped by their headers: studies are called ``study1``, ``study2`` in the order of their files'
    names, series by their number on the scanner, and the first problem says so.

    Args:
        path: a competition folder, an images folder, a study, any other folder, a DICOMDIR, a zip.
        series_csv: the table of series descriptions; with it the layout has to be the competition's.
        split: likewise.
        quiet: without a bar over the files whose headers are read.

    Raises:
        CompetitionError: there is no study.
        TableError: as there.
    """
    path = Path(path)
    why = why_other(path) if series_csv is None and split is None else None
    if why is None:
        return open_competition(path, series_csv, split, strict=False)
    root = place_of(path).resolve()
    problems: list[Problem] = []
    try:
        with open_storage(root) as storage:
            studies = group(_files(storage, problems, root.is_file(), quiet))
    except OSError as error:
        raise CompetitionError(f"{path}: {error.strerror or error}") from error
    named = [
        _named(root, f"study{number:0{len(str(len(studies)))}}", one) for number, one in enumerate(studies, start=1)
    ]
    count = sum(len(ref.series) for ref, _ in named)
    detail = (
        f"taken for {why}, not for the competition's layout: its files are grouped by their headers (studies: "
        f"{len(named)}, series: {count}); {SOURCES_TABLE} beside a submission says which is which"
    )
    guesses = [_guess(ref.study_id, one) for (ref, _), one in zip(named, studies, strict=True)]
    return Competition(
        root,
        None,
        root,
        tuple(ref for ref, _ in named),
        (Problem("", None, None, "layout", detail), *problems, *filter(None, guesses)),
        sources=pd.DataFrame([row for _, rows in named for row in rows], columns=list(SOURCE_COLUMNS)),
    )


def place_of(path: Path) -> Path:
    """The folder or zip that is read where ``path`` is given: of a medium's index the folder it lies in."""
    return path.parent if is_index(path.name) and not path.is_dir() else path


def write_sources(path: Path, sources: pd.DataFrame) -> None:
    """Write the table of sources.

    Raises:
        OSError: it cannot be written.
    """
    write_text(path, guarded_frame(sources).to_csv(index=False, lineterminator="\n"))


def _files(storage: Storage, problems: list[Problem], in_zip: bool, quiet: bool) -> list[Found]:
    """Every file that may be an image; the others are counted by folder, and an index is compared with them."""
    found: list[Found] = []
    strays: Counter[str] = Counter()
    listed: list[str] = []
    indices = []
    for name, why in tqdm(storage.names(), desc="headers", unit="file", delay=BAR_AFTER_SECONDS, disable=quiet):
        if why is None and is_index(name):
            indices.append(name)
            continue
        listed.append(name)
        if why is None and in_zip and is_nifti(name):
            why = "NIfTI is not read from a zip; unpack it"
        if why is None and name.lower().endswith(".zip"):
            why = "a zip among other files is not read; unpack it, or name it alone"
        if why is not None:
            problems.append(Problem("", None, masked(name, ()), "not-read", why))
        elif is_nifti(name):
            found.append(Found(name, None))
        elif not name.lower().endswith(_SIDECARS):
            try:
                header = header_of(storage, name)
            except OSError as error:
                problems.append(Problem("", None, masked(name, ()), "unreadable-file", error.strerror or str(error)))
                continue
            if header is None:
                strays[name.replace("\\", "/").rpartition("/")[0]] += 1
            else:
                found.append(Found(name, header))
    for folder, count in strays.items():
        detail = f"{count} files that are neither DICOM nor NIfTI; not read"
        problems.append(Problem("", None, masked(folder, ()) or None, "stray-file", detail))
    for index in indices:
        problems += compare_index(storage, index, listed)
    return found


def _named(root: Path, study_id: str, study: Group) -> tuple[StudyRef, list[tuple[str, str, int, str, str, str]]]:
    """The study under its readable id, and what the table of sources says of its series."""
    person = person_words({text for one in study.files if one.header for text in one.header.person})
    uid = hashlib.sha256(study.uid.encode()).hexdigest()[:16] if study.uid else ""
    refs, rows = [], []
    for series_id, files in zip(_series_ids(list(study.series.values())), study.series.values(), strict=True):
        shown = _unique([masked(one.name, person) for one in files])
        pairs = tuple(zip(shown, (one.name for one in files), strict=True))
        refs.append(SeriesRef(study_id, series_id, root, None, pairs))
        folder, _, first = masked(files[0].name, person).rpartition("/")
        rows.append((study_id, series_id, len(files), folder or ".", first, uid))
    return StudyRef(study_id, root, tuple(sorted(refs, key=lambda ref: ref.series_id))), rows


def _series_ids(series: Sequence[Sequence[Found]]) -> list[str]:
    """The numbers that the scanner gave, else the place in the study; a second one of the same number gets a letter."""
    ids: list[str] = []
    for place, files in enumerate(series, start=1):
        number = files[0].header.number if files[0].header is not None else ""
        name = f"series{number if _NUMBER.fullmatch(number) else place}"
        ids.append(
            name if name not in ids else next(f"{name}.{n}" for n in range(2, len(ids) + 3) if f"{name}.{n}" not in ids)
        )
    return ids


def _unique(names: Sequence[str]) -> list[str]:
    """The names, numbered where masking made some alike."""
    counts, seen = Counter(names), Counter[str]()
    unique = []
    for name in names:
        seen[name] += 1
        unique.append(name if counts[name] == 1 else f"{name} ({seen[name]})")
    return unique


def _guess(study_id: str, study: Group) -> Problem | None:
    """What could be wrong about a study that no header tells."""
    if study.uid:
        return None
    if study.files[0].header is None:
        detail = (
            f"{len(study.files)} NIfTI files of one folder, which do not say whose they are, are taken for one study"
        )
    else:
        detail = f"{len(study.files)} files without a StudyInstanceUID to go by are taken for one study by their folder"
    return Problem(study_id, None, None, "study-assumed", detail)
