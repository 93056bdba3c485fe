"""The dispatcher: help without torch, exit statuses."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.__main__ import COMMANDS, main

ROOT = Path(__file__).parents[1]
HELP_WITHOUT_TORCH = """
import sys
from pipeline.__main__ import COMMANDS, main
from pipeline.commands.submit import main as submit
status = {name: main([*name.split(), "--help"]) for name in [*COMMANDS, "train", "evaluate", ""]}
print(status | {"submit": submit(["--help"]), "torch": int("torch" in sys.modules)})
"""


def test_every_help_answers_without_torch():
    done = subprocess.run(
        [sys.executable, "-c", HELP_WITHOUT_TORCH], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert ast.literal_eval(done.stdout.splitlines()[-1]) == dict.fromkeys(
        [*COMMANDS, "train", "evaluate", "", "submit", "torch"], 0
    )
    assert "--time-budget" in done.stdout


def test_a_wrong_call_is_status_two(capsys):
    assert main(["scoer"]) == 2
    assert "expected one of phantom, check, score" in capsys.readouterr().err
    assert main([]) == 2
    assert main(["evaluate", "landmark"]) == 2
    assert "expected one of evaluate landmarks, evaluate severity\n" in capsys.readouterr().err
    assert main(["evaluate"]) == 2
    assert "evaluate severity" in (printed := capsys.readouterr().out)
    assert "train" not in printed.replace("trained", "")
    assert main(["score", "only-one.csv"]) == 2


@pytest.mark.parametrize("stage", ["landmarks", "severity"])
def test_folders_that_commands_write_by_default_are_named_and_not_committed(stage, capsys):
    assert main(["evaluate", stage, "--help"]) == 0
    assert f"(default: {stage}_evaluation)" in " ".join(capsys.readouterr().out.split())
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {f"/{stage}_evaluation/", "/cache/", "/runs/", "/upload/", "/prior.csv"} <= set(ignored)
