"""What commands write and delete, recorded by an audit hook in a process of their own: nothing but what was named."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pipeline.phantom import make_phantom
from pipeline.weights.manifest import Manifest, Member

ROOT = Path(__file__).resolve().parents[1]
RECORDED = """
import os, sys
wrote = set()
def note(event, args):
    changing = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod")
    if event in changing:
        wrote.update(path for path in args[:2] if isinstance(path, (str, bytes, os.PathLike)))
    elif event == "open" and isinstance(args[0], (str, bytes, os.PathLike)):
        path, mode, flags = args
        writing = any(letter in mode for letter in "wax+") if isinstance(mode, str) else False
        if writing or (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)):
            wrote.add(path)
from pipeline.__main__ import main
sys.addaudithook(note)
status = main(sys.argv[1:])
print("WROTE", *sorted({os.path.abspath(os.fsdecode(path)) for path in wrote}), sep="\\n")
sys.exit(status)
"""


def written(tmp_path: Path, *command: str) -> list[str]:
    """Paths that a command writes or deletes, those in ``tmp_path`` relative to it."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(tmp_path / "home"),
    }
    done = subprocess.run(
        [sys.executable, "-c", RECORDED, *command],
        capture_output=True, text=True, cwd=tmp_path, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.partition("WROTE\n")[2].splitlines()
    return [line.removeprefix(f"{tmp_path}/") for line in lines if not line.startswith(("/dev/", "/proc/"))]


def test_a_build_writes_only_into_its_folder(tmp_path):
    member = Member("canal-0", "canal", "canal.safetensors", "", seen="canal.seen.txt")
    Manifest(tmp_path / "set", "test", "one network").add_member(member, b"numbers", b"0123456789abcdef\n")
    for _ in range(2):
        found = written(tmp_path, "kaggle", "out", "--no-wheels", "--weights", "set")
        assert len(found) > 100
        assert [path for path in found if path != "out" and not path.startswith("out/")] == []


@pytest.mark.slow
def test_a_training_writes_only_into_its_folder_and_its_cache(tmp_path):
    make_phantom(tmp_path / "data", 2, size="small")
    settings = ["loop.epochs=1", "loop.batches_per_epoch=1", "loop.batch_size=2", "loop.device=cpu", "loop.threads=1"]
    settings += ["model.backbone=test_efficientnet", "model.initial=random", "model.size_px=64", "examples.size_px=64"]
    command = ["train", "landmarks", "--data", "data", "--fold", "none", "--out", "run", "--cache", "cache"]
    command += [part for setting in settings for part in ("--set", setting)]
    for again in ("--resume", "--restart"):
        found = written(tmp_path, *command, again)
        assert "run/best.safetensors" in found or again == "--resume"
        # joblib, torch and matplotlib keep locks, shared memory and fonts in the system's folder for such files.
        of_libraries = rf"{re.escape(tempfile.gettempdir())}/(joblib|torch|pym|tmp|[a-z0-9_]{{8}}$)[^/]*(/.*)?"
        named = re.compile(rf"(run|cache)(/.*)?|{of_libraries}")
        assert [path for path in found if not named.fullmatch(path)] == []
