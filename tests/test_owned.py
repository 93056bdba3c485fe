"""Only what the program made is ever deleted, and no result is written where it would reach into another path."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from pipeline.owned import MARK, BusyError, RefusedError, check_apart, claim, delete_known, hold, is_owned, remove

KNOWN = re.compile(r"[0-9a-f]+\.result|code/.*\.py")


def everything_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("before", ["new", "empty", "cut short"])
def test_a_new_or_empty_folder_is_claimed_and_stays_claimed(tmp_path, before):
    folder = tmp_path / "a" / "work"
    if before != "new":
        folder.mkdir(parents=True)
    if before == "cut short":  # killed while the mark was written
        (folder / f".{MARK}.0a1b2c3d4e5f.partial").write_text('{"ki')
    claim(folder, "work")
    (folder / "notes.txt").write_text("x")
    claim(folder, "work")
    assert is_owned(folder, "work")
    assert not is_owned(folder, "kaggle")
    (folder / "notes.txt").unlink()
    assert remove(folder, "work", KNOWN)
    assert folder.exists() == (before != "new"), "a folder of the user's stays, if only empty"
    assert everything_in(tmp_path) == (["a"] if before == "new" else ["a", "a/work"])


@pytest.mark.parametrize(
    "mark", [None, "", "{", '"work"', '{"kind": "kaggle", "format": 1}', "[" * 4000, "link", "fifo"]
)
def test_a_folder_of_somebody_elses_is_refused_and_left_as_it_is(tmp_path, mark):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years")
    if mark == "link":
        (tmp_path / "elsewhere").write_text('{"kind": "work", "format": 1}')
        (folder / MARK).symlink_to(tmp_path / "elsewhere")
    elif mark == "fifo":
        os.mkfifo(folder / MARK)
    elif mark is not None:
        (folder / MARK).write_text(mark)
    before = everything_in(folder)
    with pytest.raises(RefusedError, match=r"mine: is not empty .* it is left as it is: name a new or empty folder"):
        claim(folder, "work")
    assert not remove(folder, "work", re.compile(".*"))
    assert everything_in(folder) == before


def test_a_file_or_a_broken_link_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link"):
        with pytest.raises(RefusedError, match="is no folder"):
            claim(tmp_path / name, "work")
    assert (tmp_path / "file").read_text() == "x"
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_with_nothing_else_in_it_goes(tmp_path):
    claim(tmp_path / "work", "work")
    (tmp_path / "work" / "code" / "deep").mkdir(parents=True)
    for name in ("0f.result", "code/a.py", "code/deep/b.py"):
        (tmp_path / "work" / name).write_text("x")
    assert remove(tmp_path / "work", "work", KNOWN)
    assert everything_in(tmp_path) == []


def test_strangers_files_links_and_what_lies_behind_them_stay(tmp_path):
    outside = tmp_path / "outside"
    (outside / "code").mkdir(parents=True)
    (outside / "code" / "mine.py").write_text("x")
    folder = tmp_path / "work"
    claim(folder, "work")
    (folder / "code").mkdir()
    (folder / "empty of mine").mkdir()
    for name in ("0f.result", "notes.result", "0f.result.bak", "code/a.py", "code/a.txt"):
        (folder / name).write_text("x")
    (folder / "code" / "linked").symlink_to(outside / "code")
    (folder / "1f.result").symlink_to(outside / "code" / "mine.py")
    (folder / "2f.result").mkdir()
    assert not remove(folder, "work", KNOWN)
    left = [MARK, "0f.result.bak", "1f.result", "2f.result", "code", "code/a.txt", "code/linked", "empty of mine"]
    assert everything_in(folder) == sorted([*left, "notes.result"])
    assert (outside / "code" / "mine.py").read_text() == "x"
    assert is_owned(folder, "work")  # so the next run may use it again


def test_nothing_is_deleted_without_the_mark(tmp_path):
    (tmp_path / "0f.result").write_text("x")
    delete_known(tmp_path, "work", KNOWN)
    claim(tmp_path / "other", "kaggle")
    (tmp_path / "other" / "0f.result").write_text("x")
    delete_known(tmp_path / "other", "work", KNOWN)
    assert everything_in(tmp_path) == ["0f.result", "other", f"other/{MARK}", "other/0f.result"]


def test_a_lock_is_taken_once_and_leaves_nothing(tmp_path):
    path = tmp_path / "lock"
    with hold(path, "s.csv") as why:
        assert why == ""
        with pytest.raises(BusyError, match=r"s\.csv: another run is writing there"), hold(path, "s.csv"):
            pass
    assert everything_in(tmp_path) == []
    path.touch()  # as a killed run leaves it
    with hold(path, "s.csv") as why:
        assert why == ""
    (tmp_path / "file").write_text("x")
    with hold(tmp_path / "file" / "lock", "s.csv") as why:
        assert why, "a folder that cannot be written"


def apart(reads=(), writes=(), empties=()):
    named = [{f"--{path}": Path(path) for path in paths} for paths in (reads, writes, empties)]
    check_apart(*named)


@pytest.mark.parametrize(
    ("reads", "writes", "empties"),
    [
        (["data", "weights", "data/series.csv"], ["s.csv", "stages", "stages/report.html"], ["s.work"]),
        (["data"], ["."], ["work"]),
        (["data/images", "data"], ["out/s.csv"], ["out/s.work"]),
        (["data", "DATA2"], ["Data.csv", "data.csv"], ["data.work"]),
        (["data-more"], ["s.csv"], ["data"]),
    ],
)
def test_paths_beside_each_other_are_fine(tmp_path, monkeypatch, reads, writes, empties):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    apart(reads, writes, empties)


@pytest.mark.parametrize(
    ("reads", "writes", "empties", "message"),
    [
        (["data"], [], ["./data"], "are the same place"),
        (["data"], [], ["."], "lies inside --. ., from which this program deletes"),
        (["data"], [], ["data/work"], "to which it must not write"),
        (["data"], ["data/s.csv"], [], "to which it must not write"),
        (["data"], ["link/s.csv"], [], "--link/s.csv link/s.csv lies inside --data data"),
        (["link"], ["data/new/s.csv"], [], "lies inside --link link"),
        (["new/data"], ["new/data/s.csv"], [], "to which it must not write"),
        (["new/data"], [], ["new"], "--new/data new/data lies inside --new new"),
        ([], ["s.csv", "x/../s.csv"], [], "are the same place"),
        ([], ["work/s.csv"], ["work"], "from which this program deletes"),
        ([], [], ["work", "work/inner"], "from which this program deletes"),
        (["hard"], ["hard.csv"], [], "are the same place"),
    ],
)
def test_paths_that_reach_into_each_other_are_refused(tmp_path, monkeypatch, reads, writes, empties, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to("data")
    (tmp_path / "hard").write_text("x")
    os.link("hard", "hard.csv")
    with pytest.raises(RefusedError, match=re.escape(message)):
        apart(reads, writes, empties)


def test_a_file_system_that_knows_one_case_makes_one_place_of_two_spellings(tmp_path, monkeypatch):
    """Names are compared as the file system would: here one is simulated that finds a folder under any case."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Out").mkdir()
    apart([], ["Out/s.csv", "Out/S.csv"])
    (tmp_path / "oUT").symlink_to("Out")
    with pytest.raises(RefusedError, match="are the same place"):
        apart([], ["Out/s.csv", "Out/S.csv"])
