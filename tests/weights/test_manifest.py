"""What is recorded of weights, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from filelock import FileLock

from pipeline.owned import RefusedError
from pipeline.weights.manifest import Manifest, Member, WeightsError
from pipeline.weights.seen import seen_studies, study_hash, write_seen
from tests.weights.members import add


@pytest.fixture
def manifest(tmp_path):
    return Manifest(tmp_path, "test", "two phantoms")


def test_a_member_is_recorded_and_verified(manifest):
    add(manifest, studies=["17", "4"], seen="a.seen.txt", config={"cubes": {"series": 2}}, fold=3, score=0.31)
    loaded = Manifest.load(manifest.folder)
    (member,) = loaded.members
    assert (member.fold, member.score, member.config) == (3, 0.31, {"cubes": {"series": 2}})
    assert member.read(loaded.folder) == b"network"
    assert loaded.seen(member) == {study_hash("17"), study_hash("4")}
    assert loaded.description == "two phantoms"
    assert "17" not in (manifest.folder / "a.seen.txt").read_text().split()


def test_a_member_of_the_same_name_is_replaced(manifest):
    add(manifest)
    changed = add(manifest, content=b"better network")
    assert len(changed.members) == 1
    assert changed.members[0].read(changed.folder) == b"better network"


def test_a_set_that_names_the_family_beside_the_task_is_read(manifest):
    add(manifest)
    path = manifest.folder / "manifest.json"
    content = json.loads(path.read_text())
    content["members"][0]["family"] = "canal"
    path.write_text(json.dumps(content))
    assert Manifest.load(manifest.folder).members[0].name == "a"


@pytest.mark.parametrize("damage", [b"netw0rk", b"net", None])
def test_a_file_that_is_not_what_was_recorded_is_refused(manifest, damage):
    changed = add(manifest)
    path = manifest.folder / "a.safetensors"
    path.unlink() if damage is None else path.write_bytes(damage)
    with pytest.raises(WeightsError, match=r"a\.safetensors"):
        changed.members[0].read(changed.folder)


def test_a_changed_list_of_seen_studies_is_refused(manifest):
    changed = add(manifest, studies=["1"], seen="seen.txt")
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


@pytest.mark.parametrize(
    "name",
    [
        "../a", "../default/a.safetensors", "/etc/passwd", "part/fit.json", "a\\b", "", ".", "..", ".bashrc", "C:a",
        "a:b", "nul", "COM1.safetensors", "aux.seen.txt", "a\0b", "a\nb", "\x1b[2J", "a b", "a.", "ä", "\ud800",
        "a" * 121,
    ],
)  # fmt: skip
def test_only_plain_names_are_taken(tmp_path, name):
    with pytest.raises(ValueError, match="not a plain name"):
        Member(name="a", task="canal", file=name, sha256="")
    with pytest.raises(ValueError, match="not a plain name"):
        Member(name="a", task="canal", file="a", sha256="", seen=name)
    with pytest.raises(ValueError, match="not a plain name"):
        Member(name=name, task="canal", file="a", sha256="")
    for content in ({"members": [{"name": "a", "task": "canal", "file": name, "sha256": ""}]}, {"files": {name: ""}}):
        (tmp_path / "manifest.json").write_text(json.dumps({"set": "x", "description": "", **content}))
        with pytest.raises(WeightsError, match="not a plain name") as refused:
            Manifest.load(tmp_path)
        assert str(refused.value).isprintable()


def written(folder, text):
    (folder / "manifest.json").write_text(text)
    return folder


ENTRY = '{"name": "a", "task": "canal", "file": "a", "sha256": "", %s}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"set": "x", "description": "a\\u001b[2Jb"}', "one line"),
        ('{"set": "x", "description": "\\ud800"}', "one line"),
        ('{"set": "x\\ny", "description": ""}', "one line"),
        ('{"set": "x", "set": "y", "description": ""}', "'set' is there twice"),
        ('{"set": "x", "description": "", "files": {"a": "0", "A": "1"}}', "64 hexadecimal"),
        ('{"set": "x", "description": "", "files": {"a": "", "A": ""}}', "capitals alone"),
        ('{"set": "x", "description": "", "files": {"a": "\\u001b[2J"}}', "64 hexadecimal"),
        ('{"set": "x", "description": "", "members": [%s]}' % (ENTRY % '"score": NaN'), "NaN is not finite"),
        ('{"set": "x", "description": "", "members": [%s]}' % (ENTRY % '"seconds_per_study": 1e999'), "not finite"),
        ('{"set": "x", "description": "", "members": [%s]}' % (ENTRY % '"seconds_per_study": "inf"'), "finite number"),
        ('{"set": "x", "description": "", "members": [%s]}' % (ENTRY % '"seconds_per_study": 1e9'), "at most 86400"),
        ('{"set": "x", "description": "", "members": [%s]}' % (ENTRY % ('"score": 1' + "0" * 400)), "finite number"),
        ('{"set": "x", "description": "", "members": [%s]}' % (ENTRY % '"fold": -1'), "at least 0"),
        ('{"set": "x", "description": "", "members": [%s, %s]}' % ((ENTRY % '"fold": 0',) * 2), "there twice: a"),
        ("[" * 100_000, "nested deeper"),
        ('{"set":' * 40 + "1" + "}" * 40, "nested deeper"),
        ('"' + "a" * 5_000_000 + '"', "has 5000002 bytes"),
    ],
)
def test_texts_and_numbers_that_no_manifest_has_are_refused(tmp_path, text, message):
    with pytest.raises(WeightsError, match=message) as refused:
        Manifest.load(written(tmp_path, text))
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 600


def test_more_files_than_a_set_has_are_refused(tmp_path):
    files = {f"f{number}": "" for number in range(1001)}
    with pytest.raises(ValueError, match="at most 1000"):
        Manifest(tmp_path, "x", "", files=files)


def test_a_file_that_is_a_link_a_pipe_or_a_device_is_refused_and_never_waited_for(tmp_path, manifest):
    changed = add(manifest)
    path = manifest.folder / "a.safetensors"
    secret = tmp_path / "secret"
    secret.write_bytes(b"network")  # with the very checksum
    for target in (secret, "/dev/zero", "a.safetensors"):
        path.unlink()
        path.symlink_to(target)
        with pytest.raises(WeightsError, match="is a link"):
            changed.members[0].read(changed.folder)
        with pytest.raises(WeightsError, match="is a link"):
            changed.gather(tmp_path / "upload")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(WeightsError, match="no regular file"):
        changed.members[0].read(changed.folder)
    (manifest.folder / "manifest.json").unlink()
    os.mkfifo(manifest.folder / "manifest.json")
    with pytest.raises(WeightsError, match="no regular file"):
        Manifest.load(manifest.folder)


def test_a_file_larger_than_any_of_its_kind_is_not_read(manifest):
    changed = add(manifest)
    with (manifest.folder / "a.safetensors").open("wb") as file:
        file.truncate(2**40)  # sparse: no disk is needed for it
    with pytest.raises(WeightsError, match="more than the 268435456 that it may have"):
        changed.members[0].read(changed.folder)


@pytest.mark.parametrize("content", [b"0123\n", b"\xff\xfe\n", b"0123456789abcdeg\n", b"\x1b[2J"])
def test_a_list_of_seen_studies_holds_hashes_and_nothing_else(manifest, content):
    changed = add(manifest, seen="seen.txt").add_file("seen.txt", content)
    with pytest.raises(WeightsError, match="16 hexadecimal digits a line") as refused:
        changed.seen(changed.members[0])
    assert str(refused.value).isprintable()


def test_the_lock_is_not_written_through_a_link(tmp_path, manifest):
    theirs = tmp_path / "thesis.txt"
    theirs.write_text("years of work")
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / ".lock").symlink_to(theirs)
    with pytest.raises(OSError, match="lock"):
        add(replace(manifest, folder=folder))
    assert theirs.read_text() == "years of work"


def test_a_lock_that_somebody_keeps_is_named_and_not_waited_for_without_end(manifest, monkeypatch):
    monkeypatch.setattr("pipeline.weights.manifest.LOCK_SECONDS", 0.1)
    with FileLock(manifest.folder / ".lock"), pytest.raises(WeightsError, match=r"another process .* remove .*\.lock"):
        add(manifest)
    assert add(manifest).members


def test_a_file_that_the_manifest_does_not_name_is_not_written_over(tmp_path, manifest):
    theirs = tmp_path / "thesis.txt"
    theirs.write_text("years of work")
    manifest = add(manifest)
    for name in ("b.safetensors", "b.seen.txt", "fit.json"):
        (manifest.folder / name).symlink_to(theirs)
    for write in (
        lambda: add(manifest, "b"),
        lambda: add(manifest, "c", seen="b.seen.txt"),
        lambda: manifest.add_file("fit.json", b"{}"),
    ):
        with pytest.raises(
            RefusedError, match=r"(b\.safetensors|b\.seen\.txt|fit\.json): is not among the files of manifest"
        ):
            write()
    assert theirs.read_text() == "years of work"
    assert [member.name for member in Manifest.load(manifest.folder).members] == ["a"]
    assert not (manifest.folder / "c.safetensors").exists()


def test_a_set_is_begun_in_a_new_or_empty_folder_alone(tmp_path):
    assert Manifest.open(tmp_path / "new", "own", "").set == "own"
    assert Manifest.open(tmp_path / "new", "other", "").set == "own"  # it is there already
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.txt").write_text("years of work")
    with pytest.raises(RefusedError, match="was not made by this program"):
        Manifest.open(tmp_path / "theirs", "own", "")
    assert [path.name for path in (tmp_path / "theirs").iterdir()] == ["thesis.txt"]


def test_a_gathered_set_is_the_set(tmp_path):
    own = Manifest(tmp_path / "phantom", "phantom", "the second")
    own.folder.mkdir()
    own = add(own, content=b"own", studies=["17"], seen="a.seen.txt")
    (own.folder / "stranger.txt").write_text("not named")
    own = own.add_file("fit.json", b"{}")
    own.gather(tmp_path / "upload")
    shutil.rmtree(own.folder)
    gathered = Manifest.load(tmp_path / "upload")
    (member,) = gathered.members
    assert member.read(gathered.folder) == b"own"
    assert gathered.seen(member) == {study_hash("17")}
    assert gathered.file("fit.json") == b"{}"
    assert not (gathered.folder / "stranger.txt").exists()


def test_trainings_that_end_together_do_not_lose_each_others_member(manifest):
    manifest.save()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: add(manifest, f"m{number}"), range(24)))
    assert len(Manifest.load(manifest.folder).members) == 24


def test_half_a_sign_in_a_networks_settings_is_written_and_read_back(tmp_path):
    member = Member("f", "foraminal", "f.safetensors", "0" * 64, config={"start_from": "half \ud800 a sign"})
    Manifest(tmp_path, "test", "settings of any text", (member,)).save()
    assert Manifest.load(tmp_path).members[0].config == member.config
