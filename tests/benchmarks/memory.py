"""Memory over many studies: ``python -m tests.benchmarks.memory``.

A few phantom studies are linked under as many ids as asked for, graded by ``submit.py``, and the memory of the
program with all its workers is sampled while it runs. Memory is the proportional set size (PSS), in which a page that
processes share counts once. The curve must be flat: nothing of a study may stay behind.

Writes the samples as CSV and the curve as SVG; prints the growth over the second half of the studies.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.commands.mounts import ROOT, multiply, phantom_studies


@dataclass(frozen=True)
class Sample:
    """Seconds since the start, studies with a result by then, and MB of PSS of all processes."""

    seconds: float
    studies: int
    megabytes: float


def measure(data: Path, out: Path, options: list[str], every: float = 1.0) -> list[Sample]:
    """Run ``submit.py`` over ``data`` and sample it until it ends.

    Raises:
        RuntimeError: it did not end with status 0.
    """
    out.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        "submit.py",
        "--data",
        str(data),
        "--out",
        str(out / "submission.csv"),
        "--quiet",
        *options,
    ]
    samples: list[Sample] = []
    started, done = time.monotonic(), 0
    with (out / "stderr.txt").open("w") as errors:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors)
        while process.poll() is None:
            # At the end the folder goes away, and the number stays.
            done = max(done, len(list((out / "submission.work").rglob("*.result"))))
            samples.append(Sample(time.monotonic() - started, done, pss_of_tree(process.pid)))
            time.sleep(every)
    if process.returncode:
        raise RuntimeError(f"submit.py ended with {process.returncode}: {(out / 'stderr.txt').read_text()[-2000:]}")
    return [sample for sample in samples if sample.megabytes > 0]


def pss_of_tree(root: int) -> float:
    """MB of PSS of a process and all that descend from it; 0 where it is gone."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    total, waiting = 0, [root]
    while waiting:
        number = waiting.pop()
        waiting += children.get(number, [])
        try:
            lines = Path(f"/proc/{number}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def growth(samples: list[Sample], first: int) -> float:
    """MB by which memory rises from study ``first`` to the last, on the line through the samples.

    What comes after the last study is left out: the workers end then, and memory falls.
    """
    last = max(sample.studies for sample in samples)
    chosen = [sample for sample in samples if first <= sample.studies < last]
    studies = np.array([sample.studies for sample in chosen], float)
    if len(chosen) < 3 or np.ptp(studies) == 0:
        return float("nan")
    slope = np.polyfit(studies, [sample.megabytes for sample in chosen], 1)[0]
    return float(slope * np.ptp(studies))


def write_csv(samples: list[Sample], path: Path) -> None:
    """One line a sample."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("seconds", "studies", "megabytes"))
        rows.writerows((f"{s.seconds:.1f}", s.studies, f"{s.megabytes:.1f}") for s in samples)


def write_svg(samples: list[Sample], path: Path, title: str) -> None:
    """Memory over studies, from 0 MB, so that a rise is seen at its true size."""
    width, height, left, bottom = 720, 300, 60, 40
    most_studies = max(sample.studies for sample in samples) or 1
    most_mb = 1.15 * max(sample.megabytes for sample in samples)

    def place(studies: float, megabytes: float) -> tuple[float, float]:
        x = left + studies / most_studies * (width - left - 15)
        return x, height - bottom - megabytes / most_mb * (height - bottom - 30)

    line = " ".join("{:.1f},{:.1f}".format(*place(s.studies, s.megabytes)) for s in samples)
    marks = [f'<text x="{left}" y="18">{title}</text>']
    for share in (0, 0.25, 0.5, 0.75, 1):
        x, _ = place(share * most_studies, 0)
        _, y = place(0, share * most_mb)
        marks.append(f'<text x="{x:.0f}" y="{height - 22}" text-anchor="middle">{share * most_studies:.0f}</text>')
        marks.append(f'<text x="{left - 6}" y="{y + 4:.0f}" text-anchor="end">{share * most_mb:.0f}</text>')
        marks.append(f'<line x1="{left}" x2="{width - 15}" y1="{y:.0f}" y2="{y:.0f}" stroke="#ddd"/>')
    marks.append(f'<text x="{width / 2}" y="{height - 5}" text-anchor="middle">studies done</text>')
    marks.append(
        f'<text x="14" y="{height / 2}" transform="rotate(-90 14 {height / 2})" text-anchor="middle">MB</text>'
    )
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
        ' font-family="sans-serif" font-size="12">'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(marks)}'
        f'<polyline points="{line}" fill="none" stroke="#1f6fb4" stroke-width="2"/></svg>\n',
        encoding="utf-8",
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=500, metavar="N")
    parser.add_argument(
        "--phantoms", type=Path, metavar="DIR", help="a test split to take studies from (default: made)"
    )
    parser.add_argument("--thin", type=int, default=1, metavar="K", help="keep every K-th slice, to save time")
    parser.add_argument("--weights", type=Path, metavar="DIR", help="default: weights/default, if it is there")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--out", type=Path, default=Path("memory"), help="memory.csv and memory.svg (default: ./memory.*)"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data"
        multiply(args.phantoms or phantom_studies(3), data, args.studies, args.thin)
        options = ["--workers", str(args.workers)] + (["--weights", str(args.weights)] if args.weights else [])
        samples = measure(data, Path(scratch) / "out", options)
    write_csv(samples, args.out.with_suffix(".csv"))
    highest = max(sample.megabytes for sample in samples)
    rise = growth(samples, args.studies // 2)
    done = max(sample.studies for sample in samples)
    title = f"{done} studies, {args.workers} workers: highest {highest:.0f} MB, second half {rise:+.1f} MB"
    write_svg(samples, args.out.with_suffix(".svg"), title)
    print(f"{title}; {samples[-1].seconds:.0f} s; written to {args.out.with_suffix('.svg')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
