"""What a run counts and notes while it goes on: the figures of its report, and the log, of bounded size both."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from pipeline.owned import first_line
from pipeline.problem import Problem
from pipeline.run.result import NOTE, StudyResult

LOG_HEADER = "# submit.py: what was found wrong and worked around, a line each"
LOG_BYTES = 32 * 2**20
"""Of a log; a run over a million studies may fill some."""


class Log:
    """A text file that is put aside as ``NAME.1``, ``NAME.2`` before it grows too long; a new one replaces all.

    What a link of its name leads to is left alone.

    Args:
        path: of the log.
        most: letters, about.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, path: Path, most: int = LOG_BYTES) -> None:
        self._path, self._most, self._part = path, most, 1
        for part in log_parts(path):
            part.unlink()
        self._begin()

    def _begin(self) -> None:
        self._path.unlink(missing_ok=True)
        self._file = self._path.open("x", encoding="utf-8")
        self._size = self._file.write(f"{LOG_HEADER}\n")

    def write(self, line: str) -> None:
        """Write a line."""
        if self._size > self._most:
            self._file.close()
            while os.path.lexists(part := self._path.with_name(f"{self._path.name}.{self._part}")):
                self._part += 1  # somebody else's, or the last one
            self._path.replace(part)
            self._begin()
        self._size += self._file.write(line)

    def flush(self) -> None:
        """Bring what was written into the file."""
        self._file.flush()

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def log_parts(path: Path) -> list[Path]:
    """What earlier runs have put aside of a log."""
    return [part for part in path.parent.glob(f"{glob.escape(path.name)}.[0-9]*") if is_log(part)]


def is_log(path: Path) -> bool:
    """Whether a file is a log of a run."""
    return path.is_file() and not path.is_symlink() and first_line(path) == LOG_HEADER


class Tally:
    """Counts over results; a study that comes again in a later round counts once. Problems are said to ``listener``.

    Args:
        studies: their places in the table by id; memory is some 40 bytes for each.
        listener: is told every problem.
    """

    def __init__(self, studies: Mapping[str, int], listener: Callable[[str], None] | None = None) -> None:
        self._listener, self._places = listener, studies
        self.problems: Counter[str] = Counter()
        self.devices: Counter[str] = Counter()
        self.rows: Counter[str] = Counter()
        self.first_failure: str | None = None
        self._faulty = np.zeros(len(studies), bool)
        self._seen = np.zeros(len(studies), bool)
        self._logged, self._counted = np.zeros((2, len(studies)), np.uint32)
        self._seconds: dict[str, np.ndarray] = {}

    @property
    def studies_with_problems(self) -> int:
        """How many studies have more than notes."""
        return int(self._faulty.sum())

    @property
    def seconds(self) -> dict[str, float]:
        """By stage, over all studies."""
        return {stage: float(spent.sum(dtype=np.float64)) for stage, spent in self._seconds.items()}

    def note(self, problem: Problem, log: Log) -> None:
        """Count a problem and write its line."""
        self.problems[problem.what] += 1
        if problem.what != NOTE and (place := self._places.get(problem.study_id)) is not None:
            self._faulty[place] = True
        if problem.what == "study-failed" and self.first_failure is None:
            self.first_failure = problem.detail
        log.write(f"{problem}\n")
        if self._listener is not None:
            self._listener(str(problem))

    def add(self, result: StudyResult, log: Log) -> None:
        """Count what is new in a result."""
        place = self._places[result.study_id]
        for problem in result.problems[self._logged[place] :]:
            self.note(problem, log)
        log.flush()
        for stage, seconds in result.seconds.items():
            if stage not in self._seconds:
                self._seconds[stage] = np.zeros(len(self._places), np.float32)
            self._seconds[stage][place] = seconds
        if result.device and not self._seen[place]:
            self.devices[result.device] += 1
        for name, values in list(result.predictions.items())[self._counted[place] :]:
            self.rows[name] += int(np.isfinite(values).all(1).sum())
        self._seen[place] = True
        self._logged[place], self._counted[place] = len(result.problems), len(result.predictions)
