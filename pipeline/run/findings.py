"""What a study's images show, whoever grades them: its points, and why a row may have none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.competition import StudyRef
from pipeline.labels import CELLS, NEEDED, SeriesKind
from pipeline.problem import Problem
from pipeline.run.result import Reason, StudyResult
from pipeline.run.task import StudyTask

if TYPE_CHECKING:
    from pipeline.volumes import StudyVolumes


@dataclass(frozen=True)
class Findings:
    """What does not depend on the graders: the facts of the study that later rounds take over."""

    reason: tuple[Reason, ...]
    landmarks: str
    landmark_members: tuple[str, ...]
    problems: tuple[Problem, ...]


def find(
    task: StudyTask,
    volumes: StudyVolumes,
    found: np.ndarray | None,
    table: str,
    notes: tuple[Problem, ...],
) -> Findings:
    """The reason each row would have if no network graded it."""
    reasons: list[Reason] = []
    for index, cell in enumerate(CELLS):
        family = cell.condition.family
        kinds = NEEDED[family]
        if not any(volumes.of_kind(kind) for kind in kinds):
            reasons.append(_why_no_series(task.study, volumes, kinds))
        elif family in task.guarded:
            reasons.append(Reason.LEAK_GUARD)
        elif found is None:
            reasons.append(Reason.NO_NETWORK)
        elif not found[index]:
            reasons.append(Reason.LEVEL_NOT_FOUND)
        else:
            reasons.append(Reason.NOT_SHOWN)
    return Findings(tuple(reasons), table, task.landmarks, (*volumes.problems, *notes))


def _why_no_series(study: StudyRef, volumes: StudyVolumes, kinds: tuple[SeriesKind, ...]) -> Reason:
    """Missing, unless a series that is or could be of the kind is there and gave no image."""
    read = {volume.series_id for volume in volumes.volumes}
    dark = [ref for ref in study.series if ref.series_id not in read]
    return Reason.SERIES_UNREADABLE if any(r.description in (None, *kinds) for r in dark) else Reason.SERIES_MISSING


def findings_of(previous: StudyResult) -> Findings:
    """What an earlier round has found."""
    return Findings(
        tuple(reason or Reason.NOT_SHOWN for reason in previous.reason),
        previous.landmarks,
        previous.landmark_members,
        previous.problems,
    )
