"""``submit.py`` and the commands on Windows and macOS, as far as Linux can play them (``hook/sitecustomize.py``)."""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.phantom import make_phantom
from tests.commands.mounts import ROOT, phantom_studies
from tests.recorder import kaggle, training
from tests.systems import SYSTEMS, run, with_line_ends

pytestmark = pytest.mark.slow
PHANTOM_WEIGHTS = str(ROOT / "weights" / "phantom")


@functools.cache
def _graded_phantom():
    """Six studies to train on, made once."""
    return make_phantom(Path(tempfile.mkdtemp(prefix="phantom-")) / "own", studies=6, seed=5, size="small")


@pytest.fixture(params=SYSTEMS)
def system(request):
    return request.param


@pytest.fixture
def disk(tmp_path):
    """A folder, below which names know no case, with two studies in a folder that is not ASCII; tables with CRLF."""
    with_line_ends(shutil.copytree(phantom_studies(2), tmp_path / "Müller Übung" / "phantom"))
    return tmp_path


def test_a_study_is_graded_as_on_linux(system, disk):
    """By workers that are spawned, from names of another case than the disk's, on an alarm without SIGALRM."""
    arguments = ["--weights", PHANTOM_WEIGHTS, "--workers", "2", "--set", "study_seconds=300"]
    out = disk / "Müller Übung" / "aus"
    given = ["--data", "müller übung/PHANTOM", "--out", str(out / "submission.csv"), "--stages", str(out / "stages")]
    done = run(system, disk, [str(ROOT / "submit.py"), *given, *arguments])
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert "50 from the images (networks), 0 from the rest of the study (context), 0 class freq" in done.stdout
    assert sorted(path.name for path in out.iterdir()) == ["run.json", "stages", "submission.csv", "submission.log"]
    truth = pd.read_csv(disk / "Müller Übung" / "phantom" / "test_truth.csv")
    table = pd.read_csv(out / "submission.csv")
    assert np.allclose(table.iloc[:, 1:].sum(axis=1), 1, atol=1e-6)
    assert b"\r" not in (out / "submission.csv").read_bytes()
    grades = {"Normal/Mild": "normal_mild", "Moderate": "moderate", "Severe": "severe"}
    told = [
        table.set_index("row_id").loc[f"{row.study_id}_{cell}", grades[grade]]
        for _, row in truth.iterrows() for cell, grade in row.drop("study_id").dropna().items()
    ]  # fmt: skip
    assert np.mean(told) > 0.6, "what the networks say is what is in the images"
    refused = run(
        system, disk, [str(ROOT / "submit.py"), *given[:2], "--out", "MÜLLER ÜBUNG/phantom/s.csv", *arguments]
    )
    assert refused.returncode == 2, "one case makes it a file inside of --data"
    assert "lies inside --data" in refused.stderr


def test_every_command_that_needs_no_training_of_all(system, disk):
    """One classifier is trained, with a loading process that is spawned; ``train all`` is the benchmark's."""
    phantom, out = "Müller Übung/Phantom", disk / "Müller Übung"
    with_line_ends(shutil.copytree(_graded_phantom(), out / "own"))
    commands = [
        ["phantom", str(out / "one"), "--studies", "1", "--size", "small"],
        ["check", phantom],
        ["prior", str(out / "own" / "train.csv"), "--out", str(out / "prior.csv")],
        ["score", f"{phantom}/test_truth.csv", f"{phantom}/sample_submission.csv"],
        training(out / "own", out / "run", out / "cache")[2:],
        ["pack", str(out / "weights"), "--runs", f"foraminal:0={out / 'run'}"],
        kaggle(out / "upload")[2:],
        kaggle(out / "upload")[2:],
    ]
    listed = disk / "commands.json"
    listed.write_text(json.dumps(commands), encoding="utf-8")
    done = run(system, disk, ["-m", "tests.systems.commands", str(listed)])
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    ended = [line for line in done.stdout.splitlines() if line.startswith("status ")]
    assert ended == [f"status 0: {' '.join(command[:2])}" for command in commands], done.stdout + done.stderr
    assert "2 studies, 6 series" in done.stdout
    assert "so this one loads" not in done.stdout + done.stderr
    assert b"\r\n" in (out / "one" / "train.csv").read_bytes() or system != "windows", "CRLF was played"
    assert not list(Path(out, "upload").glob(".build-*"))
