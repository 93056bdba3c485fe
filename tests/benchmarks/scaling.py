"""Time and memory over the number of studies: ``python -m tests.benchmarks.scaling``.

A few phantom studies are linked under 10, 100, 1,000, ... ids and read by ``submit.py``, or graded where ``--weights``
names a set. Of each number: seconds until the first table is on the disk, seconds from the last result to the end of
the program, seconds a study in between, and the highest memory (PSS) of the program with its workers. Prints a table,
the slope of a line through the seconds, and how far memory at the most studies is from that at 100.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.benchmarks.memory import pss_of_tree
from tests.commands.mounts import ROOT, multiply, phantom_studies
from tests.run.studies import write_studies


@dataclass(frozen=True)
class Figures:
    """Of one run: seconds to the first table, of the whole, from the last result to the end; the highest MB."""

    studies: int
    start: float
    whole: float
    end: float
    megabytes: float


def measure(data: Path, out: Path, studies: int, options: list[str]) -> Figures:
    """Run ``submit.py`` once.

    Raises:
        RuntimeError: it did not end with status 0.
    """
    out.mkdir(parents=True)
    table, work = out / "submission.csv", out / "submission.work"
    command = [sys.executable, "submit.py", "--data", str(data), "--out", str(table), "--quiet", *options]
    highest, last = 0.0, [0.0]
    over = threading.Event()
    began = time.monotonic()
    with (out / "stderr.txt").open("w") as errors:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors)
        while not table.exists() and process.poll() is None:
            time.sleep(0.02)
        start = time.monotonic() - began

        def watch() -> None:
            done = 0
            while not over.wait(0.25) and done < studies:
                if (now := sum(1 for _ in work.rglob("*.result"))) > done:
                    done, last[0] = now, time.monotonic()

        watcher = threading.Thread(target=watch)
        watcher.start()
        while process.poll() is None:
            highest = max(highest, pss_of_tree(process.pid))
            time.sleep(0.5)
        ended = time.monotonic()
        over.set()
        watcher.join()
    if process.returncode:
        raise RuntimeError(f"submit.py ended with {process.returncode}: {(out / 'stderr.txt').read_text()[-2000:]}")
    return Figures(studies, start, ended - began, ended - (last[0] or ended), highest)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, nargs="+", default=[10, 100, 1000, 5000], metavar="N")
    parser.add_argument("--thin", type=int, default=1, metavar="K", help="keep every K-th slice, to save time")
    parser.add_argument("--tiny", action="store_true", help="studies of three series of four slices of a few pixels")
    parser.add_argument("--weights", type=Path, metavar="DIR", help="default: none, so studies are read alone")
    parser.add_argument("--cluster", metavar="ADDRESS", help="of a Dask scheduler; its workers are not in the memory")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    print("studies |  start s |  whole s |  end s | s a study | MB", flush=True)
    found = []
    phantoms = write_studies(Path(tempfile.mkdtemp()), ["1", "2", "3"]) if args.tiny else phantom_studies(3)
    for count in args.studies:
        with tempfile.TemporaryDirectory() as scratch:
            root = Path(scratch)
            multiply(phantoms, root / "data", count, args.thin)
            (root / "none").mkdir()
            options = ["--cluster", args.cluster] if args.cluster else ["--workers", str(args.workers)]
            options += ["--weights", str(args.weights or write_nothing(root / "none"))]
            one = measure(root / "data", root / "out", count, options)
        found.append(one)
        each = (one.whole - one.start - one.end) / count
        line = f"{one.studies:7} | {one.start:8.2f} | {one.whole:8.1f} | {one.end:6.2f} | {each:9.3f}"
        print(f"{line} | {one.megabytes:.0f}", flush=True)
    slope, intercept = np.polyfit([one.studies for one in found], [one.whole for one in found], 1)
    fitted = [intercept + slope * one.studies for one in found]
    off = max(abs(one.whole - value) for one, value in zip(found, fitted, strict=True)) / found[-1].whole
    print(f"seconds = {intercept:.1f} + {slope:.4f} a study; no run is further than {off:.1%} of the longest from it")
    middle = next((one for one in found if one.studies == 100), found[0])
    growth = found[-1].megabytes / middle.megabytes - 1
    print(f"memory at {found[-1].studies} studies: {growth:+.1%} of that at {middle.studies}")
    return 0


def write_nothing(folder: Path) -> Path:
    """A set of weights without a network, so that studies are read and nothing else."""
    (folder / "manifest.json").write_text('{"set": "none", "description": "no network", "members": [], "files": {}}')
    return folder


if __name__ == "__main__":
    sys.exit(main())
