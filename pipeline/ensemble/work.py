"""The folder of a run's unfinished business: a result per study, so that an interrupted run goes on where it was.

It lies beside the submission and goes away when the run is complete. A result counts only for the inputs, weights
and settings it was made with (its fingerprint); anything else in the folder is ignored.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.competition import StudyRef
from pipeline.ensemble.result import StudyResult

FORMAT = 2
"""Raised when a stage changes what it computes, so that results of older code are not mixed in."""


@dataclass(frozen=True)
class WorkFolder:
    """Results of studies by id. ``context`` is the fingerprint of all that is the same for every study of the run."""

    folder: Path
    context: str

    @classmethod
    def open(cls, folder: Path, context: Mapping[str, Any]) -> WorkFolder:
        """Make the folder; ``context`` (weights, settings) is part of every fingerprint.

        Raises:
            OSError: it cannot be made.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for pattern in ("*.started", "*.partial"):
            for stale in folder.glob(pattern):
                stale.unlink(missing_ok=True)
        return cls(folder, _digest({"format": FORMAT, **context}))

    def fingerprint(self, study: StudyRef) -> str:
        """Changes with the context, and when a series comes, goes, is renamed, or gets or loses a file."""
        series = []
        for ref in study.series:
            try:
                changed = ref.path.stat().st_mtime_ns
            except OSError:
                changed = -1
            series.append((ref.series_id, str(ref.path), changed, None if ref.description is None else ref.description))
        return _digest({"context": self.context, "study": study.study_id, "series": series})

    def load(self, study: StudyRef) -> StudyResult | None:
        """The study's result, None if there is none for this fingerprint."""
        return StudyResult.load(self._path(study, ".npz"), self.fingerprint(study))

    def save(self, study: StudyRef, result: StudyResult) -> None:
        """Keep the study's result.

        Raises:
            OSError: it cannot be written.
        """
        result.save(self._path(study, ".npz"), self.fingerprint(study))

    def cubes(self, study: StudyRef) -> Path:
        """Where the study's cubes may be kept between rounds."""
        return self._path(study, f".{self.fingerprint(study)[:8]}.cubes")

    def mark_started(self, study: StudyRef) -> None:
        """Leave a sign that a worker has begun the study, to find the one that killed its worker."""
        self._path(study, ".started").touch()

    def mark_ended(self, study: StudyRef) -> None:
        """Take the sign of :meth:`mark_started` away."""
        self._path(study, ".started").unlink(missing_ok=True)

    def was_started(self, study: StudyRef) -> bool:
        """Whether a worker began the study and did not come to its end."""
        return self._path(study, ".started").exists()

    def claim_slot(self, run: str) -> int:
        """A number from 0 that no other worker of the same run has, by which workers spread over GPUs."""
        for number in range(10_000):
            try:
                (self.folder / f"{run}.{number}.slot").open("x").close()
            except FileExistsError:
                continue
            except OSError:
                return 0
            return number
        return 0

    def has_room(self, gib: float) -> bool:
        """Whether the disk has more than this many GiB left; what can be made again must not be what fills it."""
        try:
            return shutil.disk_usage(self.folder).free > gib * 2**30
        except OSError:
            return False

    def remove(self) -> None:
        """Delete the folder and all in it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def remove_cubes(self) -> None:
        """Delete what can be made again: cubes and marks; results stay."""
        for pattern in ("*.cubes", "*.slot", "*.started"):
            for path in self.folder.glob(pattern):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)

    def _path(self, study: StudyRef, suffix: str) -> Path:
        # A study's id comes from a table and may be a path; its hash is always a plain name.
        return self.folder / (
            hashlib.sha256(study.study_id.encode("utf-8", "surrogateescape")).hexdigest()[:24] + suffix
        )


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, default=str, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
