"""``python -m pipeline kaggle``: what it builds is complete, verified, and in the form Kaggle's commands ask for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.__main__ import main
from pipeline.commands import ROOT
from pipeline.commands.wheelhouse import MARKER, WheelError, build_wheelhouse, requirement_names, sha256_of
from pipeline.owned import MARK
from pipeline.weights.manifest import Manifest, Member
from tests.commands.mounts import OPTIONAL, write_wheels


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
    (folder / "MODEL_CARD.md").write_text("# Card\n")
    (folder / "left-over.ckpt").write_bytes(b"a pickle")
    Manifest(folder, "test", "one network").add_member(
        Member("canal-0", "canal", "canal.safetensors", "", seen="canal.seen.txt"), b"numbers", b"0123456789abcdef\n"
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


def test_two_sets_of_weights_can_stand_beside_each_other(tmp_path, weights, capsys):
    call = ["kaggle", str(tmp_path / "out"), "--user", "someone", "--no-wheels", "--weights", str(weights)]
    assert main([*call, "--name", "Spines of winter"]) == 0
    assert built_json(tmp_path / "out/weights/dataset-metadata.json")["id"] == "someone/spines-of-winter-weights"
    kernel = built_json(tmp_path / "out" / "kernel" / "kernel-metadata.json")
    assert (kernel["id"], kernel["title"]) == ("someone/spines-of-winter", "Spines of winter")
    assert kernel["dataset_sources"] == ["someone/spines-of-winter-code", "someone/spines-of-winter-weights"]
    for name in ("short", "x" * 43, "dashes; and signs"):
        assert main([*call, "--name", name]) == 2
        assert "--name" in capsys.readouterr().err


def test_localisers_that_no_new_study_uses_stay_at_home(tmp_path, weights, capsys):
    manifest = Manifest.load(weights)
    for task in ("landmarks", "axial"):
        for fold in (0, 1):
            name = f"{task}-fold{fold}"
            member = Member(name, task, f"{name}.safetensors", "", fold=fold, seen=f"{name}.seen.txt")
            manifest.add_member(member, name.encode(), b"0123456789abcdef\n")
    assert main(["kaggle", str(tmp_path / "out"), "--no-wheels", "--weights", str(weights)]) == 0
    uploaded = Manifest.load(tmp_path / "out" / "weights")
    assert {member.name for member in uploaded.members} == {"canal-0", "landmarks-fold0", "axial-fold0"}
    assert not list((tmp_path / "out" / "weights").glob("*fold1*"))
    assert set(uploaded.files) == {"canal.seen.txt", "landmarks-fold0.seen.txt", "axial-fold0.seen.txt"}
    assert "only a dry run uses them: axial-fold1, landmarks-fold1" in capsys.readouterr().out


def test_a_model_card_is_spoken_of_where_there_is_one(tmp_path, weights, capsys):
    described = tmp_path / "out" / "weights" / "dataset-metadata.json"
    call = ["kaggle", str(tmp_path / "out"), "--no-wheels", "--weights", str(weights)]
    assert main(call) == 0
    assert "MODEL_CARD.md" in built_json(described)["description"]
    (weights / "MODEL_CARD.md").unlink()
    assert main(call) == 0
    assert "MODEL_CARD.md" not in built_json(described)["description"]
    assert "no MODEL_CARD.md there" in capsys.readouterr().out


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


def everything_in(folder):
    """Content of every file, and where links lead."""
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    return {
        name: path.readlink() if path.is_symlink() else path.read_bytes()
        for name, path in paths.items()
        if path.is_symlink() or path.is_file()
    }


def test_a_second_build_replaces_the_first(tmp_path, weights, capsys):
    out = tmp_path / "out"
    assert main(["kaggle", str(out), "--no-wheels", "--weights", str(weights)]) == 0
    assert "run again with --user" in capsys.readouterr().out
    assert main(["kaggle", str(out), "--no-wheels", "--no-weights", "--accelerator", "none"]) == 0
    assert not (out / "weights").exists()
    kernel = built_json(out / "kernel" / "kernel-metadata.json")
    assert (kernel["enable_gpu"], kernel["machine_shape"]) == (False, "")
    assert sorted(path.name for path in out.iterdir()) == [MARK, "build.json", "code", "kernel"]


@pytest.mark.parametrize(
    "name", ["code/notes.txt", "weights/thesis.txt", "wheels/a.whl", "kernel/draft.ipynb", "thesis.txt"]
)
def test_a_folder_that_no_build_made_is_left_as_it_is(tmp_path, weights, capsys, name):
    out = tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text("years of work")
    before = everything_in(out)
    assert main(["kaggle", str(out), "--no-wheels", "--weights", str(weights)]) == 2
    assert "was not made by this program" in capsys.readouterr().err
    assert everything_in(out) == before


@pytest.mark.parametrize("kind", ["new", "changed", "link", "pipe", "linked folder"])
def test_what_somebody_put_among_a_build_is_neither_replaced_nor_uploaded(tmp_path, weights, capsys, kind):
    out, theirs = tmp_path / "out", tmp_path / "theirs"
    call = ["kaggle", str(out), "--no-wheels", "--weights", str(weights)]
    assert main(call) == 0
    theirs.mkdir()
    (theirs / "secret.txt").write_text("years of work")
    metadata = out / "kernel" / "kernel-metadata.json"
    if kind == "new":
        (out / "code" / "notes.txt").write_text("years of work")
    elif kind == "changed":
        metadata.write_text(metadata.read_text().replace("lumbar-grading", "my-own-kernel"))
    elif kind == "link":
        metadata.unlink()
        metadata.symlink_to(theirs / "secret.txt")
    elif kind == "pipe":
        metadata.unlink()
        os.mkfifo(metadata)
    else:
        (out / "kernel").rename(theirs / "kernel")
        (out / "kernel").symlink_to(theirs / "kernel")
    before = everything_in(tmp_path)
    assert main(call) == 2
    assert "left as it is" in capsys.readouterr().err
    assert everything_in(tmp_path) == before


def test_a_build_that_fails_leaves_the_one_before(tmp_path, weights, monkeypatch, capsys):
    out = tmp_path / "out"
    assert main(["kaggle", str(out), "--no-wheels", "--weights", str(weights)]) == 0
    before = everything_in(out)
    assert main(["kaggle", str(out), "--no-wheels", "--weights", str(tmp_path / "nowhere")]) == 1
    assert "expected the manifest" in capsys.readouterr().err
    assert everything_in(out) == before
    assert main(["kaggle", str(out), "--no-wheels", "--weights", str(out / "weights")]) == 2
    assert f"--weights {out / 'weights'} lies inside OUT" in capsys.readouterr().err
    assert everything_in(out) == before
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    assert main(["kaggle", str(out), "--weights", str(weights)]) == 1
    assert "--no-wheels leaves them out" in capsys.readouterr().err
    assert everything_in(out) == before
    assert not list(out.glob(".build-*"))


@pytest.mark.parametrize("after", [0, 3, 20])
def test_a_build_that_was_killed_at_its_end_is_followed_by_a_whole_one(tmp_path, weights, monkeypatch, after):
    out = tmp_path / "out"
    assert main(["kaggle", str(out), "--no-wheels", "--no-weights", "--accelerator", "none"]) == 0
    moved = []
    replace = Path.replace

    def killed(self, target):
        if ".build-" in str(self) and not str(target).startswith(str(self.parent)):
            moved.append(target)
            if len(moved) > after:
                raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    monkeypatch.setattr("pipeline.owned.delete_known", lambda *_: None)  # nor is anything tidied up
    with pytest.raises(KeyboardInterrupt):
        main(["kaggle", str(out), "--no-wheels", "--weights", str(weights)])
    monkeypatch.undo()
    assert main(["kaggle", str(out), "--no-wheels", "--weights", str(weights)]) == 0
    fresh = tmp_path / "fresh"
    assert main(["kaggle", str(fresh), "--no-wheels", "--weights", str(weights)]) == 0
    assert everything_in(out) == everything_in(fresh)


@pytest.mark.parametrize("name", ["canal.safetensors", "canal.seen.txt", "MODEL_CARD.md", "manifest.json"])
def test_nothing_is_uploaded_from_where_a_link_leads(tmp_path, weights, capsys, name):
    secret = tmp_path / "secret"
    (weights / name).rename(secret)  # whose checksum is as the manifest says
    (weights / name).symlink_to(secret)
    out = tmp_path / "out"
    assert main(["kaggle", str(out), "--no-wheels", "--weights", str(weights)]) == 1
    assert "is a link" in capsys.readouterr().err
    assert not (out / "weights").exists()


@pytest.mark.parametrize("name", ["../../.bashrc", "/etc/passwd", "../out/code/submit.py", "..\\.bashrc"])
def test_a_hostile_manifest_writes_nothing_outside_the_build(tmp_path, weights, capsys, name):
    manifest = json.loads((weights / "manifest.json").read_text())
    manifest["files"][name] = "0" * 64
    (weights / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / ".bashrc").write_text("mine")
    before = everything_in(tmp_path)
    assert main(["kaggle", str(tmp_path / "out"), "--no-wheels", "--weights", str(weights)]) == 1
    assert "not a plain name" in capsys.readouterr().err
    assert everything_in(tmp_path) == before


def test_a_damaged_network_is_not_packed(tmp_path, weights, capsys):
    (weights / "canal.safetensors").write_bytes(b"others")
    assert main(["kaggle", str(tmp_path / "out"), "--no-wheels", "--weights", str(weights)]) == 1
    assert "sha256" in capsys.readouterr().err
    assert main(["kaggle", str(tmp_path / "out"), "--no-wheels", "--weights", str(tmp_path / "nowhere")]) == 1
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
