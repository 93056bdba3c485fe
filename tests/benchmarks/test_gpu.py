"""The GPU script on the CPU, with tiny networks: every network takes a step, and a fold is killed and goes on."""

import json

import pytest

from pipeline.labels import Family
from pipeline.severity.recipes import load_recipes
from tests.benchmarks import gpu


@pytest.mark.slow
def test_all_networks_of_a_preset_are_measured_and_a_fold_is_killed_and_resumed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "PRESETS", ("winner",))
    assert gpu.main(["--tiny", "--json", str(tmp_path / "gpu.json")]) == 0
    found = json.loads((tmp_path / "gpu.json").read_text())
    names = [recipe.name for recipe in load_recipes("winner", list(Family), {})]
    assert [row["network"] for row in found["rows"]] == ["landmarks", "axial", *names]
    assert all(row["images_per_s"] > 0 and 0 <= row["wait_share"] < 1 for row in found["rows"])
    assert found["fold"]["killed"]
    assert found["fold"]["resumed"]
    assert "passed" in found["fold"]["ladder"]
    assert "winner canal-caformer" in capsys.readouterr().out


def test_a_network_that_fails_is_a_row_and_the_script_says_so():
    def make():
        raise ValueError("no such layer\nand more")

    row = gpu.measure("kaggle", "canal", make, gpu.LoopSettings(device="cpu"), 1)
    assert (row.images_per_s, row.note) == (None, "ValueError: no such layer")
    assert gpu.lines([row], {"ok": False, "seconds": 1.234})[1:] == [
        "kaggle canal                             no         -      -        -  ValueError: no such layer",
        "one fold of winner: ok False, seconds 1.23",
    ]


def test_without_a_gpu_it_says_so(capsys, monkeypatch):
    monkeypatch.setattr(gpu, "working_gpu", lambda: False)
    assert gpu.main([]) == 2
    assert "--tiny" in capsys.readouterr().out
