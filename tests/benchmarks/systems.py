"""All that is trained, on Windows and macOS as Linux plays them: ``python -m tests.benchmarks.systems [SYSTEM ...]``.

``train all`` with tiny networks, then ``ensemble``, ``pack``, both evaluations, ``kaggle`` and the dry run of
``submit.py`` with what was trained, in a folder that is not ASCII and of which the commands get the case wrong. A few
minutes a system; what takes seconds is ``tests/systems/test_systems.py``.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from pipeline.phantom import make_phantom
from tests.commands.mounts import ROOT
from tests.commands.test_presets_end_to_end import shrunk
from tests.systems import SYSTEMS, run, with_line_ends


def commands(folder: str) -> list[list[str]]:
    """The arguments of ``python -m pipeline``, one list a command."""
    data, out, weights = f"{folder}/PHANTOM", f"{folder}/lauf", f"{folder}/lauf/weights"
    where = ["--out", out, "--cache", f"{folder}/cache", "--workers", "2"]
    tiny = [part for text in shrunk("cpu") for part in ("--set", text)]
    return [
        ["train", "all", "--data", data, "--preset", "cpu", *where, *tiny, "--force"],  # so little is trained
        ["ensemble", "--weights", weights, "--data", data],
        ["pack", f"{folder}/zwei", "--runs", f"canal:0={out}/canal/fold0", f"foraminal:0={out}/foraminal/fold0"],
        ["evaluate", "landmarks", "--data", data, "--weights", weights, "--out", f"{folder}/punkte", "--fold", "0"],
        ["evaluate", "severity", "--data", data, "--weights", weights, "--out", f"{folder}/grade"],
        ["kaggle", f"{folder}/upload", "--no-wheels", "--weights", weights],
    ]


def try_system(system: str, disk: Path) -> str:
    """Run everything; returns what came of it, in one line.

    Raises:
        AssertionError: a command did not end with status 0.
    """
    began = time.monotonic()
    folder = "Übung Müller"
    with_line_ends(make_phantom(disk / folder / "phantom", studies=6, seed=5, size="small"))
    listed = disk / "commands.json"
    listed.write_text(json.dumps(commands(folder)), encoding="utf-8")
    done = run(system, disk, ["-m", "tests.systems.commands", str(listed)])
    printed = done.stdout + done.stderr
    ended = [line for line in done.stdout.splitlines() if line.startswith("status ")]
    assert ended == [f"status 0: {' '.join(command[:2])}" for command in commands(folder)], printed[-3000:]
    dry = ["--data", f"{folder}/phantom", "--weights", f"{folder}/lauf/weights", "--fold", "0", "--workers", "2"]
    done = run(system, disk, [str(ROOT / "submit.py"), *dry])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "score: spinal" in done.stdout, done.stdout + done.stderr
    assert "Traceback" not in printed + done.stdout + done.stderr, printed[-3000:]
    return f"{len(ended) + 1} commands, {time.monotonic() - began:.0f} s"


def main(names: Sequence[str]) -> int:
    """Try the systems of these names, or all; returns 1 if one did not hold."""
    failed = 0
    for system in names or SYSTEMS:
        with tempfile.TemporaryDirectory() as disk:
            try:
                came = try_system(system, Path(disk).resolve())
            except AssertionError as error:
                came, failed = f"FAILED: {error}", 1
        print(f"{system:<10} {came}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
