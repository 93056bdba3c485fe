"""Grading, training and ``kaggle`` write and delete nothing but what was named, and open no socket."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest
from pydicom import uid

from pipeline.phantom import make_phantom
from tests.commands.mounts import multiply, phantom_studies
from tests.recorder import grading, is_socket, kaggle, outside, record, training
from tests.volumes.attacks import compressed, jpeg

LEAKS = """
import os, shutil, socket, sys
from pathlib import Path
from joblib import Parallel, delayed

def leak(name):
    folder = Path(sys.argv[1])
    (folder / name).mkdir()
    (folder / name / "made").write_text("x")
    os.rename(folder / name / "made", folder / name / "moved")
    shutil.rmtree(folder / name)
    os.close(os.open(folder / f"{name}.txt", os.O_RDWR | os.O_CREAT))
    try:
        socket.create_connection(("127.0.0.1", 9), timeout=0.1)
    except OSError:
        pass

leak("main")
list(Parallel(n_jobs=2)(delayed(leak)(f"worker{number}") for number in range(2)))
(Path(sys.argv[2]) / "fine").write_text("x")
"""


def watched(folder: Path, command: list[str], *named: Path):
    """The events of a command that has to end well, write nothing outside, open no socket and leave nothing behind."""
    events, done = record(command, folder)
    assert done.returncode == 0, done.stderr[-3000:]
    assert outside(events, *named, folder / "tmp") == []
    assert [event for event in events if is_socket(event)] == []
    assert [path for path in (folder / "tmp").rglob("*") if not path.is_dir()] == []
    assert list((folder / "home").iterdir()) == []
    return events


def test_the_recorder_sees_what_main_and_worker_processes_do(tmp_path):
    """The tests below can fail."""
    script, elsewhere, named = tmp_path / "leaks.py", tmp_path / "elsewhere", tmp_path / "named"
    script.write_text(LEAKS)
    for folder in (elsewhere, named):
        folder.mkdir()
    events, done = record([str(script), str(elsewhere), str(named)], tmp_path / "run")
    assert done.returncode == 0, done.stderr
    found = outside(events, named, tmp_path / "run" / "tmp")
    for name in ("main", "worker0", "worker1"):
        seen = {(event.what, Path(event.where).name) for event in found}
        assert {("os.mkdir", name), ("open", "made"), ("os.rename", "moved"), ("os.remove", "moved")} <= seen
        assert {("shutil.rmtree", name), ("open", f"{name}.txt")} <= seen
    assert [event for event in found if elsewhere not in Path(event.where).parents] == []
    assert len({event.process for event in events if event.what == "socket.connect"}) >= 2
    assert "fine" in {Path(event.where).name for event in events}


def test_a_grading_run(tmp_path):
    """On two workers, the networks of the phantom set, one study in which a decoder process is needed."""
    data, out = tmp_path / "data", tmp_path / "out"
    study = multiply(phantom_studies(2), data, 2, thin=3)[0]
    path = next((data / "test_images" / study).rglob("*.dcm"))
    slice_ = pydicom.dcmread(path)
    compressed(uid.JPEGBaseline8Bit, 64, 8, jpeg())(slice_)
    path.unlink()
    slice_.save_as(path)
    events = watched(tmp_path / "run", grading(data, out, tmp_path / "work"), out, tmp_path / "work")
    assert (out / "submission.csv").is_file()
    assert len({event.process for event in events}) >= 2, "no worker was seen"


@pytest.mark.slow
def test_a_training_run(tmp_path):
    """One epoch of a tiny classifier, cubes cut and all."""
    data = make_phantom(tmp_path / "data", 5, seed=5, size="small")
    command = training(data, tmp_path / "out", tmp_path / "cache")
    watched(tmp_path / "run", command, tmp_path / "out", tmp_path / "cache")
    assert list((tmp_path / "out").glob("*.safetensors"))


def test_kaggle(tmp_path):
    watched(tmp_path / "run", kaggle(tmp_path / "out"), tmp_path / "out")
    assert (tmp_path / "out" / "code" / "submit.py").is_file()
