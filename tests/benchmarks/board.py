"""The board of a run over a million studies: ``python -m tests.benchmarks.board``.

Results of so many studies are taken in as a run takes them, in a random order, and the table of 25 rows for each is
written as often as a run would write it; no image is read. Prints what each part takes and the memory of the process,
and the same for a tenth of the studies: the two must differ tenfold.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.competition import StudyRef
from pipeline.ensemble.prior import read_prior
from pipeline.problem import Problem
from pipeline.run.board import Board
from pipeline.run.plan import make_plan
from pipeline.run.result import Source, StudyResult
from pipeline.run.tally import Log, Tally
from tests.run.studies import FakeNetworks


def simulate(count: int, folder: Path) -> dict[str, float]:
    """Seconds of each part, MB of memory at its highest, bytes of the table."""
    found: dict[str, float] = {}
    began = time.monotonic()

    def lap(name: str) -> None:
        nonlocal began
        found[name] = time.monotonic() - began
        began = time.monotonic()

    nowhere = Path("nowhere")
    studies = [StudyRef(str(4_000_000_000 + number), nowhere, ()) for number in range(count)]
    lap("studies listed")
    plan = make_plan(studies, FakeNetworks.make(folder, copies=2), False, False, 600.0)
    lap("planned")
    board = Board([study.study_id for study in studies], read_prior(), folder / "submission.csv", None)
    board.write(force=True)
    lap("first table")
    tally = Tally(board.index)
    values = np.random.default_rng(0).dirichlet((5, 2, 1), 25)
    predictions = {name: np.log(values) for name in ("canal-0", "foraminal-0", "subarticular-0")}
    members = (tuple(predictions),) * 25
    result = StudyResult("", values, (Source.MODEL,) * 25, (None,) * 25, members, predictions=predictions, device="cpu")
    order = np.random.default_rng(0).permutation(count)
    with Log(folder / "submission.log") as log:
        for number, place in enumerate(order):
            study_id = plan.rounds[0][int(place)].study.study_id
            problems = (Problem(study_id, "1", None, "odd", "a detail"),) if number % 10 == 0 else ()
            one = replace(result, study_id=study_id, problems=problems, seconds={"read": 0.4, "severity": 0.8})
            board.update(one)
            tally.add(one, log)
    lap("results taken in")
    board.write(force=True)
    lap("last table")
    assert board.sources() == {"model": 25 * count, "context": 0, "prior": 0}
    assert tally.studies_with_problems == (count + 9) // 10
    found["seconds of processor"] = time.process_time()
    found["MB at the highest"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found["MB of the table"] = board.out.stat().st_size / 2**20
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--one", action="store_true", help="do not compare with a tenth of them")
    args = parser.parse_args()
    if not args.one:  # in a process of its own, for the highest memory is that of the process
        command = [sys.executable, "-m", "tests.benchmarks.board", "--one", "--studies", str(args.studies // 10)]
        subprocess.run(command, check=True)
    with tempfile.TemporaryDirectory() as folder:
        figures = simulate(args.studies, Path(folder))
    print(f"{args.studies} studies, {25 * args.studies} rows")
    print("\n".join(f"  {name:<20} {value:10.1f}" for name, value in figures.items()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
