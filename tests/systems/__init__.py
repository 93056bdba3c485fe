"""Other operating systems, played on this one: see ``hook/sitecustomize.py``."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.recorder import ROOT, environment

SYSTEMS = ("windows", "macos")
_HOOK = Path(__file__).parent / "hook"


def run(system: str, disk: Path, command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run ``python`` with these arguments as on a system; ``disk`` is a folder below which names know no case."""
    scratch = disk / "scratch"
    played = {} if scratch.exists() else environment(scratch)
    played |= os.environ | {
        "HOME": str(scratch / "home"),
        "PYTHONPATH": os.pathsep.join([str(_HOOK), str(ROOT)]),
        "LUMBAR_SYSTEM": system,
        "LUMBAR_PROGRAM": str(ROOT / "pipeline"),
        "LUMBAR_DISK": str(disk),
    }
    if system == "windows":
        played["PYTHONIOENCODING"] = "cp1252"
    with tempfile.TemporaryDirectory() as short:  # enough for the path of a socket, as on these systems it is
        return subprocess.run(
            [sys.executable, *command], cwd=disk, env=played | {"TMPDIR": short}, capture_output=True, check=False,
            timeout=600, encoding="cp1252" if system == "windows" else "utf-8",
        )  # fmt: skip


def with_line_ends(folder: Path) -> Path:
    """The folder, with every table in it as Excel on Windows saves it: CRLF, and a mark of UTF-8 at the beginning."""
    for path in folder.glob("*.csv"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
    return folder
