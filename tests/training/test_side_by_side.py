"""Several folds on several GPUs: one each, whatever becomes of the others. GPUs are only named, so none is needed."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from pipeline.commands import train as train_command
from pipeline.commands.train import TrainOptions
from pipeline.console import WorkError
from pipeline.training import side_by_side
from pipeline.training.side_by_side import train_side_by_side, visible_gpus
from pipeline.weights.recipe import LoopSettings


@dataclass(frozen=True)
class Fold:
    out: Path
    fails: bool = False


def note(fold: Fold) -> None:
    """A training that says which GPU it sees, and of which others it saw the beginning when it began."""
    begun = sorted(path.parent.name for path in fold.out.parent.glob("*/config.yaml"))
    fold.out.mkdir()
    (fold.out / "seen.txt").write_text(" ".join([os.environ["CUDA_VISIBLE_DEVICES"], *begun]))
    time.sleep(0.2)
    (fold.out / "config.yaml").touch()
    print("a line of", fold.out.name)
    if fold.fails:
        raise ValueError("it cannot be")
    until = time.monotonic() + 60
    while fold.out.name == "fold0" and not (fold.out.parent / "fold1").exists() and time.monotonic() < until:
        time.sleep(0.05)


@pytest.mark.slow
def test_each_fold_sees_one_gpu_and_the_first_fills_the_cache_before_the_others_begin(tmp_path):
    folds = [Fold(tmp_path / f"fold{number}") for number in range(3)]
    train_side_by_side(note, folds, ["4", "7"])
    seen = [(fold.out / "seen.txt").read_text().split() for fold in folds]
    assert seen[0] == ["4"]
    assert seen[1][:2] == ["7", "fold0"]
    assert seen[2][0] in ("4", "7")
    assert "a line of fold1" in (tmp_path / "fold1.console.txt").read_text()


@pytest.mark.slow
def test_a_fold_that_fails_is_named(tmp_path):
    with pytest.raises(WorkError, match=r"fold0: its training ended with 1; see .*fold0.console.txt"):
        train_side_by_side(note, [Fold(tmp_path / "fold0", True), Fold(tmp_path / "fold1")], ["0", "1"])
    assert "it cannot be" in (tmp_path / "fold0.console.txt").read_text()


def test_the_gpus_of_torchrun_are_its_own_and_those_that_are_hidden_stay_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert visible_gpus() == ["3", "5"]
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert visible_gpus() == []


def test_several_folds_are_trained_one_a_gpu_and_then_joined(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(side_by_side, "train_side_by_side", lambda train, runs, gpus: given.append((runs, gpus)))
    monkeypatch.setattr(side_by_side, "visible_gpus", lambda: ["0", "1"])
    options = TrainOptions(data=[], out=tmp_path / "run", cache=tmp_path, folds="all", restart=True)
    runs = train_command._runs(options)
    left = train_command._side_by_side(print, runs, LoopSettings())
    ((trained, gpus),) = given
    assert gpus == ["0", "1"]
    assert [(run.fold, run.folds, run.restart) for run in trained] == [(fold, None, True) for fold in range(5)]
    assert [(run.fold, run.folds, run.restart) for run in left] == [(fold, "all", False) for fold in range(5)]
    assert train_command._side_by_side(print, runs, replace(LoopSettings(), device="cpu")) == runs
    assert train_command._side_by_side(print, runs[:1], LoopSettings()) == runs[:1]
    monkeypatch.setattr(side_by_side, "visible_gpus", lambda: ["0"])
    assert train_command._side_by_side(print, runs, LoopSettings()) == runs
    assert len(given) == 1
