"""A decoder that hangs, takes too much memory or dies costs its process and one slice, whoever reads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from pydicom import uid

from pipeline.competition import StudyRef
from pipeline.volumes import ReadLimits, read_series, read_study
from pipeline.volumes import decode as decode_module
from pipeline.volumes import decoder_process as module
from pipeline.volumes.decoder_process import DecoderProcess, UndecodableError, Wanted
from tests.volumes.attacks import compressed, image, j2k, j2k_of_precincts, jpeg, jpeg_of_scans, rle_bomb
from tests.volumes.oracle import codes, reference, rewrite, write_series

JPEG = Wanted(uid.JPEGBaseline8Bit, 64, 64, 8, 8, False)
BOTH = ["pillow", module.ITK]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def process():
    process = DecoderProcess()
    yield process
    process.end()


def one_bad(folder, syntax, side, bits, stream, limits=None):
    """Of four slices the second is bad: it is named, the other three are read. Returns the text, and the seconds."""
    series = write_series(folder, shape=(12, 16))
    rewrite(series / "2.dcm", compressed(syntax, side, bits, stream))
    started = time.monotonic()
    reading = read_series(reference(series), limits or ReadLimits())
    assert [(problem.what, problem.file) for problem in reading.problems] == [("undecodable-pixels", "2.dcm")]
    assert sum(len(volume.pixels) for volume in reading.volumes) == 3
    return reading.problems[0].detail, time.monotonic() - started


def peak_mb(number: int) -> float:
    """The most memory that a process had."""
    lines = Path(f"/proc/{number}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def test_a_decoder_that_hangs_in_compiled_code_is_ended(tmp_path):
    """A hundred kilobytes of progressive JPEG in which one scan is said 3,000 times: minutes of libjpeg."""
    detail, seconds = one_bad(
        tmp_path / "1", uid.JPEGBaseline8Bit, 2048, 8, jpeg_of_scans(3000, 2048), ReadLimits(frame_seconds=0.5)
    )
    assert "not decoded after 0.5 s" in detail
    assert seconds < 30


def test_it_has_no_more_than_what_is_left_of_the_study(tmp_path):
    series = write_series(tmp_path / "1", change=compressed(uid.JPEGBaseline8Bit, 2048, 8, jpeg_of_scans(3000, 2048)))
    started = time.monotonic()
    reading = read_study(StudyRef("1", tmp_path, (reference(series),)), ReadLimits(study_seconds=1.0))
    assert {"undecodable-pixels", "out-of-time", "no-volume"} >= set(codes(reading))
    assert time.monotonic() - started < 30


def test_a_slice_gets_no_more_memory_than_its_size_can_need(tmp_path, monkeypatch):
    """JPEG 2000 in precincts of two pixels: 600 MB for a slice of 1024 x 1024 where nobody looks."""
    process = DecoderProcess()
    monkeypatch.setattr(decode_module, "_process", process)
    stream = j2k_of_precincts(1024)
    detail, _ = one_bad(tmp_path / "1", uid.JPEG2000Lossless, 1024, 16, stream)
    assert "pillow" in detail
    assert module.ITK in detail
    process.decode(BOTH, jpeg(), JPEG, 10.0)
    assert process._process is not None
    assert peak_mb(process._process.pid) < 450
    process.end()


def test_rle_without_its_fast_decoder_is_bounded_too(tmp_path, monkeypatch):
    """8 MB of which pydicom alone makes half a gigabyte, and then a slice of 64 x 64."""
    monkeypatch.setattr(decode_module, "_decode_rle", None)
    one_bad(tmp_path / "1", uid.RLELossless, 64, 16, rle_bomb(8))


@pytest.mark.slow
def test_the_largest_slice_has_room(process):
    """Of the most pixels that the limits allow, by both libraries."""
    wanted = Wanted(uid.JPEG2000Lossless, 4096, 4096, 16, 16, False)
    stream = j2k(4096)
    for name in BOTH:
        assert np.array_equal(process.decode([name], stream, wanted, 60.0), image(4096, np.uint16))


def test_one_that_died_comes_anew(process):
    def decoded():
        return np.abs(process.decode(BOTH, jpeg(), JPEG, 10.0).astype(int) - image()).mean()

    assert decoded() < 10
    first = process._process
    first.kill()
    first.wait()
    assert decoded() < 10
    assert process._process is not first


def test_one_that_dies_of_a_slice_is_named_and_the_next_slice_is_read(process, monkeypatch, tmp_path):
    program = tmp_path / "dies.py"
    program.write_text("import os; os.abort()")
    real = module.__file__
    monkeypatch.setattr(module, "__file__", str(program))
    with pytest.raises(UndecodableError, match="ended with status -6"):
        process.decode(BOTH, jpeg(), JPEG, 10.0)
    monkeypatch.setattr(module, "__file__", real)
    assert process.decode(BOTH, jpeg(), JPEG, 10.0).shape == (64, 64)


@pytest.mark.parametrize("answer", ["<u8\\n", "|O\\n", "|u1\\n1234", "\\0\\0\\0", "|u1"])
def test_one_that_was_taken_over_has_nothing_to_send_but_pixels(process, monkeypatch, tmp_path, answer):
    program = tmp_path / "lies.py"
    program.write_text(f"import sys; sys.stdin.buffer.readline(); sys.stdout.write('{answer}')")
    monkeypatch.setattr(module, "__file__", str(program))
    with pytest.raises(UndecodableError, match="ended with status"):
        process.decode(BOTH, jpeg(), JPEG, 10.0)


def test_an_alarm_of_the_caller_leaves_no_answer_behind(process):
    """The slice after the alarm must not get the pixels of the one before it."""

    class AlarmError(BaseException):
        pass

    def ring(*_):
        raise AlarmError

    process.decode(BOTH, jpeg(), JPEG, 10.0)
    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(AlarmError):
            process.decode(BOTH, jpeg_of_scans(3000, 2048), Wanted(JPEG.syntax, 2048, 2048, 8, 8, False), 10.0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert np.abs(process.decode(BOTH, jpeg(), JPEG, 10.0).astype(int) - image()).mean() < 10


def test_a_fork_does_not_talk_to_the_process_of_its_parent(process, monkeypatch):
    process.decode(BOTH, jpeg(), JPEG, 10.0)
    parents = process._process
    monkeypatch.setattr(os, "getpid", lambda: -1)
    process.decode(BOTH, jpeg(), JPEG, 10.0)
    assert process._process.pid != parents.pid
    parents.kill()
    parents.communicate()


READER = """
import sys
from tests.volumes.attacks import jpeg, jpeg_of_scans
from tests.volumes.test_decoder_process import BOTH, JPEG, DecoderProcess, Wanted
process = DecoderProcess()
process.decode(BOTH, jpeg(), JPEG, 10.0)
print(process._process.pid, flush=True)
process.decode(BOTH, jpeg_of_scans(3000, 2048), Wanted(JPEG.syntax, 2048, 2048, 8, 8, False), 1.0)
"""


def test_it_does_not_outlive_a_reader_that_was_killed():
    with subprocess.Popen([sys.executable, "-c", READER], cwd=ROOT, stdout=subprocess.PIPE) as reader:
        number = int(reader.stdout.readline())
        time.sleep(0.2)
        reader.kill()
    until = time.monotonic() + 20
    while Path(f"/proc/{number}").exists() and Path(f"/proc/{number}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < until
        time.sleep(0.1)


def test_slices_of_one_series_are_decoded_by_one_process(tmp_path, monkeypatch):
    process = DecoderProcess()
    monkeypatch.setattr(decode_module, "_process", process)
    series = write_series(tmp_path / "1", change=compressed(JPEG.syntax, 64, 8, jpeg()))
    numbers = set()
    real = DecoderProcess.decode

    def decode(self, *args):
        found = real(self, *args)
        numbers.add(self._process.pid)
        return found

    monkeypatch.setattr(DecoderProcess, "decode", decode)
    assert read_series(reference(series)).volumes
    assert len(numbers) == 1
    process.end()
