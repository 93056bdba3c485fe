"""``train all``: the order of its steps, what it leaves out, and whose settings go where; nothing is trained."""

import json
import os
import time
from types import SimpleNamespace

import pandas as pd
import pytest

from pipeline.__main__ import main
from pipeline.commands import train_all
from pipeline.landmarks.errors import EVALUATION
from pipeline.owned import claim
from pipeline.training.folder import claim_run
from pipeline.weights.manifest import Manifest

TITLES = ["spinal_canal_stenosis", "left_neural_foraminal_narrowing", "right_subarticular_stenosis"]


@pytest.fixture
def commands(monkeypatch):
    """The commands that are given, each of which succeeds; ``evaluate`` leaves errors of canal points."""
    given = []

    def call(command):
        given.append(list(command))
        if command[0] == "evaluate":
            out = train_all.Path(command[command.index("--out") + 1])
            claim(out, EVALUATION)
            row = {"study_id": "1", "series_id": "2", "condition": TITLES[0], "in_plane_mm": 1.5, "slices": 0.0}
            pd.DataFrame([row]).to_csv(out / "errors.csv", index=False)
        return 0

    stored = []
    monkeypatch.setattr(train_all, "_call", call)
    monkeypatch.setattr(
        "pipeline.landmarks.store.store_run", lambda runs, weights, task, name, fold: stored.append((*runs, name))
    )
    monkeypatch.setattr(
        "pipeline.severity.store.store_run", lambda runs, weights, family, name, fold: stored.append((*runs, name))
    )
    return SimpleNamespace(given=given, stored=stored)


def folder(monkeypatch, conditions):
    table = pd.DataFrame({"condition": conditions})
    monkeypatch.setattr(train_all, "open_competition", lambda path, split: SimpleNamespace(coordinates=table))


def test_the_steps_in_order_and_every_network_into_the_weights(commands, monkeypatch, tmp_path):
    folder(monkeypatch, TITLES)
    options = ["--preset", "cpu", "--set", "canal.loop.epochs=3", "--set", "axial.loop.seed=4"]
    assert main(["train", "all", "--data", "d", "--out", str(tmp_path), *options]) == 0
    assert [command[:2] for command in commands.given] == [
        ["train", "landmarks"],
        ["train", "axial"],
        ["evaluate", "landmarks"],
        ["train", "severity"],
        ["train", "severity"],
        ["train", "severity"],
        ["ensemble", "--weights"],
    ]
    landmarks, axial, _, canal, foraminal, _, ensemble = commands.given
    assert f"canal={tmp_path / 'canal' / 'oof.csv'}" in ensemble
    assert landmarks[-2:] == ["--preset", "cpu"]
    assert axial[-2:] == ["--set", "loop.seed=4"]
    assert canal[-2:] == ["--set", "loop.epochs=3"]
    assert "--set" not in foraminal
    assert all(command[command.index("--folds") + 1] == "all" for command in commands.given if command[0] == "train")
    assert "--landmark-errors" in canal
    assert "--landmark-errors" not in foraminal, "no foraminal point was found"
    assert len(commands.stored) == 5 * 5
    assert (tmp_path / "canal" / "fold4", "canal-fold4") in commands.stored
    weights = tmp_path / "weights"
    assert json.loads((weights / "landmark_errors.json").read_text())["canal"]["in_plane_sd_mm"] > 0
    assert Manifest.load(weights).file("landmark_errors.json") is not None


def test_a_second_call_does_not_measure_the_landmarks_again(commands, monkeypatch, tmp_path):
    folder(monkeypatch, TITLES)
    for _ in range(2):
        assert main(["train", "all", "--data", "d", "--out", str(tmp_path)]) == 0
    assert sum(command[0] == "evaluate" for command in commands.given) == 1


def test_localisers_that_were_trained_again_are_measured_again(commands, monkeypatch, tmp_path):
    folder(monkeypatch, TITLES)
    assert main(["train", "all", "--data", "d", "--out", str(tmp_path)]) == 0
    best = tmp_path / "axial" / "fold3" / "last.safetensors"
    claim_run(best.parent)
    best.touch()
    os.utime(best, (time.time() + 60,) * 2)
    assert main(["train", "all", "--data", "d", "--out", str(tmp_path), "--restart"]) == 0
    assert sum(command[0] == "evaluate" for command in commands.given) == 2


@pytest.mark.parametrize("name", ["landmarks", "canal/fold4", "points", "weights", "."])
def test_a_folder_of_other_things_is_said_before_the_first_step(commands, monkeypatch, tmp_path, capsys, name):
    folder(monkeypatch, TITLES)
    theirs = tmp_path / "out" / name / "thesis.txt"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("years of work")
    assert main(["train", "all", "--data", "d", "--out", str(tmp_path / "out"), "--restart"]) == 2
    assert "was not made by this program" in capsys.readouterr().err
    assert not commands.given
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == [theirs]


def test_networks_that_no_folder_has_labels_for_are_left_out(commands, monkeypatch, tmp_path, capsys):
    folder(monkeypatch, TITLES[:2])
    assert main(["train", "all", "--data", "d", "--out", str(tmp_path)]) == 0
    assert ["train", "axial"] not in [command[:2] for command in commands.given]
    assert "no folder has subarticular points" in capsys.readouterr().out


def test_a_step_that_fails_ends_the_run(commands, monkeypatch, tmp_path):
    folder(monkeypatch, TITLES)
    monkeypatch.setattr(train_all, "_call", lambda command: 1 if command[1] == "axial" else 0)
    assert main(["train", "all", "--data", "d", "--out", str(tmp_path)]) == 1
    assert not commands.stored


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("subarticular.loop.epoch=3", "did you mean loop.epochs"),
        ("canal.network.backbone=mobilnetv2_100", "near it: mobilenetv2_100"),
        ("foraminal.network.initial=gone.pt", "gone.pt: no such weights file"),
        ("axial.data_weights=[0.5,0.5]", "data_weights has 2 shares for 1 folders"),
    ],
)
def test_a_setting_that_is_wrong_is_said_before_the_first_step(
    commands, monkeypatch, tmp_path, capsys, setting, message
):
    folder(monkeypatch, TITLES)
    options = ["--out", str(tmp_path), "--preset", "cpu", "--set", setting]
    assert main(["train", "all", "--data", "d", *options]) == 2
    assert message in capsys.readouterr().err
    assert not commands.given


def test_there_is_no_fold_to_choose(commands, monkeypatch, tmp_path, capsys):
    folder(monkeypatch, TITLES)
    assert main(["train", "all", "--data", "d", "--out", str(tmp_path), "--fold", "2"]) == 2
    assert not commands.given


def test_a_setting_must_name_its_section(commands, monkeypatch, tmp_path, capsys):
    folder(monkeypatch, TITLES)
    assert main(["train", "all", "--data", "d", "--out", str(tmp_path), "--set", "loop.epochs=3"]) == 2
    assert "must start with one of landmarks, axial, canal" in capsys.readouterr().err
