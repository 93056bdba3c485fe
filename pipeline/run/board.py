"""The state of a run in the main process: 75 numbers a study and where they come from.

``submission.csv`` is written from here, first with the prior in every row, then again at intervals as studies finish.
It is complete and valid at any moment. Writing takes a twentieth of the time at most, so the intervals grow with the
table, and all writing together grows with the number of studies, not with its square. The numbers of many studies lie
in a nameless file beside the table and are read some thousand studies at a time, so that memory holds their ids alone.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from pipeline.labels import CELLS, GRADES
from pipeline.run.result import Reason, Source, StudyResult
from pipeline.submission import BLOCK, write_submission, write_wide

LEAST_INTERVAL = 5.0
"""Seconds between two writings of the table; longer where writing itself takes long."""
COST_SHARE = 20
"""So many times as long as a writing takes there is none."""
MEMORY_BYTES = 16 * 2**20
"""Of a study's numbers that are held in memory: those of some 48,000 studies."""
_SOURCES: tuple[Source, ...] = tuple(Source)
_REASONS: tuple[Reason | None, ...] = (None, *Reason)
_STUDY = np.dtype(
    [("values", "f4", (len(CELLS), len(GRADES))), ("source", "u1", len(CELLS)), ("reason", "u1", len(CELLS))]
)
"""What is kept of a study, of source and reason their places above."""


class Board:
    """Collects results of studies and writes the table.

    Args:
        study_ids: the studies in the order of the table.
        prior: (25, 3) probabilities of the rows that nothing reaches.
        out: the submission.
        wide: the table of one row a study, None for none.

    Attributes:
        probabilities: (studies, 25, 3) as the table has them, to be sliced and gone through.
    """

    def __init__(self, study_ids: Sequence[str], prior: np.ndarray, out: Path, wide: Path | None) -> None:
        self.study_ids = list(study_ids)
        self.prior = prior
        self.out, self.wide = out, wide
        self.write_failures: list[str] = []
        self.index = {study_id: number for number, study_id in enumerate(self.study_ids)}
        untouched = np.zeros((), _STUDY)
        untouched["values"], untouched["source"] = prior, _SOURCES.index(Source.PRIOR)
        self.probabilities = _Rows(out.parent, untouched, len(self.study_ids))
        self._reached = np.zeros(len(self.study_ids), bool)
        self._written = 0.0
        self._cost = 0.0

    def update(self, result: StudyResult) -> None:
        """Take over a study's result; a row that nothing reached, or that is no distribution, keeps the prior."""
        values = np.asarray(result.probabilities, np.float64)
        with np.errstate(invalid="ignore"):
            usable = np.isfinite(values).all(1) & (values >= 0).all(1) & (values.sum(1) > 0)
        study = np.zeros((), _STUDY)
        study["values"] = np.where(usable[:, None], values, self.prior)
        study["source"] = [
            _SOURCES.index(source if good else Source.PRIOR) for source, good in zip(result.source, usable, strict=True)
        ]
        study["reason"] = [_REASONS.index(reason) for reason in result.reason]
        number = self.index[result.study_id]
        self.probabilities.put(number, study)
        self._reached[number] = True

    def has(self, study_id: str) -> bool:
        """Whether a result of the study was taken over."""
        return bool(self._reached[self.index[study_id]])

    def unreached(self, reason: Reason) -> None:
        """Give every study without a result this reason."""
        for start, rows in self.probabilities.blocks():
            rows["reason"][~self._reached[start : start + len(rows)]] = _REASONS.index(reason)
            self.probabilities.put(start, rows)

    def write(self, force: bool = False) -> None:
        """Write the table if the last writing is long enough ago, or ``force``.

        Raises:
            OSError: it cannot be written and ``force`` is set. Otherwise the failure is kept for the log, and the
                earlier file stays.
        """
        now = time.monotonic()
        if not force and now - self._written < max(LEAST_INTERVAL, COST_SHARE * self._cost):
            return
        try:
            write_submission(self.out, self.study_ids, self.probabilities)
            if self.wide is not None:
                write_wide(self.wide, self.study_ids, self.probabilities)
        except OSError as error:
            if force:
                raise
            self.write_failures.append(f"{self.out}: {error.strerror or error}")
        self._written = time.monotonic()
        self._cost = self._written - now

    def sources(self) -> dict[str, int]:
        """Rows by where they come from, every source named."""
        counts = self._counts("source", len(_SOURCES))
        return {source.value: int(count) for source, count in zip(_SOURCES, counts, strict=True)}

    def reasons(self) -> dict[str, int]:
        """Rows that no network graded by reason, most frequent first."""
        found = zip(_REASONS, self._counts("reason", len(_REASONS)), strict=True)
        counts = Counter({str(reason): int(count) for reason, count in found if reason is not None})
        return {reason: count for reason, count in counts.most_common() if count}

    def _counts(self, name: str, kinds: int) -> np.ndarray:
        counts = np.zeros(kinds, int)
        for _, rows in self.probabilities.blocks():
            counts += np.bincount(rows[name].ravel(), minlength=kinds)
        return counts


class _Rows:
    """An array of :data:`_STUDY`, all ``each`` at first, in memory or in a file without a name; see its values as one.

    The file takes its place on the disk at once, so a disk that is full later costs nothing here.
    """

    def __init__(self, folder: Path, each: np.ndarray, count: int) -> None:
        self._each, self._count = each, count
        if count * _STUDY.itemsize > MEMORY_BYTES:
            with contextlib.suppress(OSError):  # then the memory has to do
                self._begin(tempfile.TemporaryFile(dir=folder))  # noqa: SIM115  # closed with the board
                return
        self._begin(io.BytesIO())

    def _begin(self, file: IO[bytes]) -> None:
        self._file = file
        weakref.finalize(self, file.close)
        for start in range(0, self._count, BLOCK):
            self.put(start, np.repeat(self._each, min(BLOCK, self._count - start)))
        file.flush()

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, places: slice) -> np.ndarray:
        """(studies, 25, 3) of a range of places."""
        start, stop, _ = places.indices(self._count)
        return self.get(start, stop)["values"]

    def __iter__(self) -> Iterator[np.ndarray]:
        for _, rows in self.blocks():
            yield from rows["values"]

    def get(self, start: int, stop: int) -> np.ndarray:
        """All that is kept of the studies from ``start`` up to ``stop``."""
        self._file.seek(start * _STUDY.itemsize)
        return np.frombuffer(bytearray(self._file.read((stop - start) * _STUDY.itemsize)), _STUDY)

    def put(self, start: int, rows: np.ndarray) -> None:
        """Replace that of the studies from ``start`` on."""
        self._file.seek(start * _STUDY.itemsize)
        self._file.write(rows.tobytes())

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Places, each with all that is kept of the studies from there on, some thousand at a time."""
        for start in range(0, self._count, BLOCK):
            yield start, self.get(start, min(start + BLOCK, self._count))
