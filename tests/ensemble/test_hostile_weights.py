"""Sets of weights that were made to do harm: no run waits, no network asks anybody, and the table is written."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

from pipeline.commands import submit as submit_command
from pipeline.config import from_dict, to_dict
from pipeline.cubes import StudyCubes
from pipeline.ensemble.networks import Networks
from pipeline.labels import CELL_INDEX, Cell, Condition, Family, SeriesKind
from pipeline.landmarks.model import PointModelSettings, PointNet
from pipeline.severity.model import SeverityModel
from pipeline.severity.predict import load_member, member_config
from pipeline.severity.settings import NetworkSettings, SeveritySettings
from pipeline.submission import read_submission
from pipeline.weights.manifest import Manifest, Member, WeightsError
from tests.landmarks.spine import sagittal, study
from tests.run.studies import write_studies
from tests.severity.test_predict import VIEW, cube

NETWORK = NetworkSettings("test_resnet", encoder="multichannel", head="mean", width=8, level_width=4)
SETTINGS = SeveritySettings(views=(VIEW,), network=NETWORK)


@pytest.fixture
def weights(tmp_path):
    """A sound classifier of subarticular stenosis, and a fit."""
    torch.manual_seed(0)
    model = SeverityModel(NETWORK, (VIEW,))
    config = member_config(SETTINGS, Family.SUBARTICULAR)
    member = Member("subarticular-fold0", "subarticular", "net.safetensors", "", seen="net.seen.txt", config=config)
    manifest = Manifest(tmp_path / "set", "made up", "one network")
    manifest = manifest.add_member(member, save({name: t.contiguous() for name, t in model.state_dict().items()}))
    return manifest.add_file("ensemble.json", b"{}")


def submit(tmp_path: Path, weights: Path, capsys) -> str:
    """The last line of a run that must come to its end with a whole table."""
    write_studies(tmp_path / "data", ["1"])
    out = tmp_path / "out" / "s.csv"
    call = ["--data", tmp_path / "data", "--out", out, "--weights", weights, "--workers", 1, "--quiet"]
    assert submit_command.main([*map(str, call)]) == 0
    assert len(read_submission(out)) == 25
    return capsys.readouterr().out


@pytest.mark.parametrize("name", ["net.safetensors", "net.seen.txt", "ensemble.json"])
@pytest.mark.parametrize("kind", ["pipe", "/dev/zero", "link", "folder", "gone", "endless"])
def test_a_file_that_is_none_is_left_out_at_once(tmp_path, weights, capsys, name, kind):
    path = weights.folder / name
    content = path.read_bytes()
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "/dev/zero":
        path.symlink_to(kind)
    elif kind == "link":
        (tmp_path / "elsewhere").write_bytes(content)  # with the right checksum
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "folder":
        path.mkdir()
    elif kind == "endless":
        path.touch()
        os.truncate(path, 2**42)
    assert "weights-refused" in submit(tmp_path, weights.folder, capsys)


@pytest.mark.parametrize("name", ["../outside.txt", "/dev/zero", "/etc/hostname", "a/b", "..\\a"])
def test_a_manifest_whose_names_lead_elsewhere_is_not_used(tmp_path, weights, capsys, name):
    content = json.loads((weights.folder / "manifest.json").read_text())
    content["files"][name] = "0" * 64
    (weights.folder / "manifest.json").write_text(json.dumps(content))
    said = submit(tmp_path, weights.folder, capsys)
    assert "no weights" in said
    assert "weights-refused 1" in said


def member_with(weights: Manifest, **changes: object) -> Member:
    """The classifier with other settings of its network."""
    (member,) = weights.members
    severity = json.loads(json.dumps(member.config["severity"]))
    for key, value in changes.items():
        part, _, name = key.rpartition("__")
        (severity[part] if part else severity)[name] = value
    return replace(member, config={**member.config, "severity": severity})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network__backbone": "hf-hub:someone/network"}, "is no name of timm's own networks"),
        ({"network__backbone": "hf_hub:someone/network"}, "is no name of timm's own networks"),
        ({"network__backbone": "local-dir:/etc"}, "is no name of timm's own networks"),
        ({"network__backbone": "resnet18.hf-hub:someone/network"}, "is no name of timm's own networks"),
        ({"network__backbone": "vit_gigantic_patch14_clip_224"}, "cannot be loaded"),
        ({"network__width": 4096}, "the settings ask for"),
        ({"network__width": 10**9}, "width is 1000000000, expected at least 1 and at most 4096"),
        ({"network__width": float("nan")}, "network.width': expected int"),
        ({"network__dropout": float("nan")}, "network.dropout': expected a finite number"),
        ({"worst": 1e300}, "worst is 1e[+]300, expected at least -20 and at most 20"),
        ({"shift_mm": 1e9}, "shift_mm is 1000000000.0"),
        ({"shift_mm": float("inf")}, "shift_mm': expected a finite number"),
        (
            {"views": [{"kind": "Axial T2", "pixels": 100_000}]},
            "pixels is 100000, expected at least 2",
        ),
        ({"views": [{"kind": "Axial T2", "pixels": 1024, "slices": 63}]}, "more than the 2,097,152 pixels"),
        ({"views": [{"kind": "Axial T2", "size_mm": 1e-300}]}, "size_mm is 1e-300"),
        ({"views": [{"kind": "Axial T2"}, {"kind": "Axial T2"}]}, "2 views of Axial T2"),
        ({"views": 3}, "views': expected a list"),
        ({"network": []}, "expected a mapping of NetworkSettings"),
    ],
)
def test_settings_that_no_training_gives_are_refused_with_the_networks_name(weights, changes, message):
    with pytest.raises(WeightsError, match=rf"subarticular-fold0.*{message}"):
        load_member(weights.folder, member_with(weights, **changes), "cpu")


def test_cubes_beyond_any_memory_are_refused_before_a_study_is_read(weights):
    (member,) = weights.members
    views = [{"kind": "Axial T2", "pixels": 1024, "slices": 63}]
    hostile = replace(member, config={**member.config, "cubes": {"subarticular": views}})
    networks, problems = Networks.open(replace(weights, members=(hostile,)))
    assert networks.members == ()
    assert "member subarticular-fold0: cubes.subarticular" in problems[0].detail


def test_networks_that_together_look_at_more_than_memory_holds_are_left_out(weights):
    (member,) = weights.members
    members = []
    for number in range(40):
        views = [{"kind": "Axial T2", "pixels": 1024 - 2 * number, "slices": 1}]
        config = {**member.config, "cubes": {"subarticular": views}}
        members.append(replace(member, name=f"subarticular-{number}", config=config))
    networks, problems = Networks.open(replace(weights, members=(*members, member)))
    assert 20 < len(networks.members) < 41
    assert networks.members[-1] == member, "a small one still has room"
    assert "pixels of a study, at most 268,435,456" in problems[0].detail


def test_a_classifier_whose_answer_is_not_finite_is_refused_by_name(weights):
    (member,) = weights.members
    tensors = load(member.read(weights.folder))
    tensors["classify.weight"] = torch.full_like(tensors["classify.weight"], 3e38)
    manifest = weights.add_member(member, save(tensors))
    grader = load_member(manifest.folder, manifest.members[0], "cpu")
    cubes = {(CELL_INDEX[Cell(Condition.LEFT_SUBARTICULAR, "l1_l2")], VIEW.kind): (cube(1, pixels=VIEW.pixels),)}
    with pytest.raises(WeightsError, match="network subarticular-fold0: its answer is not finite"):
        grader.predict(StudyCubes("s", cubes))


def test_an_axial_network_that_is_refused_costs_no_more_than_itself(tmp_path):
    members = []
    for task, channels in (("landmarks", 10), ("axial", 1)):
        settings = PointModelSettings("test_efficientnet", "random", channels, size_px=64, width=8)
        tensors = {name: tensor.contiguous() for name, tensor in PointNet(settings).state_dict().items()}
        if task == "axial":
            tensors["heat.bias"] = torch.full_like(tensors["heat.bias"], float("nan"))
        member = Member(f"{task}-fold0", task, f"{task}.safetensors", "", config={"model": to_dict(settings)})
        members.append((member, save(tensors)))
    manifest = Manifest(tmp_path / "set", "made up", "")
    for member, content in members:
        manifest = manifest.add_member(member, content)
    networks, _ = Networks.open(manifest)
    volumes = study(sagittal(SeriesKind.SAGITTAL_T2, "2"))
    points, problems = networks.find_landmarks(volumes, ["landmarks-fold0", "axial-fold0"], "cpu", 1)
    assert points.study_id == volumes.study_id
    assert problems[0].what == "network-failed"
    assert "network axial-fold0 cannot be loaded" in problems[0].detail


def test_the_member_that_was_checked_is_the_one_that_grades(weights):
    """What the manifest says when the run begins counts to its end, and so do the bytes that were compared."""
    networks, _ = Networks.open(weights)
    other = member_with(weights, network__head="lstm")
    replace(weights, members=(other,)).save()
    (member,) = networks.members
    assert from_dict(SeveritySettings, member.config["severity"]).network.head == "mean"
    load_member(weights.folder, member, "cpu")
    (weights.folder / "net.safetensors").write_bytes(b"another network")
    with pytest.raises(WeightsError, match="sha256 is"):
        load_member(weights.folder, member, "cpu")
