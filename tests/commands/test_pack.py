"""``pack``: how runs are named on the command line, and what may be changed of a trained network."""

import argparse
from pathlib import Path

import pytest
import yaml

from pipeline.__main__ import main
from pipeline.commands.pack import packed_run
from pipeline.config import ConfigError
from pipeline.labels import Family
from pipeline.severity.store import store_run
from pipeline.training.store import check_runs
from pipeline.weights.manifest import Manifest, WeightsError


@pytest.mark.parametrize(
    ("text", "member"),
    [
        ("landmarks:0=runs/a", "landmarks-fold0"),
        ("canal:none=runs/a", "canal-all"),
        ("foraminal.again:3=runs/a", "foraminal-again-fold3"),
    ],
)
def test_a_member_is_named_by_task_recipe_and_fold(text, member):
    packed = packed_run(text)
    assert packed.member == member
    assert packed.run == Path("runs/a")


@pytest.mark.parametrize(
    "text", ["foraminal=run", "knee:0=run", "canal.:0=run", "canal.a/b:0=run", "canal:x=run", "canal:0"]
)
def test_what_is_not_a_run_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="TASK"):
        packed_run(text)


def test_only_settings_of_inference_may_be_changed(tmp_path):
    with pytest.raises(ConfigError, match="only beside, flip, shift_mm, worst"):
        store_run([tmp_path], tmp_path, Family.CANAL, "canal-fold0", 0, ["network.width=8"])


def write_run(folder: Path, task: str, **views) -> Path:
    folder.mkdir(parents=True)
    config = {"task": task, "config": {"views": views, "network": {"initial": folder.name, "width": 8}}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    for name in ("last.safetensors", "seen.txt"):
        (folder / name).touch()
    return folder


def test_runs_of_one_network_and_fold_may_be_one_member(tmp_path):
    runs = [write_run(tmp_path / name, "canal fold 0", size_mm=80) for name in "ab"]
    check_runs(runs, "canal", 0)  # where they started from does not matter


@pytest.mark.parametrize(
    ("task", "fold", "size", "message"),
    [
        ("foraminal fold 0", 0, 80, "b: a run of foraminal, not of canal"),
        ("canal fold 1", 0, 80, "b: fold 1 was held out there, not 0"),
        ("canal fold 0", 0, 40, "not runs of one network: views was"),
    ],
)
def test_runs_that_do_not_belong_together_are_refused(tmp_path, task, fold, size, message):
    runs = [write_run(tmp_path / "a", "canal fold 0", size_mm=80), write_run(tmp_path / "b", task, size_mm=size)]
    with pytest.raises(WeightsError, match=message):
        check_runs(runs, "canal", fold)


def test_a_weights_folder_that_is_none_is_left_as_it_is(tmp_path, capsys):
    run = write_run(tmp_path / "run", "canal fold 0")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "canal-fold0.safetensors").write_text("years of work")
    assert main(["pack", str(tmp_path / "theirs"), "--runs", f"canal:0={run}"]) == 2
    assert "was not made by this program" in capsys.readouterr().err
    Manifest(tmp_path / "theirs", "own", "").save()  # now it is a set, in which that file is not the program's
    assert main(["pack", str(tmp_path / "theirs"), "--runs", f"canal:0={run}"]) == 2
    assert "canal-fold0.safetensors: is not among the files of manifest.json" in capsys.readouterr().err
    assert (tmp_path / "theirs" / "canal-fold0.safetensors").read_text() == "years of work"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "nothing to pack"),
        (["--runs", "landmarks:0=gone"], 1, "gone: not a finished run of one fold"),
        (["--runs", "landmarks:7=gone"], 2, "a fold of 0 to 4 or none"),
        (["--errors", "train.csv"], 2, "no column condition, in_plane_mm, slices"),
        (["--errors", "train.csv", "--set-name", "a\nb"], 1, "one line of at most 100 printable characters"),
    ],
)
def test_a_call_that_packs_nothing_is_a_line(tmp_path, monkeypatch, capsys, arguments, status, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.csv").write_text("study_id,grade\n1,2\n")
    assert main(["pack", "weights", *arguments]) == status
    assert message in capsys.readouterr().err
