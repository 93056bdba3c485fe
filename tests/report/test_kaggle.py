"""``python -m pipeline kaggle``: what it builds is complete, verified, and in the form Kaggle's commands ask for."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from pipeline.__main__ import main
from pipeline.ensemble.manifest import Manifest, Member, sha256_of
from pipeline.report.kaggle import ROOT
from pipeline.report.wheelhouse import MARKER, WheelError, build_wheelhouse, requirement_names
from tests.report.mounts import OPTIONAL, write_wheels


@pytest.fixture
def index(tmp_path, monkeypatch):
    """pip sees a folder of wheels and no index."""
    folder = write_wheels(tmp_path / "index")
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "PIP_CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(name, value)
    return folder


@pytest.fixture
def weights(tmp_path):
    """A set with one member, its list of seen studies, a model card, and a file that no manifest names."""
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "canal.safetensors").write_bytes(b"numbers")
    (folder / "canal.seen.txt").write_text("0123456789abcdef\n")
    (folder / "MODEL_CARD.md").write_text("# Card\n")
    (folder / "left-over.ckpt").write_bytes(b"a pickle")
    Manifest(folder, "test", "one network").add_member(
        Member("canal-0", "canal", "canal.safetensors", "", seen="canal.seen.txt")
    )
    return folder


def built_json(folder):
    return json.loads(folder.read_text())


def test_the_whole_build(tmp_path, index, weights, capsys):
    out = tmp_path / "out"
    assert main(["kaggle", str(out), "--user", "someone", "--weights", str(weights)]) == 0
    said = capsys.readouterr().out
    for name in ("code", "weights", "wheels"):
        meta = built_json(out / name / "dataset-metadata.json")
        assert meta["id"] == f"someone/lumbar-grading-{name}"
        assert 6 <= len(meta["title"]) <= 50
        assert 20 <= len(meta["subtitle"]) <= 80
        assert len(meta["licenses"]) == 1
        assert f"kaggle datasets create -p {out / name} --dir-mode zip" in said
    kernel = built_json(out / "kernel" / "kernel-metadata.json")
    assert kernel["enable_internet"] is False
    assert kernel["enable_gpu"] is True
    assert kernel["machine_shape"] == "NvidiaTeslaT4"
    assert kernel["dataset_sources"] == [f"someone/lumbar-grading-{name}" for name in ("code", "weights", "wheels")]
    assert kernel["competition_sources"] == ["rsna-2024-lumbar-spine-degenerative-classification"]
    assert kernel["id"] == "someone/" + kernel["title"].lower().replace(" ", "-")
    assert (out / "kernel" / kernel["code_file"]).read_bytes() == (ROOT / "kaggle_notebook.ipynb").read_bytes()
    assert f"kaggle kernels push -p {out / 'kernel'}" in said
    assert said.endswith(
        f"open its page and choose 'Submit to Competition':\n  https://www.kaggle.com/code/{kernel['id']}\n"
    )
    assert sorted(path.name for path in (out / "weights").iterdir()) == [
        "MODEL_CARD.md", "canal.safetensors", "canal.seen.txt", "dataset-metadata.json", "manifest.json",
    ]  # fmt: skip
    wheels = built_json(out / "wheels" / MARKER)["wheels"]
    assert {wheel["name"]: wheel["version"] for wheel in wheels} == OPTIONAL
    assert all(sha256_of(out / "wheels" / wheel["file"]) == wheel["sha256"] for wheel in wheels)


def test_a_network_of_the_set_beside_is_uploaded_with_the_set(tmp_path, weights):
    beside = tmp_path / "beside"
    Manifest(beside, "beside", "no network of its own").share(["canal-0"], Manifest.load(weights))
    out = tmp_path / "out"
    assert main(["kaggle", str(out), "--no-wheels", "--weights", str(beside)]) == 0
    uploaded = Manifest.load(out / "weights")
    assert uploaded.verify(uploaded.members[0]) == out / "weights" / "set-canal.safetensors"
    assert uploaded.seen(uploaded.members[0]) == {"0123456789abcdef"}


def test_the_code_alone_runs(tmp_path, weights):
    out = tmp_path / "out"
    assert main(["kaggle", str(out), "--no-wheels", "--weights", str(weights)]) == 0
    code = out / "code"
    assert not list(code.rglob("__pycache__"))
    ours = {
        path.relative_to(ROOT) for path in (ROOT / "pipeline").rglob("*.*") if path.suffix in (".py", ".yaml", ".csv")
    }
    assert ours <= {path.relative_to(code) for path in code.rglob("*")}
    done = subprocess.run(
        [sys.executable, "submit.py", "--help"],
        cwd=code,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_second_build_replaces_the_first_and_nothing_else(tmp_path, weights, capsys):
    out = tmp_path / "out"
    assert main(["kaggle", str(out), "--no-wheels", "--no-weights"]) == 0
    assert "run again with --user" in capsys.readouterr().out
    (out / "code" / "old.py").write_text("")
    assert main(["kaggle", str(out), "--no-wheels", "--weights", str(weights), "--accelerator", "none"]) == 0
    assert not (out / "code" / "old.py").exists()
    kernel = built_json(out / "kernel" / "kernel-metadata.json")
    assert (kernel["enable_gpu"], kernel["machine_shape"]) == (False, "")
    (out / "thesis.txt").write_text("not ours")
    assert main(["kaggle", str(out), "--no-wheels", "--no-weights"]) == 2
    assert "not an earlier build" in capsys.readouterr().err


def test_a_damaged_network_is_not_packed(tmp_path, weights, capsys):
    (weights / "canal.safetensors").write_bytes(b"others")
    assert main(["kaggle", str(tmp_path / "out"), "--no-wheels", "--weights", str(weights)]) == 1
    assert "sha256" in capsys.readouterr().err
    assert main(["kaggle", str(tmp_path / "out"), "--no-wheels", "--weights", str(tmp_path)]) == 1
    assert "expected the manifest" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--python-version", "python3"], ["--user", "a b"], ["--accelerator", "P100"]])
def test_a_wrong_call_is_status_two(tmp_path, wrong):
    assert main(["kaggle", str(tmp_path / "out"), *wrong]) == 2
    assert not (tmp_path / "out").exists()


def test_wheels_that_need_something_absent_are_refused(tmp_path, index):
    write_wheels(index, extra_need="scipy-with-extras>=2")
    with pytest.raises(WheelError, match="needs scipy-with-extras"):
        build_wheelhouse(tmp_path / "wheels", ROOT / "requirements-decoders.txt", "3.12", ["numpy"])


def test_without_an_index_the_message_names_the_way_out(tmp_path, index, capsys):
    for wheel in index.glob("*.whl"):
        wheel.unlink()
    assert main(["kaggle", str(tmp_path / "out"), "--no-weights"]) == 1
    assert "--no-wheels leaves them out" in capsys.readouterr().err


def test_the_optional_packages_are_not_in_the_base_requirements():
    optional = requirement_names(ROOT / "requirements-decoders.txt")
    assert sorted(optional) == sorted(OPTIONAL)
    assert not set(optional) & set(requirement_names(ROOT / "requirements.txt"))
