"""Every transfer syntax a hospital may ship returns the stored values, and a missing decoder is named."""

from __future__ import annotations

import io
from types import SimpleNamespace

import gdcm
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import uid
from pydicom.encaps import encapsulate

from pipeline.volumes import decode as decode_module
from pipeline.volumes import read_series
from tests.volumes.oracle import assert_linear, codes, reference, stored_values, write_series
from tests.volumes.syntaxes import LOSSLESS, by_gdcm


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda syntax: syntax.keyword)
def test_lossless_syntaxes_return_the_oracle(tmp_path, syntax):
    folder = write_series(tmp_path / "1", shape=(40, 64))
    for path in sorted(folder.iterdir()):
        LOSSLESS[syntax](path)
        assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == syntax
    reading = read_series(reference(folder))
    assert reading.problems == ()
    assert_linear(reading.volumes[0])


def test_rle_without_its_fast_decoder(tmp_path, monkeypatch):
    monkeypatch.setattr(decode_module, "_decode_rle", None)
    test_lossless_syntaxes_return_the_oracle(tmp_path, uid.RLELossless)


def test_every_decoder_of_a_syntax_gives_the_same(tmp_path, monkeypatch):
    for syntax in (uid.JPEGLSLossless, uid.JPEG2000Lossless):
        for plugin in decode_module._DECODERS[syntax]:
            monkeypatch.setitem(decode_module._DECODERS, syntax, (plugin,))
            test_lossless_syntaxes_return_the_oracle(tmp_path / plugin, syntax)


def _jpeg_series(folder, file_format, syntax, **options):
    """An 8-bit series with a smooth image, compressed by Pillow; returns the image."""
    rows, cols = np.indices((48, 64))
    image = (100 + rows + cols).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, file_format, **options)

    def change(data):
        data.file_meta.TransferSyntaxUID = syntax
        data.BitsAllocated = data.BitsStored = 8
        data.HighBit = 7
        data.PixelData = encapsulate([stream.getvalue()])
        data["PixelData"].is_undefined_length = True
        data.pop("RescaleSlope")
        data.pop("RescaleIntercept")

    write_series(folder, shape=(48, 64), change=change)
    return image


@pytest.mark.parametrize(
    ("file_format", "syntax", "options"),
    [
        ("JPEG", uid.JPEGBaseline8Bit, {"quality": 95}),
        ("JPEG2000", uid.JPEG2000, {"irreversible": True, "quality_layers": [4], "no_jp2": True}),
    ],
)
def test_lossy_syntaxes_are_close(tmp_path, file_format, syntax, options):
    image = _jpeg_series(tmp_path / "1", file_format, syntax, **options)
    reading = read_series(reference(tmp_path / "1"))
    assert reading.problems == ()
    for pixels in reading.volumes[0].pixels:
        assert np.abs(pixels - image).max() <= 3


def test_near_lossless_jpeg_ls(tmp_path):
    folder = write_series(tmp_path / "1", shape=(40, 64))
    for path in sorted(folder.iterdir()):
        data = pydicom.dcmread(path)
        data.compress(uid.JPEGLSNearLossless, jls_error=2, generate_instance_uid=False)
        data.save_as(path)
    assert_linear(read_series(reference(folder)).volumes[0], tolerance=0.03)


def test_a_missing_decoder_is_named_with_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(decode_module, "get_decoder", lambda syntax: SimpleNamespace(available_plugins=()))

    def change(data):
        data.file_meta.TransferSyntaxUID = uid.HTJ2KLossless
        data.PixelData = encapsulate([data.PixelData])
        data["PixelData"].is_undefined_length = True

    reading = read_series(reference(write_series(tmp_path / "1", change=change)))
    assert reading.volumes == ()
    missing = [problem for problem in reading.problems if problem.what == "missing-decoder"]
    assert len(missing) == 4
    assert "High-Throughput JPEG 2000" in missing[0].detail
    assert "pip install pylibjpeg pylibjpeg-openjpeg" in missing[0].detail


def test_without_optional_packages_the_required_ones_decode(tmp_path, monkeypatch):
    """What a plain Kaggle image has: no gdcm, no pylibjpeg."""
    monkeypatch.setattr(decode_module, "_decode_rle", None)
    real = decode_module.get_decoder

    def plain(syntax):
        decoder = real(syntax)
        found = tuple(name for name in decoder.available_plugins if name in ("pillow", "pydicom"))
        return SimpleNamespace(available_plugins=found, as_array=decoder.as_array)

    monkeypatch.setattr(decode_module, "get_decoder", plain)
    for number, syntax in enumerate(LOSSLESS):
        test_lossless_syntaxes_return_the_oracle(tmp_path / str(number), syntax)


def test_the_gpl_decoder_is_never_asked():
    """pydicom's pylibjpeg plugin means pylibjpeg-libjpeg for every JPEG but High-Throughput JPEG 2000."""
    asked = {syntax for syntax, names in decode_module._DECODERS.items() if "pylibjpeg" in names}
    assert asked == {uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K}


def test_a_panic_of_the_rle_decoder_is_a_problem(tmp_path, monkeypatch):
    """pylibjpeg-rle panics on some damaged streams; a panic derives from BaseException."""

    class Panic(BaseException):
        pass

    def panic(*_):
        raise Panic("index out of bounds")

    folder = write_series(tmp_path / "1", shape=(40, 64))
    LOSSLESS[uid.RLELossless](folder / "2.dcm")
    monkeypatch.setattr(decode_module, "_decode_rle", panic)
    reading = read_series(reference(folder))
    assert [(problem.what, problem.file) for problem in reading.problems] == [("undecodable-pixels", "2.dcm")]


def test_12_bit_jpeg_extended(tmp_path):
    """Lossy JPEG of more than 8 bits, which Pillow cannot read."""
    rows, cols = np.indices((40, 64))
    image = (1500 + 20 * rows + 15 * cols).astype("<u2")

    def change(data):
        data.BitsStored, data.HighBit, data.PixelData = 12, 11, image.tobytes()
        data.pop("RescaleSlope")
        data.pop("RescaleIntercept")

    folder = write_series(tmp_path / "1", shape=(40, 64), change=change)
    for path in sorted(folder.iterdir()):
        by_gdcm(gdcm.TransferSyntax.JPEGExtendedProcess2_4, lossy=True)(path)
    reading = read_series(reference(folder))
    assert codes(reading) == []
    assert np.abs(reading.volumes[0].pixels - image).max() < 60


def test_an_unknown_transfer_syntax_is_a_problem(tmp_path):
    def change(data):
        data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"  # MPEG2
        data.PixelData = encapsulate([data.PixelData])
        data["PixelData"].is_undefined_length = True

    reading = read_series(reference(write_series(tmp_path / "1", change=change)))
    assert {problem.what for problem in reading.problems} == {"unknown-transfer-syntax", "no-volume"}


def test_signed_pixels(tmp_path):
    def change(data):
        values = stored_values(data).astype(int)
        data.RescaleIntercept = float(data.RescaleIntercept) + 10.0
        data.PixelRepresentation = 1
        data.PixelData = (values - 1000).astype("<i2").tobytes()

    assert_linear(read_series(reference(write_series(tmp_path / "1", change=change))).volumes[0])


@pytest.mark.parametrize("signed", [False, True])
def test_bits_above_bits_stored_are_not_part_of_the_value(tmp_path, signed):
    """12 bits stored in 16, with rubbish in the upper four."""

    def change(data):
        values = stored_values(data).astype(int)
        data.BitsStored, data.HighBit, data.PixelRepresentation = 12, 11, int(signed)
        offset = -1000 if signed else 0
        data.RescaleIntercept = float(data.RescaleIntercept) - offset * float(data.RescaleSlope)
        data.PixelData = (((values + offset) & 0x0FFF) | 0xA000).astype("<u2").tobytes()

    assert_linear(read_series(reference(write_series(tmp_path / "1", change=change))).volumes[0])


def test_monochrome1_is_inverted(tmp_path):
    def change(data):
        data.PhotometricInterpretation = "MONOCHROME1"
        data.PixelData = (65535 - stored_values(data)).astype("<u2").tobytes()

    assert_linear(read_series(reference(write_series(tmp_path / "1", change=change))).volumes[0])


def test_32_and_8_bit_pixels(tmp_path):
    def wide(data):
        data.BitsAllocated = data.BitsStored = 32
        data.HighBit = 31
        data.PixelData = stored_values(data).astype("<u4").tobytes()

    assert_linear(read_series(reference(write_series(tmp_path / "1", change=wide))).volumes[0])

    def narrow(data):
        values = stored_values(data)
        data.BitsAllocated = data.BitsStored = 8
        data.HighBit = 7
        data.RescaleSlope = 0.1
        data.PixelData = np.round(values / 10).astype("u1").tobytes()

    assert_linear(read_series(reference(write_series(tmp_path / "2", change=narrow))).volumes[0], tolerance=0.06)


def test_8_bit_words_in_big_endian_files(tmp_path):
    def change(data):
        values = np.round(stored_values(data) / 10).astype("u1")
        data.BitsAllocated = data.BitsStored = 8
        data.HighBit = 7
        data.RescaleSlope = 0.1
        data.PixelData = values.tobytes()

    folder = write_series(tmp_path / "1", change=change)
    for path in sorted(folder.iterdir()):
        data = pydicom.dcmread(path)
        data.file_meta.TransferSyntaxUID = uid.ExplicitVRBigEndian
        data.PixelData = np.frombuffer(data.PixelData, "<u2").astype(">u2").tobytes()
        data["PixelData"].VR = "OW"
        pydicom.dcmwrite(path, data, implicit_vr=False, little_endian=False, force_encoding=True)
    assert_linear(read_series(reference(folder)).volumes[0], tolerance=0.06)


def test_no_grey_level_is_lost(tmp_path):
    """All 65,536 values come through: nothing is 8 bit on the way."""
    values = np.arange(65536, dtype="<u2").reshape(256, 256)

    def change(data):
        data.PixelData = values.tobytes()
        data.pop("RescaleSlope")
        data.pop("RescaleIntercept")

    (volume,) = read_series(reference(write_series(tmp_path / "1", shape=(256, 256), change=change))).volumes
    assert all(len(np.unique(pixels)) == 65536 for pixels in volume.pixels)
    assert volume.pixels.dtype == np.float32


def test_zero_slope_is_no_slope(tmp_path):
    (volume,) = read_series(
        reference(write_series(tmp_path / "1", change=lambda data: setattr(data, "RescaleSlope", 0)))
    ).volumes
    assert np.ptp(volume.pixels) > 100


def test_colour_images_are_a_problem(tmp_path):
    def change(data):
        data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
        data.PixelData = data.PixelData * 3

    reading = read_series(reference(write_series(tmp_path / "1", change=change)))
    assert {problem.what for problem in reading.problems} == {"unsupported-pixels", "no-volume"}


def test_a_stream_of_another_size_than_the_header_is_not_decoded(tmp_path):
    """A small header over a huge stream is how a decoder is made to allocate anything."""
    _jpeg_series(tmp_path / "1", "JPEG", uid.JPEGBaseline8Bit)
    for path in (tmp_path / "1").iterdir():
        data = pydicom.dcmread(path)
        data.Rows, data.Columns = 8, 8
        data.save_as(path)
    reading = read_series(reference(tmp_path / "1"))
    assert {problem.what for problem in reading.problems} == {"undecodable-pixels", "no-volume"}
    assert "48 x 64" in reading.problems[0].detail


def _left_justified(data):
    """12 bits in the upper part of 16."""
    values = stored_values(data) & 0x0FFF
    data.BitsStored, data.HighBit, data.PixelData = 12, 15, (values << 4).astype("<u2").tobytes()


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.RLELossless])
def test_high_bit_tells_where_the_value_stands(tmp_path, syntax):
    folder = write_series(tmp_path / "1", change=_left_justified)
    if syntax == uid.RLELossless:
        for path in folder.iterdir():
            LOSSLESS[syntax](path)
    assert_linear(read_series(reference(folder)).volumes[0])


def test_a_high_bit_that_the_values_contradict_is_not_believed(tmp_path):
    def change(data):
        data.BitsStored, data.HighBit = 12, 15

    assert_linear(read_series(reference(write_series(tmp_path / "1", change=change))).volumes[0])


@pytest.mark.parametrize(
    ("signed", "value", "limit", "representation"),
    [(True, -32768, None, "SS"), (True, 32768, None, "US"), (False, 65535, None, "US"), (False, 65000, 65535, "US")],
    ids=["signed", "written unsigned", "unsigned", "range"],
)
def test_padding_is_as_dark_as_the_darkest_place_of_the_image(tmp_path, signed, value, limit, representation):
    def pad(data):
        values = stored_values(data).astype(np.int64)
        values[:, :3] = value - 65536 if signed and value > 0 else value
        values[0, 0] = limit or values[0, 0]
        data.PixelRepresentation = int(signed)
        data.PixelData = values.astype("<i2" if signed else "<u2").tobytes()
        data.add_new("PixelPaddingValue", representation, value)
        if limit is not None:
            data.add_new("PixelPaddingRangeLimit", representation, limit)

    plain = read_series(reference(write_series(tmp_path / "1"))).volumes[0].pixels
    (volume,) = read_series(reference(write_series(tmp_path / "2", change=pad))).volumes
    outside = np.zeros(plain.shape, bool)
    outside[:, :, :3] = True
    assert np.array_equal(volume.pixels[~outside], plain[~outside])
    for image, mask in zip(volume.pixels, outside, strict=True):
        assert np.all(image[mask] == image[~mask].min())


def test_undeclared_padding_with_the_least_value_is_known_and_dark_images_are_not(tmp_path):
    def pad(data):
        values = stored_values(data).astype("<i2")
        values[:, :3] = -32768
        data.PixelRepresentation, data.PixelData = 1, values.tobytes()

    def sink(data):
        values = stored_values(data).astype(np.int64)
        data.PixelRepresentation, data.PixelData = 1, (values - values.min() - 32768).astype("<i2").tobytes()

    (padded,) = read_series(reference(write_series(tmp_path / "1", change=pad))).volumes
    assert padded.pixels.min() == padded.pixels[:, :, 3:].min()
    (plain,) = read_series(reference(write_series(tmp_path / "2"))).volumes
    (dark,) = read_series(reference(write_series(tmp_path / "3", change=sink))).volumes
    assert np.ptp(dark.pixels[0]) == pytest.approx(np.ptp(plain.pixels[0]))


def _with_palette(data, tables, first=0):
    """The values as places in palettes of 16-bit entries."""
    for colour, table in zip(("Red", "Green", "Blue"), tables, strict=True):
        data.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [len(table), first, 16])
        data.add_new(f"{colour}PaletteColorLookupTableData", "OW", table.astype("<u2").tobytes())
    data.PhotometricInterpretation = "PALETTE COLOR"


def test_a_grey_palette_is_looked_up(tmp_path):
    order = np.random.default_rng(0).permutation(4096)
    place = np.argsort(order)

    def change(data):
        data.PixelData = (place[stored_values(data)] + 10).astype("<u2").tobytes()
        _with_palette(data, [order] * 3, first=10)

    reading = read_series(reference(write_series(tmp_path / "1", change=change)))
    assert reading.problems == ()
    assert_linear(reading.volumes[0])


def test_a_palette_of_colours_is_a_problem(tmp_path):
    grey = np.arange(4096)
    folder = write_series(tmp_path / "1", change=lambda data: _with_palette(data, [grey, grey, grey[::-1]]))
    assert codes(read_series(reference(folder))) == ["unsupported-pixels"] * 4 + ["no-volume"]


def test_a_palette_without_its_tables_is_a_problem(tmp_path):
    folder = write_series(
        tmp_path / "1", change=lambda data: setattr(data, "PhotometricInterpretation", "PALETTE COLOR")
    )
    assert codes(read_series(reference(folder))) == ["unsupported-pixels"] * 4 + ["no-volume"]


def test_a_file_whose_preamble_is_gone_is_read(tmp_path):
    folder = write_series(tmp_path / "1")
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[128:])
    assert_linear(read_series(reference(folder)).volumes[0])
