"""What a command writes, deletes and connects to, seen from inside its Python processes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_HOOK = Path(__file__).parent / "hook"
_TINY = {
    "network": "{backbone: test_resnet.r160_in1k, initial: random, width: 32}",
    "views": '[{kind: "Sagittal T1", size_mm: 64, pixels: 48}]',
    "loop": "{epochs: 1, batch_size: 8, batches_per_epoch: 2, loader_workers: 1, threads: 1, device: cpu}",
}


@dataclass(frozen=True)
class Event:
    """One thing that a process did: an audit event of Python's, and the path or the address."""

    process: int
    what: str
    where: str


def grading(data: Path, out: Path, work: Path) -> list[str]:
    """The arguments of ``python`` that grade a folder on two workers with the networks of the phantom set."""
    command = ["submit.py", "--data", str(data), "--out", str(out / "submission.csv"), "--stages", str(out / "stages")]
    return [*command, "--work", str(work), "--weights", str(ROOT / "weights" / "phantom"), "--workers", "2"]


def training(data: Path, out: Path, cache: Path) -> list[str]:
    """Those that train a tiny classifier for an epoch, its cubes cut by two workers."""
    command = ["-m", "pipeline", "train", "severity", "--condition", "foraminal", "--data", str(data)]
    settings = [part for key, value in _TINY.items() for part in ("--set", f"{key}={value}")]
    return [*command, "--out", str(out), "--cache", str(cache), "--workers", "2", *settings]


def kaggle(out: Path) -> list[str]:
    """Those that build what is uploaded to Kaggle, without a wheelhouse, which needs an index."""
    return ["-m", "pipeline", "kaggle", str(out), "--no-wheels", "--weights", str(ROOT / "weights" / "phantom")]


def environment(folder: Path) -> dict[str, str]:
    """That of a watched command: an empty home, and temporary files in ``folder / tmp``, both made here."""
    for name in ("tmp", "home"):
        (folder / name).mkdir(parents=True)
    return {
        **{
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("XDG_", "PYTEST_", "HF_", "TORCHINDUCTOR_", "TRITON_"))
        },
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "JOBLIB_TEMP_FOLDER": str(folder / "tmp"),  # else /dev/shm
    }


def record(command: list[str], folder: Path, cwd: Path = ROOT) -> tuple[list[Event], subprocess.CompletedProcess[str]]:
    """Run ``python`` with these arguments in the :func:`environment` of a folder: what it did, and how it ended."""
    log = folder / "record.jsonl"
    watched = environment(folder) | {"LUMBAR_RECORD": str(log), "PYTHONPATH": os.pathsep.join([str(_HOOK), str(ROOT)])}
    done = subprocess.run([sys.executable, *command], cwd=cwd, env=watched, capture_output=True, text=True, check=False)
    lines = log.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    return [Event(*json.loads(line)) for line in lines], done


def outside(events: list[Event], *named: Path) -> list[Event]:
    """The events that touch a file which lies in none of the folders and is none of the files.

    What a process has open and shares with its workers has no name but that of the open file.
    """
    allowed = [path.resolve() for path in (*named, Path(os.devnull))]
    files = [event for event in events if not is_socket(event) and not re.fullmatch(r"/proc/\d+/fd/\d+", event.where)]
    return [event for event in files if not _inside(Path(event.where), allowed)]


def is_socket(event: Event) -> bool:
    """Whether it is not about a file."""
    return event.what.partition(".")[0] in ("socket", "urllib", "http", "ftplib", "smtplib", "poplib", "imaplib")


def _inside(path: Path, allowed: list[Path]) -> bool:
    place = path.parent.resolve() / path.name
    return any(place == folder or folder in place.parents for folder in allowed)
