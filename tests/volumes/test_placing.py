"""Where slices lie when the header does not say, or says what cannot be: measured before assumed, and named."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from pipeline.competition import StudyRef
from pipeline.labels import SeriesKind
from pipeline.volumes import read_series, read_study
from tests.volumes.oracle import AXIAL, SAGITTAL, X, Z, assert_linear, codes, positions, reference, turned, write_series

T1, T2, AXIAL_T2 = SeriesKind.SAGITTAL_T1, SeriesKind.SAGITTAL_T2, SeriesKind.AXIAL_T2


def located(axes, sign):
    """A change that writes SliceLocation, counted along the normal (1) or against it (-1)."""

    def change(data):
        place = np.array([float(value) for value in data.ImagePositionPatient])
        data.SliceLocation = f"{sign * float(place @ np.cross(*axes)):.3f}"

    return change


def both(*changes):
    def change(data):
        for one in changes:
            one(data)

    return change


def without(*names):
    return lambda data: [data.pop(name) for name in names]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("axes", [SAGITTAL, turned(turned(AXIAL, X, 17), Z, 5)])
def test_one_position_for_all_slices_is_put_right_by_slice_location(tmp_path, axes, sign):
    first = positions(axes, (5.0, -7.0, 11.0), [-6.0])[0]

    def repeat(data):
        data.ImagePositionPatient = [f"{value:.6f}" for value in first]

    change = both(located(axes, sign), repeat)
    reading = read_series(reference(write_series(tmp_path / "1", axes, change=change)))
    (volume,) = reading.volumes
    assert codes(reading) == ["one-position"]
    assert volume.is_placed
    assert volume.knows_sides
    assert_linear(volume)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_slice_nearly_as_far_on_the_other_side_does_not_hide_the_direction(tmp_path, sign):
    """In study 100206310 one lies 20.04 mm to the left and another 20.28 mm to the right of the magnet's middle."""
    places = positions(SAGITTAL, (0.12, -7.0, 11.0), [-20.16, -12.16, -4.16, 3.84, 11.84, 20.16])

    def repeat(data):
        data.ImagePositionPatient = [f"{value:.6f}" for value in places[0]]

    reading = read_series(
        reference(write_series(tmp_path / "1", SAGITTAL, places, change=both(located(SAGITTAL, sign), repeat)))
    )
    (volume,) = reading.volumes
    assert codes(reading) == ["one-position"]
    assert_linear(volume)


@pytest.mark.parametrize("sign", [1, -1])
def test_without_positions_slice_location_places_slices_and_sound_series_tell_its_direction(tmp_path, sign):
    """Patient x is then measured, so that sides are known; what lies in the plane of the slices is not."""
    write_series(tmp_path / "sound", change=located(SAGITTAL, sign))
    write_series(tmp_path / "lost", change=both(located(SAGITTAL, sign), without("ImagePositionPatient")))
    reading = read_study(StudyRef("1", tmp_path, (reference(tmp_path / "lost", T1), reference(tmp_path / "sound", T2))))
    lost, sound = reading.volumes
    assert lost.centres_mm[:, 0] == pytest.approx(sound.centres_mm[:, 0], abs=0.01)
    assert lost.knows_sides
    assert not lost.is_placed
    assert sound.is_placed
    assert codes(reading) == ["assumed-place", "slice-location"]


def test_without_positions_anywhere_sides_are_not_known(tmp_path):
    folder = write_series(tmp_path / "1", change=both(located(SAGITTAL, 1), without("ImagePositionPatient")))
    reading = read_study(StudyRef("1", tmp_path, (reference(folder, T1),)))
    (volume,) = reading.volumes
    assert not volume.knows_sides
    assert np.abs(volume.slice_steps_mm) == pytest.approx(4.0, abs=0.01)
    assert codes(reading) == ["assumed-place", "assumed-sides", "slice-location"]


def test_gaps_that_slice_location_tells_are_kept(tmp_path):
    places = positions(AXIAL, (0, 0, 0), [0, 4, 8, 30, 34])
    change = both(located(AXIAL, 1), without("ImagePositionPatient", "InstanceNumber"))
    (volume,) = read_series(reference(write_series(tmp_path / "1", AXIAL, places, change=change), AXIAL_T2)).volumes
    assert sorted(volume.slice_steps_mm.tolist()) == pytest.approx([4, 4, 4, 22])


def test_one_position_for_all_slices_and_nothing_else_is_no_stack_with_sides(tmp_path):
    first = positions(SAGITTAL, (5.0, -7.0, 11.0), [-6.0])[0]

    def repeat(data):
        data.ImagePositionPatient = [f"{value:.6f}" for value in first]

    reading = read_series(reference(write_series(tmp_path / "1", change=repeat), T1))
    (volume,) = reading.volumes
    assert len(volume.pixels) == 4
    assert not volume.knows_sides
    assert "missing-position" in codes(reading)


def test_orientation_that_the_positions_disprove_is_not_believed(tmp_path):
    """A converter wrote 1 0 0 0 1 0 into sagittal slices."""

    def convert(data):
        data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]

    for told in (None, T2):
        reading = read_series(reference(write_series(tmp_path / f"{told}", SAGITTAL, change=convert), told))
        (volume,) = reading.volumes
        assert_linear(volume)
        assert volume.knows_sides  # the slices' own patient x is measured
        assert not volume.is_placed
        assert set(codes(reading)) == {"missing-orientation", "assumed-place"}


def test_angled_axial_slices_with_a_converters_orientation_give_no_sides(tmp_path):
    axes = turned(AXIAL, X, 12)

    def convert(data):
        data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]

    reading = read_series(reference(write_series(tmp_path / "1", axes, change=convert), AXIAL_T2))
    (volume,) = reading.volumes
    assert not volume.is_placed
    assert not volume.knows_sides


def test_straight_slices_with_exact_axes_are_sound(tmp_path):
    reading = read_series(reference(write_series(tmp_path / "1", AXIAL), AXIAL_T2))
    assert reading.problems == ()
    assert reading.volumes[0].is_placed


def as_text(keyword, text):
    tag = Tag(tag_for_keyword(keyword))
    raw = text.encode() + b" " * (len(text) % 2)

    def change(data):
        data[tag] = RawDataElement(tag, "DS", len(raw), raw, 0, False, True)

    return change


@pytest.mark.parametrize(
    "change",
    [
        as_text("PixelSpacing", "0.5"),
        as_text("PixelSpacing", "0,5\\0,5"),
        as_text("PixelSpacing", "0,5"),
        as_text("PixelSpacing", "0.5, 0.5"),
        both(without("PixelSpacing"), as_text("NominalScannedPixelSpacing", "0.5\\0.5")),
        both(without("PixelSpacing"), as_text("ImagerPixelSpacing", "0.5\\0.5")),
        both(as_text("PixelSpacing", ""), as_text("ImagerPixelSpacing", "0.5")),
        both(as_text("PixelSpacing", "0\\0"), as_text("ImagerPixelSpacing", "0.5")),
    ],
    ids=["one number", "decimal comma", "one with comma", "comma between", "nominal", "imager", "empty", "zero"],
)
def test_spacing_is_read_wherever_and_however_it_is_written(tmp_path, change):
    places = positions(SAGITTAL, (5.0, -7.0, 11.0), [-4, 0, 4], spacing=(0.5, 0.5))
    reading = read_series(reference(write_series(tmp_path / "1", SAGITTAL, places, spacing=(0.5, 0.5), change=change)))
    assert reading.problems == ()
    assert_linear(reading.volumes[0])


def test_positions_and_orientation_with_decimal_commas(tmp_path):
    axes = turned(SAGITTAL, Z, 7)

    def translate(data):
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient"):
            as_text(keyword, "\\".join(f"{float(value):.6f}".replace(".", ",") for value in data[keyword].value))(data)

    reading = read_series(reference(write_series(tmp_path / "1", axes, change=translate)))
    assert reading.problems == ()
    assert_linear(reading.volumes[0])
