"""Training, resuming and grading on a GPU in name only: nothing mixes devices, and nothing falls back to the CPU."""

from __future__ import annotations

import csv
import json
import signal
from functools import partial

import numpy as np
import pytest
import torch

from pipeline.__main__ import main
from pipeline.commands.submit import main as submit
from pipeline.phantom import make_phantom
from pipeline.submission import probabilities_of, read_submission
from pipeline.training.interruption import TrainingStopped
from pipeline.training.ladder import LadderSettings
from pipeline.training.learner import Learner
from tests.commands.mounts import ROOT
from tests.commands.test_presets_end_to_end import shrunk
from tests.fake_gpu import GPU, fake_gpu

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    return make_phantom(tmp_path_factory.mktemp("phantom"), studies=5, seed=5, size="small")


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr("pipeline.training.loop.draw_curves", lambda *_: None)
    monkeypatch.setattr("pipeline.training.ladder.LadderSettings", partial(LadderSettings, items=4, reach=0.95))


def told(preset, *names):
    """``--set`` of what a shrunk preset says in these sections, on the GPU."""
    texts = [text.partition(".")[2] for text in shrunk(preset) if text.partition(".")[0] in names]
    texts += ["loop.device=cuda", "loop.batch_size=4", "loop.batches_per_epoch=2", "loop.ema_decay=0.9"]
    return [part for text in texts for part in ("--set", text)]


def test_tensors_of_two_devices_do_not_mix_and_numpy_reads_the_hosts_alone():
    with fake_gpu():
        there, here = torch.ones(2, 3, device="cuda"), torch.ones(2, 3)
        assert (there.device, (there @ there.T).device, there.cpu().device.type) == (GPU, GPU, "cpu")
        with pytest.raises(RuntimeError, match="same device"):
            there + here
        with pytest.raises(RuntimeError, match="same device"):
            here[torch.zeros(2, dtype=torch.int64, device=GPU)]
        with pytest.raises(TypeError, match="numpy"):
            np.asarray(there)
        layer = torch.nn.Linear(3, 1).to("cuda")
        with pytest.raises(RuntimeError, match="same device"):
            layer(here)
        layer(there).sum().backward()
        assert layer.weight.grad.device == GPU
    assert not torch.cuda.is_available()


@pytest.mark.parametrize("task", ["landmarks", "axial"])
def test_points_are_learnt_there(phantom, tmp_path, task):
    command = ["train", task, "--data", str(phantom), "--preset", "cpu", "--fold", "0", "--out", str(tmp_path / "run")]
    with fake_gpu():
        assert main([*command, "--cache", str(tmp_path / "cache"), *told("cpu", task)]) == 0
    log = (tmp_path / "run/log.txt").read_text()
    assert "on cuda:0" in log
    assert "bf16" in log


@pytest.mark.parametrize(
    ("family", "recipe", "mix", "capability", "precision"),
    [("canal", "channels", "mixup", (7, 5), "fp16"), ("subarticular", "sequence", "cutmix", (8, 0), "bf16")],
)
def test_grades_are_learnt_there_and_go_on_where_they_stopped(
    phantom, tmp_path, monkeypatch, family, recipe, mix, capability, precision
):
    learn, steps = Learner.learn, []

    def learn_and_stop(self, *args):
        steps.append(args)
        if len(steps) == 1:
            signal.raise_signal(signal.SIGTERM)
        return learn(self, *args)

    monkeypatch.setattr(Learner, "learn", learn_and_stop)
    out = tmp_path / "run"
    command = ["train", "severity", "--condition", family, "--recipe", recipe, "--preset", "kaggle"]
    command += ["--data", str(phantom), "--fold", "0", "--out", str(out), "--cache", str(tmp_path / "cache")]
    command += [*told("kaggle", f"{family}-{recipe}"), "--set", f"mix.kind={mix}", "--set", "mix.share=1"]
    with fake_gpu(capability):
        with pytest.raises(TrainingStopped):
            main(command)
        assert main(command) == 0
    assert len(steps) == 2, "the first step is not taken again"
    log = (out / "log.txt").read_text()
    assert f"on cuda:0, a GPU in name only, 24 GiB, {precision}" in log
    assert "continuing" in log
    assert "passed" in json.loads((out / "review.json").read_text())["ladder"]
    assert np.isfinite(json.loads((out / "result.json").read_text())["score"])


def test_a_study_is_graded_there_as_on_the_cpu(phantom, tmp_path, monkeypatch):
    """In single precision, so that the numbers are to be the same; half precision is tried where training scores."""
    monkeypatch.setattr("pipeline.device.half_type", lambda device: None)
    study = next((phantom / "train_images").iterdir()).name
    found = []
    for device in ("cpu", "cuda"):
        command = ["--data", str(phantom / "train_images"), "--studies", study, "--device", device, "--workers", "1"]
        command += ["--weights", str(ROOT / "weights/phantom"), "--set", "runtime=torch"]
        command += ["--out", str(tmp_path / f"{device}.csv"), "--stages", str(tmp_path / device)]
        if device == "cuda":
            with fake_gpu():
                assert submit(command) == 0
        else:
            assert submit(command) == 0
        with (tmp_path / device / "problems.csv").open() as file:
            assert "gpu-failed" not in {row["what"] for row in csv.DictReader(file)}
        run = json.loads((tmp_path / "run.json").read_text())
        assert run["devices"] == {"cpu" if device == "cpu" else "cuda:0": 1}
        found.append(probabilities_of(read_submission(tmp_path / f"{device}.csv"), [study], device))
    assert found[1] == pytest.approx(found[0], abs=1e-5)
