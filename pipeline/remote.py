"""Studies behind a URL, such as ``s3://bucket/archive``: listed by their names alone, fetched one by one to be read.

Whatever file system fsspec knows will do, also ``file:///archive``, which is read in place. At the start nothing is
listed but the names of the studies, so an archive may hold a million; the series of one are listed where it is read.
The layout is the competition's: ``<study>/<series>/<file>`` below the URL, or below its ``test_images``.
"""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.competition import (
    SPLITS,
    Competition,
    CompetitionError,
    SeriesRef,
    StudyRef,
    find_series_table,
    kinds_of,
    sampled_studies,
)
from pipeline.files import is_meant
from pipeline.labels import SeriesKind
from pipeline.listing import Remote, list_studies
from pipeline.names import file_name, plain_id
from pipeline.problem import Problem
from pipeline.tables import TableError

MOST_BYTES = 16 * 2**30
"""Of a study that is fetched; a complete one of the competition has 0.05 GB."""
_TABLES = ("{}_series_descriptions.csv", "{}.csv", "{}_label_coordinates.csv", "sample_submission.csv")


def is_url(place: str | Path) -> bool:
    """Whether a place is behind a URL; ``C:\\`` and what has no ``://`` is not."""
    return "://" in str(place)


def open_remote(url: str, series_csv: Path | None = None, split: str | None = None) -> Competition:
    """The studies behind a URL, as :func:`pipeline.competition.open_competition` finds those of a folder.

    Args:
        url: a competition folder, or a folder of studies.
        series_csv: a table of series descriptions on this machine, if it is not where the competition puts it.
        split: ``train`` or ``test``; without it ``test`` is taken where both are there.

    Raises:
        CompetitionError: it cannot be listed, or a package is missing; the message says which.
        TableError: ``series_csv`` cannot be read.
    """
    system, root = _open(url)
    problems: list[Problem] = []
    try:
        beside, place, chosen = _locate(system, root, split)
        folders, files = _listed(system, beside)
        folders = folders if place == beside else _listed(system, place)[0]
        images = url.rstrip("/") + place.removeprefix(root)
        with tempfile.TemporaryDirectory(prefix="tables-") as temporary:
            tables = Path(temporary)
            for name in (form.format(chosen or "test") for form in _TABLES):
                if name in files:
                    system.get_file(f"{beside}/{name}", str(tables / name))
            kinds = kinds_of(find_series_table(tables, tables, chosen, series_csv, False, problems), problems)
            by_study: dict[str, dict[str, SeriesKind | None]] = {}
            for (study_id, series_id), kind in kinds.items():
                by_study.setdefault(study_id, {})[series_id] = kind
            listed = set(by_study)
            if chosen == "test":
                listed |= sampled_studies(tables / "sample_submission.csv", problems)
            nowhere = Path(images)
            studies = {
                (study_id := plain_id(file_name(name))): StudyRef(
                    study_id, nowhere, (), Remote(images, name, tuple(by_study.get(study_id, {}).items()))
                )
                for name in folders
            }
            for study_id in listed - studies.keys():
                problems.append(Problem(study_id, None, None, "study-absent", f"a table lists it, {images} has none"))
                studies[study_id] = StudyRef(study_id, nowhere, ())
            ordered = tuple(studies[study_id] for study_id in sorted(studies))
            competition = Competition(tables, chosen, nowhere, ordered, tuple(problems))
            _ = competition.labels, competition.coordinates  # read while they are there
            return competition
    except (CompetitionError, TableError):
        raise
    except Exception as error:  # each store has its own for a server, a password or a bucket that is not there
        raise CompetitionError(f"{url} cannot be listed: {getattr(error, 'strerror', None) or error}") from error


@contextlib.contextmanager
def at_hand(study: StudyRef, scratch: Path, problems: list[Problem]) -> Iterator[StudyRef]:
    """The study with its series on a disk of this machine while the body runs; as it is where it lies on one.

    Args:
        study: perhaps behind a URL.
        scratch: a folder for the copy.
        problems: gets what is odd about its folder.

    Raises:
        OSError: it cannot be fetched, or is larger than :data:`MOST_BYTES`.
    """
    if study.remote is None:
        yield study
        return
    system, place = _open(study.remote.url)
    place = f"{place}/{study.remote.name}"
    with contextlib.ExitStack() as held:
        if "file" in system.protocol:
            folder = Path(place)
        else:
            copy = held.enter_context(tempfile.TemporaryDirectory(prefix="study-", dir=scratch))
            folder = Path(copy) / study.remote.name
            folder.mkdir()
            _fetch(system, place, folder)
        _, series = next(iter(list_studies([folder], problems).values()))
        kinds = dict(study.remote.kinds)
        refs = tuple(SeriesRef(study.study_id, name, path, kinds.get(name)) for name, path in sorted(series.items()))
        yield replace(study, path=folder, series=refs)


def remote_states(study: StudyRef) -> list[tuple[str, ...]]:
    """Name, size and mark of change of every file of a study behind a URL, or why they cannot be told."""
    assert study.remote is not None, "asked of a study on a disk"
    system, place = _open(study.remote.url)
    try:
        found = system.find(f"{place}/{study.remote.name}", detail=True)
    except Exception as error:  # as in open_remote
        return [(f"{type(error).__name__}: {error}",)]
    marks = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "updated", "created")
    return sorted((name, *(str(info[key]) for key in ("size", *marks) if key in info)) for name, info in found.items())


def _locate(system: Any, root: str, split: str | None) -> tuple[str, str, str | None]:
    """Where the tables lie, where the studies, and of which split they are."""
    parent, _, name = root.rpartition("/")
    if (named := name.removesuffix("_images")) in SPLITS and named != name:
        return parent, root, named
    folders, _ = _listed(system, root)
    inside = [one for one in SPLITS if f"{one}_images" in folders]
    if not inside:
        return root, root, split
    chosen = split or inside[0]
    if chosen not in inside:
        found = ", ".join(f"{one}_images" for one in inside)
        raise CompetitionError(f"{root} has no {chosen}_images; found {found}")
    return root, f"{root}/{chosen}_images", chosen


def _fetch(system: Any, place: str, folder: Path) -> None:
    found = system.find(place, detail=True)
    if (size := sum(info.get("size") or 0 for info in found.values())) > MOST_BYTES:
        raise OSError(f"{place} has {size} bytes; the limit is {MOST_BYTES}")
    sources, targets = [], []
    for name in found:
        parts = PurePosixPath(name).parts[len(PurePosixPath(place).parts) :]
        if parts and ".." not in parts and all(map(is_meant, parts)):
            sources.append(name)
            targets.append(str(folder.joinpath(*parts)))
    for parent in {Path(target).parent for target in targets}:
        parent.mkdir(parents=True, exist_ok=True)
    if sources:
        system.get(sources, targets)


@functools.cache
def _open(url: str) -> tuple[Any, str]:
    try:
        import fsspec
    except ImportError as error:
        raise CompetitionError(f"{url}: needs the package fsspec; pip install -r requirements-cluster.txt") from error
    try:
        # Listings are not remembered: those of a million studies would fill the memory.
        system, root = fsspec.url_to_fs(url, use_listings_cache=False)
    except (ImportError, ValueError, OSError) as error:  # s3fs or gcsfs is missing, or no such protocol
        raise CompetitionError(f"{url}: {error}") from error
    return system, root.rstrip("/")


def _listed(system: Any, place: str) -> tuple[Sequence[str], set[str]]:
    """Names of the folders and files in a place that a person put there."""
    folders, files = [], set()
    for entry in system.ls(place, detail=True):
        name = entry["name"].rstrip("/").rpartition("/")[2]
        if is_meant(name):
            if entry["type"] == "directory":
                folders.append(name)
            else:
                files.add(name)
    return folders, files
