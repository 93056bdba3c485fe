"""What the networks of a set of weights say of studies they have not seen, by the run that ``submit.py`` makes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.competition import Competition, StudyRef
from pipeline.console import complain, say
from pipeline.ensemble.combine import blend
from pipeline.ensemble.networks import Networks
from pipeline.labels import CELL_COLUMNS, CELLS, GRADES, Family
from pipeline.parallel import ClusterLostError
from pipeline.run.pace import Schedule
from pipeline.run.plan import make_plan
from pipeline.run.result import Reason, StudyResult
from pipeline.run.rounds import Run
from pipeline.run.settings import RunSettings
from pipeline.run.task import Workbench
from pipeline.run.work import WorkFolder
from pipeline.scoring.oof import OofTable
from pipeline.weights.manifest import Manifest, WeightsError
from pipeline.weights.seen import study_hash

FAILURES = frozenset({"network-failed", "study-failed", "study-over-its-seconds", "worker-died"})
"""Problems that take answers away which the networks should have given."""


def predict_unseen(
    manifest: Manifest, studies: Sequence[StudyRef], workers: int = 1, cluster: str | None = None
) -> dict[str, np.ndarray]:
    """(studies, 25, 3) log-probabilities by member, NaN where it has no input or has seen the study.

    Studies of one id are one study, that of the first folder. What could not be graded is counted and named.

    Args:
        manifest: of the weights.
        studies: to predict.
        workers: processes.
        cluster: the address of a Dask scheduler whose workers do it instead.

    Raises:
        WeightsError: no grader of the manifest can be used.
        WorkError: the cluster cannot be used.
        ClusterLostError: its scheduler went.
        KeyboardInterrupt: the run was ended from outside.
    """
    networks, problems = Networks.open(manifest)
    for problem in problems:
        complain(f"left out: {problem.detail}")
    graders = [member.name for member in networks.members if member.task in list(Family)]
    if not graders:
        raise WeightsError(f"{manifest.folder}: no severity network to evaluate")
    places: dict[str, list[int]] = {}
    for place, study in enumerate(studies):
        places.setdefault(study.study_id, []).append(place)
    once = [studies[found[0]] for found in places.values()]
    plan = make_plan(once, networks, in_rounds=False, guard=True, seconds=RunSettings().study_seconds)
    if line := plan.guard_line(len(once)):
        say(line)
    answers = {name: np.full((len(studies), len(CELLS), len(GRADES)), np.nan) for name in graders}
    failures: list[str] = []

    def take(result: StudyResult) -> None:
        for name, log_p in result.predictions.items():
            answers[name][places[result.study_id]] = log_p
        failures.extend(str(problem) for problem in result.problems if problem.what in FAILURES)

    with tempfile.TemporaryDirectory(prefix="unseen-") as folder:
        bench = Workbench(WorkFolder.of(Path(folder), {}), "unseen", networks)
        run = Run.open(bench, Schedule(time.monotonic(), None), workers, take, cluster=cluster, sample=once[0])
        run.rounds(plan.rounds)
    if run.ended_by is not None:
        lost = run.ended_by.reason is Reason.CLUSTER_LOST
        raise ClusterLostError("nothing was written; call again") if lost else KeyboardInterrupt
    if failures:
        complain(f"{len(failures)} times a study or a network failed, and those cells are left out:", *failures[:5])
    return answers


def predicted_tables(
    manifest: Manifest, competitions: Sequence[Competition], workers: int = 1, cluster: str | None = None
) -> dict[str, OofTable]:
    """What the networks of a manifest say of the graded studies they have not seen, by recipe.

    A study that several folds have not seen, because it was in nobody's training, gets the mean of their
    log-probabilities and one of those folds, drawn by its id and the same for all recipes.

    Args:
        manifest: of the weights; members without a held-out fold have nothing to say here.
        competitions: folders; studies without a grade are left out.
        workers: processes.
        cluster: as in :func:`predict_unseen`.

    Raises:
        ValueError: no network answers for any graded study.
    """
    studies, grades = [], []
    for competition in competitions:
        if competition.labels is not None:
            graded = competition.labels[competition.labels[list(CELL_COLUMNS)].notna().any(axis=1)]
            chosen = [study for study in competition.studies if study.study_id in graded.index]
            studies += chosen
            grades.append(graded.loc[[study.study_id for study in chosen], list(CELL_COLUMNS)].to_numpy(dtype=float))
    known = np.nan_to_num(np.concatenate(grades), nan=-1).astype(np.int64) if studies else np.zeros((0, 25), np.int64)
    ids = np.array([study.study_id for study in studies], dtype=str)
    answers: dict[str, dict[str, np.ndarray]] = {}
    by_name = {member.name: member for member in manifest.members}
    unseen_by: list[set[int]] = [set() for _ in studies]
    for name, log_p in (predict_unseen(manifest, studies, workers, cluster) if studies else {}).items():
        member, answered = by_name[name], np.isfinite(log_p).all(-1).any(1)
        if member.fold is not None and answered.any():
            answers.setdefault(member.recipe, {})[name] = log_p
            for place in np.flatnonzero(answered):
                unseen_by[place].add(member.fold)
    if not answers:
        raise ValueError(f"{manifest.folder}: no network with a held-out fold answers for a graded study of --data")
    folds = np.array([_one_of(sorted(found), name) for found, name in zip(unseen_by, ids, strict=True)])
    tables = {}
    for recipe, members in answers.items():
        mean = blend(members)
        study, cell = np.nonzero(np.isfinite(mean).all(-1))
        tables[recipe] = OofTable(
            study_id=ids[study],
            cell=cell,
            fold=folds[study],
            grade=known[study, cell],
            predicted_point=np.ones(len(study), dtype=bool),
            log_p=mean[study, cell],
        )
    return tables


def _one_of(folds: Sequence[int], study_id: str) -> int:
    return folds[int(study_hash(study_id), 16) % len(folds)] if folds else -1
