"""What the run knows of one graded study, and the words it uses for a row that no model reached."""

from __future__ import annotations

import base64
import errno
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.competition import StudyRef
from pipeline.config import from_dict, to_dict
from pipeline.files import DamagedError, read_sealed, write_sealed
from pipeline.labels import CELLS, GRADES, level_title
from pipeline.landmarks.landmarks import Landmarks
from pipeline.names import unguarded
from pipeline.problem import Problem
from pipeline.scoring.metric import unweighted

MOST_BYTES = 16 * 2**20
"""Of a kept result; some 20 kB are usual, most of them points and problems."""


NOTE = "landmarks"
"""Problems of this kind are notes on how a point was found, not faults."""
ROWS = "rows-without-image"
"""The problem that names the rows which the other problems of a study leave without an image."""


class Source(StrEnum):
    """Where a row's numbers come from: networks, the study's other cells, or the class frequencies."""

    MODEL = "model"
    CONTEXT = "context"
    PRIOR = "prior"


class Reason(StrEnum):
    """Why no network graded a row. One word a cause, so that the run can count them."""

    NO_NETWORK = "no network for this condition"
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
    CLUSTER_LOST = "cluster lost"


UNFINISHED = frozenset({Reason.TIME_OVER, Reason.STOPPED, Reason.CLUSTER_LOST})
"""Reasons that a further run can do away with, so such a result is not final."""

_WITHOUT_IMAGE = (Reason.SERIES_MISSING, Reason.SERIES_UNREADABLE, Reason.LEVEL_NOT_FOUND, Reason.NOT_SHOWN)


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
        """Write the result, whole or not at all, with its checksum: a JSON object, arrays in it as base64.

        Raises:
            OSError: it cannot be written, or would be too large to be read again.
        """
        content = to_dict(self)
        content["probabilities"] = _packed(self.probabilities)
        content["predictions"] = {name: _packed(values) for name, values in self.predictions.items()}
        body = json.dumps(content).encode()
        if len(body) > MOST_BYTES - 200:
            raise OSError(errno.EFBIG, f"its {len(body)} bytes are too many to keep", str(path))
        write_sealed(path, fingerprint, body)

    @classmethod
    def load(cls, path: Path, study_id: str, fingerprint: str) -> StudyResult | None:
        """Read a result; None where there is none or it is of other inputs, weights, settings or code.

        Raises:
            DamagedError: it is not what :meth:`save` writes for this study.
        """
        try:
            body = read_sealed(path, fingerprint, MOST_BYTES)
            if body is None:
                return None
            content = json.loads(body)
            content["probabilities"] = _unpacked(content["probabilities"])
            content["predictions"] = {
                name: _unpacked(text).astype(np.float32) for name, text in content["predictions"].items()
            }
            result = from_dict(cls, content)
            result._check(study_id)
        except DamagedError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            raise DamagedError(f"{path.name}: {error}") from error
        return result

    def _check(self, study_id: str) -> None:
        """Compare the parts with each other.

        Raises:
            ValueError: they cannot all be of one result of this study.
        """
        rows = (self.source, self.reason, self.members, self.series)
        graded = [bool(names) for names in self.members]
        usable = np.isnan(self.probabilities).all(1) | (
            (self.probabilities >= 0).all(1) & (self.probabilities.sum(1) > 0)
        )
        whole = (
            self.study_id == study_id
            and all(len(part) == len(CELLS) for part in rows)
            and usable.all()
            and [source is Source.MODEL for source in self.source] == graded
            and [reason is None for reason in self.reason] == graded
            and {name for names in self.members for name in names} <= self.predictions.keys() <= set(self.done)
            and all(0 <= seconds < float("inf") for seconds in self.seconds.values())
        )
        if not whole:
            raise ValueError("its parts contradict each other")


@dataclass(frozen=True, eq=False)
class Graded:
    """A study with its result and the (25, 3) numbers that the table has of it, for those who hand them on."""

    study: StudyRef
    result: StudyResult
    weighted: np.ndarray

    def numbers(self) -> np.ndarray:
        """(25, 6) plain probabilities and weighted ones, as ``probabilities.csv`` has them."""
        return plain_and_weighted(self.weighted)

    def points(self) -> Landmarks | None:
        """The points that were found; None where none were looked for."""
        if not self.result.landmarks:
            return None
        table = pd.read_csv(io.StringIO(self.result.landmarks), dtype={"study_id": str, "series_id": str})
        for column in ("study_id", "series_id"):
            table[column] = table[column].map(unguarded)
        return Landmarks.from_frame(self.result.study_id, table)


def plain_and_weighted(weighted: np.ndarray) -> np.ndarray:
    """(N, 6): of submitted numbers (N, 3) those without the metric's weights, and they themselves."""
    weighted = weighted / weighted.sum(1, keepdims=True)
    with np.errstate(divide="ignore"):
        return np.concatenate([unweighted(np.log(weighted)), weighted], 1)


def fall_back(previous: StudyResult | None, study_id: str, reason: Reason, detail: str) -> StudyResult:
    """What earlier rounds gave, with the reason on the rows that they did not reach; else a study without grades."""
    problem = Problem(study_id, None, None, str(reason).replace(" ", "-"), detail)
    if previous is None:
        return StudyResult.fallen_back(study_id, reason, (problem,))
    kept = tuple(None if old is None else reason for old in previous.reason)
    return replace(previous, reason=kept, problems=(*previous.problems, problem))


def with_rows(study_id: str, problems: Sequence[Problem], reasons: Sequence[Reason | None]) -> tuple[Problem, ...]:
    """The problems of the images, and with them the rows that no image gave; none where there is no other problem."""
    kept = tuple(problem for problem in problems if problem.what != ROWS)
    lost: dict[str, list[str]] = {}
    for cell, reason in zip(CELLS, reasons, strict=True):
        if reason in _WITHOUT_IMAGE:
            lost.setdefault(cell.condition.value, []).append(level_title(cell.level))
    if not lost or all(problem.what == NOTE for problem in kept):
        return kept
    rows = "; ".join(f"{name} {', '.join(levels)}" for name, levels in lost.items())
    return (*kept, Problem(study_id, None, None, ROWS, f"not graded on an image: {rows}"))


def _packed(values: np.ndarray) -> str:
    """(25, 3) numbers as text; rows that are not finite become NaN."""
    rows = np.asarray(values, np.float64)
    rows = np.where(np.isfinite(rows).all(1, keepdims=True), rows, np.nan)
    return base64.b64encode(rows.astype("<f8").tobytes()).decode()


def _unpacked(text: str) -> np.ndarray:
    """What :func:`_packed` was given.

    Raises:
        ValueError: it is not (25, 3) numbers, each row finite or all NaN.
    """
    rows = (
        np.frombuffer(base64.b64decode(text, validate=True), "<f8").reshape(len(CELLS), len(GRADES)).astype(np.float64)
    )
    if not (np.isfinite(rows).all(1) | np.isnan(rows).all(1)).all():
        raise ValueError("a row is not finite")
    return rows
