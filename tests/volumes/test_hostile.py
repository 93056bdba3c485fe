"""Hostile and broken input: every case becomes problems, never an exception, a hang or a heap of memory."""

from __future__ import annotations

import os
import struct
import time
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence

from pipeline.competition import SeriesRef
from pipeline.volumes import ReadLimits, read_series
from pipeline.volumes.headers import parse_file
from tests.volumes.attacks import ITEM, compressed
from tests.volumes.oracle import assert_linear, codes, reference, rewrite, write_series


def one_bad(folder, what, name="2.dcm"):
    """Of four slices one is bad: the other three are read and right, the bad one is named."""
    reading = read_series(reference(folder))
    assert [(problem.what, problem.file) for problem in reading.problems] == [(what, name)]
    assert sum(len(volume.pixels) for volume in reading.volumes) == 3
    for volume in reading.volumes:
        assert_linear(volume)
    return reading.problems[0].detail


def test_zero_bytes(tmp_path):
    folder = write_series(tmp_path / "1")
    (folder / "2.dcm").write_bytes(b"")
    one_bad(folder, "empty-file")


def test_text_named_dcm(tmp_path):
    folder = write_series(tmp_path / "1")
    (folder / "2.dcm").write_text("This is not a DICOM file.\n" * 50)
    one_bad(folder, "not-dicom")


@pytest.mark.parametrize("keep", [0.05, 0.4, 0.7, 0.99])
def test_truncated_files(tmp_path, keep):
    folder = write_series(tmp_path / "1")
    whole = (folder / "2.dcm").read_bytes()
    (folder / "2.dcm").write_bytes(whole[: int(len(whole) * keep)])
    reading = read_series(reference(folder))
    assert len(reading.problems) == 1
    assert reading.problems[0].file == "2.dcm"
    assert reading.problems[0].what in {"truncated", "not-dicom", "missing-pixel-data", "unreadable-file"}
    assert_linear(reading.volumes[0])


@pytest.mark.parametrize("keep", [0.6, 0.9])
def test_truncated_rle(tmp_path, keep):
    folder = write_series(tmp_path / "1")
    rewrite(folder / "2.dcm", lambda data: data.compress(uid.RLELossless, generate_instance_uid=False))
    whole = (folder / "2.dcm").read_bytes()
    (folder / "2.dcm").write_bytes(whole[: int(len(whole) * keep)])
    reading = read_series(reference(folder))
    assert [problem.file for problem in reading.problems] == ["2.dcm"]
    assert_linear(reading.volumes[0])


def test_missing_and_empty_pixel_data(tmp_path):
    folder = write_series(tmp_path / "1")
    rewrite(folder / "2.dcm", lambda data: data.pop("PixelData"))
    assert "7FE0,0010" in one_bad(folder, "missing-pixel-data")
    folder = write_series(tmp_path / "2")
    rewrite(folder / "2.dcm", lambda data: setattr(data, "PixelData", b""))
    one_bad(folder, "missing-pixel-data")


def test_a_header_of_60000_by_60000(tmp_path):
    def change(data):
        data.Rows = data.Columns = 60000

    folder = write_series(tmp_path / "1")
    rewrite(folder / "2.dcm", change)
    assert "60000 x 60000" in one_bad(folder, "too-large")


def test_16_gigabytes_declared_in_a_kilobyte(tmp_path):
    def change(data):
        data.Rows = data.Columns = 4000
        data.NumberOfFrames = 500
        data.PixelData = data.PixelData[:300]

    folder = write_series(tmp_path / "1")
    rewrite(folder / "2.dcm", change)
    assert (folder / "2.dcm").stat().st_size < 1200
    one_bad(folder, "too-large")


def test_four_gigabytes_of_element_length(tmp_path):
    folder = write_series(tmp_path / "1")
    whole = (folder / "2.dcm").read_bytes()
    tag = whole.rindex(b"\xe0\x7f\x10\x00OW")
    (folder / "2.dcm").write_bytes(whole[: tag + 8] + struct.pack("<I", 0xFFFFFFF0) + whole[tag + 12 : tag + 100])
    one_bad(folder, "truncated")


def test_millions_of_tiny_frames(tmp_path):
    def change(data):
        data.Rows = data.Columns = 1
        data.NumberOfFrames = 100_000_000

    folder = write_series(tmp_path / "1")
    rewrite(folder / "2.dcm", change)
    one_bad(folder, "too-large")


def deflate(path: Path) -> None:
    rewrite(path, lambda data: setattr(data.file_meta, "TransferSyntaxUID", uid.DeflatedExplicitVRLittleEndian))


def bomb_after(meta: bytes) -> bytes:
    """A file that inflates to 64 MB."""
    compressor = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    element = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 2**26)
    return meta + compressor.compress(element) + compressor.compress(bytes(2**26)) + compressor.flush()


@pytest.mark.parametrize("hidden", ["standard", "no preamble", "after a long element"])
def test_a_deflate_bomb(tmp_path, hidden):
    """A file that inflates a thousandfold: refused at the limit, without the memory for the whole."""
    folder = write_series(tmp_path / "1")
    deflate(folder / "2.dcm")
    start = (folder / "2.dcm").read_bytes()
    meta = start[: 144 + struct.unpack_from("<I", start, 140)[0]]
    if hidden == "no preamble":
        meta = meta[132:]
    elif hidden == "after a long element":
        meta = meta[:132] + struct.pack("<HH2sHI", 2, 1, b"OB", 0, 5000) + bytes(5000) + meta[132:]
    (folder / "2.dcm").write_bytes(bomb_after(meta))
    assert (folder / "2.dcm").stat().st_size < 2**20
    tracemalloc.start()
    reading = read_series(reference(folder), ReadLimits(inflated_bytes=2**20))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [problem.file for problem in reading.problems] == ["2.dcm"]
    assert hidden != "standard" or reading.problems[0].what == "too-large"
    assert peak < 8 * 2**20
    assert_linear(reading.volumes[0])


def test_of_a_deflated_file_only_the_frames_are_kept(tmp_path):
    """32 MB of pixels for a slice of 12 x 16 in each of four files of 32 kB: not more than one of them at a time."""
    folder = write_series(tmp_path / "1", change=lambda data: setattr(data, "PixelData", data.PixelData + bytes(2**25)))
    for path in folder.iterdir():
        deflate(path)
    tracemalloc.start()
    (volume,) = read_series(reference(folder)).volumes
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 * 2**25  # inflated, changed, parsed, of the last
    assert_linear(volume)


def test_a_list_of_a_million_numbers_says_nothing(tmp_path):
    """A deflated kilobyte can hold it, and every number of it would become an object."""
    folder = write_series(tmp_path / "1")
    whole = (folder / "2.dcm").read_bytes()
    at = whole.index(struct.pack("<HH2s", 0x0028, 0x0030, b"DS"))
    length = struct.unpack_from("<H", whole, at + 6)[0]
    numbers = struct.pack("<HH2sHI", 0x0028, 0x0030, b"UN", 0, 2_000_000) + b"1\\" * 1_000_000
    (folder / "2.dcm").write_bytes(whole[:at] + numbers + whole[at + 8 + length :])
    tracemalloc.start()
    reading = read_series(reference(folder))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 * 2**20
    assert_linear(reading.volumes[0])  # with the spacing of the other slices


def test_a_description_of_a_megabyte_is_cut(tmp_path):
    folder = write_series(tmp_path / "1")
    whole = (folder / "2.dcm").read_bytes()
    at = whole.index(struct.pack("<HH2s", 0x0020, 0x0013, b"IS"))
    text = struct.pack("<HH2sHI", 0x0008, 0x103E, b"UT", 0, 2**20) + b"x" * 2**20
    frame = parse_file("2.dcm", whole[:at] + text + whole[at:], ReadLimits())[0]
    assert len(frame.acquisition.description) <= 1024


@pytest.mark.parametrize("where", ["sequence", "fragments"])
def test_more_items_than_there_can_be(tmp_path, where):
    """Of each item of eight bytes pydicom makes an object of a kilobyte; two million took a minute and 1.4 GB."""
    folder = write_series(tmp_path / "1")
    items = (ITEM + bytes(4)) * 200_000
    if where == "fragments":
        rewrite(folder / "2.dcm", compressed(uid.RLELossless, 12, 16, bytes(64)))
    whole = (folder / "2.dcm").read_bytes()
    tag = whole.rindex(b"\xe0\x7f\x10\x00O")
    sequence = struct.pack("<HH2sHI", 0x5200, 0x9230, b"SQ", 0, len(items))
    inside = (
        sequence + items + whole[tag:] if where == "sequence" else whole[tag : tag + 12] + items + whole[tag + 12 :]
    )
    (folder / "2.dcm").write_bytes(whole[:tag] + inside)
    started = time.process_time()  # of this process, whatever else the machine does
    assert "200" in one_bad(folder, "too-large")
    assert time.process_time() - started < 5


def test_an_offset_table_for_more_frames_than_there_are(tmp_path):
    """It would become a list of numbers, nine times as large as itself."""
    folder = write_series(tmp_path / "1")
    rewrite(folder / "2.dcm", lambda data: data.compress(uid.RLELossless, generate_instance_uid=False))
    whole = (folder / "2.dcm").read_bytes()
    at = whole.rindex(b"\xe0\x7f\x10\x00O") + 12
    size = 8 + struct.unpack_from("<I", whole, at + 4)[0]
    table = ITEM + struct.pack("<I", 2**22) + bytes(2**22)
    (folder / "2.dcm").write_bytes(whole[:at] + table + whole[at + size :])
    tracemalloc.start()
    detail = one_bad(folder, "undecodable-pixels")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "4194304 bytes for 1 frames" in detail
    assert peak < 6 * 2**22


def test_damaged_deflate(tmp_path):
    folder = write_series(tmp_path / "1")
    deflate(folder / "2.dcm")
    whole = bytearray((folder / "2.dcm").read_bytes())
    whole[-200:-100] = bytes(100)
    (folder / "2.dcm").write_bytes(whole)
    reading = read_series(reference(folder))
    assert [problem.file for problem in reading.problems] == ["2.dcm"]


def test_nested_sequences_deeper_than_the_stack(tmp_path):
    folder = write_series(tmp_path / "1")
    depth = 20_000
    nest = (
        struct.pack("<HH2sHI", 0x5200, 0x9230, b"SQ", 0, 0xFFFFFFFF)
        + (
            struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
            + struct.pack("<HH2sHI", 0x5200, 0x9230, b"SQ", 0, 0xFFFFFFFF)
        )
        * depth
    )
    whole = (folder / "2.dcm").read_bytes()
    tag = whole.rindex(b"\xe0\x7f\x10\x00OW")
    (folder / "2.dcm").write_bytes(whole[:tag] + nest + whole[tag:])
    one_bad(folder, "unreadable-file")


def test_a_value_representation_that_does_not_exist_costs_one_file(tmp_path):
    """Found by ``tests.fuzz``: pydicom raises only when the element is looked at."""
    folder = write_series(tmp_path / "1")
    whole = (folder / "2.dcm").read_bytes()
    element = struct.pack("<HH2sHH", 0x0028, 0x0103, b"US", 2, 0)
    assert element in whole
    broken = struct.pack("<HH2sH", 0x0028, 0x0103, b"U\0", 0)
    (folder / "2.dcm").write_bytes(whole.replace(element, broken))
    one_bad(folder, "unreadable-file")


def test_functional_groups_past_the_limit(tmp_path):
    folder = write_series(tmp_path / "1")

    def change(data):
        item = Dataset()
        item.ImageComments = "x" * 3000
        data.PerFrameFunctionalGroupsSequence = Sequence([item])

    rewrite(folder / "2.dcm", change)
    assert codes(read_series(reference(folder), ReadLimits(sequence_bytes=1000))) == ["too-large"]
    assert codes(read_series(reference(folder))) == []


def test_folders_loops_and_pipes_where_files_should_be(tmp_path):
    folder = write_series(tmp_path / "1")
    (folder / "x.dcm").mkdir()
    (folder / "loop.dcm").symlink_to("loop.dcm")
    (folder / "up.dcm").symlink_to("..")
    (folder / "nowhere.dcm").symlink_to("absent.dcm")
    os.mkfifo(folder / "pipe.dcm")
    (folder / ".hidden").write_text("left by a file manager")
    reading = read_series(reference(folder))
    assert codes(reading) == ["unreadable-file"] * 5
    assert {problem.file for problem in reading.problems} == {
        "x.dcm",
        "loop.dcm",
        "up.dcm",
        "nowhere.dcm",
        "pipe.dcm",
    }
    assert_linear(reading.volumes[0])


def test_a_file_that_may_not_be_opened(tmp_path, monkeypatch):
    folder = write_series(tmp_path / "1")
    real_open = Path.open

    def refuse(path, *args, **kwargs):
        if path.name == "2.dcm":
            raise PermissionError(13, "Permission denied", str(path))
        return real_open(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    assert one_bad(folder, "unreadable-file") == "Permission denied"


def test_a_series_that_is_absent_empty_or_a_file(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    assert codes(read_series(reference(tmp_path / "absent"))) == ["unreadable-series", "no-volume"]
    assert codes(read_series(reference(tmp_path / "empty"))) == ["no-volume"]
    assert codes(read_series(reference(tmp_path / "file"))) == ["unreadable-series", "no-volume"]


@pytest.mark.parametrize("name", ["../secret", "..", "a/b", "/etc", "", "x\0y"])
def test_ids_that_are_paths_are_not_followed(tmp_path, name):
    write_series(tmp_path / "secret")
    (tmp_path / "study").mkdir()
    path = tmp_path / "study" / name if "\0" not in name else tmp_path / "secret"
    reading = read_series(SeriesRef("100", name, path, None))
    assert reading.volumes == ()
    assert codes(reading) == ["bad-id", "no-volume"]


def test_non_ascii_and_broken_text(tmp_path):
    def change(data):
        data.PatientName = "Ж" * 40
        data.add_new(0x0008103E, "LO", "T2 \u00fc\u4e2d")

    folder = write_series(tmp_path / "1", change=change)
    whole = (folder / "2.dcm").read_bytes()
    (folder / "2.dcm").write_bytes(whole.replace(b"T2 ", b"\xff\xfe\x80"))
    reading = read_series(reference(folder))
    assert reading.problems == ()
    assert_linear(reading.volumes[0])


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("Rows", 0),
        ("Columns", None),
        ("BitsAllocated", 12),
        ("BitsAllocated", 64),
        ("BitsStored", 17),
        ("NumberOfFrames", 0),
        ("NumberOfFrames", -3),
    ],
)
def test_headers_that_cannot_be(tmp_path, keyword, value):
    folder = write_series(tmp_path / "1")
    rewrite(folder / "2.dcm", lambda data: setattr(data, keyword, value))
    assert keyword.removeprefix("Bits") in one_bad(folder, "bad-header")


@pytest.mark.parametrize(
    ("element", "raw"),
    [
        ("RescaleSlope", b"nan "),
        ("RescaleSlope", b"1e99"),
        ("RescaleIntercept", b"inf "),
        ("InstanceNumber", b"99999999999999999999"),
        ("InstanceNumber", b"1.5.2 "),
        ("ImagePositionPatient", b"1e300\\1e300\\1e300 "),
        ("ImageOrientationPatient", b"\\\\\\\\\\"),
        ("PixelSpacing", b"-1\\0 "),
        ("PixelSpacing", b"\xc3\xa9\\1 "),
    ],
)
def test_numbers_that_are_not(tmp_path, element, raw):
    folder = write_series(tmp_path / "1")
    tag = pydicom.datadict.tag_for_keyword(element)

    def change(data):
        data[element] = pydicom.dataelem.RawDataElement(
            pydicom.tag.Tag(tag), data[element].VR, len(raw), raw, 0, False, True
        )

    rewrite(folder / "2.dcm", change)
    reading = read_series(reference(folder))
    assert "internal-error" not in codes(reading)
    assert sum(len(volume.pixels) for volume in reading.volumes) == 4
    assert all(
        np.isfinite(volume.pixels).all() and np.isfinite(volume.affines.matrix).all() for volume in reading.volumes
    )


def test_a_sparse_file_of_a_terabyte_is_not_opened(tmp_path):
    folder = write_series(tmp_path / "1")
    with (folder / "2.dcm").open("r+b") as file:
        file.truncate(2**40)
    one_bad(folder, "too-large")


ENDLESS = bytes.fromhex(
    "ffd8fff7000b100018002001011100fff8000d01ffff0012004301140040ffda00080101000000007c98d31a66598ec75fae"
    "d76b357abd4f4747372f2f1f171706fefeeee6e6d6cecebeb610c0280700405038040a0701050701050701050e0428702143"
    "810a1c0850e040283f060450c11430450c11430450c11430450c11430450c1140383f0451c114e129c25384a7094e129c253"
    "84a7094e008765384a7094e1571571571571571571571014333153153153153153359acd66b340e33379bcde6f379bcde6f3"
    "79bc022fbcde272727272727272740a27cb972e5cb972e5cb940e27272727272727272"
)
"""A damaged JPEG-LS stream of 24 x 32 pixels from which CharLS, the decoder of pyjpegls, never returns."""


def test_a_jpeg_ls_stream_that_would_be_decoded_forever(tmp_path):
    def change(data):
        data.file_meta.TransferSyntaxUID = uid.JPEGLSLossless
        data.PixelData = encapsulate([ENDLESS])
        data["PixelData"].is_undefined_length = True

    folder = write_series(tmp_path / "1", shape=(24, 32))
    rewrite(folder / "2.dcm", change)
    assert "ITK ERROR" in one_bad(folder, "undecodable-pixels")


def test_encapsulated_fragments_that_lie(tmp_path):
    def change(data):
        data.file_meta.TransferSyntaxUID = uid.RLELossless
        data.PixelData = encapsulate([b"\x01\0\0\0" + b"\x40\0\0\0" * 15 + b"\x81\x05"])
        data["PixelData"].is_undefined_length = True

    folder = write_series(tmp_path / "1")
    rewrite(folder / "2.dcm", change)
    one_bad(folder, "undecodable-pixels")


def test_an_unforeseen_error_is_a_problem_too(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.volumes.reader.number_frames", lambda frames: 1 / 0)
    reading = read_series(reference(write_series(tmp_path / "1")))
    assert codes(reading) == ["internal-error", "no-volume"]
