"""Training, resuming and grading on a GPU in name only: nothing mixes devices, and nothing falls back to the CPU."""

from __future__ import annotations

import json
import signal
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch

from pipeline.__main__ import main
from pipeline.commands.submit import main as submit
from pipeline.device import usable_gpus
from pipeline.phantom import make_phantom
from pipeline.submission import probabilities_of, read_submission
from pipeline.training.accelerator import open_accelerator
from pipeline.training.interruption import TrainingStopped
from pipeline.training.ladder import LadderSettings
from pipeline.training.learner import Learner
from tests.commands.mounts import ROOT
from tests.commands.test_presets_end_to_end import shrunk
from tests.fake_gpu import CUDA, MPS, fake_gpu

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    return make_phantom(tmp_path_factory.mktemp("phantom"), studies=5, seed=5, size="small")


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr("pipeline.training.loop.draw_curves", lambda *_: None)
    monkeypatch.setattr("pipeline.training.ladder.LadderSettings", partial(LadderSettings, items=4, reach=0.95))


def told(gpu, preset, *names):
    """``--set`` of what a shrunk preset says in these sections, on a GPU."""
    texts = [text.partition(".")[2] for text in shrunk(preset) if text.partition(".")[0] in names]
    texts += [f"loop.device={gpu.type}", "loop.batch_size=4", "loop.batches_per_epoch=2", "loop.ema_decay=0.9"]
    return [part for text in texts for part in ("--set", text)]


@pytest.mark.parametrize("gpu", [CUDA, MPS])
def test_tensors_of_two_devices_do_not_mix_and_numpy_reads_the_hosts_alone(gpu):
    with fake_gpu(gpu):
        there, here = torch.ones(2, 3, device=gpu.type), torch.ones(2, 3)
        assert (there.device, (there @ there.T).device, there.cpu().device.type) == (gpu, gpu, "cpu")
        with pytest.raises(RuntimeError, match="same device"):
            there + here
        with pytest.raises(RuntimeError, match="same device"):
            here[torch.zeros(2, dtype=torch.int64, device=gpu)]
        with pytest.raises(TypeError, match="numpy"):
            np.asarray(there)
        layer = torch.nn.Linear(3, 1).to(gpu.type)
        with pytest.raises(RuntimeError, match="same device"):
            layer(here)
        layer(there).sum().backward()
        assert layer.weight.grad.device == gpu
        with pytest.raises(TypeError, match="float64") if gpu == MPS else nullcontext():
            there.double()
    assert not usable_gpus()


def test_each_training_of_a_process_has_the_device_it_asks_for():
    with fake_gpu():
        assert [open_accelerator(device, "auto").device.type for device in ("cpu", "cuda", "cpu")] == [
            "cpu",
            "cuda",
            "cpu",
        ]
    assert open_accelerator("auto", "auto").device.type == "cpu"


@pytest.mark.parametrize(("task", "gpu", "precision"), [("landmarks", MPS, "fp32"), ("axial", CUDA, "bf16")])
def test_points_are_learnt_there(phantom, tmp_path, task, gpu, precision):
    command = ["train", task, "--data", str(phantom), "--preset", "cpu", "--fold", "0", "--out", str(tmp_path / "run")]
    with fake_gpu(gpu):
        assert main([*command, "--cache", str(tmp_path / "cache"), *told(gpu, "cpu", task)]) == 0
    first = (tmp_path / "run/log.txt").read_text().splitlines()[0]
    assert f"on {gpu.type}" in first
    assert first.endswith(precision)


@pytest.mark.parametrize(
    ("family", "recipe", "mix", "gpu", "capability", "said"),
    [
        ("canal", "channels", "mixup", CUDA, (7, 5), "on cuda, a GPU in name only, 24 GiB, fp16"),
        ("subarticular", "sequence", "cutmix", CUDA, (8, 0), "on cuda, a GPU in name only, 24 GiB, bf16"),
        ("foraminal", "channels", "none", MPS, (0, 0), "on mps, fp32"),
    ],
)
def test_grades_are_learnt_there_and_go_on_where_they_stopped(
    phantom, tmp_path, monkeypatch, family, recipe, mix, gpu, capability, said
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
    command += [*told(gpu, "kaggle", f"{family}-{recipe}"), "--set", f"mix.kind={mix}", "--set", "mix.share=1"]
    with fake_gpu(gpu, capability):
        with pytest.raises(TrainingStopped):
            main(command)
        assert main(command) == 0
    assert len(steps) == 2, "the first step is not taken again"
    log = (out / "log.txt").read_text()
    assert said in log.replace(":0", "")
    assert "continuing" in log
    assert "passed" in json.loads((out / "review.json").read_text())["ladder"]
    assert np.isfinite(json.loads((out / "result.json").read_text())["score"])


def test_a_study_is_graded_there_as_on_the_cpu(phantom, tmp_path, monkeypatch):
    """In single precision, so that the numbers are to be the same; half precision is tried where training scores."""
    monkeypatch.setattr("pipeline.device.half_type", lambda device: None)
    study = next((phantom / "train_images").iterdir()).name
    found = []
    for device, gpu in (("cpu", nullcontext()), ("cuda", fake_gpu(CUDA)), ("mps", fake_gpu(MPS))):
        out = tmp_path / device / "submission.csv"
        command = ["--data", str(phantom / "train_images"), "--studies", study, "--device", device, "--workers", "1"]
        command += ["--weights", str(ROOT / "weights/phantom"), "--set", "runtime=torch", "--out", str(out)]
        with gpu:
            assert submit(command) == 0
        run = json.loads(out.with_name("run.json").read_text())
        assert [name.removesuffix(":0") for name in run["devices"]] == [device]
        assert "gpu-failed" not in run["problems"]
        found.append(probabilities_of(read_submission(out), [study], out))
    assert found[1] == pytest.approx(found[0], abs=1e-5)
    assert found[2] == pytest.approx(found[0], abs=1e-5)
