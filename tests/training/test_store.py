"""The network of a run in a weights folder, and the command that puts it there."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load, load_file, save, save_file
from torch import nn

from pipeline.__main__ import main
from pipeline.training.store import store_network
from pipeline.weights.manifest import Manifest, WeightsError
from pipeline.weights.seen import seen_studies, study_hash, write_seen
from pipeline.weights.tensors import load_network, read_network


@pytest.fixture
def run(tmp_path):
    """What a training leaves that is stored."""
    folder = tmp_path / "run"
    folder.mkdir()
    tensors = {
        "conv.weight": torch.full((2, 2), 1 / 3),
        "bn.running_var": torch.full((2,), 1e-9),
        "bn.num_batches_tracked": torch.tensor(7),
    }
    save_file(tensors, folder / "last.safetensors")
    write_seen(folder / "seen.txt", seen_studies(["17"]))
    return folder


@pytest.fixture
def weights(tmp_path):
    """Two empty sets side by side."""
    for name in ("default", "phantom"):
        (tmp_path / "sets" / name).mkdir(parents=True)
        Manifest(tmp_path / "sets" / name, name, "").save()
    return tmp_path / "sets"


def test_weights_are_halved_and_short_statistics_are_not(run, weights):
    manifest = store_network([run], weights / "default", "a", "axial", fold=2, score=0.5, seconds_per_study=0.1)
    (member,) = manifest.members
    assert (member.file, member.fold, member.score) == ("a.safetensors", 2, 0.5)
    stored = load(member.read(manifest.folder))
    assert {name: tensor.dtype for name, tensor in stored.items()} == {
        "conv.weight": torch.float16,
        "bn.running_var": torch.float32,
        "bn.num_batches_tracked": torch.int64,
    }
    assert stored["bn.running_var"][0] == pytest.approx(1e-9)  # as a half it would be 0
    assert manifest.seen(member) == {study_hash("17")}


def test_large_tensors_are_stored_as_bytes_with_a_scale_a_channel(run, weights):
    generator = torch.Generator().manual_seed(0)
    tensors = load_file(run / "last.safetensors")
    size = torch.tensor([1e-3, 1.0, 50.0, 0.0])[:, None, None, None]  # channels of very different size
    tensors["large.weight"] = torch.randn(4, 128, 3, 3, generator=generator) * size
    tensors["depthwise.weight"] = torch.randn(512, 1, 3, 3, generator=generator)
    save_file(tensors, run / "last.safetensors")
    manifest = store_network([run], weights / "default", "a", "canal")
    content = manifest.members[0].read(manifest.folder)
    stored = load(content)
    assert (stored["large.weight"].dtype, stored["depthwise.weight"].dtype) == (torch.int8, torch.float16)
    back = read_network(content)
    assert {name: tensor.shape for name, tensor in back.items()} == {n: t.shape for n, t in tensors.items()}
    off = (back["large.weight"] - tensors["large.weight"]).abs().flatten(1).amax(1)
    largest = tensors["large.weight"].abs().flatten(1).amax(1)
    assert (off <= largest / 254 + 1e-9).all()  # half a step
    assert back["depthwise.weight"].dtype == back["conv.weight"].dtype == torch.float32
    assert back["bn.num_batches_tracked"] == 7


def test_several_runs_of_one_network_become_the_mean_of_their_weights(run, weights, tmp_path):
    more = tmp_path / "more"
    more.mkdir()
    tensors = load_file(run / "last.safetensors")
    further = {name: tensor * 3 for name, tensor in tensors.items()}
    save_file(further, more / "last.safetensors")
    write_seen(more / "seen.txt", seen_studies(["17", "19"]))
    manifest = store_network([run, more], weights / "default", "a", "axial")
    back = read_network(manifest.members[0].read(manifest.folder))
    torch.testing.assert_close(back["conv.weight"], tensors["conv.weight"] * 2, atol=1e-3, rtol=0)
    torch.testing.assert_close(back["bn.running_var"], tensors["bn.running_var"] * 2)
    assert back["bn.num_batches_tracked"] == 7  # a count is no weight
    assert manifest.seen(manifest.members[0]) == {study_hash("17"), study_hash("19")}
    save_file(further | {"conv.weight": torch.zeros(3, 2)}, more / "last.safetensors")
    with pytest.raises(WeightsError, match=r"more and .*run are not runs of one network"):
        store_network([run, more], weights / "default", "a", "axial")


def test_a_run_without_its_list_of_studies_changes_nothing(run, weights):
    (run / "seen.txt").unlink()
    with pytest.raises(OSError, match=r"seen\.txt"):
        store_network([run], weights / "default", "a", "axial")
    assert Manifest.load(weights / "default").members == ()


class Positions(nn.Module):
    """A network that makes more for itself than its file holds."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.register_buffer("count", torch.tensor(3))
        self.register_buffer("table", torch.arange(2.0), persistent=False)
        self.loose = torch.ones(2)

    def forward(self, values):
        return self.linear(values) + self.table + self.loose


@pytest.fixture
def stored():
    torch.manual_seed(0)
    return {name: tensor.clone() for name, tensor in Positions().state_dict().items()}


@pytest.mark.parametrize("build", [Positions, lambda: nn.Sequential(nn.Linear(2, 2))])
def test_a_loaded_network_answers_as_the_stored_one(build):
    torch.manual_seed(0)
    model = build().eval()
    loaded = load_network("a", save(model.state_dict()), build)
    values = torch.rand(3, 2)
    assert torch.equal(loaded(values), model(values))
    assert not loaded.training
    assert not any(tensor.is_meta for tensor in loaded.state_dict().values())


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        (
            "linear.weight",
            torch.zeros(2, 3),
            r"'linear.weight' is \(2, 3\) torch.float32, the settings ask for \(2, 2\)",
        ),
        ("linear.weight", torch.zeros(2, 2, dtype=torch.int8), "'linear.weight' is .* torch.int8"),
        ("linear.weight", torch.zeros(2, 2, dtype=torch.complex64), "'linear.weight' is .* torch.complex64"),
        ("count", torch.tensor(3.0), "'count' is .* torch.float32, the settings ask for .* torch.int64"),
        ("linear.bias", torch.tensor([0.0, float("nan")]), "'linear.bias' holds numbers that are not finite"),
        ("linear.bias", torch.tensor([0.0, float("inf")]), "'linear.bias' holds numbers that are not finite"),
        ("linear.more", torch.zeros(1), "'linear.more' is only in the file"),
        ("linear.bias", None, "'linear.bias' is only in the network"),
        ("linear.weight.scale", torch.zeros(7), "RuntimeError"),
    ],
)
def test_tensors_that_are_not_those_of_the_settings_are_refused_by_name(stored, name, tensor, message):
    stored[name] = tensor
    content = save({name: tensor for name, tensor in stored.items() if tensor is not None})
    with pytest.raises(WeightsError, match=rf"network canal-fold0 cannot be loaded: .*{message}"):
        load_network("canal-fold0", content, Positions)


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 8, (2**62).to_bytes(8, "little") + b"{}", b"\x02" + bytes(7) + b"[]"]
)
def test_what_is_no_safetensors_file_is_refused_by_name(content):
    with pytest.raises(WeightsError, match="network canal-fold0 cannot be loaded"):
        load_network("canal-fold0", content, Positions)


def test_a_network_larger_than_the_machine_is_refused_before_it_is_made(stored):
    content = save(stored)
    with pytest.raises(WeightsError, match=r"the tensor '.*' is only in the"):
        load_network("a", content, lambda: nn.Sequential(nn.Linear(1 << 30, 1 << 20)))  # 4 PB


def test_an_answer_that_is_not_finite_is_refused_by_name(stored):
    model = load_network("canal-fold0", save(stored), Positions)
    assert model(torch.ones(1, 2)).isfinite().all()
    with pytest.raises(WeightsError, match="network canal-fold0: its answer is not finite"):
        model(torch.full((1, 2), float("inf")))


def test_pack_says_what_a_run_lacks(tmp_path, weights, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["pack", str(weights / "default"), "--runs", f"landmarks:0={tmp_path / 'empty'}"]) == 1
    assert "config.yaml" in capsys.readouterr().err
