"""``python -m pipeline export``: every kind of network as ONNX, the same answers, or a file that is not there."""

import importlib.util
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save

from pipeline.__main__ import main
from pipeline.config import to_dict
from pipeline.labels import Family
from pipeline.landmarks.load import load_point_net
from pipeline.landmarks.model import PointModelSettings, PointNet
from pipeline.severity.model import SeverityModel
from pipeline.severity.predict import load_member, member_config
from pipeline.severity.settings import NetworkSettings, SeveritySettings
from pipeline.weights.manifest import Manifest, Member

ENCODERS = ("sequence", "multichannel", "3d")


@pytest.fixture
def weights(tmp_path):
    """A point network and a classifier of each kind."""
    torch.manual_seed(0)
    folder = tmp_path / "weights"
    manifest = Manifest(folder, "test", "networks of a test")
    points = PointModelSettings("test_efficientnet", "random", channels=10, size_px=64, width=8)
    member = Member("points", "landmarks", "points.safetensors", "", config={"model": to_dict(points)})
    manifest = manifest.add_member(member, save(PointNet(points).state_dict()))
    for encoder in ENCODERS:
        settings = SeveritySettings(network=NetworkSettings("test_efficientnet", encoder=encoder, width=16))
        model = SeverityModel(settings.network, settings.views_of(Family.CANAL))
        config = member_config(settings, Family.CANAL)
        member = Member(encoder, "canal", f"{encoder}.safetensors", "", config=config)
        manifest = manifest.add_member(member, save({k: v.contiguous() for k, v in model.state_dict().items()}))
    return manifest


def test_without_onnx_it_says_what_to_install(weights, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["export", str(tmp_path / "out"), "--weights", str(weights.folder)]) == 2
    assert "needs onnx and onnxruntime; pip install -r requirements-onnx.txt" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_network_that_is_not_there_is_named(weights, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    call = ["export", str(tmp_path / "out"), "--weights", str(weights.folder), "--networks", "canl"]
    assert main(call) == 2
    assert "--networks canl: not one of points, sequence" in capsys.readouterr().err


def test_files_of_others_stay(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "points.onnx").write_text("mine")
    assert main(["export", str(tmp_path / "out"), "--weights", str(weights.folder)]) == 2
    assert (tmp_path / "out" / "points.onnx").read_text() == "mine"


def test_every_network_answers_as_with_pytorch_whatever_is_absent(weights, tmp_path, capsys):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    out = tmp_path / "out"
    assert main(["export", str(out), "--weights", str(weights.folder)]) == 0
    assert f"{out}: 4 networks" in capsys.readouterr().out
    about = json.loads((out / "networks.json").read_text())["networks"]
    generator = torch.Generator().manual_seed(5)
    for member in weights.members:
        pixels = {
            name: torch.rand(5, *shape[1:], generator=generator)
            for name, shape in about[member.name]["inputs"].items()
            if name.startswith(("images", "pixels"))
        }
        session = runtime.InferenceSession(out / about[member.name]["file"], providers=["CPUExecutionProvider"])
        if member.name == "points":
            model = load_point_net(weights.folder, member)
            with torch.inference_mode():
                expected = list(model(pixels["images"]).values())
            found = session.run(list(model(pixels["images"])), {"images": pixels["images"].numpy()})
        else:
            views = [name.removeprefix("pixels_") for name in pixels]
            present = {name: torch.rand(5, 3, generator=generator) > 0.4 for name in views}
            present[views[0]][3] = False
            level = torch.arange(5)
            model = load_member(weights.folder, member, "cpu").model
            with torch.inference_mode():
                given = {name: pixels[f"pixels_{name}"] for name in views}
                expected = [model.log_probabilities(given, present, level)]
            tensors = pixels | {f"present_{name}": there for name, there in present.items()} | {"level": level}
            found = session.run(None, {name: values.numpy() for name, values in tensors.items()})
        for a, b in zip(found, expected, strict=True):
            assert np.abs(a - b.numpy()).max() < 1e-4, member.name


def test_a_network_that_answers_differently_is_not_written(weights, tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    # as one would that drops a bias on the way
    monkeypatch.setattr(torch.onnx, "export", _with_another_bias(torch.onnx.export))
    out = tmp_path / "out"
    assert main(["export", str(out), "--weights", str(weights.folder), "--networks", "multichannel"]) == 1
    assert "ONNX Runtime differs from PyTorch by" in capsys.readouterr().err
    assert not list(out.glob("*.onnx"))


def _with_another_bias(export):
    def changed(graph, *args, **options):
        bias = graph.model.classify.bias.data
        bias[0] += 0.1
        export(graph, *args, **options)
        bias[0] -= 0.1

    return changed
