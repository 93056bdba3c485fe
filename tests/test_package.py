"""The installed package: its console commands, its files, its version, and weights that it does not bring."""

from __future__ import annotations

import fnmatch
import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import pipeline
from pipeline.__main__ import main
from pipeline.commands import submit
from tests.run.studies import write_studies

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_console_commands_are_the_two_programs():
    scripts = PROJECT["project"]["scripts"]
    assert set(scripts) == {"lumbar-grading", "lumbar-pipeline"}
    for place in scripts.values():
        module, _, name = place.partition(":")
        assert callable(getattr(importlib.import_module(module), name))


def test_every_file_that_is_no_code_is_packed():
    package = ROOT / "pipeline"
    found = {
        path.relative_to(ROOT) for path in package.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    packed = {
        path.relative_to(ROOT)
        for name, patterns in PROJECT["tool"]["setuptools"]["package-data"].items()
        for pattern in patterns for path in (ROOT / name.replace(".", "/")).glob(pattern)
    }  # fmt: skip
    assert found == packed
    folders = {path.parent for path in package.rglob("*.py")}
    assert all((folder / "__init__.py").is_file() for folder in folders), "only these are found as packages"


@pytest.mark.parametrize("command", [["submit.py"], ["-m", "pipeline"], ["-m", "pipeline", "score"]])
def test_every_program_says_its_version(command):
    done = subprocess.run([sys.executable, *command, "--version"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"lumbar-grading {pipeline.__version__}\n"


def test_an_installed_package_without_weights_says_where_they_may_be(tmp_path, monkeypatch, capsys):
    write_studies(tmp_path / "data", ["9"])
    out = tmp_path / "out" / "submission.csv"
    monkeypatch.setattr(submit, "IS_CLONE", False)
    monkeypatch.setattr(submit, "DEFAULT_WEIGHTS", tmp_path / "weights" / "default")
    assert submit.main(["--data", str(tmp_path / "data"), "--out", str(out)]) == 2
    assert "no weights: " in (said := capsys.readouterr().err)
    assert "--weights DIR or LUMBAR_WEIGHTS=DIR" in said
    assert not out.parent.exists()


def test_the_image_is_built_from_files_that_are_there_and_not_ignored():
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = [name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]]
    assert len(copied) > 5
    for name in copied:
        assert (ROOT / name).exists(), name
        assert any(fnmatch.fnmatch(name, pattern) for pattern in kept), name
    assert 'ENTRYPOINT ["lumbar-grading"]' in lines


def test_the_version_is_the_same_wherever_it_is_written():
    assert f"\nversion: {pipeline.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## {pipeline.__version__}\n" in (ROOT / "CHANGELOG.md").read_text()


WHERE = "from pipeline.commands import DEFAULT_WEIGHTS; print(DEFAULT_WEIGHTS)"


@pytest.mark.parametrize(("named", "expected"), [("elsewhere", "elsewhere"), ("", ROOT / "weights" / "default")])
def test_the_environment_may_name_the_weights(named, expected, monkeypatch):
    monkeypatch.setenv("LUMBAR_WEIGHTS", named)
    done = subprocess.run([sys.executable, "-c", WHERE], cwd=ROOT, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == Path(expected)


def test_verbose_says_where_an_error_arose_and_what_is_worked_around(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(submit, "DEFAULT_WEIGHTS", tmp_path / "none")
    assert main(["score", str(tmp_path / "none.csv"), "s.csv"]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert main(["score", str(tmp_path / "none.csv"), "s.csv", "--verbose"]) == 2
    assert "Traceback" in capsys.readouterr().err
    write_studies(tmp_path / "data", ["9"])
    (next((tmp_path / "data").rglob("9")) / "stray.txt").write_text("a file among the series")
    out = tmp_path / "out" / "submission.csv"
    for option in ([], ["--verbose"]):
        arguments = ["--data", tmp_path / "data", "--out", out, "--workers", 1, "--quiet", *option]
        submit.main([str(one) for one in arguments])
        assert ("a file among the series folders" in capsys.readouterr().out) == bool(option)
        assert "a file among the series folders" in out.with_suffix(".log").read_text(encoding="utf-8")


def test_uploads_are_built_from_a_clone_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("pipeline.commands.kaggle.IS_CLONE", False)
    assert main(["kaggle", str(tmp_path / "upload")]) == 2
    assert "in a clone" in capsys.readouterr().err
    assert not (tmp_path / "upload").exists()
