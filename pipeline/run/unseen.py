"""What the networks of a set of weights say of studies they have not seen, by the stages that ``submit.py`` runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from pipeline.competition import Competition, StudyRef
from pipeline.console import complain, say
from pipeline.device import limit_threads, usable_gpus
from pipeline.ensemble.combine import EnsembleFit, blend, recipe_of
from pipeline.ensemble.networks import Networks
from pipeline.labels import CELL_COLUMNS, CELLS, GRADES, Family
from pipeline.parallel import in_processes
from pipeline.run.plan import make_plan
from pipeline.scoring.oof import OofTable
from pipeline.volumes import read_study
from pipeline.weights.manifest import Manifest, WeightsError
from pipeline.weights.seen import study_hash

if TYPE_CHECKING:
    from pipeline.run.task import StudyTask


STUDIES_A_JOB = 10


def predict_unseen(manifest: Manifest, studies: Sequence[StudyRef], workers: int = 1) -> dict[str, np.ndarray]:
    """(studies, 25, 3) log-probabilities by member, NaN where it has no input or has seen the study.

    Raises:
        WeightsError: no grader of the manifest can be used.
    """
    networks, problems = Networks.open(manifest)
    for problem in problems:
        complain(f"left out: {problem.detail}")
    graders = [member.name for member in networks.members if member.task in list(Family)]
    if not graders:
        raise WeightsError(f"{manifest.folder}: no severity network to evaluate")
    plan = make_plan(studies, networks, in_rounds=False, guard=True, seconds=0)
    if line := plan.guard_line(len(studies)):
        say(line)
    (tasks,) = plan.rounds
    jobs = [(tasks[start : start + STUDIES_A_JOB], networks) for start in range(0, len(tasks), STUDIES_A_JOB)]
    result = {name: np.full((len(studies), len(CELLS), len(GRADES)), np.nan) for name in graders}
    answers = in_processes(_predict, jobs, workers)
    first = 0
    with tqdm(total=len(tasks), desc="studies", unit="study") as bar:
        for job in answers:
            for place, answer in enumerate(job):
                for name, log_p in answer.items():
                    result[name][first + place] = log_p
            first += len(job)
            bar.update(len(job))
    return result


def predicted_tables(manifest: Manifest, competitions: Sequence[Competition], workers: int = 1) -> dict[str, OofTable]:
    """What the networks of a manifest say of the graded studies they have not seen, by recipe.

    A study that several folds have not seen, because it was in nobody's training, gets the mean of their
    log-probabilities and one of those folds, drawn by its id and the same for all recipes.

    Args:
        manifest: of the weights; members without a held-out fold have nothing to say here.
        competitions: folders; studies without a grade are left out.
        workers: processes.

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
    unseen_by: list[set[int]] = [set() for _ in studies]
    for name, log_p in (predict_unseen(manifest, studies, workers) if studies else {}).items():
        fold = next(member.fold for member in manifest.members if member.name == name)
        answered = np.isfinite(log_p).all(-1).any(1)
        if fold is not None and answered.any():
            answers.setdefault(recipe_of(name), {})[name] = log_p
            for place in np.flatnonzero(answered):
                unseen_by[place].add(fold)
    if not answers:
        raise ValueError(f"{manifest.folder}: no network with a held-out fold answers for a graded study of --data")
    folds = np.array([_one_of(sorted(found), name) for found, name in zip(unseen_by, ids, strict=True)])
    tables = {}
    for recipe, members in answers.items():
        mean = blend(EnsembleFit(), members)
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


def _predict(tasks: Sequence[StudyTask], networks: Networks) -> list[dict[str, np.ndarray]]:

    limit_threads(1)
    device = f"cuda:{usable[0]}" if (usable := usable_gpus()) else "cpu"
    answers: list[dict[str, np.ndarray]] = []
    for task in tasks:
        if not task.landmarks or not task.graders:
            answers.append({})
            continue
        volumes = read_study(task.study)
        points, _ = networks.find_landmarks(volumes, task.landmarks, device, 1)
        cubes = networks.cut(volumes, points, task.graders)
        answers.append({name: networks.grade(name, cubes, device, 1) for name in task.graders})
    return answers


def _one_of(folds: Sequence[int], study_id: str) -> int:

    return folds[int(study_hash(study_id), 16) % len(folds)] if folds else -1
