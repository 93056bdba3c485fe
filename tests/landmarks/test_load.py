"""Point networks in a weights folder."""

from dataclasses import replace

import pandas as pd
import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file, save_file

from pipeline.__main__ import main
from pipeline.config import ConfigError, to_dict
from pipeline.labels import SeriesKind
from pipeline.landmarks.load import load_point_net, load_predictor, make_predictor
from pipeline.landmarks.model import PointModelSettings, PointNet
from pipeline.landmarks.store import store_run
from pipeline.landmarks.task import LandmarkTrainSettings
from pipeline.weights.manifest import Manifest, WeightsError
from pipeline.weights.seen import seen_studies, write_seen
from tests.landmarks.spine import sagittal, study


def model_settings(channels):
    return PointModelSettings("test_efficientnet", "pretrained", channels=channels, size_px=64, width=8)


def write_run(folder, channels, seen, scores=(4.0, 2.5)):
    """What a training run leaves."""
    folder.mkdir(parents=True)
    model = PointNet(PointModelSettings("test_efficientnet", "random", channels=channels, size_px=64, width=8))
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "last.safetensors")
    config = to_dict(LandmarkTrainSettings(model=model_settings(channels)))
    (folder / "config.yaml").write_text(yaml.safe_dump({"task": "landmarks", "config": config}))
    write_seen(folder / "seen.txt", seen_studies(seen))
    pd.DataFrame({"epoch": [1, 2], "score": scores}).to_csv(folder / "history.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Two sagittal folds and one axial network."""
    root = tmp_path_factory.mktemp("weights")
    folder = root / "default"
    folder.mkdir()
    Manifest(folder, "default", "for a test").save()
    store_run([write_run(root / "a", 10, ["1", "2"])], folder, "landmarks", "landmarks-0", 0)
    store_run([write_run(root / "b", 10, ["3", "4"], (3.0, 3.5))], folder, "landmarks", "landmarks-1", 1)
    nothing = (float("nan"), float("nan"))
    store_run([write_run(root / "c", 1, ["1", "2", "3"], nothing)], folder, "axial", "axial", None)
    return folder


def test_a_stored_run_is_recorded_with_what_it_saw(weights):
    manifest = Manifest.load(weights)
    first, second = manifest.of_task("landmarks")
    assert (first.name, first.fold, first.score, second.score) == ("landmarks-0", 0, 2.5, 3.0)
    assert first.config["model"]["initial"] == "random"  # inference must not ask the network for weights
    assert len(manifest.seen(first)) == 2
    assert 0 < first.seconds_per_study < 60
    (axial,) = manifest.of_task("axial")
    assert axial.score is None  # nothing was held out


def test_how_studies_are_read_is_stored_with_the_sagittal_network(weights, tmp_path):
    Manifest(tmp_path, "default", "for a test").save()
    run = weights.parent / "a"
    store_run([run], tmp_path, "landmarks", "landmarks-0", 0, ["canal_back_mm=1.5", "axial.trust=0.5"])
    settings = load_predictor(tmp_path).settings
    assert (settings.canal_back_mm, settings.axial.trust) == (1.5, 0.5)
    with pytest.raises(ConfigError, match="canal_back"):
        store_run([run], tmp_path, "landmarks", "landmarks-0", 0, ["canal_bak_mm=1.5"])


def test_a_member_that_is_named_twice_is_the_mean_of_its_runs_and_has_no_score(weights, tmp_path, capsys):
    runs = [weights.parent / "a", weights.parent / "b"]
    assert main(["pack", str(tmp_path), "--runs", *(f"landmarks:0={run}" for run in runs)]) == 0
    assert f"packed landmarks-fold0 from {runs[0]} and {runs[1]}" in capsys.readouterr().out
    manifest = Manifest.load(tmp_path)
    (member,) = manifest.members
    assert member.score is None  # what the mean of two networks is worth, neither run has measured
    assert len(manifest.seen(member)) == 4
    stored = load_point_net(tmp_path, member).heat.weight
    expected = sum(load_file(run / "last.safetensors")["heat.weight"] for run in runs) / 2
    torch.testing.assert_close(stored, expected, atol=1e-3, rtol=0, check_device=False)


def test_stored_weights_are_half_precision_and_load_as_float(weights):
    assert load_file(weights / "landmarks-0.safetensors")["heat.weight"].dtype == torch.float16
    model = load_point_net(weights, Manifest.load(weights).members[0])
    assert model.heat.weight.dtype == torch.float32
    original = load_file(weights.parent / "a" / "last.safetensors")["heat.weight"]
    assert torch.allclose(model.heat.weight, original, atol=1e-3)
    assert not model.training


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 16}, "landmarks-0 cannot be loaded.*the tensor '.*' is .*, the settings ask for"),
        ({"width": 4096, "size_px": 1 << 40}, "size_px is 1099511627776, expected at least 16 and at most 1024"),
        ({"channels": 1}, "channels is 1, a network of task landmarks has 10"),
        ({"backbone": "hf-hub:someone/network"}, "landmarks-0.*is no name of timm's own networks"),
        ({"backbone": "mobilenetv2_100.hf-hub:someone/network"}, "is no name of timm's own networks"),
        ({"backbone": "local-dir:/etc"}, "is no name of timm's own networks"),
        ({"backbone": "vit_gigantic_patch14_clip_224"}, "landmarks-0 cannot be loaded"),
        ({"depth": 3}, "unknown setting 'model.depth'"),
    ],
)
def test_weights_of_another_network_are_refused(weights, changes, message):
    member = Manifest.load(weights).members[0]
    member = replace(member, config={**member.config, "model": {**member.config["model"], **changes}})
    with pytest.raises(WeightsError, match=message):
        load_point_net(weights, member)


def test_a_network_without_settings_and_settings_out_of_range_are_refused(weights):
    sagittal, _, axial = Manifest.load(weights).members
    for config, message in (({}, "expected a mapping"), ({"model": []}, "expected a mapping")):
        with pytest.raises(WeightsError, match=f"landmarks-0.*{message}"):
            make_predictor(weights, [replace(sagittal, config=config)], "cpu")
    for pixel_mm in (float("nan"), 0, 1e9, "wide", [1]):
        with pytest.raises(WeightsError, match=r"axial.*pixel_mm"):
            make_predictor(weights, [replace(axial, config={**axial.config, "pixel_mm": pixel_mm})], "cpu")
    settings = {"decode": {"candidates": 1_000_000}}
    with pytest.raises(WeightsError, match="candidates is 1000000"):
        make_predictor(weights, [replace(sagittal, config={**sagittal.config, "settings": settings})], "cpu")


def test_inference_asks_nobody_for_pretrained_weights_whatever_the_settings_say(weights, monkeypatch):
    asked = []
    create = timm.create_model

    def watched(name, pretrained=False, **options):
        asked.append(pretrained)
        return create(name, pretrained=pretrained, **options)

    monkeypatch.setattr(timm, "create_model", watched)
    member = Manifest.load(weights).members[0]
    for initial in ("pretrained", "/dev/zero"):
        model = {**member.config["model"], "initial": initial}
        load_point_net(weights, replace(member, config={**member.config, "model": model}))
    assert asked
    assert not any(asked)


def test_a_network_whose_answer_is_not_finite_is_refused_by_name(tmp_path):
    run = write_run(tmp_path / "run", 10, ["1"])
    tensors = load_file(run / "last.safetensors")
    name = next(name for name in tensors if name.endswith("running_var"))
    tensors[name].fill_(-1.0)  # a finite number of which the root is none
    save_file(tensors, run / "last.safetensors")
    folder = tmp_path / "set"
    folder.mkdir()
    Manifest(folder, "default", "for a test").save()
    store_run([run], folder, "landmarks", "landmarks-0", 0)
    with pytest.raises(WeightsError, match="landmarks-0: its answer is not finite"):
        load_predictor(folder).predict(study(sagittal(SeriesKind.SAGITTAL_T2, "2")))


def network_of(predictor, weights):
    """Which member a predictor's sagittal network is."""
    for name in ("landmarks-0", "landmarks-1"):
        if torch.equal(
            predictor.sagittal.heat.weight, load_file(weights / f"{name}.safetensors")["heat.weight"].float()
        ):
            return name
    return None


def test_the_first_network_of_each_task_is_taken(weights):
    predictor = load_predictor(weights)
    assert network_of(predictor, weights) == "landmarks-0"
    assert predictor.axial is not None
    landmarks = predictor.predict(study(sagittal(SeriesKind.SAGITTAL_T2, "2")))  # whatever an untrained network says
    assert landmarks.points_mm.shape == (25, 3)


def test_a_network_that_has_seen_the_study_is_passed_over(weights):
    assert network_of(load_predictor(weights, unseen="9"), weights) == "landmarks-0"
    assert network_of(load_predictor(weights, unseen="2"), weights) == "landmarks-1"
    assert load_predictor(weights, unseen="2").axial is None
    assert load_predictor(weights, unseen="4").axial is not None
    assert network_of(load_predictor(weights, unseen="4"), weights) == "landmarks-0"


def test_a_damaged_file_is_refused(weights, tmp_path):
    for file in weights.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    damaged = tmp_path / "landmarks-0.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x01")
    with pytest.raises(WeightsError, match="sha256"):
        load_predictor(tmp_path)
    with pytest.raises(WeightsError, match=r"manifest\.json"):
        load_predictor(tmp_path / "nowhere")
