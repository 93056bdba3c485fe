"""The command line."""

from __future__ import annotations

import pytest

from pipeline.__main__ import main
from pipeline.owned import MARK


def run(*words):
    return main(["phantom", *map(str, words)])


def test_a_test_split_keeps_its_labels_out_of_the_public_tables(tmp_path, capsys):
    out = tmp_path / "out"
    words = [
        "--studies",
        "1",
        "--size",
        "small",
        "--workers",
        "1",
        "--split",
        "test",
        "--defects",
        "single_slice",
        "--label-noise",
        "0.01",
    ]
    assert run(out, *words) == 0
    printed = capsys.readouterr().out
    assert str(out) in printed
    assert "label noise 0.01" in printed
    assert {path.name for path in out.iterdir()} == {
        MARK,
        "test_images",
        "test_series_descriptions.csv",
        "sample_submission.csv",
        "test_truth.csv",
        "test_truth_coordinates.csv",
        "test_measurements.csv",
    }
    assert len(list(out.glob("test_images/*/*/*.dcm"))) in (3, 4)


def test_a_wrong_call_is_status_2_and_a_full_disk_status_1(tmp_path, capsys):
    assert run(tmp_path, "--defects", "rust") == 2
    assert "rust" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    call = ("--studies", "1", "--size", "small", "--workers", "1")
    assert run(tmp_path / "file", *call) == 2
    assert run(tmp_path / "file" / "folder", *call) == 1


@pytest.mark.parametrize("name", ["train.csv", "notes.txt", "train_images/4003253/1/1.dcm"])
def test_a_folder_that_is_not_of_phantoms_is_left_as_it_is(tmp_path, capsys, name):
    theirs = tmp_path / "rsna" / name
    theirs.parent.mkdir(parents=True)
    theirs.write_text("years of work")
    assert run(tmp_path / "rsna", "--studies", "1", "--size", "small", "--workers", "1") == 2
    assert "was not made by this program" in capsys.readouterr().err
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [theirs]
    assert theirs.read_text() == "years of work"


def test_a_table_that_is_a_link_is_replaced_and_not_written_through(tmp_path):
    out, theirs = tmp_path / "out", tmp_path / "theirs.csv"
    call = ("--studies", "1", "--size", "small", "--workers", "1")
    assert run(out, *call) == 0
    theirs.write_text("years of work")
    (out / "train.csv").unlink()
    (out / "train.csv").symlink_to(theirs)
    assert run(out, *call) == 0
    assert theirs.read_text() == "years of work"
    assert not (out / "train.csv").is_symlink()
