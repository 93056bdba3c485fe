"""One call of ``submit.py`` after its arguments are checked: plan, run, tables of the stages, report."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd

from pipeline.competition import Competition, StudyRef
from pipeline.config import to_dict
from pipeline.console import closed_terminal, complain, say
from pipeline.device import usable_cpus
from pipeline.ensemble.combine import ENSEMBLE_FILE
from pipeline.labels import CELL_COLUMNS
from pipeline.parallel import why_no_workers
from pipeline.problem import Problem
from pipeline.run.board import Board
from pipeline.run.pace import Schedule
from pipeline.run.plan import Plan, Round, make_plan
from pipeline.run.report import RunReport, describe_weights, write_run_json, write_stages
from pipeline.run.result import UNFINISHED, Graded, Reason, StudyResult
from pipeline.run.rounds import Run
from pipeline.run.settings import RunSettings
from pipeline.run.tally import Log, Tally
from pipeline.run.task import StudyNetworks, Workbench
from pipeline.run.work import WorkFolder
from pipeline.scoring.metric import score_arrays
from pipeline.versions import versions
from pipeline.volumes.limits import ReadLimits
from pipeline.weights.manifest import Manifest
from pipeline.weights.runtime import Runtime, choose_runtime

if TYPE_CHECKING:
    from pipeline.ensemble.networks import Networks


class Export(Protocol):
    """Hands graded studies on to other programs; returns what it could not."""

    def __call__(self, studies: Iterable[Graded], weights: Mapping[str, Any] | None, /) -> list[Problem]: ...


@dataclass(frozen=True)
class Request:
    """What is to be graded, with what, and what for; ``labels`` (study_id by ``CELL_COLUMNS``) make it an evaluation.

    ``command`` is what the report says of the call; ``cluster`` is the address of a Dask scheduler, None for this
    machine.
    """

    competition: Competition
    studies: Sequence[StudyRef]
    labels: pd.DataFrame | None
    manifest: Manifest | None
    settings: RunSettings
    limits: ReadLimits
    schedule: Schedule
    stages: Path | None
    quiet: bool
    verbose: bool
    command: Mapping[str, Any]
    exports: Sequence[Export] = ()
    cluster: str | None = None


def run_session(request: Request, board: Board, folder: Path, problems: list[Problem]) -> int:
    """Do the run and report it.

    Args:
        request: what was asked for.
        board: writes the table.
        folder: for unfinished results, this run's alone.
        problems: found so far; those of the weights and the machine are added.

    Returns:
        The exit status.

    Raises:
        OSError: the table cannot be written at the end; the earlier one is still there.
        WorkError: the cluster cannot be used; likewise.
    """
    settings = request.settings
    in_rounds, guard = request.schedule.minutes is not None, request.labels is not None
    networks = open_networks(request.manifest, problems, settings.runtime, 0 if in_rounds else len(request.studies))
    plan = make_plan(request.studies, networks, in_rounds, guard, settings.study_seconds)
    work = WorkFolder.of(folder, _context(request, networks))
    workers = min(settings.workers or usable_cpus(), len(request.studies))
    if request.cluster is None and workers > 1 and (why := why_no_workers()):
        problems.append(Problem("", None, None, "no-workers", f"{why}; studies are graded one by one"))
        workers = 1
    bench = Workbench(
        work,
        f"run{os.getpid()}",
        networks,
        request.limits,
        settings.device,
        threads=max(usable_cpus() // workers, 1),
        keep_gib=settings.keep_gib,
    )
    tally = Tally(board.index, say if request.verbose else None)
    with Log(board.out.with_suffix(".log")) as log:
        for problem in problems:
            tally.note(problem, log)

        def take(result: StudyResult) -> None:
            board.update(result)
            tally.add(result, log)
            board.write()

        rounds, resumed = _resume(plan, work, board, tally, log)
        sample = next((study for study in request.studies if study.series or study.remote), None)
        cluster = request.cluster if rounds else None  # nobody is needed where nothing is left
        run = Run.open(bench, request.schedule, workers, take, request.quiet, cluster, sample)
        run.rounds(rounds)
        if run.ended_by is not None and run.ended_by.reason is Reason.CLUSTER_LOST:
            complain("what was graded by then is in the table, and the same call goes on from there")
        for failure in board.write_failures:
            tally.note(Problem("", None, None, "write-failed", failure), log)
        board.unreached(Reason.STUDY_FAILED if run.ended_by is None else run.ended_by.reason)
        board.write(force=True)
        used = None if networks is None else describe_weights(networks.manifest, networks.members)
        for export in request.exports:
            graded = map(Graded, request.studies, _results(request.studies, board, run), board.probabilities)
            for problem in export(graded, used):
                problems.append(problem)
                tally.note(problem, log)
    if request.stages is not None:
        write_stages(request.stages, _results(request.studies, board, run), problems, board.probabilities)
    report = _report(request, board, run, tally, used, len(plan.rounds), resumed)
    write_run_json(board.out.with_name("run.json"), report)
    if run.ended_by is None and all(reason not in report.reasons for reason in UNFINISHED):
        work.remove_results()
    say(*filter(None, [plan.guard_line(len(request.studies))]), report.line(), *report.warnings())
    if report.score is not None:
        say(f"score: {report.score}")
        if request.manifest is not None and request.manifest.file(ENSEMBLE_FILE) is not None:
            say(
                "score: no network used has seen these studies, but calibration and study context may have been "
                "fitted on them, which flatters a little; ensemble_report.json of the weights is cross-fitted"
            )
    stop = run.ended_by
    return 128 + stop.signal if stop is not None and stop.signal in (signal.SIGINT, *closed_terminal()) else 0


def open_networks(
    manifest: Manifest | None, problems: list[Problem], runtime: Runtime, studies: int
) -> Networks | None:
    """The networks that can be used, None where there are none; those that cannot are named to the user, too.

    ``runtime`` and ``studies`` as of :func:`~pipeline.weights.runtime.choose_runtime`.
    """
    if manifest is None or not manifest.members:
        return None
    from pipeline.ensemble.networks import Networks

    networks, refused = Networks.open(manifest)
    problems += refused
    for problem in refused:
        complain(f"submit.py: {problem.detail}")
    networks.runtime = choose_runtime(runtime, networks.members, studies)
    return networks if networks.members else None


def _context(request: Request, networks: StudyNetworks | None) -> dict[str, Any]:
    """All that a result depends on beside the study's own files; of weights only what was found to be in order."""
    manifest = None
    if networks is not None:
        manifest = to_dict(replace(networks.manifest, folder=Path(), members=networks.members))
    return {
        "weights": manifest,
        "settings": to_dict(replace(request.settings, workers=0, device="auto", runtime="auto")),
        "runtime": getattr(networks, "runtime", "torch"),
        "limits": to_dict(request.limits),
        "guard": request.labels is not None,
        "versions": versions(),
    }


def _resume(plan: Plan, work: WorkFolder, board: Board, tally: Tally, log: Log) -> tuple[list[Round], int]:
    """The tasks that are left when results of an interrupted run are taken over, and how many those are."""
    studies, refused = plan.rounds[0].studies, list[Problem]()
    known: dict[tuple[str, ...] | None, int] = {None: 0}  # what networks were run; None where there is no final result
    state = np.zeros(len(studies), np.uint32)
    for place, study in enumerate(studies):
        result = work.load(study, problems=refused)
        if result is not None:
            board.update(result)
            tally.add(result, log)
            state[place] = known.setdefault(result.done if result.finished else None, len(known))
    for problem in refused:
        tally.note(problem, log)
    rounds = []
    for tasks in plan.rounds:
        asked = [set() if order is None else set(order.names) for order in tasks.orders]
        left = np.array([[names is None or not one <= set(names) for names in known] for one in asked])
        rounds.append(tasks[left[tasks.order, state[tasks.study]]])
    return list(filter(len, rounds)), int(np.count_nonzero(state))


def _results(studies: Sequence[StudyRef], board: Board, run: Run) -> Iterator[StudyResult]:
    """Every study's result in the order of the table, read back one at a time."""
    reason = Reason.STUDY_FAILED if run.ended_by is None else run.ended_by.reason
    for study in studies:
        kept = run.unsaved.get(study.study_id) or run.work.load(study)
        if kept is None and board.has(study.study_id):
            detail = (
                "the table has its rows; where they come from went with its kept result, or its files changed since"
            )
            lost = Problem(study.study_id, None, None, "result-lost", detail)
            kept = StudyResult.fallen_back(study.study_id, reason, (lost,))
        yield kept or StudyResult.fallen_back(study.study_id, reason)


def _report(
    request: Request,
    board: Board,
    run: Run,
    tally: Tally,
    used: Mapping[str, Any] | None,
    rounds: int,
    resumed: int,
) -> RunReport:
    reasons = board.reasons()
    ended_early = None if run.ended_by is None else str(run.ended_by.reason)
    if ended_early is None and str(Reason.TIME_OVER) in reasons:
        # The workers may notice the deadline a moment before the run does.
        ended_early = str(Reason.TIME_OVER)
    seconds = time.monotonic() - request.schedule.started
    score = None
    if request.labels is not None:
        score = score_arrays(request.labels[list(CELL_COLUMNS)].to_numpy(), board.probabilities[:])
    return RunReport(
        studies=len(request.studies),
        rows_by_source=board.sources(),
        reasons=reasons,
        problems=dict(tally.problems.most_common()),
        studies_with_problems=tally.studies_with_problems,
        weights=used,
        seconds=round(seconds, 2),
        written=", ".join(str(path) for path in (board.out, board.wide, request.stages) if path is not None),
        ended_early=ended_early,
        resumed=resumed,
        score=score,
        extra={
            "command": request.command,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - seconds)),
            "images": str(request.competition.images),
            "split": request.competition.split,
            "rounds": rounds,
            "workers": run.pace.workers,
            "slowness": round(run.pace.slowness, 2),
            "device": request.settings.device,
            "devices": dict(tally.devices),
            "stage_seconds": {name: round(value, 2) for name, value in tally.seconds.items()},
            "rows_by_network": dict(tally.rows),
            "first_failure": tally.first_failure,
        },
    )
