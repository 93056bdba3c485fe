"""``python -m tests.fuzz [TARGET] --files 10000 --seconds 600``: mutated input, bounded in count and time.

Each case runs in a child process, because a decoder's crash is not an exception. A crash, a case that takes longer than
its limit, an exception, and whatever the target (see :data:`tests.fuzz.TARGETS`) finds wrong count as failures; the
case is kept. Exit status: 0 no failure, 1 at least one, 2 a wrong call.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.fuzz import TARGETS

HANG_SECONDS = 10.0


@dataclass
class Outcome:
    """What all cases came to."""

    files: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)
    slowest_ms: float = 0.0
    slowest: str = ""
    memory_before_mb: float = 0.0
    memory_peak_mb: float = 0.0


def _child(target: str, corpus: Any, seed: int, first: int, last: int, pipe: Connection) -> None:
    """Run cases ``first`` to ``last``; before and after each, say so."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    run = importlib.import_module(TARGETS[target]).begin(corpus, folder)
    pipe.send(("ready", _memory_mb()))
    for number in range(first, last):
        pipe.send(("start", number))
        started = time.perf_counter()
        try:
            kind, codes, wrong = run(seed, number)
        except Exception as error:  # what is a fault of the program, or of the target
            kind, codes, wrong = "?", [], "".join(traceback.format_exception(error))
        elapsed = 1000 * (time.perf_counter() - started)
        pipe.send(("done", number, kind, codes, wrong, elapsed, _memory_mb()))
    shutil.rmtree(folder)
    pipe.send(("end",))


def _memory_mb() -> float:
    import resource  # which Windows has not

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def fuzz(target: str, files: int, seconds: float, seed: int, keep: Path) -> Outcome:
    """Run up to ``files`` cases for up to ``seconds``; failing ones are written to ``keep``."""
    module = importlib.import_module(TARGETS[target])
    with tempfile.TemporaryDirectory() as folder:
        corpus = module.prepare(Path(folder))
    outcome, started, number = Outcome(), time.monotonic(), 0
    spawn = multiprocessing.get_context("spawn")
    while number < files and time.monotonic() - started < seconds:
        ours, theirs = spawn.Pipe(duplex=False)
        child = spawn.Process(target=_child, args=(target, corpus, seed, number, files, theirs), daemon=True)
        child.start()
        theirs.close()
        number = _follow(ours, number, started + seconds, outcome, module, corpus, seed, keep)
        child.kill()
        child.join()
    outcome.files, outcome.seconds = number, time.monotonic() - started
    return outcome


def _follow(
    pipe: Connection,
    number: int,
    until: float,
    outcome: Outcome,
    module: ModuleType,
    corpus: Any,
    seed: int,
    keep: Path,
) -> int:
    """Listen to one child until it ends, dies or hangs; returns the number of the next case."""

    def fail(what: str) -> None:
        keep.mkdir(parents=True, exist_ok=True)
        module.keep(corpus, seed, number, keep / f"{seed}-{number}")
        outcome.failures.append(f"{what}; kept as {keep / f'{seed}-{number}'}.*")

    waiting = 60.0  # a new process imports for some seconds
    while time.monotonic() < until:
        if not pipe.poll(waiting):
            fail(f"file {number} took more than {waiting:g} s")
            return number + 1
        try:
            message = pipe.recv()
        except EOFError:
            fail(f"file {number} ended the process")
            return number + 1
        if message[0] == "ready":
            outcome.memory_before_mb = outcome.memory_before_mb or round(message[1], 1)
        elif message[0] == "start":
            number, waiting = message[1], getattr(module, "HANG_SECONDS", HANG_SECONDS)
        elif message[0] == "done":
            _, number, kind, codes, wrong, elapsed, memory = message
            outcome.codes.update(codes or ["sound"])
            outcome.memory_peak_mb = max(outcome.memory_peak_mb, round(memory, 1))
            if elapsed > outcome.slowest_ms:
                outcome.slowest_ms, outcome.slowest = round(elapsed, 1), f"file {number} ({kind}): {codes}"
            if wrong is not None:
                fail(f"file {number} ({kind}): {wrong}")
            number += 1
            if number % 500 == 0:
                print(f"{number} files, {len(outcome.failures)} failures", file=sys.stderr, flush=True)
        else:
            return number
    return number


def main() -> int:
    """Parse the call, fuzz, print the figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="mutated input, and what comes of it")
    parser.add_argument("target", nargs="?", choices=list(TARGETS), default="dicom", help="(default: %(default)s)")
    parser.add_argument("--files", type=int, default=1000, help="at most this many (default 1000)")
    parser.add_argument("--seconds", type=float, default=60.0, help="at most this long (default 60)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"), help="where failing files are written")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    if args.files < 1 or args.seconds <= 0:
        parser.error("--files and --seconds must be above 0")
    outcome = fuzz(args.target, args.files, args.seconds, args.seed, args.keep)
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
