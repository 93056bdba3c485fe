"""The competition folder: studies, series, labels and coordinates. Paths and tables, never pixels.

``<images>/<study>/<series>/<instance>.dcm`` with ``<split>_series_descriptions.csv`` beside the images folder, and for
a labelled split ``train.csv`` and ``train_label_coordinates.csv``. Folders and tables seldom agree in the wild:
whatever one has and the other lacks becomes a :class:`Problem`, and every study that either names gets its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from pipeline.files import folders_and_files
from pipeline.labels import SeriesKind, study_of
from pipeline.listing import Remote, is_single_study, list_studies
from pipeline.names import is_rounded, meant_id, plain_id
from pipeline.problem import Problem
from pipeline.tables import (
    Table,
    TableError,
    read_coordinates,
    read_labels,
    read_row_ids,
    read_series_table,
    with_readings,
)

SPLITS = ("test", "train")


class CompetitionError(ValueError):
    """The path that was given is not a folder of studies; the message says what was found."""


@dataclass(frozen=True, slots=True)
class SeriesRef:
    """One series folder; ``series_id`` is the :func:`plain_id` of its name.

    ``description`` is None where no table names it or the table's text is not known. Where the series is no folder of
    its own (see :mod:`pipeline.intake`), ``files`` has for each of its files the name to show and the name below
    ``path``, which is then a folder or a zip.
    """

    study_id: str
    series_id: str
    path: Path
    description: SeriesKind | None
    files: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class StudyRef:
    """One study folder and its series, sorted by id. A study that only a table names has no series.

    ``study_id`` is the :func:`plain_id` of the folder's name, which is the name itself unless no table could hold it.
    The series of a ``remote`` study are listed when it is read, see :mod:`pipeline.remote`.
    """

    study_id: str
    path: Path
    series: tuple[SeriesRef, ...]
    remote: Remote | None = None


@dataclass(frozen=True)
class Competition:
    """A folder of studies with what its tables say about them; made by :func:`open_competition`.

    ``readings`` are tables of canal grades for studies that ``train.csv`` does not grade, see
    :func:`pipeline.tables.with_readings`. ``sources`` says what each id is where ids are no folders' names, see
    :mod:`pipeline.intake`.
    """

    root: Path
    split: str | None
    images: Path
    studies: tuple[StudyRef, ...]
    problems: tuple[Problem, ...]
    readings: tuple[Path, ...] = ()
    sources: pd.DataFrame | None = None

    @cached_property
    def _by_id(self) -> dict[str, StudyRef]:
        return {study.study_id: study for study in self.studies}

    def study(self, study_id: str) -> StudyRef:
        """The study of that id.

        Raises:
            KeyError: there is none.
        """
        try:
            return self._by_id[study_id]
        except KeyError:
            raise KeyError(f"no study {study_id!r} in {self.images} or its tables") from None

    @cached_property
    def labels(self) -> pd.DataFrame | None:
        """Grades 0, 1, 2 or NaN by study_id (str) and ``CELL_COLUMNS``; None where there is no such table.

        Raises:
            TableError: ``train.csv`` or a table of readings holds something that is not a grade.
        """
        labels = self._read(f"{self.split or 'train'}.csv", read_labels)
        return labels if labels is None else with_readings(labels, self.readings)

    @cached_property
    def coordinates(self) -> pd.DataFrame | None:
        """Labelled points, see :func:`pipeline.tables.read_coordinates`; None where there is no such table.

        Raises:
            TableError: the table holds a row that is not a point.
        """
        return self._read(f"{self.split or 'train'}_label_coordinates.csv", read_coordinates)

    def _read(self, name: str, reader: Callable[[Path], Table[pd.DataFrame]]) -> pd.DataFrame | None:
        path = self.root / name
        if not path.is_file():
            return None
        table = reader(path).strict()
        if table.index.name == "study_id":
            table.index = table.index.map(plain_id)
            table.index = table.index.map(_by_folder(table.index, self._by_id))
            return table
        for column in ("study_id", "series_id"):
            table[column] = table[column].map(plain_id)
        table["study_id"] = table["study_id"].map(_by_folder(table["study_id"], self._by_id))
        for study_id, ids in table.groupby("study_id")["series_id"]:
            study = self._by_id.get(str(study_id))
            names = [] if study is None else [one.series_id for one in study.series]
            table.loc[ids.index, "series_id"] = ids.map(_by_folder(ids, names))
        return table


def open_competition(
    path: Path | str, series_csv: Path | None = None, split: str | None = None, strict: bool = True
) -> Competition:
    """List the studies below ``path``: a competition folder, an images folder, or the folder of a single study.

    Args:
        path: holds ``train_images`` or ``test_images``, or is such a folder (of any name), or is one study.
        series_csv: the table of series descriptions, if it is not where the competition puts it.
        split: ``train`` or ``test`` where a competition folder has both; without it ``test`` is taken.
        strict: raise on a bad row of a table. Otherwise the row is left out and becomes a problem.

    Raises:
        CompetitionError: ``path`` is no folder, or has no studies folder of that split.
        TableError: a table cannot be read, or has a bad row and ``strict`` is set.
    """
    root, images, split, single = _locate(Path(path), split)
    problems: list[Problem] = []
    found = list_studies([images] if single else _study_folders(images, problems), problems)
    series_table = find_series_table(root, images, split, series_csv, strict, problems)
    kinds = _as_folders(kinds_of(series_table, problems), found, problems)
    listed_series: dict[str, set[str]] = {}
    for study_id, series_id in kinds:
        listed_series.setdefault(study_id, set()).add(series_id)
    listed = set(listed_series)
    if split == "test":
        sampled = sampled_studies(root / "sample_submission.csv", problems)
        listed |= set(_by_folder(sampled, found).values())
    if single:
        listed &= set(found)

    studies: list[StudyRef] = []
    for study_id in sorted(found.keys() | listed):
        if study_id not in found:
            what = "study-absent" if _is_plain_name(study_id) else "study-id-unsafe"
            problems.append(Problem(study_id, None, None, what, f"a table lists it, {images} has no such folder"))
            studies.append(StudyRef(study_id, images, ()))
            continue
        place, series = found[study_id]
        if listed and study_id not in listed:
            problems.append(Problem(study_id, None, None, "study-unlisted", "no table lists it; graded all the same"))
        elif series_table is not None:
            problems += _compare_series(study_id, set(series), listed_series.get(study_id, set()))
        refs = tuple(
            SeriesRef(study_id, name, folder, kinds.get((study_id, name))) for name, folder in sorted(series.items())
        )
        studies.append(StudyRef(study_id, place, refs))
    return Competition(root, split, images, tuple(studies), tuple(problems))


def no_study(competition: Competition) -> str:
    """What to tell a user whose folder holds no study."""
    return f"{competition.images} holds no study; expected folders <study>/<series>/<instance>.dcm or other DICOM files"


def _locate(path: Path, split: str | None) -> tuple[Path, Path, str | None, bool]:
    """Root, images folder, split, and whether the path is a single study."""
    if not path.is_dir():
        found = "is a file" if path.exists() else "does not exist"
        raise CompetitionError(f"{path} {found}; expected a folder of studies, a DICOMDIR or a zip")
    path = path.resolve()
    if split is not None and split not in SPLITS:
        raise CompetitionError(f"unknown split {split!r}; expected train or test")
    inside = [name for name in SPLITS if (path / f"{name}_images").is_dir()]
    if inside:
        chosen = split or inside[0]
        if chosen not in inside:
            raise CompetitionError(f"{path} has no {chosen}_images; found {', '.join(f'{n}_images' for n in inside)}")
        return path, path / f"{chosen}_images", chosen, False
    named = path.name.removesuffix("_images")
    if named in SPLITS and named != path.name:
        return path.parent, path, named, False
    return path.parent, path, split, is_single_study(path)


def _study_folders(images: Path, problems: list[Problem]) -> list[Path]:
    try:
        folders, files = folders_and_files(images)
    except OSError as error:
        raise CompetitionError(f"{images} cannot be listed: {error.strerror or error}") from error
    for file in files:
        problems.append(Problem("", None, file.name, "stray-file", f"a file among the studies of {images}"))
    return folders


def find_series_table(
    root: Path, images: Path, split: str | None, given: Path | None, strict: bool, problems: list[Problem]
) -> pd.DataFrame | None:
    if given is not None:
        paths: list[Path] = [given]
    else:
        names = [f"{split}_series_descriptions.csv"] if split else [f"{n}_series_descriptions.csv" for n in SPLITS]
        paths = [path for folder in (root, images) for name in names if (path := folder / name).is_file()]
    tables: list[pd.DataFrame] = []
    for path in paths:
        try:
            table = read_series_table(path)
        except TableError as error:
            if strict or given is not None:
                raise
            problems.append(Problem("", None, path.name, "table-unreadable", str(error)))
            continue
        tables.append(table.strict() if strict else table.content)
        problems += [Problem("", None, path.name, "table-row", str(error)) for error in table.errors]
    return pd.concat(tables, ignore_index=True) if tables else None


def kinds_of(table: pd.DataFrame | None, problems: list[Problem]) -> dict[tuple[str, str], SeriesKind | None]:
    kinds: dict[tuple[str, str], SeriesKind | None] = {}
    if table is None:
        return kinds
    rows: Iterable[tuple[str, str, str, SeriesKind]] = zip(
        table["study_id"], table["series_id"], table["series_description"], table["kind"], strict=True
    )
    for study, series, text, kind in rows:
        study_id, series_id = plain_id(study), plain_id(series)
        known = kind is not SeriesKind.UNKNOWN
        kinds[study_id, series_id] = kind if known else None
        if not known:
            detail = f"the table says {text!r}; told from the images instead"
            problems.append(Problem(study_id, series_id, None, "description-unknown", detail))
    return kinds


def _as_folders(
    kinds: dict[tuple[str, str], SeriesKind | None],
    found: dict[str, tuple[Path, dict[str, Path]]],
    problems: list[Problem],
) -> dict[tuple[str, str], SeriesKind | None]:
    """The series of the table under the names of their folders, where a spreadsheet changed its ids."""
    folder_of = _by_folder([study_id for study_id, _ in kinds], found)
    series: dict[str, list[str]] = {}
    for study_id, series_id in kinds:
        series.setdefault(study_id, []).append(series_id)
    result: dict[tuple[str, str], SeriesKind | None] = {}
    for study_id, ids in series.items():
        folder = folder_of[study_id]
        if folder not in found and is_rounded(study_id):
            detail = f"a table lists {study_id!r}, a number that a spreadsheet rounded: no one folder is meant"
            problems.append(Problem("", None, None, "id-rounded", detail))
            continue
        series_of = _by_folder(ids, found[folder][1] if folder in found else ())
        changed = [f"{old!r} for {new}" for old, new in ((study_id, folder), *series_of.items()) if old != new]
        if changed:
            detail = f"the table writes {', '.join(changed)}, as a spreadsheet does with long numbers"
            problems.append(Problem(folder, None, None, "id-rewritten", detail))
        result |= {(folder, series_of[series_id]): kinds[study_id, series_id] for series_id in ids}
    return result


def _by_folder(ids: Iterable[str], folders: Collection[str]) -> dict[str, str]:
    """For each id of a table the folder it means; the id itself where no folder, or not one alone, can be meant."""
    ids = set(ids)
    free = set(folders) - ids
    return {text: (text if text in folders else meant_id(text, free) or text) for text in ids}


def _compare_series(study_id: str, found: set[str], listed: set[str]) -> list[Problem]:
    absent = [Problem(study_id, name, None, "series-absent", "listed, no such folder") for name in listed - found]
    extra = [Problem(study_id, name, None, "series-unlisted", "no table names it") for name in found - listed]
    return sorted(absent + extra, key=lambda problem: problem.series_id or "")


def sampled_studies(path: Path, problems: list[Problem]) -> set[str]:
    """The studies whose rows ``sample_submission.csv`` asks for; rows that are no row id are counted."""
    if not path.is_file():
        return set()
    try:
        row_ids = read_row_ids(path)
    except TableError as error:
        problems.append(Problem("", None, path.name, "table-unreadable", str(error)))
        return set()
    studies: set[str] = set()
    for name in row_ids:
        try:
            studies.add(plain_id(study_of(name)))
        except ValueError as error:
            problems.append(Problem("", None, path.name, "table-row", str(error)))
    return studies


def _is_plain_name(study_id: str) -> bool:
    return study_id not in ("", ".", "..") and not any(sign in study_id for sign in "/\\\0")
