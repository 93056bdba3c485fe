"""The command that measures points."""

from __future__ import annotations

from types import SimpleNamespace

from pipeline.__main__ import main
from pipeline.commands.evaluate_landmarks import _names


def test_a_folder_or_weights_that_cannot_be_used_are_named(tmp_path, capsys):
    assert main(["evaluate", "landmarks", "--data", str(tmp_path), "--weights", str(tmp_path)]) == 1
    assert "manifest.json" in capsys.readouterr().err


def test_two_folders_of_one_name_are_kept_apart(tmp_path):
    one, two, three = (SimpleNamespace(root=tmp_path / place) for place in ("a/ph", "b/ph", "c/spider"))
    assert _names([one, two, three]) == [str(tmp_path / "a/ph"), str(tmp_path / "b/ph"), "spider"]
