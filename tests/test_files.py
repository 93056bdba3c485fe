"""Files are written whole or not at all."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from pipeline.files import check_space, write_atomically, write_text


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
