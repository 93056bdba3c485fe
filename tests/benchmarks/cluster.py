"""The promises of a run, kept on a Dask cluster: ``python -m tests.benchmarks.cluster``.

A scheduler and four workers are started on this machine as a user starts them. Then, over phantom studies:

1. a run in the middle of which one worker is killed with SIGKILL and one is added: the table has to be, byte for byte,
   that of a run on this machine alone;
2. the hostile studies of ``tests.benchmarks.hostile``: no row may be lost, and each case is named or read;
3. a time budget that suffices for a fraction of the networks, and the program killed at random moments and started
   again, as in ``tests.benchmarks.anytime``: the file has to be complete and valid every time, and in the end that of a
   run that nobody killed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks import anytime, hostile
from tests.commands.mounts import ROOT, multiply, phantom_studies

WEIGHTS = ROOT / "weights" / "phantom"


class Machines:
    """A scheduler and its workers, each a process of one thread under Dask's nanny."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.workers = folder, list[subprocess.Popen[bytes]]()
        self._log = (folder / "dask.log").open("wb")
        place = folder / "scheduler.json"
        self.scheduler = self._start("scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", str(place))
        while not place.exists():
            time.sleep(0.1)
        self.address = str(json.loads(place.read_text())["address"])

    def add(self, *options: str) -> None:
        """One more worker."""
        own = ("--nthreads", "1", "--no-dashboard", "--local-directory", str(self.folder / "scratch"))
        self.workers.append(self._start("worker", self.address, *own, *options))

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "distributed.cli.dask_" + words[0], *words[1:]]
        return subprocess.Popen(command, env=environment, stdout=self._log, stderr=self._log, start_new_session=True)

    def close(self) -> None:
        """End all."""
        for process in (*self.workers, self.scheduler):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._log.close()


@contextlib.contextmanager
def machines(folder: Path, workers: int = 4) -> Iterator[Machines]:
    """A cluster while the body runs."""
    folder.mkdir()
    found = Machines(folder)
    try:
        for _ in range(workers):
            found.add()
        yield found
    finally:
        found.close()


def run(data: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    """Begin ``submit.py``."""
    command = [sys.executable, "submit.py", "--data", str(data), "--out", str(out), "--quiet", *options]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def killed_and_added(root: Path, phantoms: Path, studies: int, weights: Path) -> None:
    """The first promise.

    Raises:
        AssertionError: it is broken.
    """
    ids = multiply(phantoms, root / "data", studies)
    began = time.monotonic()
    _complete(root / "data", root / "here" / "s.csv", "--weights", str(weights), "--workers", "2")
    print(f"this machine alone: {time.monotonic() - began:.1f} s", flush=True)
    with machines(root / "dask") as cluster:
        began = time.monotonic()
        work = root / "away" / "s.work"
        away = run(root / "data", root / "away" / "s.csv", "--weights", str(weights), "--cluster", cluster.address)
        while away.poll() is None and sum(1 for _ in work.rglob("*.result")) < studies // 3:
            time.sleep(0.05)
        assert away.poll() is None, "the run was over before a worker could be killed"
        os.killpg(cluster.workers[0].pid, signal.SIGKILL)  # the nanny with it, so that nothing comes back
        cluster.add()
        said, _ = away.communicate()
        assert away.returncode == 0, said
        print(f"four workers, one killed at a third, one added then: {time.monotonic() - began:.1f} s")
    anytime.assert_valid(root / "away" / "s.csv", ids)
    assert (root / "away" / "s.csv").read_bytes() == (root / "here" / "s.csv").read_bytes(), "the tables differ"
    print(f"{25 * studies} rows, the tables are equal byte for byte")
    print(next(line for line in said.splitlines() if line.startswith("submit:")), flush=True)


def hostile_studies(root: Path, phantoms: Path, weights: Path) -> None:
    """The second promise.

    Raises:
        AssertionError: it is broken.
    """
    ids, out = hostile.build(phantoms, root / "data"), root / "out" / "submission.csv"
    with machines(root / "dask", 2) as cluster:
        options = ["--stages", str(out.parent / "stages"), "--weights", str(weights), "--cluster", cluster.address]
        _complete(root / "data", out, *options)
    lines, good = hostile.report(ids, out)
    print("\n".join(lines))
    assert good, "a case was not noticed, or lost rows"


def budget_and_kills(root: Path, phantoms: Path, weights: Path, studies: int, kills: int) -> None:
    """The third promise. What a whole run takes here and now says how long the budget is and when to kill.

    Raises:
        AssertionError: it is broken, or nothing was tested.
    """
    ids = multiply(phantoms, root / "data", studies)
    with machines(root / "dask", 2) as cluster:
        options = ["--weights", str(weights), "--cluster", cluster.address]
        began = time.monotonic()
        whole = root / "whole" / "submission.csv"
        _complete(root / "data", whole, *options)
        seconds = time.monotonic() - began
        print(f"without a budget: {seconds:.0f} s", flush=True)
        budget = root / "budget" / "submission.csv"
        within = anytime.within_budget(root / "data", ids, budget, 0.7 * seconds / 60, options)
        print(f"budget {0.7 * seconds:.0f} s: ended after {within.seconds:.0f} s; rows by number of networks: ", end="")
        print(within.rows_by_networks, flush=True)
        assert {0, 1} <= within.rows_by_networks.keys(), "the budget was too short for any study, or enough for all"
        out = root / "kills" / "submission.csv"
        out.parent.mkdir()
        history = anytime.killed_at_random(root / "data", ids, out, kills, 0.8 * seconds, random.Random(0), options)
        said = _complete(root / "data", out, *options)
    changed = sum(kill.changed for kill in history)
    print(f"{kills} kills, the file valid after each, {changed} times further than before; then to the end")
    print(next(line for line in said.splitlines() if line.startswith("submit:")), flush=True)
    assert "taken over from an interrupted run" in said, "no kill came after a study was graded"
    assert out.read_bytes() == whole.read_bytes(), "the table is not that of a run without kills"


def _complete(data: Path, out: Path, *options: str) -> str:
    """What a run that was not disturbed said."""
    process = run(data, out, *options)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    return said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=60, metavar="N", help="of the first part (default: 60)")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, metavar="DIR", help="default: weights/phantom")
    parser.add_argument("--small", action="store_true", help="24 studies and 3 kills in the third part")
    parser.add_argument("--parts", nargs="+", type=int, default=[1, 2, 3], choices=[1, 2, 3])
    args = parser.parse_args()
    phantoms = phantom_studies(3)
    for part in args.parts:
        with tempfile.TemporaryDirectory() as scratch:
            if part == 1:
                killed_and_added(Path(scratch), phantoms, args.studies, args.weights)
            elif part == 2:
                hostile_studies(Path(scratch), phantoms, args.weights)
            else:
                budget_and_kills(Path(scratch), phantoms, args.weights, *((24, 3) if args.small else (60, 20)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
