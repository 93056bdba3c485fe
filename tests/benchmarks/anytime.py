"""The promise of ``--time-budget``: ``python -m tests.benchmarks.anytime``.

Two runs over phantom studies linked under many ids. First one budget that suffices for a fraction of the networks: it
has to end in time with every row valid, and ``provenance.csv`` has to say which networks each row got. Then the same
run killed with SIGKILL at random moments and started again: the file has to be complete and valid every time.
``--small`` does both in some three minutes, with fewer studies and kills.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pipeline.labels import CELLS
from pipeline.submission import probabilities_of, read_submission
from tests.commands.mounts import ROOT, multiply, phantom_studies

PROGRAM = ("submit.py",)
USUAL = {"studies": 60, "minutes": 1.0, "kills": 20, "longest": 60.0}
SMALL = {"studies": 12, "minutes": 1 / 3, "kills": 5, "longest": 15.0}
START_SECONDS = 300.0
"""A program that has written nothing by then is not slow but broken, however loaded the machine is."""


@dataclass(frozen=True)
class BudgetRun:
    """A run with a budget: seconds it took, how many times as long as on an idle machine studies took, rows by number
    of networks, the program's line on the run."""

    seconds: float
    slowness: float
    rows_by_networks: dict[int, int]
    line: str


@dataclass(frozen=True)
class Kill:
    """One SIGKILL: seconds after the start, and whether the file had changed since the first kill."""

    seconds: float
    changed: bool


def within_budget(
    data: Path,
    ids: Sequence[str],
    out: Path,
    minutes: float,
    options: Sequence[str] = (),
    program: Sequence[str] = PROGRAM,
    own_clock: bool = False,
    slack: float = 0.0,
) -> BudgetRun:
    """Run with a budget and check every row of the submission and of the provenance.

    Args:
        own_clock: judge by the seconds in the program's ``run.json`` instead of those of the whole process.
        slack: seconds it may be late.

    Raises:
        AssertionError: it took longer, ended badly, or a row is missing or no distribution.
    """
    stages = out.parent / "stages"
    command = _command(program, data, out, "--time-budget", f"{minutes:.3f}", "--stages", str(stages), *options)
    started = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - started
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads((out.parent / "run.json").read_text(encoding="utf-8"))
    if own_clock:
        seconds = float(report["seconds"])
    assert seconds <= minutes * 60 + slack, f"took {seconds:.1f} s of {minutes * 60:.1f} s"
    assert_valid(out, ids)
    provenance = pd.read_csv(stages / "provenance.csv", dtype=str, keep_default_na=False)
    assert set(provenance["row_id"]) == set(read_submission(out).index)
    networks = [len(text.split(";")) if text else 0 for text in provenance["members"]]
    explained = (provenance["members"] != "") | (provenance["reason"] != "")
    assert explained.all(), "a row has neither a network nor a reason"
    (line,) = (text for text in done.stdout.splitlines() if text.startswith("submit: ") and "written to" in text)
    return BudgetRun(seconds, report["slowness"], dict(sorted(Counter(networks).items())), line)


def killed_at_random(
    data: Path,
    ids: Sequence[str],
    out: Path,
    kills: int,
    longest: float,
    rng: random.Random,
    options: Sequence[str] = (),
    program: Sequence[str] = PROGRAM,
) -> list[Kill]:
    """Start the same command again and again and kill it and its workers at a random moment; check the file each time.

    Args:
        longest: seconds after the file is first there, or after the start where it is there from before.

    Raises:
        AssertionError: a row is missing or no distribution.
    """
    first: pd.DataFrame | None = None
    history = []
    for _ in range(kills):
        process = subprocess.Popen(
            _command(program, data, out, *options), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        started = time.monotonic()
        while not out.exists():
            assert process.poll() is None, "the program ended before it wrote anything"
            assert time.monotonic() < started + START_SECONDS, "no file was written"
            time.sleep(0.01)
        time.sleep(rng.uniform(0, longest))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        table = assert_valid(out, ids)
        first = table if first is None else first
        history.append(Kill(time.monotonic() - started, not table.equals(first)))
    return history


def assert_valid(path: Path, ids: Sequence[str]) -> pd.DataFrame:
    """The submission, with exactly the 25 rows of each study, each a distribution.

    Raises:
        AssertionError, TableError: it is not.
    """
    table = read_submission(path)
    assert len(table) == len(CELLS) * len(ids), f"{len(table)} rows for {len(ids)} studies"
    probabilities_of(table, list(ids), path)
    off = (table.sum(axis=1) - 1).abs().max()
    assert off < 1e-6, f"a row sums to 1 only within {off}"
    return table


def _command(program: Sequence[str], data: Path, out: Path, *options: str) -> list[str]:
    return [sys.executable, *program, "--data", str(data), "--out", str(out), "--quiet", *options]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="12 studies, a budget of 20 s, 5 kills within 15 s")
    parser.add_argument("--studies", type=int, metavar="N", help="default: 60")
    parser.add_argument(
        "--phantoms", type=Path, metavar="DIR", help="a test split to take studies from (default: made)"
    )
    parser.add_argument("--weights", type=Path, metavar="DIR", help="default: weights/default")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--minutes", type=float, help="the budget (default: 1); 0 leaves this part out")
    parser.add_argument("--kills", type=int, help="default: 20; 0 leaves this part out")
    parser.add_argument("--longest", type=float, help="seconds up to which it is let run before a kill (default: 60)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for name, value in (SMALL if args.small else USUAL).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    options = ["--workers", str(args.workers)] + (["--weights", str(args.weights)] if args.weights else [])
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        ids = multiply(args.phantoms or phantom_studies(3), root / "data", args.studies)
        if args.minutes:
            run = within_budget(root / "data", ids, root / "budget" / "submission.csv", args.minutes, options)
            print(f"budget {args.minutes * 60:.0f} s: ended after {run.seconds:.1f} s, every row valid")
            print(f"studies took {run.slowness:g} times as long as on an idle machine")
            print(f"rows by number of networks: {run.rows_by_networks}")
            print(run.line, flush=True)
            if "ended early" not in run.line:
                print("the budget sufficed for every network, so nothing was tested: give fewer --minutes")
                return 1
        if args.kills:
            rng = random.Random(args.seed)
            out = root / "killed" / "submission.csv"
            history = killed_at_random(root / "data", ids, out, args.kills, args.longest, rng, options)
            moments = ", ".join(f"{kill.seconds:.0f}" for kill in history)
            later = sum(kill.changed for kill in history)
            print(f"{len(history)} kills, file valid {len(history)} times ({later} later than the first table)")
            print(f"seconds until the kill: {moments}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
