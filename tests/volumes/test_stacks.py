"""Sorting and grouping: DESIGN.md section 4, each rule on files written with that defect and checked by the oracle."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from pipeline.labels import SeriesKind
from pipeline.volumes import Plane, read_series
from tests.volumes.oracle import (
    AXIAL,
    CORONAL,
    SAGITTAL,
    X,
    Z,
    assert_linear,
    codes,
    positions,
    reference,
    rewrite,
    turned,
    write_series,
)


def test_sorted_by_position_not_by_name_or_instance(tmp_path):
    steps = [2, -6, 6, -2]
    folder = write_series(tmp_path / "1", SAGITTAL, positions(SAGITTAL, (0, 0, 0), steps))
    shutil.move(folder / "1.dcm", folder / "zz.dcm")
    (volume,) = read_series(reference(folder)).volumes
    expected = np.argsort([step * np.cross(*SAGITTAL)[0] for step in steps]) + 1
    assert volume.instance_numbers.tolist() == expected.tolist()
    assert_linear(volume)


def test_three_disc_angled_stacks_in_one_series(tmp_path):
    instance = 1
    for angle, height in ((-12, 60), (3, 25), (27, -10)):
        axes = turned(AXIAL, X, angle)
        places = positions(axes, (2, 3, height), [8, 4, 0, -4, -8])
        write_series(tmp_path / "1", axes, places, first_instance=instance)
        instance += 5
    reading = read_series(reference(tmp_path / "1", SeriesKind.AXIAL_T2))
    assert reading.problems == ()
    assert [volume.instance_numbers.tolist() for volume in reading.volumes] == [
        [1, 2, 3, 4, 5],
        [6, 7, 8, 9, 10],
        [11, 12, 13, 14, 15],
    ]
    for volume in reading.volumes:
        assert volume.kind is SeriesKind.AXIAL_T2
        assert volume.flags == ()
        assert_linear(volume)


def test_prescriptions_half_a_degree_apart_stay_apart(tmp_path):
    for number, (angle, height) in enumerate(((0.0, 40), (0.44, 10), (0.88, -20))):
        axes = turned(AXIAL, X, angle)
        write_series(tmp_path / "1", axes, positions(axes, (0, 0, height), [4, 0, -4]), first_instance=1 + 3 * number)
    volumes = read_series(reference(tmp_path / "1")).volumes
    assert [len(volume.pixels) for volume in volumes] == [3, 3, 3]


def test_directions_rounded_to_three_decimals_are_one_stack(tmp_path):
    axes = turned(AXIAL, [1, 1, 0], 9.0)
    places = positions(axes, (0, 0, 0), [4, 0, -4])

    def round_one(data):
        if data.InstanceNumber == 2:
            data.ImageOrientationPatient = [round(float(value), 3) for value in data.ImageOrientationPatient]

    volumes = read_series(reference(write_series(tmp_path / "1", axes, places, change=round_one))).volumes
    assert [len(volume.pixels) for volume in volumes] == [3]


def test_gaps_do_not_split_and_are_kept_in_the_positions(tmp_path):
    steps = [0, 3.5, 7, 29.5, 33, 36.5]
    reading = read_series(reference(write_series(tmp_path / "1", AXIAL, positions(AXIAL, (0, 0, 0), steps))))
    (volume,) = reading.volumes
    assert sorted(np.round(volume.slice_steps_mm, 6).tolist()) == [3.5, 3.5, 3.5, 3.5, 22.5]
    assert volume.slice_spacing_mm == pytest.approx(3.5)
    assert_linear(volume)


def test_thickness_and_spacing_tags_are_not_believed(tmp_path):
    def lie(data):
        data.SliceThickness, data.SpacingBetweenSlices = 99, -3

    (volume,) = read_series(reference(write_series(tmp_path / "1", change=lie))).volumes
    assert volume.slice_spacing_mm == pytest.approx(4.0)
    assert_linear(volume)


def test_motion_between_slices_keeps_one_affine_per_slice(tmp_path):
    """Shifts in plane, and small turns: one stack, each slice where it was."""
    folder = tmp_path / "1"
    for instance, (angle, shift) in enumerate([(0, 0), (0.3, 2), (0.7, -1), (-0.4, 3), (0, 0)], start=1):
        axes = turned(SAGITTAL, Z, angle)
        (place,) = positions(axes, (4.0 * instance, shift, 2 * shift), [0])
        write_series(folder, axes, [place], first_instance=instance)
    (volume,) = read_series(reference(folder)).volumes
    assert volume.flags == ("motion",)
    assert len(np.unique(np.round(volume.affines.normal, 6), axis=0)) == 4
    assert_linear(volume)


def test_gantry_tilt_shears_the_stack_and_is_kept(tmp_path):
    axes = turned(AXIAL, X, 20)
    places = [positions(axes, (0, 0, height), [0])[0] for height in (0, 4, 8, 12)]
    (volume,) = read_series(reference(write_series(tmp_path / "1", axes, places))).volumes
    assert volume.slice_spacing_mm == pytest.approx(4 * np.cos(np.radians(20)))
    assert_linear(volume)


def test_the_same_file_twice_is_one_slice_and_a_problem(tmp_path):
    folder = write_series(tmp_path / "1")
    shutil.copy(folder / "2.dcm", folder / "copy.dcm")
    reading = read_series(reference(folder))
    (volume,) = reading.volumes
    assert len(volume.pixels) == 4
    assert [(problem.what, problem.file) for problem in reading.problems] == [("duplicate-slice", "copy.dcm")]
    assert_linear(volume)


def test_another_image_at_the_same_position_makes_a_second_stack(tmp_path):
    folder = write_series(tmp_path / "1")
    places = positions(SAGITTAL, (5.0, -7.0, 11.0), [-6.0, -2.0, 2.0, 6.0])
    write_series(folder, SAGITTAL, places, first_instance=5, gradient=Z)
    reading = read_series(reference(folder))
    first, second = reading.volumes
    assert first.flags == second.flags == ("repeated-positions",)
    assert sorted(first.instance_numbers.tolist()) == [1, 2, 3, 4]
    assert sorted(second.instance_numbers.tolist()) == [5, 6, 7, 8]
    assert_linear(first)
    assert_linear(second, gradient=Z)
    assert np.all(first.slice_steps_mm > 3.9)


def test_mixed_sizes_and_spacings_become_stacks_of_their_own(tmp_path):
    folder = write_series(tmp_path / "1", AXIAL, positions(AXIAL, (0, 0, 40), [-4, 0, 4]))
    write_series(folder, AXIAL, positions(AXIAL, (0, 0, 0), [-4, 0], shape=(20, 10)), first_instance=4, shape=(20, 10))
    size = {"spacing": (0.7, 0.7)}
    write_series(folder, AXIAL, positions(AXIAL, (0, 0, -40), [0, 4], **size), first_instance=6, **size)
    reading = read_series(reference(folder))
    assert reading.problems == ()
    assert [volume.shape for volume in reading.volumes] == [(3, 12, 16), (2, 20, 10), (2, 12, 16)]
    for volume in reading.volumes:
        assert_linear(volume)


def test_a_scout_of_three_planes_is_three_stacks_of_no_kind(tmp_path):
    for number, axes in enumerate((SAGITTAL, CORONAL, AXIAL)):
        write_series(tmp_path / "1", axes, positions(axes, (0, 0, 0), [0, 10]), first_instance=1 + 2 * number)
    volumes = read_series(reference(tmp_path / "1", SeriesKind.SAGITTAL_T2)).volumes
    assert {volume.plane: volume.kind for volume in volumes} == dict.fromkeys(Plane, SeriesKind.UNKNOWN)


def test_a_single_slice_is_a_stack(tmp_path):
    folder = write_series(tmp_path / "1", SAGITTAL, positions(SAGITTAL, (0, 0, 0), [0]))
    (volume,) = read_series(reference(folder)).volumes
    assert volume.shape == (1, 12, 16)
    assert np.isnan(volume.slice_spacing_mm)
    assert_linear(volume)


@pytest.mark.parametrize("axes", [SAGITTAL, AXIAL])
def test_one_slice_without_position_takes_its_place_between_the_others(tmp_path, axes):
    folder = write_series(tmp_path / "1", axes)
    rewrite(folder / "3.dcm", lambda data: data.pop("ImagePositionPatient"))
    reading = read_series(reference(folder))
    (volume,) = reading.volumes
    assert volume.flags == ("missing-position",)
    assert codes(reading) == ["missing-position"]
    assert_linear(volume)


def test_one_slice_without_orientation_takes_that_of_the_series(tmp_path):
    axes = turned(SAGITTAL, Z, 7)
    folder = write_series(tmp_path / "1", axes)
    rewrite(folder / "3.dcm", lambda data: data.pop("ImageOrientationPatient"))
    reading = read_series(reference(folder))
    (volume,) = reading.volumes
    assert codes(reading) == ["missing-orientation"]
    assert_linear(volume)


def test_without_a_line_to_put_it_on_a_slice_without_position_is_left_out(tmp_path):
    places = positions(AXIAL, (0, 0, 0), [0, 4, 8, 40, 44])
    folder = write_series(tmp_path / "1", AXIAL, places)
    rewrite(folder / "2.dcm", lambda data: data.pop("ImagePositionPatient"))
    reading = read_series(reference(folder))
    assert [(problem.what, problem.file) for problem in reading.problems] == [("no-position", "2.dcm")]
    assert_linear(reading.volumes[0])


@pytest.mark.parametrize("told", [SeriesKind.SAGITTAL_T1, SeriesKind.AXIAL_T2])
def test_no_geometry_at_all_is_instance_order_and_flagged(tmp_path, told):
    def strip(data):
        data.pop("ImagePositionPatient")
        data.pop("ImageOrientationPatient")
        data.SpacingBetweenSlices = 4.5

    folder = write_series(tmp_path / "1", change=strip)
    for old, new in (("1", "9"), ("4", "0")):
        shutil.move(folder / f"{old}.dcm", folder / f"{new}.dcm")
    reading = read_series(reference(folder, told))
    (volume,) = reading.volumes
    assert volume.kind is told
    assert volume.flags == ("assumed-place", "assumed-sides", "missing-orientation", "missing-position")
    assert codes(reading) == list(volume.flags)
    assert volume.instance_numbers.tolist() == [1, 2, 3, 4]
    assert np.allclose(volume.slice_steps_mm, 4.5)


def test_positions_alone_tell_the_plane(tmp_path):
    folder = write_series(tmp_path / "1", AXIAL, change=lambda data: data.pop("ImageOrientationPatient"))
    (volume,) = read_series(reference(folder)).volumes
    assert volume.plane is Plane.AXIAL
    assert_linear(volume)


def test_missing_spacing_is_assumed_and_flagged(tmp_path):
    folder = write_series(tmp_path / "1", change=lambda data: data.pop("PixelSpacing"))
    reading = read_series(reference(folder))
    assert codes(reading) == ["assumed-place", "missing-spacing"]
    assert reading.volumes[0].spacing_mm == pytest.approx((300 / 16, 300 / 16))


def test_missing_instance_numbers_come_from_the_file_names(tmp_path):
    folder = write_series(tmp_path / "1", change=lambda data: data.pop("InstanceNumber"))
    shutil.move(folder / "4.dcm", folder / "IM_0012.dcm")
    (volume,) = read_series(reference(folder)).volumes
    assert sorted(volume.instance_numbers.tolist()) == [1, 2, 3, 12]
