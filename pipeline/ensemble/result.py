"""What the run knows of one graded study, and the words it uses for a row that no model reached."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from pipeline.competition import Problem
from pipeline.files import write_atomically
from pipeline.labels import CELLS, GRADES


class Source(StrEnum):
    """Where a row's numbers come from: networks, the study's other cells, or the class frequencies."""

    MODEL = "model"
    CONTEXT = "context"
    PRIOR = "prior"


class Reason(StrEnum):
    """Why no network graded a row. One word a cause, so that the run can count them."""

    MODEL_ABSENT = "model absent"
    MODEL_FAILED = "model failed"
    LEAK_GUARD = "model has seen the study"
    STUDY_ABSENT = "study absent"
    STUDY_FAILED = "study failed"
    STUDY_TOO_SLOW = "study over its seconds"
    WORKER_DIED = "worker died"
    SERIES_MISSING = "series missing"
    SERIES_UNREADABLE = "series unreadable"
    LEVEL_NOT_FOUND = "level not found"
    NOT_SHOWN = "level on no slice"
    TIME_OVER = "time over"
    STOPPED = "stopped"


UNFINISHED = frozenset({Reason.TIME_OVER, Reason.STOPPED})
"""Reasons that a further run can do away with, so such a result is not final."""


@dataclass(frozen=True, eq=False)
class StudyResult:
    """The outcome of one study. Sequences of 25 follow ``CELLS``.

    Attributes:
        study_id: the study.
        probabilities: (25, 3) after blending and context; NaN in the rows the prior has to fill.
        source: where each row comes from.
        reason: why no network graded the row; empty where one did.
        members: names of the networks behind each row.
        series: ids of the series the row was read from.
        done: names of the networks that were run or tried, so that later rounds know what is left.
        predictions: (25, 3) log probabilities by network, NaN rows where it had no input.
        landmarks: the study's table of points as CSV text, empty where stage two did not run.
        problems: what was found wrong and worked around.
        seconds: time by stage.
        device: where the networks ran.
        landmark_members: names of the networks that found the points.
    """

    study_id: str
    probabilities: np.ndarray
    source: tuple[Source, ...]
    reason: tuple[Reason | None, ...]
    members: tuple[tuple[str, ...], ...] = ((),) * len(CELLS)
    series: tuple[tuple[str, ...], ...] = ((),) * len(CELLS)
    done: tuple[str, ...] = ()
    predictions: dict[str, np.ndarray] = field(default_factory=dict)
    landmarks: str = ""
    problems: tuple[Problem, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    device: str = ""
    landmark_members: tuple[str, ...] = ()

    @classmethod
    def fallen_back(cls, study_id: str, reason: Reason, problems: tuple[Problem, ...] = ()) -> StudyResult:
        """A study of which nothing could be graded, for one reason."""
        return cls(
            study_id=study_id,
            probabilities=np.full((len(CELLS), len(GRADES)), np.nan),
            source=(Source.PRIOR,) * len(CELLS),
            reason=(reason,) * len(CELLS),
            problems=problems,
        )

    @property
    def finished(self) -> bool:
        """Whether running again could not give more."""
        return not any(reason in UNFINISHED for reason in self.reason)

    def save(self, path: Path, fingerprint: str) -> None:
        """Write the result to an ``.npz`` file, whole or not at all; no object in it is pickled.

        Raises:
            OSError: it cannot be written.
        """
        meta = {
            "fingerprint": fingerprint,
            "study_id": self.study_id,
            "source": self.source,
            "reason": self.reason,
            "members": self.members,
            "series": self.series,
            "done": self.done,
            "predictions": list(self.predictions),
            "landmarks": self.landmarks,
            "problems": [asdict(problem) for problem in self.problems],
            "seconds": self.seconds,
            "device": self.device,
            "landmark_members": self.landmark_members,
        }
        stacked = np.zeros((0, len(CELLS), len(GRADES)), np.float32)
        if self.predictions:
            stacked = np.stack([np.asarray(values, np.float32) for values in self.predictions.values()])
        text = np.frombuffer(json.dumps(meta).encode(), np.uint8)

        def write(partial: Path) -> None:
            with partial.open("wb") as file:
                np.savez(file, meta=text, probabilities=self.probabilities, predictions=stacked)

        write_atomically(path, write, sync=False)

    @classmethod
    def load(cls, path: Path, fingerprint: str) -> StudyResult | None:
        """Read a result; None where there is none, or it is damaged or of other inputs, weights or settings."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                meta = json.loads(stored["meta"].tobytes())
                probabilities, stacked = stored["probabilities"], stored["predictions"]
            if meta.pop("fingerprint") != fingerprint:
                return None
            return cls(
                study_id=meta["study_id"],
                probabilities=probabilities,
                source=tuple(Source(value) for value in meta["source"]),
                reason=tuple(None if value is None else Reason(value) for value in meta["reason"]),
                members=tuple(tuple(names) for names in meta["members"]),
                series=tuple(tuple(names) for names in meta["series"]),
                done=tuple(meta["done"]),
                predictions=dict(zip(meta["predictions"], stacked, strict=True)),
                landmarks=meta["landmarks"],
                problems=tuple(Problem(**values) for values in meta["problems"]),
                seconds=meta["seconds"],
                device=meta["device"],
                landmark_members=tuple(meta["landmark_members"]),
            )
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile):
            return None
