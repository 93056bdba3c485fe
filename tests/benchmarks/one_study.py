"""Stages one to four on one study in a process of its own: ``python -m tests.benchmarks.one_study STUDY``.

STUDY is a study's folder inside a competition folder. Prints a line of JSON: seconds of the first round, which loads
the networks, and of the quickest later one, seconds by stage, and the process's peak memory. The work is that of one
worker of ``submit.py`` on a machine with two cores and one study, from the DICOM files to 25 rows, with the default
weights, and what ``submit.py`` would take for many studies: OpenVINO where it is installed. Networks are converted in
the first round of the first call; the next calls find them in the cache.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
import typing
from pathlib import Path

from pipeline.competition import open_competition
from pipeline.ensemble.networks import Networks
from pipeline.run.plan import make_plan
from pipeline.run.study import grade_study
from pipeline.run.task import StudyTask, Workbench
from pipeline.run.work import WorkFolder
from pipeline.weights.manifest import Manifest
from pipeline.weights.runtime import PAYS_FROM, Runtime, choose_runtime

WEIGHTS = Path(__file__).parents[2] / "weights" / "default"
THREADS = 2


def task_of(study_folder: Path, runtime: Runtime) -> tuple[StudyTask, Networks]:
    """All that is to be done with a study, and the networks that do it."""
    study = open_competition(study_folder.parents[1], split="train").study(study_folder.name)
    networks, _ = Networks.open(Manifest.load(WEIGHTS))
    networks.runtime = choose_runtime(runtime, networks.members, PAYS_FROM)
    plan = make_plan([study], networks, in_rounds=False, guard=False, seconds=600.0)
    ((task,),) = plan.rounds
    return task, networks


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runtime", choices=typing.get_args(Runtime), default="auto")
    args = parser.parse_args(argv)
    task, networks = task_of(args.study, args.runtime)
    taken = []
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(1 + args.rounds):
            work = WorkFolder.of(Path(scratch) / str(number), {})
            bench = Workbench(work, "benchmark", networks, device="cpu", threads=THREADS)
            wall, cpu = time.perf_counter(), time.process_time()
            result = grade_study(task, bench)
            taken.append((time.perf_counter() - wall, time.process_time() - cpu, result.seconds))
    wall, cpu, stages = min(taken[1:], key=lambda one: one[1])
    print(
        json.dumps(
            {
                "runtime": networks.runtime,
                "first_s": taken[0][0],
                "wall_s": wall,
                "cpu_s": cpu,
                "stages_s": stages,
                "graded": sum(bool(members) for members in result.members),
                "networks": len(task.landmarks) + len(result.done),
                "problems": [problem.detail for problem in result.problems if problem.what == "runtime-failed"],
                "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
