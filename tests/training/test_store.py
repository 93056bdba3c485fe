"""The network of a run in a weights folder, and the command that puts it there."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.__main__ import main
from pipeline.ensemble.manifest import Manifest, WeightsError, seen_studies, study_hash, write_seen
from pipeline.training.store import read_network, seconds_on_one_thread, store_network


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
    save_file(tensors, folder / "best.safetensors")
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
    stored = load_file(manifest.verify(member))
    assert {name: tensor.dtype for name, tensor in stored.items()} == {
        "conv.weight": torch.float16,
        "bn.running_var": torch.float32,
        "bn.num_batches_tracked": torch.int64,
    }
    assert stored["bn.running_var"][0] == pytest.approx(1e-9)  # as a half it would be 0
    assert manifest.seen(member) == {study_hash("17")}


def test_large_tensors_are_stored_as_bytes_with_a_scale_a_channel(run, weights):
    generator = torch.Generator().manual_seed(0)
    tensors = load_file(run / "best.safetensors")
    size = torch.tensor([1e-3, 1.0, 50.0, 0.0])[:, None, None, None]  # channels of very different size
    tensors["large.weight"] = torch.randn(4, 128, 3, 3, generator=generator) * size
    tensors["depthwise.weight"] = torch.randn(512, 1, 3, 3, generator=generator)
    save_file(tensors, run / "best.safetensors")
    manifest = store_network([run], weights / "default", "a", "canal")
    path = manifest.verify(manifest.members[0])
    stored = load_file(path)
    assert (stored["large.weight"].dtype, stored["depthwise.weight"].dtype) == (torch.int8, torch.float16)
    back = read_network(path)
    assert {name: tensor.shape for name, tensor in back.items()} == {n: t.shape for n, t in tensors.items()}
    off = (back["large.weight"] - tensors["large.weight"]).abs().flatten(1).amax(1)
    largest = tensors["large.weight"].abs().flatten(1).amax(1)
    assert (off <= largest / 254 + 1e-9).all()  # half a step
    assert back["depthwise.weight"].dtype == back["conv.weight"].dtype == torch.float32
    assert back["bn.num_batches_tracked"] == 7


def test_several_runs_of_one_network_become_the_mean_of_their_weights(run, weights, tmp_path):
    more = tmp_path / "more"
    more.mkdir()
    tensors = load_file(run / "best.safetensors")
    further = {name: tensor * 3 for name, tensor in tensors.items()}
    save_file(further, more / "best.safetensors")
    write_seen(more / "seen.txt", seen_studies(["17", "19"]))
    manifest = store_network([run, more], weights / "default", "a", "axial")
    back = read_network(manifest.verify(manifest.members[0]))
    torch.testing.assert_close(back["conv.weight"], tensors["conv.weight"] * 2, atol=1e-3, rtol=0)
    torch.testing.assert_close(back["bn.running_var"], tensors["bn.running_var"] * 2)
    assert back["bn.num_batches_tracked"] == 7  # a count is no weight
    assert manifest.seen(manifest.members[0]) == {study_hash("17"), study_hash("19")}
    save_file(further | {"conv.weight": torch.zeros(3, 2)}, more / "best.safetensors")
    with pytest.raises(WeightsError, match=r"more and .*run are not runs of one network"):
        store_network([run, more], weights / "default", "a", "axial")


def test_a_run_without_its_list_of_studies_changes_nothing(run, weights):
    (run / "seen.txt").unlink()
    with pytest.raises(OSError, match=r"seen\.txt"):
        store_network([run], weights / "default", "a", "axial")
    assert Manifest.load(weights / "default").members == ()


def test_time_is_taken_on_one_thread_and_threads_come_back():
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        seconds = seconds_on_one_thread(lambda: seen.append(torch.get_num_threads()))
        assert seen == [1, 1, 1]
        assert torch.get_num_threads() == 2
        assert seconds >= 0
        with pytest.raises(ZeroDivisionError):
            seconds_on_one_thread(lambda: 1 / 0)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_pack_shares_a_network_of_the_set_beside(run, weights, capsys):
    store_network([run], weights / "default", "axial-fold0", "axial")
    assert main(["pack", str(weights / "phantom"), "--share", "default:axial-fold0"]) == 0
    (member,) = Manifest.load(weights / "phantom").members
    assert member.file == "../default/axial-fold0.safetensors"
    assert "1 networks" in capsys.readouterr().out
    assert main(["pack", str(weights / "phantom"), "--share", "default:axial-fold1"]) == 1
    assert "no member 'axial-fold1', only axial-fold0" in capsys.readouterr().err


def test_pack_says_what_a_run_lacks(tmp_path, weights, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["pack", str(weights / "default"), "--runs", f"landmarks:0={tmp_path / 'empty'}"]) == 1
    assert "config.yaml" in capsys.readouterr().err
