"""One study from DICOM to 25 grades: the only place where the four stages meet.

Runs in a worker process, or in the main one where a single worker is enough. Whatever a stage raises ends in a result
with a reason: a study never stops the run, and a network never stops the study. torch is imported only where the
weights have a network.
"""

from __future__ import annotations

import contextlib
import os
import time
import traceback
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.competition import StudyRef
from pipeline.cubes.kept import load_cubes, save_cubes
from pipeline.device import limit_threads
from pipeline.labels import CELLS, GRADES, Family, SeriesKind
from pipeline.problem import Problem
from pipeline.remote import at_hand
from pipeline.run.alarm import StudyTimeout, alarm
from pipeline.run.findings import Findings, find, findings_of
from pipeline.run.pace import StageClock
from pipeline.run.result import Reason, Source, StudyResult, fall_back, with_rows
from pipeline.run.task import Grader, StudyNetworks, StudyTask, Workbench
from pipeline.run.work import WorkFolder, work_device
from pipeline.tables import guarded_frame

if TYPE_CHECKING:
    from pipeline.cubes import Cubes

GRACE_SECONDS = 1.0
"""A network that runs when the time is over may take this much longer to end."""


def grade_study(task: StudyTask, bench: Workbench) -> StudyResult:
    """Grade one study and keep the result in the work folder; never raises for anything a study can cause."""
    study, work = task.study, bench.work
    work.mark_started(study)
    fingerprint = work.fingerprint(study)
    lost: list[Problem] = []
    previous = work.load(study, fingerprint, lost)
    result = _attempt(task, bench, previous, fingerprint)
    result = keep(work, study, replace(result, problems=(*result.problems, *lost)), fingerprint)
    work.mark_ended(study)
    return result


def grade_away(task: StudyTask, bench: Workbench, kept: tuple[StudyResult, str] | None) -> tuple[StudyResult, str]:
    """As :func:`grade_study` on another machine: what is kept comes along, and the result goes back to be kept.

    Args:
        task: the study.
        bench: with a folder of this machine for what lasts no longer than the run.
        kept: what an earlier round or run gave, and the fingerprint of the files it was made from.

    Returns:
        The result and the fingerprint of the files that it was made from.
    """
    fingerprint = bench.work.fingerprint(task.study)
    previous = kept[0] if kept is not None and kept[1] == fingerprint else None
    return _attempt(task, bench, previous, fingerprint), fingerprint


def _attempt(task: StudyTask, bench: Workbench, previous: StudyResult | None, fingerprint: str) -> StudyResult:
    """The result, whatever happens to the study short of the end of the process."""
    study = task.study
    started = time.monotonic()
    hang = None if os.getpid() == bench.main_process else bench.hang_seconds
    try:
        with alarm(_seconds_left(task), hang) as watch:
            return _grade(task, bench, previous, bench.work.cubes(study, fingerprint), watch)
    except StudyTimeout:
        reason = Reason.TIME_OVER if _is_over(task) else Reason.STUDY_TOO_SLOW
        return fall_back(previous, study.study_id, reason, f"not done after {time.monotonic() - started:.0f} s")
    except Exception as error:  # anything a study or a network can raise
        return fall_back(previous, study.study_id, Reason.STUDY_FAILED, describe(error))


def keep(work: WorkFolder, study: StudyRef, result: StudyResult, fingerprint: str) -> StudyResult:
    """Keep a result in the work folder; where that cannot be, it gets a problem that says so."""
    try:
        work.save(study, result, fingerprint)
    except OSError as error:
        problem = Problem(study.study_id, None, None, "result-not-kept", f"{error.strerror or error}; only in memory")
        return replace(result, problems=(*result.problems, problem))
    return result


def describe(error: BaseException) -> str:
    """An exception as one line: its kind, its text and the line of the package it came from."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "pipeline" in frame.filename]
    where = f" at {frames[-1].filename.rpartition('pipeline/')[2]}:{frames[-1].lineno}" if frames else ""
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}{where}: {text}"


@dataclass
class _Answers:
    """What the graders said, which were run or tried, and the families and problems of those that failed."""

    predictions: dict[str, np.ndarray] = field(default_factory=dict)
    tried: list[str] = field(default_factory=list)
    failed: set[Family] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)


def _grade(
    task: StudyTask, bench: Workbench, previous: StudyResult | None, cubes_at: Path, watch: Callable[[float], None]
) -> StudyResult:
    """Stages one to four; one to three only where no earlier round has kept the cubes."""
    if not task.study.series and task.study.remote is None:
        return StudyResult.fallen_back(task.study.study_id, Reason.STUDY_ABSENT)
    limit_threads(bench.threads)
    networks = bench.networks
    clock = StageClock() if previous is None else StageClock(dict(previous.seconds))
    device = work_device(bench.device, bench.work, bench.run) if networks is not None else ""
    done = () if previous is None else previous.done
    graders = [grader for grader in task.graders if grader.name not in done]
    wanted = (*(grader.name for grader in graders), *task.later)
    cubes = None if networks is None or previous is None else _kept_cubes(networks, cubes_at, wanted)
    if cubes is not None and previous is not None:
        findings = findings_of(previous)
        clock.lap("cubes")
    else:
        # A decoder that hangs need not have all of the study's seconds.
        watch(min(_seconds_left(task), bench.limits.study_seconds))
        findings, cubes = _look(task, bench, wanted, device, clock, watch)
        if cubes is not None and task.later and bench.work.has_room(bench.keep_gib):
            with contextlib.suppress(OSError):
                save_cubes(cubes_at, cubes)
    answers = _Answers()
    if networks is not None and cubes is not None:
        answers = _ask(task, networks, graders, cubes, device, bench.threads, clock)
    return _result(task, networks, findings, answers, cubes, clock, device, previous)


def _kept_cubes(networks: StudyNetworks, path: Path, names: Sequence[str]) -> Cubes | None:
    """The cubes that an earlier round has kept, if all that the graders ``names`` look at is among them."""
    cubes = load_cubes(path)
    return cubes if cubes is not None and {networks.cube_settings(name) for name in names} <= cubes.keys() else None


def _look(
    task: StudyTask,
    bench: Workbench,
    wanted: Sequence[str],
    device: str,
    clock: StageClock,
    watch: Callable[[float], None],
) -> tuple[Findings, Cubes | None]:
    """Stages one to three: read, find the points, cut; no cubes where no network may find points."""
    from pipeline.volumes import read_study

    odd: list[Problem] = []
    with at_hand(task.study, bench.work.folder, odd) as study:
        if study is not task.study:
            clock.lap("fetch")
            task = replace(task, study=study)
        volumes = read_study(study, bench.limits)
        volumes = replace(volumes, problems=(*odd, *volumes.problems))
    watch(_seconds_left(task))
    clock.lap("read")
    if bench.networks is None or not task.landmarks:
        return find(task, volumes, None, "", ()), None
    points, notes = bench.networks.find_landmarks(volumes, task.landmarks, device, bench.threads)
    clock.lap("landmarks")
    cubes = bench.networks.cut(volumes, points, wanted)
    clock.lap("cubes")
    table = guarded_frame(points.to_frame()).to_csv(index=False)
    return find(task, volumes, points.found, table, notes), cubes


def _ask(
    task: StudyTask,
    networks: StudyNetworks,
    graders: Sequence[Grader],
    cubes: Cubes,
    device: str,
    threads: int,
    clock: StageClock,
) -> _Answers:
    """Stage four: every grader that would be done before the deadline."""
    answers = _Answers()
    for name, seconds in graders:
        if task.deadline is not None and time.monotonic() + task.slowness * seconds >= task.deadline:
            continue  # a quicker one may still be done in time
        answers.tried.append(name)
        try:
            answers.predictions[name] = networks.grade(name, cubes, device, threads)
        except StudyTimeout:
            if not answers.predictions or not _is_over(task):
                raise
            answers.tried.remove(name)  # a later run has time for it; what the networks before it gave is kept
            break
        except Exception as error:
            detail = f"{name}: {describe(error)}"
            answers.problems.append(Problem(task.study.study_id, None, None, "network-failed", detail))
            answers.failed.add(networks.family(name))
        clock.lap("severity")
    answers.problems.extend(Problem(task.study.study_id, None, None, *notice) for notice in networks.notices())
    return answers


def _result(
    task: StudyTask,
    networks: StudyNetworks | None,
    findings: Findings,
    answers: _Answers,
    cubes: Cubes | None,
    clock: StageClock,
    device: str,
    previous: StudyResult | None,
) -> StudyResult:
    """Blend the answers of this round and of those before, and say of every row where it comes from."""
    predictions, tried = answers.predictions, tuple(answers.tried)
    if previous is not None:
        predictions = {**previous.predictions, **predictions}
        tried = (*previous.done, *(name for name in tried if name not in previous.done))
    members = tuple(
        tuple(name for name, values in predictions.items() if np.isfinite(values[index]).all())
        for index in range(len(CELLS))
    )
    probabilities, from_context = np.full((len(CELLS), len(GRADES)), np.nan), np.zeros(len(CELLS), bool)
    if networks is not None and any(members):
        probabilities, from_context = networks.combine(predictions)
        clock.lap("combine")
    source = tuple(
        Source.MODEL if members[index] else Source.CONTEXT if from_context[index] else Source.PRIOR
        for index in range(len(CELLS))
    )
    reason = _reasons(task, networks, findings, answers.failed, tried, members)
    return StudyResult(
        study_id=task.study.study_id,
        probabilities=probabilities,
        source=source,
        reason=reason,
        members=members,
        series=_looked_at(networks, cubes or {}, members, answers.predictions, previous),
        done=tried,
        predictions=predictions,
        landmarks=findings.landmarks,
        problems=(*with_rows(task.study.study_id, findings.problems, reason), *answers.problems),
        seconds=clock.seconds,
        device=device,
        landmark_members=findings.landmark_members,
    )


def _looked_at(
    networks: StudyNetworks | None,
    cubes: Cubes,
    members: Sequence[tuple[str, ...]],
    asked: Collection[str],
    previous: StudyResult | None,
) -> tuple[tuple[str, ...], ...]:
    """Ids of the series of every row's windows; another family's network looks at its own windows of the level."""
    series = [list(ids) for ids in previous.series] if previous is not None else [[] for _ in CELLS]
    for index, cell in enumerate(CELLS):
        for name in asked:
            if networks is None or name not in members[index]:
                continue
            family, own = networks.family(name), cubes[networks.cube_settings(name)]
            windows = [one for one in CELLS if one.condition.family is family and one.level == cell.level]
            for one in [cell] if family is cell.condition.family else windows:
                series[index] += [cube.series_id for kind in SeriesKind for cube in own.get(one, kind)]
    return tuple(tuple(dict.fromkeys(ids)) for ids in series)


def _reasons(
    task: StudyTask,
    networks: StudyNetworks | None,
    findings: Findings,
    failed: set[Family],
    tried: Sequence[str],
    members: Sequence[tuple[str, ...]],
) -> tuple[Reason | None, ...]:
    """Why no network graded a row: what the study lacks, else what became of the networks of its family."""
    waiting: set[Family] = set()
    asked: set[Family] = set()
    if networks is not None:
        waiting = {networks.family(name) for name in (*task.names, *task.later) if name not in tried}
        asked = waiting | {networks.family(name) for name in tried}
    reasons: list[Reason | None] = []
    for index, cell in enumerate(CELLS):
        why, family = findings.reason[index], cell.condition.family
        if members[index]:
            reasons.append(None)
        elif why not in (Reason.NOT_SHOWN, Reason.TIME_OVER):
            reasons.append(why)
        elif family in waiting:
            reasons.append(Reason.TIME_OVER)
        elif family in failed:
            reasons.append(Reason.MODEL_FAILED)
        else:
            reasons.append(Reason.NOT_SHOWN if family in asked else Reason.NO_NETWORK)
    return tuple(reasons)


def _is_over(task: StudyTask) -> bool:
    return task.deadline is not None and time.monotonic() >= task.deadline


def _seconds_left(task: StudyTask) -> float:
    if task.deadline is None:
        return task.seconds
    # A little beyond the deadline: between two networks the study ends by itself and keeps what it has.
    return max(min(task.seconds, task.deadline - time.monotonic() + GRACE_SECONDS), 0.05)
