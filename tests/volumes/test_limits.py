"""The limits of one study's reading: what is beyond them is left out and named, the rest is read."""

from __future__ import annotations

import struct
import time

import pytest

from pipeline.competition import StudyRef
from pipeline.labels import SeriesKind
from pipeline.volumes import ReadLimits, read_series, read_study
from tests.volumes.oracle import codes, reference, write_series


def test_bytes_of_a_file_and_of_a_series(tmp_path):
    folder = write_series(tmp_path / "1")
    size = (folder / "1.dcm").stat().st_size
    assert codes(read_series(reference(folder), ReadLimits(file_bytes=size // 2))) == ["too-large"] * 4 + ["no-volume"]
    reading = read_series(reference(folder), ReadLimits(series_bytes=int(size * 2.5)))
    assert codes(reading) == ["too-large"] * 2
    assert sum(len(volume.pixels) for volume in reading.volumes) == 2


def test_pixels_of_a_series_and_of_a_study(tmp_path):
    for name in ("1", "2"):
        write_series(tmp_path / name)
    count = 12 * 16
    reading = read_series(reference(tmp_path / "1"), ReadLimits(series_pixels=3 * count))
    assert codes(reading) == ["too-large"]
    assert sum(len(volume.pixels) for volume in reading.volumes) == 3
    study = StudyRef("100", tmp_path, tuple(reference(tmp_path / name, SeriesKind.SAGITTAL_T2) for name in "12"))
    both = read_study(study, ReadLimits(study_pixels=6 * count))
    assert codes(both) == ["too-large"] * 2
    assert sum(len(volume.pixels) for volume in both.volumes) == 6


def test_files_of_a_series(tmp_path):
    reading = read_series(reference(write_series(tmp_path / "1")), ReadLimits(series_slices=2))
    assert codes(reading) == ["too-many-files"]
    assert sum(len(volume.pixels) for volume in reading.volumes) == 2


def test_slices_of_a_series_whose_files_hold_many(tmp_path):
    """A hundred files of 4,096 frames of a pixel are 800 kB, and kept the reader busy for minutes past its seconds."""

    def change(data):
        data.Rows = data.Columns = 1
        data.NumberOfFrames = 3
        data.PixelData = bytes(6)

    series = reference(write_series(tmp_path / "1", change=change))
    assert "too-large" not in codes(read_series(series))
    reading = read_series(series, ReadLimits(series_slices=7))
    assert codes(reading).count("too-large") == 1
    (problem,) = [problem for problem in reading.problems if problem.what == "too-large"]
    assert problem.file == "3.dcm"
    assert "7 slices" in problem.detail


def test_seconds_of_a_study(tmp_path):
    for name in ("1", "2"):
        write_series(tmp_path / name)
    study = StudyRef("100", tmp_path, (reference(tmp_path / "1"), reference(tmp_path / "2")))
    reading = read_study(study, ReadLimits(study_seconds=1e-9))
    assert reading.volumes == ()
    assert codes(reading) == ["out-of-time", "no-volume"] * 2


def test_a_file_of_a_million_tiny_elements_ends_in_time(tmp_path):
    folder = write_series(tmp_path / "1")
    whole = (folder / "2.dcm").read_bytes()
    tag = whole.rindex(b"\xe0\x7f\x10\x00OW")
    tiny = struct.pack("<HH2sH", 0x0029, 0x1001, b"LO", 0) * 1_000_000
    (folder / "2.dcm").write_bytes(whole[:tag] + tiny + whole[tag:])
    started = time.process_time()  # of this process, whatever else the machine does
    reading = read_series(reference(folder), ReadLimits(study_seconds=0.2))
    assert time.process_time() - started < 3
    assert codes(reading)[0] == "out-of-time"


def test_limits_must_be_positive():
    with pytest.raises(ValueError, match="study_seconds is 0, expected above 0"):
        ReadLimits(study_seconds=0)
