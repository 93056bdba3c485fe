"""The command that measures points."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

from pipeline.__main__ import main
from pipeline.commands.evaluate_landmarks import _names


def test_a_folder_or_weights_that_cannot_be_used_are_named(tmp_path, capsys):
    assert main(["evaluate", "landmarks", "--data", str(tmp_path), "--weights", str(tmp_path)]) == 1
    assert "manifest.json" in capsys.readouterr().err


def test_help_needs_no_torch():
    code = (
        "import sys; from pipeline.__main__ import main; "
        "codes = [main(words) for words in (['evaluate', '--help'], ['train', 'landmarks', '--help'])]; "
        "assert codes == [0, 0]; assert 'torch' not in sys.modules, 'torch was imported'"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=False)
    assert ran.returncode == 0, ran.stderr


def test_two_folders_of_one_name_are_kept_apart(tmp_path):
    one, two, three = (SimpleNamespace(root=tmp_path / place) for place in ("a/ph", "b/ph", "c/spider"))
    assert _names([one, two, three]) == [str(tmp_path / "a/ph"), str(tmp_path / "b/ph"), "spider"]
