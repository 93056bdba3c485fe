"""What a stream declares is read strictly: what a lenient parser steps over, a decoder may not."""

from __future__ import annotations

import io
import time

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import uid
from pydicom.encaps import encapsulate, generate_frames

from pipeline.volumes import decode as decode_module
from pipeline.volumes import read_series
from pipeline.volumes.codestream import Declared, read_declared, without_boxes
from tests.volumes.attacks import J2KS, JPEGS, box, compressed, j2k, jp2, jpeg, sides
from tests.volumes.oracle import codes, reference, stored_values, write_series
from tests.volumes.syntaxes import LOSSLESS


@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True, "comment": "x" * 500, "restart_marker_rows": 1}),
        ("JPEG2000", {"no_jp2": True}),
        ("JPEG2000", {"no_jp2": True, "tile_size": (32, 32), "tile_offset": (3, 5), "offset": (7, 6)}),
        ("JPEG2000", {"no_jp2": False}),
    ],
)
def test_what_pillow_writes(file_format, options):
    stream = io.BytesIO()
    Image.fromarray(np.zeros((130, 150), np.uint8)).save(stream, file_format, **options)
    found = read_declared(without_boxes(stream.getvalue()))
    assert found == Declared(130, 150, 1, 8, tiles=25 if "tile_size" in options else 1)


@pytest.mark.parametrize("syntax", [syntax for syntax in LOSSLESS if "JPEG" in syntax.keyword])
def test_what_other_libraries_write(tmp_path, syntax):
    path = write_series(tmp_path / "1", shape=(40, 64)) / "1.dcm"
    LOSSLESS[syntax](path)
    (stream,) = generate_frames(pydicom.dcmread(path).PixelData, number_of_frames=1)
    assert read_declared(stream) == Declared(40, 64, 1, 16)


@pytest.mark.parametrize(
    "stream",
    [
        b"\xff\xd8" + b"\xff\xe1\0\2" * 5_000_000 + jpeg()[2:],
        b"\xff\xd8" + b"\xff" * 20_000_000 + jpeg()[2:],
        jp2(box(b"free", b"") * 2_500_000, box(b"jp2c", j2k())),
    ],
    ids=["segments", "fill bytes", "boxes"],
)
def test_twenty_megabytes_of_nothing_before_the_pixels_take_no_time(stream):
    started = time.process_time()
    with pytest.raises(ValueError, match=r"does not come to its pixels|without a whole codestream"):
        read_declared(without_boxes(stream))
    assert time.process_time() - started < 0.5


def test_colour():
    stream = io.BytesIO()
    Image.fromarray(np.zeros((30, 50, 3), np.uint8)).save(stream, "JPEG")
    assert read_declared(stream.getvalue()) == Declared(30, 50, 3, 8)


@pytest.mark.parametrize("stream", [b"", b"\xff\xd8\xff", jpeg()[:150], j2k()[:40], b"GIF89a" + bytes(100)])
def test_streams_that_show_nothing(stream):
    with pytest.raises(ValueError, match=r"shows? .*size"):
        read_declared(stream)


def refused(folder, syntax, side, bits, stream, monkeypatch):
    """The detail of the one problem of a slice that reaches no decoder."""

    def reached(*_):
        raise AssertionError("a decoder was called")

    monkeypatch.setattr(decode_module._process, "decode", reached)
    reading = read_series(
        reference(write_series(folder, shape=(12, 16), change=compressed(syntax, side, bits, stream)))
    )
    assert set(codes(reading)) == {"undecodable-pixels", "no-volume"}
    return reading.problems[0].detail


@pytest.mark.parametrize("name", JPEGS)
@pytest.mark.parametrize("syntax", [uid.JPEGBaseline8Bit, uid.JPEGLosslessSV1, uid.JPEGLSLossless])
def test_a_jpeg_that_is_not_what_the_header_says_reaches_no_decoder(tmp_path, monkeypatch, syntax, name):
    assert "called" not in refused(tmp_path / "1", syntax, sides(name), 8, JPEGS[name], monkeypatch)


@pytest.mark.parametrize("name", J2KS)
@pytest.mark.parametrize("syntax", [uid.JPEG2000, uid.HTJ2K])
def test_a_jpeg_2000_that_is_not_what_the_header_says_reaches_no_decoder(tmp_path, monkeypatch, syntax, name):
    monkeypatch.setitem(decode_module._DECODERS, uid.HTJ2K, (decode_module.ITK,))
    assert "called" not in refused(tmp_path / "1", syntax, sides(name), 16, J2KS[name], monkeypatch)


def test_the_message_says_what_came_and_what_was_expected(tmp_path, monkeypatch):
    detail = refused(tmp_path / "1", uid.JPEG2000, 64, 16, J2KS["16,384 components"], monkeypatch)
    assert "64 x 64 pixels of 16384 x 16 bits" in detail
    assert "did not decode to 64 x 64 pixels of 16 bits" in detail


@pytest.mark.parametrize("extended", [False, True])
def test_a_jp2_container_is_read_as_what_is_in_it(tmp_path, extended):
    """Boxes have no place in DICOM and are found there; a second codestream is not looked at."""

    def change(data):
        data.file_meta.TransferSyntaxUID = uid.JPEG2000Lossless
        stream = io.BytesIO()
        Image.fromarray(stored_values(data)).save(stream, "JPEG2000", no_jp2=True)
        bare = stream.getvalue()
        whole = jp2(box(b"xml ", j2k(), extended), box(b"jp2c", bare, extended), box(b"jp2c", j2k()))
        data.PixelData = encapsulate([whole])
        data["PixelData"].is_undefined_length = True

    plain = read_series(reference(write_series(tmp_path / "plain")))
    boxed = read_series(reference(write_series(tmp_path / "boxed", change=change)))
    assert boxed.problems == ()
    assert np.array_equal(boxed.volumes[0].pixels, plain.volumes[0].pixels)


def test_the_last_box_may_go_to_the_end():
    stream = jp2(box(b"jp2c", j2k()))
    at = stream.index(b"jp2c") - 4
    assert without_boxes(stream[:at] + bytes(4) + stream[at + 4 :]) == j2k()
    assert without_boxes(j2k()) == j2k()
