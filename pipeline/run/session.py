"""One call of ``submit.py`` after its arguments are checked: plan, run, tables of the stages, report."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
import pandas as pd

from pipeline.competition import Competition, Problem, StudyRef
from pipeline.config import to_dict
from pipeline.console import complain, say
from pipeline.device import usable_cpus
from pipeline.labels import CELL_COLUMNS
from pipeline.parallel import why_no_workers
from pipeline.run.board import Board
from pipeline.run.pace import Schedule
from pipeline.run.plan import Plan, make_plan
from pipeline.run.report import NOTE, RunReport, open_log, versions, write_run_json, write_stages
from pipeline.run.result import UNFINISHED, Reason, StudyResult
from pipeline.run.rounds import Run
from pipeline.run.settings import RunSettings
from pipeline.run.task import StudyTask, Workbench
from pipeline.run.work import WorkFolder
from pipeline.scoring.metric import Score, score_arrays
from pipeline.volumes.limits import ReadLimits
from pipeline.weights.manifest import Manifest

if TYPE_CHECKING:
    from pipeline.ensemble.networks import Networks


@dataclass
class Session:
    """A run over ``studies``; ``labels`` (study_id by ``CELL_COLUMNS``) makes it an evaluation."""

    competition: Competition
    studies: Sequence[StudyRef]
    labels: pd.DataFrame | None
    manifest: Manifest | None
    board: Board
    settings: RunSettings
    limits: ReadLimits
    schedule: Schedule
    workers: int | None
    device: str
    stages: Path | None
    work: Path
    quiet: bool
    command: Mapping[str, Any]
    problems: list[Problem]
    _tally: _Tally = field(default_factory=lambda: _Tally())

    def run(self) -> int:
        """Do the run and report it; returns the exit status.

        Raises:
            OSError: the table cannot be written at the end; the one of before is still there.
        """
        networks = self._networks()
        plan = make_plan(
            self.studies,
            networks,
            in_rounds=self.schedule.minutes is not None,
            guard=self.labels is not None,
            seconds=self.settings.study_seconds,
        )
        work = WorkFolder.of(self.work, self._context(networks))
        workers = min(self.workers or self.settings.workers or usable_cpus(), len(self.studies))
        if (why := why_no_workers()) and workers > 1:
            self.problems.append(Problem("", None, None, "no-workers", f"{why}; studies are graded one by one"))
            workers = 1
        threads = max(usable_cpus() // workers, 1)
        bench = Workbench(
            work, f"run{os.getpid()}", networks, self.limits, self.device, threads, self.settings.keep_gib
        )
        with open_log(self.board.out.with_suffix(".log")) as log:
            for problem in self.problems:
                self._tally.note(problem, log)
            run = Run.open(
                self.board,
                bench,
                self.schedule,
                workers,
                self.quiet,
                progress=lambda result: self._tally.add(result, log),
            )
            rounds, resumed = self._resume(plan, run, log)
            if rounds:
                run.rounds(rounds)
            for failure in self.board.write_failures:
                self._tally.note(Problem("", None, None, "write-failed", failure), log)
        return self._finish(run, plan, networks, resumed)

    def _networks(self) -> Networks | None:
        if self.manifest is None or not self.manifest.members:
            return None
        from pipeline.ensemble.networks import Networks

        networks, refused = Networks.open(self.manifest)
        self.problems += refused
        for problem in refused:
            complain(f"submit.py: {problem.detail}")
        return networks if networks.members else None

    def _context(self, networks: Networks | None) -> dict[str, Any]:
        """All that a result depends on beside the study's own files; of weights only what was found to be in order."""
        manifest = None
        if networks is not None:
            manifest = to_dict(replace(networks.manifest, folder=Path(), members=networks.members))
        return {
            "weights": manifest,
            "settings": to_dict(self.settings),
            "limits": to_dict(self.limits),
            "guard": self.labels is not None,
            "versions": versions(),
        }

    def _resume(self, plan: Plan, run: Run, log: TextIO) -> tuple[list[list[StudyTask]], int]:
        """The tasks that are left when results of an interrupted run are taken over, and how many those are."""
        kept: dict[str, StudyResult] = {}
        refused: list[Problem] = []
        for task in plan.rounds[0]:
            result = run.bench.work.load(task.study, problems=refused)
            if result is not None:
                kept[result.study_id] = result
                self.board.update(result)
                self._tally.add(result, log)
        for problem in refused:
            self._tally.note(problem, log)
        rounds = []
        for tasks in plan.rounds:
            left = [task for task in tasks if not _is_done(kept.get(task.study.study_id), task.graders)]
            if left:
                rounds.append(left)
        return rounds, sum(result.finished for result in kept.values())

    def _finish(self, run: Run, plan: Plan, networks: Networks | None, resumed: int) -> int:
        stopped = run.ended_by
        self.board.unreached(Reason.STUDY_FAILED if stopped is None else stopped.reason)
        self.board.write(force=True)
        if self.stages is not None:
            write_stages(self.stages, self._results(run), self.problems)
        reasons = self.board.reasons()
        ended_early = None if stopped is None else str(stopped.reason)
        if ended_early is None and str(Reason.TIME_OVER) in reasons:
            # The workers may notice the deadline a moment before the run does.
            ended_early = str(Reason.TIME_OVER)
        seconds = time.monotonic() - self.schedule.started
        report = RunReport(
            studies=len(self.studies),
            rows_by_source=self.board.sources(),
            reasons=reasons,
            problems=dict(self._tally.problems.most_common()),
            studies_with_problems=len(self._tally.faulty),
            weights=self._describe_weights(networks),
            seconds=round(seconds, 2),
            written=", ".join(str(path) for path in (self.board.out, self.board.wide, self.stages) if path is not None),
            ended_early=ended_early,
            resumed=resumed,
            extra={
                "command": self.command,
                "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - seconds)),
                "images": str(self.competition.images),
                "split": self.competition.split,
                "rounds": len(plan.rounds),
                "workers": run.pace.workers,
                "slowness": round(run.pace.slowness, 2),
                "device": self.device,
                "devices": dict(self._tally.devices),
                "stage_seconds": {name: round(value, 2) for name, value in self._tally.seconds.items()},
                "rows_by_network": dict(self._tally.rows),
                "first_failure": self._tally.first_failure,
                "score": None if self.labels is None else self._score().to_dict(),
            },
        )
        write_run_json(self.board.out.with_name("run.json"), report)
        if stopped is None and all(reason not in report.reasons for reason in UNFINISHED):
            run.bench.work.remove_results()
        guard = plan.guard_line(len(self.studies))
        if guard:
            say(guard)
        say(report.line(), *report.warnings())
        if self.labels is not None:
            from pipeline.ensemble.combine import ENSEMBLE_FILE

            say(f"score: {self._score()}")
            if self.manifest is not None and self.manifest.file(ENSEMBLE_FILE) is not None:
                say(
                    "score: no network used has seen these studies, but calibration and study context may have been "
                    "fitted on them, which flatters a little; ensemble_report.json of the weights is cross-fitted"
                )
        return 128 + stopped.signal if stopped is not None and stopped.signal in (signal.SIGINT, signal.SIGHUP) else 0

    def _score(self) -> Score:
        assert self.labels is not None
        return score_arrays(self.labels[list(CELL_COLUMNS)].to_numpy(), self.board.probabilities)

    def _results(self, run: Run) -> Iterator[StudyResult]:
        """Every study's result in the order of the table, read back one at a time."""
        reason = Reason.STUDY_FAILED if run.ended_by is None else run.ended_by.reason
        for study in self.studies:
            kept = run.unsaved.get(study.study_id) or run.bench.work.load(study)
            if kept is None and self.board.has(study.study_id):
                detail = (
                    "the table has its rows; where they come from went with its kept result, or its files changed since"
                )
                lost = Problem(study.study_id, None, None, "result-lost", detail)
                kept = StudyResult.fallen_back(study.study_id, reason, (lost,))
            yield kept or StudyResult.fallen_back(study.study_id, reason)

    def _describe_weights(self, networks: Networks | None) -> dict[str, Any] | None:
        if self.manifest is None or networks is None:
            return None
        members = [
            {"name": m.name, "task": m.task, "fold": m.fold, "sha256": m.sha256, "score": m.score}
            for m in networks.members
        ]
        folder = str(self.manifest.folder)
        return {
            "set": self.manifest.set,
            "description": self.manifest.description,
            "folder": folder,
            "members": members,
        }


class _Tally:
    """Counts over results; a study that comes again in a later round counts once."""

    def __init__(self) -> None:
        self.problems: Counter[str] = Counter()
        self.faulty: set[str] = set()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.devices: Counter[str] = Counter()
        self.rows: Counter[str] = Counter()
        self.first_failure: str | None = None
        self._before: dict[str, tuple[int, dict[str, float], tuple[str, ...]]] = {}

    def note(self, problem: Problem, log: TextIO) -> None:
        """Count a problem and write its line."""
        self.problems[problem.what] += 1
        if problem.study_id and problem.what != NOTE:
            self.faulty.add(problem.study_id)
        if problem.what == "study-failed" and self.first_failure is None:
            self.first_failure = problem.detail
        log.write(f"{problem}\n")

    def add(self, result: StudyResult, log: TextIO) -> None:
        """Count what is new in a result."""
        logged, spent, names = self._before.get(result.study_id, (0, {}, ()))
        for problem in result.problems[logged:]:
            self.note(problem, log)
        log.flush()
        for stage, seconds in result.seconds.items():
            self.seconds[stage] += seconds - spent.get(stage, 0.0)
        if result.device and result.study_id not in self._before:
            self.devices[result.device] += 1
        for name, values in result.predictions.items():
            if name not in names:
                self.rows[name] += int(np.isfinite(values).all(1).sum())
        self._before[result.study_id] = (len(result.problems), result.seconds, tuple(result.predictions))


def _is_done(result: StudyResult | None, graders: Sequence[str]) -> bool:
    return result is not None and result.finished and set(graders) <= set(result.done)
