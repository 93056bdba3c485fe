"""Poor environments, each for real: ``python -m tests.benchmarks.environments [NAME ...]``.

``submit.py`` over two phantom studies with the phantom networks, once in each environment: streams that are closed,
full or not read, few open files, little memory, no room for locks or temporary files, a home that cannot be written,
another user's files, another encoding, signals. Every run has to end with the status that is expected of it, without a
traceback, with a whole table, and without a worker that is left behind. Mounts are made in a namespace of their own
(``unshare -rm``); where the system allows none, such an environment is left out and named.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.anytime import assert_valid
from tests.commands.mounts import ROOT, phantom_studies

LEFT_BEHIND_SECONDS = 4.0
"""After the main process has ended, no worker may be there after this time."""


class Environment(NamedTuple):
    """A shell line in which ``./run`` is the program, the status it has to end with, whether it has to grade, and
    whether it can write a table at all."""

    line: str
    status: int = 0
    graded: bool = True
    mounts: bool = False
    table: bool = True


def _signalled(name: str, target: str) -> str:
    """Start the program as the leader of a group and send a signal once a worker has begun a study."""
    began = "until ls out/submission.work/*.started >/dev/null 2>&1; do sleep 0.1; done"
    return f"set -m; ./run & main=$!; {began}; sleep 2; kill -{name} {target}; wait $main"


ENVIRONMENTS: dict[str, Environment] = {
    "nothing special": Environment("./run"),
    "output read by nobody": Environment("set -o pipefail; ./run 2>&1 | true"),
    "output on a full disk": Environment("./run > /dev/full", 1),
    "output closed": Environment("./run >&-"),
    "all streams closed": Environment("./run <&- >&- 2>&-"),
    "64 open files": Environment("ulimit -n 64; ./run"),
    "2 GB of address space": Environment("ulimit -v 2000000; ./run", graded=False),
    "4 GB of address space": Environment("ulimit -v 4000000; ./run", graded=False),
    "files of 8 kB at most": Environment("ulimit -f 8; ./run --stages stages", 1),
    "home not there": Environment("HOME=/proc/none XDG_CACHE_HOME=/proc/none ./run"),
    "no temporary folder": Environment("TMPDIR=/proc/none ./run"),
    "LC_ALL=C": Environment("LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 ./run"),
    "another user's files": Environment(
        "cp -r $DATA theirs; chmod 755 theirs; chown -R 65534 theirs; chmod 600 theirs/test_images/*/*/1.dcm; "
        "DATA=$PWD/theirs setpriv --bounding-set=-dac_override,-dac_read_search ./run"
    ),
    "another user's folder": Environment(
        "mkdir out; chown 65534 out; setpriv --bounding-set=-dac_override,-dac_read_search ./run", 1, table=False
    ),
    "no /dev/shm": Environment("mount -t tmpfs -o nr_inodes=1 tmpfs /dev/shm; ./run", mounts=True),
    "64 MB of /dev/shm": Environment("mount -t tmpfs -o size=64M tmpfs /dev/shm; ./run", mounts=True),
    "no room for temporary files": Environment(
        "mkdir full; mount -t tmpfs -o nr_inodes=1 tmpfs full; TMPDIR=$PWD/full ./run", mounts=True
    ),
    "SIGTERM": Environment(_signalled("TERM", "$main"), graded=False),
    "SIGTERM to all": Environment(_signalled("TERM", "-$main"), graded=False),
    "Ctrl-C": Environment(_signalled("INT", "-$main"), 130, False),
    "terminal closed": Environment(_signalled("HUP", "-$main"), 129, False),
    "nohup, terminal closed": Environment(f"trap '' HUP; {_signalled('HUP', '-$main')}"),
    "SIGKILL": Environment(_signalled("KILL", "$main"), 137, False),
    "a worker killed": Environment(_signalled("KILL", "$(pgrep -P $main -f popen_loky | head -1)")),
}


def try_environment(environment: Environment, folder: Path, data: Path) -> str:
    """Run the program in an environment; returns what came of it, in one line.

    Raises:
        AssertionError: it did not end as it has to.
    """
    out = folder / "out" / "submission.csv"
    program = f"{sys.executable} {ROOT}/submit.py --weights {ROOT}/weights/phantom --workers 2 --out {out}"
    (folder / "run").write_text(f'#!/bin/sh\nexec {program} --data "$DATA" "$@"\n')
    (folder / "run").chmod(0o755)
    shell = ["unshare", "-rm", "bash", "-c"] if environment.mounts else ["bash", "-c"]
    began = time.monotonic()
    done = subprocess.run(
        [*shell, environment.line], cwd=folder, env={**os.environ, "DATA": str(data)}, capture_output=True, check=False
    )
    seconds = time.monotonic() - began
    printed = (done.stdout + done.stderr).decode("utf-8", "backslashreplace")
    assert done.returncode == environment.status, f"status {done.returncode}: {printed[-1500:]}"
    assert "Traceback" not in printed, printed[-1500:]
    if environment.table:
        table = assert_valid(out, sorted(path.name for path in (data / "test_images").iterdir()))
        assert not environment.graded or len(table.drop_duplicates()) > 25, "nothing was graded"
    until = time.monotonic() + LEFT_BEHIND_SECONDS
    while left := _running_below(folder):
        assert time.monotonic() < until, f"left behind: {left}"
        time.sleep(0.1)
    return f"status {done.returncode}, {seconds:.0f} s"


def _running_below(folder: Path) -> list[str]:
    """Processes, no zombies, that work in a folder."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and (process / "cwd").readlink() == folder:
                found.append(process.name)
        except OSError:
            continue
    return found


def main(names: Sequence[str]) -> int:
    """Try the environments of these names, or all; returns 1 if one did not hold."""
    failed = 0
    with tempfile.TemporaryDirectory() as scratch:
        data = phantom_studies(2)
        mounts = subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode == 0
        for number, name in enumerate(names or ENVIRONMENTS):
            environment = ENVIRONMENTS[name]
            folder = Path(scratch) / f"run{number}"
            folder.mkdir()
            try:
                came = try_environment(environment, folder, data) if mounts or not environment.mounts else "left out"
            except AssertionError as error:
                came, failed = f"FAILED: {error}", 1
            print(f"{name:<30} {came}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
