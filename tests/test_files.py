"""Files are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import files
from pipeline.files import check_space, read_bounded, write_atomically, write_text


def test_a_write_that_fails_half_way_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "submission.csv"
    path.write_text("before")

    def fail(partial):
        partial.write_text("half of it")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left") as error:
        write_atomically(path, fail)
    assert error.value.filename == str(path)
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["submission.csv"]


def test_the_bytes_are_on_the_disk_before_the_name_is_given(tmp_path, monkeypatch):
    path = tmp_path / "new" / "table.csv"
    synced = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(path.exists()))
    write_text(path, "one\ntwo\n")
    assert synced == [False]
    assert path.read_bytes() == b"one\ntwo\n"
    write_atomically(path, lambda partial: partial.write_text("three"), sync=False)
    assert (len(synced), path.read_text()) == (1, "three")
    assert [p.name for p in path.parent.iterdir()] == ["table.csv"]


def test_a_disk_that_is_too_small_is_said_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=3_000_000_000))
    check_space(tmp_path, 3_000_000_000, "cubes")
    with pytest.raises(OSError, match=r"65\.0 GB are needed for cubes, 3\.0 GB are free") as error:
        check_space(tmp_path, 65_000_000_000, "cubes")
    assert error.value.filename == str(tmp_path)


def test_what_is_brought_to_the_disk_can_be_written_to(tmp_path, monkeypatch):
    """Windows refuses to sync a handle that only reads."""
    monkeypatch.setattr(os, "fsync", lambda number: os.write(number, b""))
    write_text(tmp_path / "table.csv", "one\n")
    assert (tmp_path / "table.csv").read_text() == "one\n"


def test_a_rename_that_windows_refuses_for_a_moment_is_tried_again(tmp_path, monkeypatch):
    waited, rename = [], Path.replace

    def refuse_twice(self, target):
        if len(waited) < 2:
            raise PermissionError(13, "is being used by another process")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", refuse_twice)
    monkeypatch.setattr("time.sleep", waited.append)
    with pytest.raises(PermissionError):
        write_text(tmp_path / "s.csv", "elsewhere it is an error at once")
    monkeypatch.setattr(files, "WINDOWS", True)
    write_text(tmp_path / "s.csv", "whole")
    assert (tmp_path / "s.csv").read_text() == "whole"
    assert waited == list(files.WAITS[:2])
    waited.clear()
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(PermissionError(13, "is open in Excel")))
    with pytest.raises(PermissionError) as refused:
        write_text(tmp_path / "s.csv", "never")
    assert refused.value.filename == str(tmp_path / "s.csv")
    assert len(waited) == len(files.WAITS)


def test_no_link_is_followed_where_the_system_cannot_be_told_so(tmp_path, monkeypatch):
    (tmp_path / "theirs").write_text("years of work")
    (tmp_path / "link").symlink_to(tmp_path / "theirs")
    monkeypatch.delattr(os, "O_NOFOLLOW")
    with pytest.raises(OSError, match="is a link"):
        read_bounded(tmp_path / "link", 100)
    assert read_bounded(tmp_path / "theirs", 100) == b"years of work"
