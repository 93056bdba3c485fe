"""What is recorded of weights, and what is refused."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from pipeline.ensemble.manifest import Manifest, Member, WeightsError, seen_studies, study_hash, write_seen


@pytest.fixture
def manifest(tmp_path):
    return Manifest(tmp_path, "test", "two phantoms")


def add(manifest, name="a", task="canal", content=b"network", **options):
    manifest.folder.mkdir(exist_ok=True)
    (manifest.folder / f"{name}.safetensors").write_bytes(content)
    return manifest.add_member(Member(name=name, task=task, file=f"{name}.safetensors", sha256="", **options))


def test_a_member_is_recorded_and_verified(manifest):
    write_seen(manifest.folder / "a.seen.txt", seen_studies(["17", "4"]))
    add(manifest, seen="a.seen.txt", config={"cubes": {"series": 2}}, fold=3, score=0.31)
    loaded = Manifest.load(manifest.folder)
    (member,) = loaded.members
    assert (member.fold, member.score, member.config) == (3, 0.31, {"cubes": {"series": 2}})
    assert loaded.verify(member).read_bytes() == b"network"
    assert loaded.seen(member) == {study_hash("17"), study_hash("4")}
    assert loaded.description == "two phantoms"
    assert "17" not in (manifest.folder / "a.seen.txt").read_text().split()


def test_a_member_of_the_same_name_is_replaced(manifest):
    add(manifest)
    changed = add(manifest, content=b"better network")
    assert len(changed.members) == 1
    changed.verify(changed.members[0])


@pytest.mark.parametrize("damage", [b"netw0rk", b"net", None])
def test_a_file_that_is_not_what_was_recorded_is_refused(manifest, damage):
    changed = add(manifest)
    path = manifest.folder / "a.safetensors"
    path.unlink() if damage is None else path.write_bytes(damage)
    with pytest.raises(WeightsError, match=r"a\.safetensors"):
        changed.verify(changed.members[0])


def test_a_changed_list_of_seen_studies_is_refused(manifest):
    write_seen(manifest.folder / "seen.txt", seen_studies(["1"]))
    changed = add(manifest, seen="seen.txt")
    write_seen(manifest.folder / "seen.txt", seen_studies([]))
    with pytest.raises(WeightsError, match=r"seen\.txt: sha256"):
        changed.seen(changed.members[0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "expected an object"),
        ('{"set": "x", "description": "y", "member": []}', "did you mean"),
        ('{"set": "x", "description": "y", "members": [{"name": "a"}]}', "missing"),
        ('{"set": "x"}', "description"),
    ],
)
def test_what_is_no_manifest_is_refused(tmp_path, text, message):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(WeightsError, match=message):
        Manifest.load(tmp_path)


def test_names_that_leave_the_folder_are_refused(tmp_path):
    for name in ("../a", "/etc/passwd", "a\\b", "", "..", "../..", "../../a/b", "../a/../b", "a/../b", "../a/"):
        with pytest.raises(ValueError, match="not the name of a file"):
            Member(name="a", task="canal", file=name, sha256="")
    entry = {"name": "a", "task": "canal", "file": "../../a/b", "sha256": ""}
    (tmp_path / "manifest.json").write_text(json.dumps({"set": "x", "description": "", "members": [entry]}))
    with pytest.raises(WeightsError, match="not the name of a file"):
        Manifest.load(tmp_path)


def test_a_member_of_a_set_beside_is_used_without_a_copy(tmp_path):
    other = Manifest(tmp_path / "default", "default", "the first")
    other.folder.mkdir()
    write_seen(other.folder / "a.seen.txt", seen_studies(["17"]))
    other = add(other, seen="a.seen.txt", score=0.4)
    own = add(Manifest(tmp_path / "phantom", "phantom", "the second"), "b")
    shared = Manifest.load(own.share(["a"], other).folder)
    assert [member.name for member in shared.members] == ["b", "a"]
    member = shared.members[1]
    assert (member.file, member.score) == ("../default/a.safetensors", 0.4)
    assert shared.verify(member).resolve() == other.folder / "a.safetensors"
    assert shared.seen(member) == {study_hash("17")}
    assert not list(own.folder.glob("a.*"))
    third = Manifest(tmp_path / "third", "third", "").share(["a"], shared)  # a reference is handed on as it is
    assert third.members[0].file == "../default/a.safetensors"
    (other.folder / "a.safetensors").write_bytes(b"trained again")
    with pytest.raises(WeightsError, match="sha256"):
        shared.verify(member)
    with pytest.raises(WeightsError, match="sha256"):
        shared.gather(tmp_path / "upload")
    with pytest.raises(WeightsError, match="sha256"):
        own.share(["a"], other)
    with pytest.raises(WeightsError, match="no member 'c', only a"):
        own.share(["c"], other)
    with pytest.raises(WeightsError, match="is not beside"):
        own.share(["a"], Manifest(tmp_path / "else" / "where", "w", ""))


def test_a_gathered_set_needs_no_other(tmp_path):
    other = Manifest(tmp_path / "default", "default", "the first")
    other.folder.mkdir()
    write_seen(other.folder / "a.seen.txt", seen_studies(["17"]))
    other = add(other, seen="a.seen.txt", content=b"shared")
    own = add(Manifest(tmp_path / "phantom", "phantom", "the second"), content=b"own")  # of the same name
    (own.folder / "part").mkdir()
    (own.folder / "part" / "fit.json").write_text("{}")
    own = own.add_file("part/fit.json")
    own = add(own, "b")
    member = replace(other.members[0], name="shared", file="../default/a.safetensors", seen="../default/a.seen.txt")
    own.add_member(member).gather(tmp_path / "upload")
    for folder in (own.folder, other.folder):
        shutil.rmtree(folder)
    gathered = Manifest.load(tmp_path / "upload")
    contents = {m.name: gathered.verify(m).read_bytes() for m in gathered.members}
    assert contents == {"a": b"own", "b": b"network", "shared": b"shared"}
    assert gathered.seen(gathered.members[-1]) == {study_hash("17")}
    assert gathered.file("part/fit.json").read_text() == "{}"
    assert not any(name.startswith("..") for m in gathered.members for name in (m.file, m.seen or ""))


def test_trainings_that_end_together_do_not_lose_each_others_member(manifest):
    manifest.save()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: add(manifest, f"m{number}"), range(24)))
    assert len(Manifest.load(manifest.folder).members) == 24


def test_rounds_take_the_best_value_per_second_of_every_family_first(manifest):
    for name, task, score, seconds in (
        ("c-slow", "canal", 0.30, 10.0),
        ("c-fast", "canal", 0.35, 1.0),
        ("f", "foraminal", 0.40, 2.0),
        ("s-new", "subarticular", None, 1.0),
        ("s", "subarticular", 0.5, 1.0),
    ):
        add(manifest, name, task, score=score, seconds_per_study=seconds)
    rounds = Manifest.load(manifest.folder).severity_rounds()
    assert [[member.name for member in members] for members in rounds] == [["c-fast", "f", "s"], ["c-slow", "s-new"]]


def test_weights_that_go_on_from_others_have_seen_what_those_have(tmp_path):
    write_seen(tmp_path / "canal-fold0.seen.txt", seen_studies(["a", "b"]))
    start = str(tmp_path / "canal-fold0.safetensors")
    assert set(seen_studies(["c"], start, ["d"])) == {study_hash(name) for name in "abc"}
    with pytest.raises(
        WeightsError, match=r"1 of the held-out studies, the first is b; start from weights of the same"
    ):
        seen_studies(["c"], start, ["d", "b"])
    start = str(tmp_path / "run" / "best.safetensors")
    (tmp_path / "run").mkdir()
    with pytest.raises(WeightsError, match="nobody knows which studies"):
        seen_studies(["c"], start)
    write_seen(tmp_path / "run" / "seen.txt", seen_studies(["e"]))
    assert set(seen_studies(["c"], start)) == {study_hash(name) for name in "ce"}
