"""One study from DICOM to 25 grades: the only place where the four stages meet.

Runs inside a worker process. Whatever a stage raises ends in a result with a reason: a study never stops the run, and
a network never stops the study. Stages that the weights have no network for are not imported.
"""

from __future__ import annotations

import contextlib
import os
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pipeline.competition import Problem, StudyRef
from pipeline.device import limit_threads
from pipeline.labels import CELLS, GRADES, NEEDED, Family, SeriesKind
from pipeline.run.alarm import StudyTimeout, alarm
from pipeline.run.result import Reason, Source, StudyResult
from pipeline.run.task import StudyTask, Workbench
from pipeline.run.work import work_device
from pipeline.tables import guarded_frame

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.volumes import StudyVolumes

GRACE_SECONDS = 1.0
"""A network that runs when the time is over may take this much longer to end."""


@dataclass(frozen=True)
class _Findings:
    """What does not depend on the graders: the facts of the study that later rounds take over."""

    reason: tuple[Reason, ...]
    series: tuple[tuple[str, ...], ...]
    landmarks: str
    landmark_members: tuple[str, ...]
    problems: tuple[Problem, ...]


def grade_study(task: StudyTask, bench: Workbench) -> StudyResult:
    """Grade one study and keep the result in the work folder; never raises for anything a study can cause."""
    study, work = task.study, bench.work
    work.mark_started(study)
    fingerprint = work.fingerprint(study)
    lost: list[Problem] = []
    previous = work.load(study, fingerprint, lost)
    started = time.monotonic()
    hang = None if os.getpid() == bench.main_process else bench.hang_seconds
    try:
        with alarm(_seconds_left(task), hang) as watch:
            result = _grade(task, bench, previous, work.cubes(study, fingerprint), watch)
    except StudyTimeout:
        reason = Reason.TIME_OVER if _is_over(task) else Reason.STUDY_TOO_SLOW
        result = fallen(previous, study, reason, f"not done after {time.monotonic() - started:.0f} s")
    except Exception as error:  # anything a study or a network can raise
        result = fallen(previous, study, Reason.STUDY_FAILED, describe(error))
    result = replace(result, problems=(*result.problems, *lost))
    try:
        work.save(study, result, fingerprint)
    except OSError as error:
        problem = Problem(study.study_id, None, None, "result-not-kept", f"{error.strerror or error}; only in memory")
        result = replace(result, problems=(*result.problems, problem))
    work.mark_ended(study)
    return result


def describe(error: BaseException) -> str:
    """An exception as one line: its kind, its text and the line of the package it came from."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "pipeline" in frame.filename]
    where = f" at {frames[-1].filename.rpartition('pipeline/')[2]}:{frames[-1].lineno}" if frames else ""
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}{where}: {text}"


def _grade(
    task: StudyTask, bench: Workbench, previous: StudyResult | None, cubes_at: Path, watch: Callable[[float], None]
) -> StudyResult:
    from pipeline.volumes import read_study

    study, networks = task.study, bench.networks
    if not study.series:
        return StudyResult.fallen_back(study.study_id, Reason.STUDY_ABSENT)
    limit_threads(bench.threads)
    clock = _Clock() if previous is None else _Clock(dict(previous.seconds))
    device = work_device(bench.device, bench.work, bench.run) if networks is not None else ""
    done = () if previous is None else previous.done
    costs = dict(zip(task.graders, task.costs, strict=False))
    graders = [name for name in task.graders if name not in done]
    wanted = (*graders, *task.later)
    kept = None if networks is None or previous is None else networks.load_cubes(cubes_at, wanted)
    if kept is not None and previous is not None:
        cubes, findings = kept, _findings_of(previous)
        clock.lap("cubes")
    else:
        watch(
            min(_seconds_left(task), bench.limits.study_seconds)
        )  # a decoder that hangs need not have all of the study's seconds
        volumes = read_study(study, bench.limits)
        watch(_seconds_left(task))
        clock.lap("read")
        if networks is None or not task.landmarks:
            findings = _find(task, volumes, None, "", (), ())
            return _result(task, bench, findings, {}, (), set(), clock, device, previous)
        points, notes = networks.find_landmarks(volumes, task.landmarks, device, bench.threads)
        clock.lap("landmarks")
        cubes = networks.cut(volumes, points, wanted)
        clock.lap("cubes")
        table = guarded_frame(points.to_frame()).to_csv(index=False)
        findings = _find(task, volumes, points.found, table, tuple(points.series_id), notes)
        if task.later and bench.work.has_room(bench.keep_gib):
            with contextlib.suppress(OSError):
                networks.keep_cubes(cubes_at, cubes)
    predictions: dict[str, np.ndarray] = {}
    tried: list[str] = []
    failed: set[Family] = set()
    for name in graders:
        if task.deadline is not None and time.monotonic() + task.slowness * costs.get(name, 0.0) >= task.deadline:
            continue  # a quicker one may still be done in time
        tried.append(name)
        try:
            predictions[name] = networks.grade(name, cubes, device, bench.threads)  # type: ignore[union-attr]  # cubes come from it
        except StudyTimeout:
            if not predictions or not _is_over(task):
                raise
            tried.remove(name)  # a later run has time for it; what the networks before it gave is kept
            break
        except Exception as error:
            problem = Problem(study.study_id, None, None, "network-failed", f"{name}: {describe(error)}")
            findings = replace(findings, problems=(*findings.problems, problem))
            failed.add(networks.family(name))  # type: ignore[union-attr]
        clock.lap("severity")
    return _result(task, bench, findings, predictions, tuple(tried), failed, clock, device, previous)


def _result(
    task: StudyTask,
    bench: Workbench,
    findings: _Findings,
    predictions: dict[str, np.ndarray],
    tried: tuple[str, ...],
    failed: set[Family],
    clock: _Clock,
    device: str,
    previous: StudyResult | None,
) -> StudyResult:
    if previous is not None:
        predictions = {**previous.predictions, **predictions}
        tried = (*previous.done, *(name for name in tried if name not in previous.done))
    members = tuple(
        tuple(name for name, values in predictions.items() if np.isfinite(values[index]).all())
        for index in range(len(CELLS))
    )
    probabilities = np.full((len(CELLS), len(GRADES)), np.nan)
    source = [Source.PRIOR] * len(CELLS)
    if bench.networks is not None and any(members):
        probabilities, from_context = bench.networks.combine(predictions)
        for index in range(len(CELLS)):
            if members[index]:
                source[index] = Source.MODEL
            elif from_context[index]:
                source[index] = Source.CONTEXT
        clock.lap("combine")
    waiting: set[Family] = set()
    graded: set[Family] = set()
    if bench.networks is not None:
        waiting = {bench.networks.family(name) for name in (*task.graders, *task.later) if name not in tried}
        graded = waiting | {bench.networks.family(name) for name in tried}
    reason: list[Reason | None] = []
    for index, cell in enumerate(CELLS):
        why: Reason | None = findings.reason[index]
        if members[index]:
            why = None
        elif why in (Reason.NOT_SHOWN, Reason.TIME_OVER):
            family = cell.condition.family
            if family in waiting:
                why = Reason.TIME_OVER
            elif family in failed:
                why = Reason.MODEL_FAILED
            else:
                why = Reason.NOT_SHOWN if family in graded else Reason.MODEL_ABSENT
        reason.append(why)
    return StudyResult(
        study_id=task.study.study_id,
        probabilities=probabilities,
        source=tuple(source),
        reason=tuple(reason),
        members=members,
        series=tuple(ids if members[index] else () for index, ids in enumerate(findings.series)),
        done=tried,
        predictions=predictions,
        landmarks=findings.landmarks,
        problems=findings.problems,
        seconds=clock.seconds,
        device=device,
        landmark_members=findings.landmark_members,
    )


def _find(
    task: StudyTask,
    volumes: StudyVolumes,
    found: np.ndarray | None,
    table: str,
    point_series: tuple[str | None, ...],
    notes: tuple[Problem, ...],
) -> _Findings:
    """The reason each row would have if no network graded it, and the series it would be read from."""
    reasons: list[Reason] = []
    series: list[tuple[str, ...]] = []
    for index, cell in enumerate(CELLS):
        family = cell.condition.family
        kinds = NEEDED[family]
        ids = [volume.series_id for kind in kinds for volume in volumes.of_kind(kind)]
        marked = point_series[index] if point_series else None
        series.append(tuple(dict.fromkeys([*([marked] if marked else []), *ids])))
        if not ids:
            reasons.append(_why_no_series(task.study, volumes, kinds))
        elif family in task.guarded:
            reasons.append(Reason.LEAK_GUARD)
        elif found is None:
            reasons.append(Reason.MODEL_ABSENT)
        elif not found[index]:
            reasons.append(Reason.LEVEL_NOT_FOUND)
        else:
            reasons.append(Reason.NOT_SHOWN)
    return _Findings(tuple(reasons), tuple(series), table, task.landmarks, (*volumes.problems, *notes))


def _why_no_series(study: StudyRef, volumes: StudyVolumes, kinds: tuple[SeriesKind, ...]) -> Reason:
    """Missing, unless a series that is or could be of the kind is there and gave no image."""
    read = {volume.series_id for volume in volumes.volumes}
    dark = [ref for ref in study.series if ref.series_id not in read]
    return Reason.SERIES_UNREADABLE if any(r.description in (None, *kinds) for r in dark) else Reason.SERIES_MISSING


def _findings_of(previous: StudyResult) -> _Findings:
    return _Findings(
        tuple(reason or Reason.NOT_SHOWN for reason in previous.reason),
        previous.series,
        previous.landmarks,
        previous.landmark_members,
        previous.problems,
    )


def fallen(previous: StudyResult | None, study: StudyRef, reason: Reason, detail: str) -> StudyResult:
    """What earlier rounds gave, with the reason on the rows that they did not reach; else a study without grades."""
    problem = Problem(study.study_id, None, None, str(reason).replace(" ", "-"), detail)
    if previous is None:
        return StudyResult.fallen_back(study.study_id, reason, (problem,))
    kept = tuple(None if old is None else reason for old in previous.reason)
    return replace(previous, reason=kept, problems=(*previous.problems, problem))


def _is_over(task: StudyTask) -> bool:
    return task.deadline is not None and time.monotonic() >= task.deadline


def _seconds_left(task: StudyTask) -> float:
    if task.deadline is None:
        return task.seconds
    # A little beyond the deadline: between two networks the study ends by itself and keeps what it has.
    return max(min(task.seconds, task.deadline - time.monotonic() + GRACE_SECONDS), 0.05)


class _Clock:
    """Adds up the seconds of each stage."""

    def __init__(self, seconds: dict[str, float] | None = None) -> None:
        self.seconds = seconds or {}
        self._last = time.monotonic()

    def lap(self, stage: str) -> None:
        now = time.monotonic()
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + now - self._last, 4)
        self._last = now
