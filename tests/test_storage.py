"""A folder and a zip as places of files: what is there, what is not, and what it may cost."""

from __future__ import annotations

import tracemalloc
import zipfile

import pytest

from pipeline import storage
from pipeline.storage import Folder, Zip, open_storage


def test_hidden_and_system_folders_hold_no_files_of_a_person(tmp_path):
    names = [
        "a/1",
        "a/b/2",
        "__MACOSX/1",
        "a/@eaDir/1",
        "$RECYCLE.BIN/1",
        "lost+found/1",
        ".git/1",
        "a/.hidden",
        "DICOMDIR",
    ]
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in names:
            place = tmp_path / "folder" / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(b"12345")
            archive.write(place, name)
    for path in ("folder", "x.zip"):
        with open_storage(tmp_path / path) as found:
            assert sorted(found.names()) == [("DICOMDIR", None), ("a/1", None), ("a/b/2", None)]
            assert (found.size("a/1"), found.read("a/1", 3)) == (5, b"123")
            with pytest.raises(OSError, match="a/9"):
                found.read("a/9", 1)


def test_what_a_zip_grows_to_is_bounded_by_what_it_declares(tmp_path):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("big.dcm", bytes(200 * 2**20))
    assert path.stat().st_size < 2**20
    bomb = Zip(path)
    assert bomb.size("big.dcm") == 200 * 2**20
    tracemalloc.start()
    assert len(bomb.read("big.dcm", 65536)) == 65536
    assert tracemalloc.get_traced_memory()[1] < 2 * 2**20
    tracemalloc.stop()
    lying = path.read_bytes().replace((200 * 2**20).to_bytes(4, "little"), (1000).to_bytes(4, "little"))
    path.write_bytes(lying)
    with pytest.raises(OSError, match="cannot be unpacked"):
        Zip(path).read("big.dcm", 2**30)


def test_a_file_without_a_name_is_none(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", b"")
        archive.writestr("folder/", b"")
    opened = Zip(path)
    opened._zip.NameToInfo[""] = opened._zip.getinfo("a")
    assert list(opened.names()) == [("a", None)]


def test_a_table_of_contents_without_end_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(100):
            archive.writestr(f"{number}", b"")
    monkeypatch.setattr(storage, "_MOST_DIRECTORY", 1000)
    with pytest.raises(OSError, match="table of contents"):
        Zip(path)
    monkeypatch.undo()
    monkeypatch.setattr(storage, "MOST_FILES", 99)
    with pytest.raises(OSError, match="more than 99 files"):
        Zip(path)


def test_a_folder_of_too_many_files_and_a_circle_of_links_end(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "back").symlink_to(tmp_path)
    for number in range(5):
        (tmp_path / "a" / f"{number}").touch()
    found = dict(Folder(tmp_path).names())
    assert "not followed" in found.pop("a/back")
    assert len(found) == 5
    monkeypatch.setattr(storage, "MOST_FILES", 4)
    with pytest.raises(OSError, match="more than 4 files"):
        list(Folder(tmp_path).names())
