"""The state of a run in the main process: 75 numbers a study and the counts; memory does not grow beyond that.

``submission.csv`` is written from here, first with the prior in every row, then again at intervals as studies finish.
It is complete and valid at any moment. Writing takes a twentieth of the time at most, so the intervals grow with the
table, and all writing together grows with the number of studies, not with its square.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.labels import CELLS
from pipeline.run.result import Reason, Source, StudyResult
from pipeline.submission import write_submission, write_wide

LEAST_INTERVAL = 5.0
"""Seconds between two writings of the table; longer where writing itself takes long."""
COST_SHARE = 20
"""So many times as long as a writing takes there is none."""


class Board:
    """Collects results of studies and writes the table.

    Args:
        study_ids: the studies in the order of the table.
        prior: (25, 3) probabilities of the rows that nothing reaches.
        out: the submission.
        wide: the table of one row a study, None for none.
    """

    def __init__(self, study_ids: Sequence[str], prior: np.ndarray, out: Path, wide: Path | None) -> None:
        self.study_ids = list(study_ids)
        self.prior = prior
        self.out, self.wide = out, wide
        self.probabilities = np.repeat(prior[None].astype(np.float32), len(self.study_ids), axis=0)
        self.write_failures: list[str] = []
        self.index = {study_id: number for number, study_id in enumerate(self.study_ids)}
        self._source = np.full((len(self.study_ids), len(CELLS)), _SOURCES.index(Source.PRIOR), np.uint8)
        self._reason = np.full((len(self.study_ids), len(CELLS)), _REASONS.index(None), np.uint8)
        self._reached = np.zeros(len(self.study_ids), bool)
        self._written = 0.0
        self._cost = 0.0

    def update(self, result: StudyResult) -> None:
        """Take over a study's result; a row that nothing reached, or that is no distribution, keeps the prior."""
        number = self.index[result.study_id]
        values = np.asarray(result.probabilities, np.float64)
        with np.errstate(invalid="ignore"):
            usable = np.isfinite(values).all(1) & (values >= 0).all(1) & (values.sum(1) > 0)
        self.probabilities[number] = np.where(usable[:, None], values, self.prior)
        self._source[number] = [
            _SOURCES.index(source if good else Source.PRIOR) for source, good in zip(result.source, usable, strict=True)
        ]
        self._reason[number] = [_REASONS.index(reason) for reason in result.reason]
        self._reached[number] = True

    def has(self, study_id: str) -> bool:
        """Whether a result of the study was taken over."""
        return bool(self._reached[self.index[study_id]])

    def unreached(self, reason: Reason) -> None:
        """Give every study without a result this reason."""
        self._reason[~self._reached] = _REASONS.index(reason)

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
        return {source.value: int((self._source == number).sum()) for number, source in enumerate(_SOURCES)}

    def reasons(self) -> dict[str, int]:
        """Rows that no network graded by reason, most frequent first."""
        counts = Counter({str(r): int((self._reason == n).sum()) for n, r in enumerate(_REASONS) if r is not None})
        return {reason: count for reason, count in counts.most_common() if count}


_SOURCES: tuple[Source, ...] = tuple(Source)
_REASONS: tuple[Reason | None, ...] = (None, *Reason)
