"""``python -m tests.fuzz --files 10000 --seconds 600``: mutated files through the reader, bounded in count and time.

Each file is put into a series folder beside a sound slice and read in a child process, because a decoder's crash is not
an exception. A crash, a file that takes longer than its limit, an error the reader did not foresee, and a volume that
is not sound each count as a failure; the file is kept. Exit status: 0 no failure, 1 at least one, 2 a wrong call.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random

import numpy as np

from pipeline.competition import SeriesRef
from pipeline.volumes import ReadLimits, read_series
from tests.fuzz.corpus import build_corpus
from tests.fuzz.mutate import mutate

LIMITS = ReadLimits(study_seconds=5.0)
HANG_SECONDS = 10.0


@dataclass
class Outcome:
    """What reading all files came to."""

    files: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)
    slowest_ms: float = 0.0
    slowest: str = ""
    memory_before_mb: float = 0.0
    memory_peak_mb: float = 0.0


def make_file(corpus: dict[str, list[bytes]], seed: int, number: int) -> tuple[str, bytes, bytes]:
    """Kind, mutated content and a sound neighbour of file ``number``; the same for the same seed."""
    random = Random(seed * 1_000_003 + number)
    kind = random.choice(list(corpus))
    content = random.choice(corpus[kind])
    other = random.choice(corpus[random.choice(list(corpus))])
    return kind, mutate(content, other, random), corpus[kind][-1]


def read_one(folder: Path, content: bytes, neighbour: bytes) -> tuple[list[str], str | None]:
    """Read one mutated file beside its neighbour: problem codes, and what was wrong with the reader, if anything."""
    (folder / "1.dcm").write_bytes(content)
    (folder / "2.dcm").write_bytes(neighbour)
    reading = read_series(SeriesRef("fuzz", folder.name, folder, None), LIMITS)
    codes = [problem.what for problem in reading.problems]
    for problem in reading.problems:
        if problem.what == "internal-error":
            return codes, f"unforeseen {problem.detail}"
    for volume in reading.volumes:
        sound = np.isfinite(volume.affines).all() and np.isfinite(volume.pixels).all()
        if not sound or np.any(volume.slice_steps_mm < 0):
            return codes, "a volume that is not finite or not sorted"
    return codes, None


def _child(corpus: dict[str, list[bytes]], seed: int, first: int, last: int, pipe: Connection) -> None:
    """Read files ``first`` to ``last``; before and after each, say so."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    pipe.send(("ready", _memory_mb()))
    for number in range(first, last):
        kind, content, neighbour = make_file(corpus, seed, number)
        pipe.send(("start", number))
        started = time.perf_counter()
        codes, wrong = read_one(folder, content, neighbour)
        elapsed = 1000 * (time.perf_counter() - started)
        pipe.send(("done", number, kind, codes, wrong, elapsed, _memory_mb()))
    shutil.rmtree(folder)
    pipe.send(("end",))


def _memory_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def fuzz(corpus: dict[str, list[bytes]], files: int, seconds: float, seed: int, keep: Path) -> Outcome:
    """Read up to ``files`` mutated files for up to ``seconds``; failing ones are written to ``keep``."""
    outcome, started, number = Outcome(), time.monotonic(), 0
    spawn = multiprocessing.get_context("spawn")
    while number < files and time.monotonic() - started < seconds:
        ours, theirs = spawn.Pipe(duplex=False)
        child = spawn.Process(target=_child, args=(corpus, seed, number, files, theirs), daemon=True)
        child.start()
        theirs.close()
        number = _follow(ours, number, started + seconds, outcome, corpus, seed, keep)
        child.kill()
        child.join()
    outcome.files, outcome.seconds = number, time.monotonic() - started
    return outcome


def _follow(
    pipe: Connection,
    number: int,
    until: float,
    outcome: Outcome,
    corpus: dict[str, list[bytes]],
    seed: int,
    keep: Path,
) -> int:
    """Listen to one child until it ends, dies or hangs; returns the number of the next file."""
    waiting = 60.0  # a new process imports for some seconds
    while time.monotonic() < until:
        if not pipe.poll(waiting):
            _fail(outcome, f"file {number} took more than {waiting:g} s", corpus, seed, number, keep)
            return number + 1
        try:
            message = pipe.recv()
        except EOFError:
            _fail(outcome, f"file {number} ended the process", corpus, seed, number, keep)
            return number + 1
        if message[0] == "ready":
            outcome.memory_before_mb = outcome.memory_before_mb or round(message[1], 1)
        elif message[0] == "start":
            number, waiting = message[1], HANG_SECONDS
        elif message[0] == "done":
            _, number, kind, codes, wrong, elapsed, memory = message
            outcome.codes.update(codes or ["sound"])
            outcome.memory_peak_mb = max(outcome.memory_peak_mb, round(memory, 1))
            if elapsed > outcome.slowest_ms:
                outcome.slowest_ms, outcome.slowest = round(elapsed, 1), f"file {number} ({kind}): {codes}"
            if wrong is not None:
                _fail(outcome, f"file {number} ({kind}): {wrong}", corpus, seed, number, keep)
            number += 1
            if number % 500 == 0:
                print(f"{number} files, {len(outcome.failures)} failures", file=sys.stderr, flush=True)
        else:
            return number
    return number


def _fail(outcome: Outcome, what: str, corpus: dict[str, list[bytes]], seed: int, number: int, keep: Path) -> None:
    keep.mkdir(parents=True, exist_ok=True)
    path = keep / f"{seed}-{number}.dcm"
    path.write_bytes(make_file(corpus, seed, number)[1])
    outcome.failures.append(f"{what}; kept as {path}")


def main() -> int:
    """Parse the call, fuzz, print the figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="mutated DICOM files through the reader")
    parser.add_argument("--files", type=int, default=1000, help="at most this many (default 1000)")
    parser.add_argument("--seconds", type=float, default=60.0, help="at most this long (default 60)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"), help="where failing files are written")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    if args.files < 1 or args.seconds <= 0:
        parser.error("--files and --seconds must be above 0")
    with tempfile.TemporaryDirectory() as folder:
        corpus = build_corpus(Path(folder))
    outcome = fuzz(corpus, args.files, args.seconds, args.seed, args.keep)
    if args.json:
        print(json.dumps(asdict(outcome), indent=1))
    else:
        for failure in outcome.failures:
            print(f"FAILED {failure}")
        print("outcomes: " + ", ".join(f"{code} {count}" for code, count in outcome.codes.most_common()))
        print(
            f"{outcome.files} files in {outcome.seconds:.0f} s, {len(outcome.failures)} failures; slowest "
            f"{outcome.slowest_ms:.0f} ms, {outcome.slowest}; memory {outcome.memory_before_mb:.0f} MB before, "
            f"{outcome.memory_peak_mb:.0f} MB at its peak"
        )
    return 1 if outcome.failures else 0
