"""The command line."""

from __future__ import annotations

import argparse

from pipeline.phantom import command


def _parse(*words):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(words)


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
    assert command.run(_parse(str(out), *words)) == 0
    printed = capsys.readouterr().out
    assert str(out) in printed
    assert "label noise 0.01" in printed
    assert {path.name for path in out.iterdir()} == {
        "test_images",
        "test_series_descriptions.csv",
        "sample_submission.csv",
        "test_truth.csv",
        "test_truth_coordinates.csv",
        "test_measurements.csv",
    }
    assert len(list(out.glob("test_images/*/*/*.dcm"))) in (3, 4)


def test_a_wrong_call_is_status_2_and_a_full_disk_status_1(tmp_path, capsys):
    assert command.run(_parse(str(tmp_path), "--defects", "rust")) == 2
    assert "rust" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert command.run(_parse(str(tmp_path / "file"), "--studies", "1", "--size", "small", "--workers", "1")) == 1
