"""The bytes of a series' files, within the limits of its study."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Protocol

from pipeline.competition import SeriesRef
from pipeline.files import is_meant
from pipeline.storage import Folder, Storage, open_storage
from pipeline.volumes.limits import Budget


class Report(Protocol):
    """Takes a problem of the series."""

    def __call__(self, what: str, detail: str, file: str | None = None) -> None: ...


def read_contents(ref: SeriesRef, budget: Budget, problem: Report) -> Iterator[tuple[str, bytes]]:
    """Name (as it may be shown) and bytes of each regular file of a series; what is left out goes to ``problem``."""
    if not ref.files:
        yield from _within_limits(
            Folder(ref.path), [(name, name) for name in _names(ref, budget, problem)], budget, problem
        )
        return
    files = ref.files[: budget.limits.series_slices]
    if len(files) < len(ref.files):
        problem("too-many-files", f"{len(ref.files)} files; only the first {len(files)} by name were read")
    try:
        with open_storage(ref.path) as storage:
            yield from _within_limits(storage, files, budget, problem)
    except OSError as error:
        problem("unreadable-series", f"{ref.path.name}: {error.strerror or error}")


def _within_limits(
    storage: Storage, files: Sequence[tuple[str, str]], budget: Budget, problem: Report
) -> Iterator[tuple[str, bytes]]:
    left = budget.limits.series_bytes
    for shown, name in files:
        if budget.out_of_time:
            problem("out-of-time", f"the study's {budget.limits.study_seconds:g} s are over", shown)
            return
        try:
            size = storage.size(name)
            if size > min(left, budget.limits.file_bytes):
                limit = min(left, budget.limits.file_bytes)
                problem("too-large", f"the file has {size} bytes; the limit leaves {limit}", shown)
                continue
            content = storage.read(name, size)
        except OSError as error:
            problem("unreadable-file", f"{error.strerror or error}", shown)
            continue
        left -= len(content)
        yield shown, content


def _names(ref: SeriesRef, budget: Budget, problem: Report) -> list[str]:
    """The files of a series that is a folder."""
    if any(sign in ref.series_id for sign in "/\0") or ref.series_id in ("", ".", ".."):
        problem("bad-id", f"series id {ref.series_id!r} is not a folder name")
        return []
    try:
        with os.scandir(ref.path) as entries:
            names = sorted(entry.name for entry in entries if is_meant(entry.name))
    except OSError as error:
        problem("unreadable-series", f"{ref.path}: {error.strerror or error}")
        return []
    most = budget.limits.series_slices
    if len(names) > most:
        problem("too-many-files", f"{len(names)} files; only the first {most} by name were read")
    return names[:most]
