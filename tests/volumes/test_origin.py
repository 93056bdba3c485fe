"""Folders that hold more than one series of one patient: what the headers say decides what belongs together."""

from __future__ import annotations

import doctest
import shutil

import numpy as np
import pytest

from pipeline.competition import StudyRef
from pipeline.labels import SeriesKind
from pipeline.volumes import origin, read_series, read_study
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
    slice_dataset,
    turned,
    write_series,
)

T1, T2, AXIAL_T2 = SeriesKind.SAGITTAL_T1, SeriesKind.SAGITTAL_T2, SeriesKind.AXIAL_T2
UNKNOWN = SeriesKind.UNKNOWN
PLACES = positions(SAGITTAL, (5.0, -7.0, 11.0), [-8.0, -4.0, 0.0, 4.0, 8.0])


def tagged(**values):
    """A change that sets elements of a data set."""

    def change(data):
        for name, value in values.items():
            setattr(data, name, value)

    return change


def study_of(tmp_path, **series):
    """A study of one sagittal T2 series for each name, with these tags."""
    for name, tags in series.items():
        write_series(tmp_path / name, change=tagged(**tags))
    return read_study(StudyRef("100", tmp_path, tuple(reference(tmp_path / name, T2) for name in series)))


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(origin).failed == 0


def test_a_series_of_another_patient_is_left_out_and_named_without_the_patients_id(tmp_path):
    mine, other = {"PatientID": "SECRET-1"}, {"PatientID": "SECRET-2"}
    reading = study_of(tmp_path, a=mine, b=mine, c=other)
    assert [volume.series_id for volume in reading.volumes] == ["a", "b"]
    assert [(problem.what, problem.series_id) for problem in reading.problems] == [("other-study", "c")]
    assert "SECRET" not in str(reading.problems) + repr(reading)


@pytest.mark.parametrize("tag", ["PatientID", "StudyInstanceUID"])
def test_of_a_folder_that_nobody_owns_nothing_is_graded(tmp_path, tag):
    reading = study_of(tmp_path, **{name: {tag: f"1.2.{number}"} for number, name in enumerate("abcd")})
    assert reading.volumes == ()
    assert codes(reading) == ["mixed-study"]


def test_an_earlier_examination_of_the_patient_is_left_out(tmp_path):
    now, then = {"PatientID": "1", "StudyInstanceUID": "1.2"}, {"PatientID": "1", "StudyInstanceUID": "1.3"}
    reading = study_of(tmp_path, a=now, b=now, c=now, old=then)
    assert {volume.series_id for volume in reading.volumes} == {"a", "b", "c"}
    assert codes(reading) == ["other-study"]


def test_an_examination_whose_files_each_have_an_id_is_not_the_one_that_has_one(tmp_path):
    for name in "abc":
        write_series(tmp_path / name, change=tagged(PatientID="1", StudyInstanceUID="1.2"))
    write_series(tmp_path / "old", change=lambda data: setattr(data, "StudyInstanceUID", f"1.3.{data.InstanceNumber}"))
    refs = tuple(reference(tmp_path / name, T2) for name in ("a", "b", "c", "old"))
    reading = read_study(StudyRef("100", tmp_path, refs))
    assert {volume.series_id for volume in reading.volumes} == {"a", "b", "c"}
    assert codes(reading) == ["other-study"]


def test_a_series_without_ids_belongs_to_the_others(tmp_path):
    reading = study_of(tmp_path, a={"PatientID": "1", "StudyInstanceUID": "1.2"}, b={})
    assert len(reading.volumes) == 2
    assert reading.problems == ()


def test_another_patients_slices_in_a_series_folder_are_told_apart(tmp_path):
    folder = write_series(tmp_path / "a", SAGITTAL, PLACES, change=tagged(PatientID="1"))
    write_series(folder, SAGITTAL, PLACES, first_instance=6, gradient=Z, change=tagged(PatientID="2"))
    write_series(tmp_path / "b", change=tagged(PatientID="1"))
    study = StudyRef("100", tmp_path, (reference(folder, T2), reference(tmp_path / "b", T2)))
    reading = read_study(study)
    for volume in reading.volumes:
        assert_linear(volume)
    assert "other-study" in codes(reading)


@pytest.mark.parametrize("tag", ["SeriesInstanceUID", "StudyInstanceUID", "PatientID"])
def test_an_id_that_every_file_has_for_itself_splits_nothing(tmp_path, tag):
    def change(data):
        setattr(data, tag, f"1.2.{data.InstanceNumber}")

    reading = read_series(reference(write_series(tmp_path / "1", change=change), T2))
    assert [len(volume.pixels) for volume in reading.volumes] == [4]
    assert reading.problems == ()


def write_two(folder, first, second):
    """T1 and T2 of the same places in one folder, file names shuffled."""
    write_series(folder, SAGITTAL, PLACES, change=tagged(SeriesInstanceUID="1.2.1", **first))
    write_series(folder, SAGITTAL, PLACES, first_instance=101, gradient=Z, change=tagged(**second))
    order = np.random.default_rng(0).permutation(10)
    for number, path in zip(order, sorted(folder.glob("*.dcm")), strict=True):
        shutil.move(path, folder / f"MR.{number}.{path.stem}")
    return folder


@pytest.mark.parametrize("tag", ["SeriesInstanceUID", "StudyInstanceUID", "PatientID"])
def test_ids_of_every_file_make_no_two_studies_of_two_series(tmp_path, tag):
    for name in "ab":
        write_series(tmp_path / name, change=lambda data, name=name: setattr(data, tag, f"{name}{data.InstanceNumber}"))
    reading = read_study(StudyRef("100", tmp_path, tuple(reference(tmp_path / name, T2) for name in "ab")))
    assert len(reading.volumes) == 2
    assert reading.problems == ()


def test_a_patient_of_many_stacks_has_no_more_say_than_one_of_few(tmp_path):
    """An axial series of several angles is several stacks, but one series."""
    for number, angle in enumerate((-20, -10, 0, 10, 20)):
        axes = turned(AXIAL, X, angle)
        places = positions(axes, (5, -7, 40 * number), [-4, 0, 4])
        change = tagged(PatientID="1")
        write_series(tmp_path / "a", axes, places, first_instance=1 + 3 * number, change=change)
    write_series(tmp_path / "b", change=tagged(PatientID="2"))
    refs = (reference(tmp_path / "a", AXIAL_T2), reference(tmp_path / "b", T2))
    reading = read_study(StudyRef("100", tmp_path, refs))
    assert reading.volumes == ()
    assert codes(reading) == ["mixed-study"]


@pytest.mark.parametrize("told", [None, T1, T2])
def test_two_series_in_one_folder_are_two_stacks_and_their_headers_tell_which(tmp_path, told):
    second = {"SeriesInstanceUID": "1.2.2", "EchoTime": 100, "RepetitionTime": 3000}
    reading = read_series(reference(write_two(tmp_path / "1", {"SeriesDescription": "T1"}, second), told))
    assert codes(reading) == ["mixed-series"]
    assert {volume.kind: volume.instance_numbers.min() for volume in reading.volumes} == {T1: 1, T2: 101}
    for volume in reading.volumes:
        assert_linear(volume, **({"gradient": Z} if volume.kind is T2 else {}))


@pytest.mark.parametrize("axial", [16, 9], ids=["more", "fewer"])
def test_two_series_of_two_planes_in_one_folder_are_both_used_where_no_table_names_one(tmp_path, axial):
    """Twelve sagittal slices and sixteen axial ones of one size; the shares of the planes say nothing of two series."""
    folder, steps = tmp_path / "1", 4 * np.arange(16.0)
    times = {"EchoTime": 100, "RepetitionTime": 3000}
    for uid, axes, count, first in (("1.2.1", SAGITTAL, 12, 1), ("1.2.2", AXIAL, axial, 101)):
        places = positions(axes, (5.0, -7.0, 11.0), steps[:count])
        write_series(folder, axes, places, first_instance=first, change=tagged(SeriesInstanceUID=uid, **times))
    reading = read_series(reference(folder))
    assert {volume.kind: len(volume.instance_numbers) for volume in reading.volumes} == {T2: 12, AXIAL_T2: axial}
    assert codes(reading) == ["mixed-series"]


def test_a_localiser_of_three_series_is_still_one(tmp_path):
    for number, axes in enumerate((SAGITTAL, CORONAL, AXIAL)):
        places = positions(axes, (5.0, -7.0, 11.0), [-8.0, 0.0, 8.0])
        tags = tagged(SeriesInstanceUID=f"1.2.{number}")
        write_series(tmp_path / "1", axes, places, first_instance=1 + 10 * number, change=tags)
    reading = read_series(reference(tmp_path / "1"))
    assert [volume.kind for volume in reading.volumes] == [UNKNOWN] * 3
    assert set(codes(reading)) == {"localiser"}


def test_a_table_cannot_name_two_series_that_nothing_else_tells_apart(tmp_path):
    reading = read_series(reference(write_two(tmp_path / "1", {}, {"SeriesInstanceUID": "1.2.2"}), T2))
    assert [volume.kind for volume in reading.volumes] == [UNKNOWN, UNKNOWN]
    assert codes(reading) == ["mixed-series"]


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        ({"Modality": "CT"}, "other-modality"),
        ({"Modality": "OT"}, "other-modality"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, "other-modality"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "secondary-capture"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7.2"}, "secondary-capture"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localiser"),
        ({"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]}, "derived-map"),
    ],
)
def test_what_is_no_image_to_grade_is_not_used_and_named_once(tmp_path, tags, code):
    folder = write_series(tmp_path / "1", change=tagged(**tags))
    reading = read_series(reference(folder, T2))
    assert reading.volumes == ()
    assert codes(reading) == [code, "no-volume"]


@pytest.mark.parametrize(
    "tags", [{"Modality": "MR", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.4"}, {"ImageType": ["DERIVED", "SECONDARY"]}]
)
def test_ordinary_images_and_those_that_are_only_derived_are_used(tmp_path, tags):
    reading = read_series(reference(write_series(tmp_path / "1", change=tagged(**tags)), T2))
    assert [volume.kind for volume in reading.volumes] == [T2]
    assert reading.problems == ()


def test_a_capture_among_the_slices_takes_no_place(tmp_path):
    """Without position it would otherwise be put on the line of the others, by its number."""
    folder = write_series(tmp_path / "1")
    page = slice_dataset(SAGITTAL, PLACES[0], 0)
    del page.ImagePositionPatient
    page.SOPClassUID, page.Modality = "1.2.840.10008.5.1.4.1.1.7", "OT"
    page.save_as(folder / "sc.dcm", enforce_file_format=True)
    reading = read_series(reference(folder, T2))
    (volume,) = reading.volumes
    assert sorted(volume.instance_numbers.tolist()) == [1, 2, 3, 4]
    assert [(problem.what, problem.file) for problem in reading.problems] == [("other-modality", "sc.dcm")]


@pytest.mark.parametrize("name", ["Localizer", "3-Plane Loc", "SCOUT sag", "Survey_MST"])
def test_a_localiser_by_name_is_no_series_unless_the_table_says_so(tmp_path, name):
    times = {"SeriesDescription": name, "EchoTime": 5, "RepetitionTime": 500}
    folder = write_series(tmp_path / "1", change=tagged(**times))
    assert codes(read_series(reference(folder))) == ["localiser", "no-volume"]
    assert [volume.kind for volume in read_series(reference(folder, T1)).volumes] == [T1]


def write_blocks(folder, *blocks):
    """Blocks of the same slices, instances numbered on; each with a gradient and tags."""
    for number, (gradient, tags) in enumerate(blocks):
        first = 1 + number * len(PLACES)
        write_series(folder, SAGITTAL, PLACES, first_instance=first, gradient=gradient, change=tagged(**tags))
    return folder


DIXON = {"F": X, "OPP_PHASE": SAGITTAL[0], "IN_PHASE": SAGITTAL[1], "W": np.array([0.6, 0.8, 0.0])}


@pytest.mark.parametrize(("told", "wanted"), [(T2, "W"), (T1, "IN_PHASE")])
def test_of_dixons_images_the_one_that_shows_what_is_graded_is_used(tmp_path, told, wanted):
    blocks = [(g, {"ImageType": ["DERIVED", "PRIMARY", "DIXON", name]}) for name, g in DIXON.items()]
    reading = read_series(reference(write_blocks(tmp_path / "1", *blocks), told))
    (used,) = (volume for volume in reading.volumes if volume.kind is told)
    assert_linear(used, DIXON[wanted])
    assert codes(reading) == ["further-contrast"] * 3


@pytest.mark.parametrize(("told", "echo"), [(T1, 10.0), (T2, 100.0)])
def test_of_several_echoes_the_one_of_the_wanted_weighting_is_used(tmp_path, told, echo):
    blocks = [(X, {"EchoTime": 10.0}), (Z, {"EchoTime": 55.0}), (SAGITTAL[0], {"EchoTime": 100.0})]
    reading = read_series(reference(write_blocks(tmp_path / "1", *blocks), told))
    (used,) = (volume for volume in reading.volumes if volume.kind is told)
    assert_linear(used, {10.0: X, 100.0: SAGITTAL[0]}[echo])


@pytest.mark.parametrize(("told", "used_gradient"), [(T1, X), (T2, Z)])
def test_echoes_without_times_are_told_by_their_numbers(tmp_path, told, used_gradient):
    blocks = [(X, {"EchoNumbers": 1}), (Z, {"EchoNumbers": 2})]
    reading = read_series(reference(write_blocks(tmp_path / "1", *blocks), told))
    (used,) = (volume for volume in reading.volumes if volume.kind is told)
    assert_linear(used, used_gradient)


def test_the_magnitude_is_used_rather_than_the_phase(tmp_path):
    blocks = [(Z, {"ImageType": ["ORIGINAL", "PRIMARY", "P"]}), (X, {"ImageType": ["ORIGINAL", "PRIMARY", "M"]})]
    reading = read_series(reference(write_blocks(tmp_path / "1", *blocks), T2))
    (used,) = (volume for volume in reading.volumes if volume.kind is T2)
    assert_linear(used, X)


def test_images_of_one_place_that_nothing_tells_apart_are_named(tmp_path):
    reading = read_series(reference(write_blocks(tmp_path / "1", (X, {}), (Z, {})), T2))
    assert len(reading.volumes) == 2
    assert codes(reading) == ["repeated-positions"]


@pytest.mark.parametrize("copy", [{"ImageType": ["DERIVED", "SECONDARY"]}, {"BurnedInAnnotation": "YES"}])
def test_originals_are_used_rather_than_annotated_copies(tmp_path, copy):
    reading = read_series(reference(write_blocks(tmp_path / "1", (Z, copy), (X, {})), T2))
    (used,) = (volume for volume in reading.volumes if volume.kind is T2)
    assert_linear(used, X)


@pytest.mark.parametrize("tags", [{}, {"AcquisitionNumber": 2}])
@pytest.mark.parametrize("aside", [0.6, -0.9])
def test_a_repeated_block_is_a_stack_of_its_own(tmp_path, aside, tags):
    """Taken into one stack, the two would have half the distance between slices."""
    first = {"SliceThickness": 4, "AcquisitionNumber": 1} if tags else {"SliceThickness": 4}
    folder = write_series(tmp_path / "1", SAGITTAL, PLACES, change=tagged(**first))
    beside = [place + aside * X for place in PLACES]
    write_series(folder, SAGITTAL, beside, first_instance=6, change=tagged(**{"SliceThickness": 4, **tags}))
    reading = read_series(reference(folder, T2))
    assert [volume.kind for volume in reading.volumes] == [T2, T2]
    for volume in reading.volumes:
        assert volume.slice_steps_mm == pytest.approx(4.0)
        assert_linear(volume)


def test_a_repeat_half_a_step_aside_is_known_by_its_acquisition(tmp_path):
    folder = write_series(tmp_path / "1", SAGITTAL, PLACES, change=tagged(SliceThickness=4, AcquisitionNumber=1))
    beside = [place + 2 * X for place in PLACES]
    tags = tagged(SliceThickness=4, AcquisitionNumber=2)
    write_series(folder, SAGITTAL, beside, first_instance=6, change=tags)
    assert [len(volume.pixels) for volume in read_series(reference(folder, T2)).volumes] == [5, 5]


def test_odd_and_even_slices_of_two_acquisitions_are_one_stack(tmp_path):
    def take_in_turn(data):
        data.SliceThickness, data.AcquisitionNumber = 3.6, 1 + data.InstanceNumber % 2

    (volume,) = read_series(reference(write_series(tmp_path / "1", SAGITTAL, PLACES, change=take_in_turn), T2)).volumes
    assert len(volume.pixels) == 5
    assert_linear(volume)


def write_scout(folder, **tags):
    """Three slices in each of three planes, of larger pixels and thickness."""
    for number, axes in enumerate((SAGITTAL, CORONAL, AXIAL)):
        options = {"shape": (10, 10), "spacing": (1.6, 1.6)}
        places = positions(axes, (5, -7, 11), [-10, 0, 10], **options)
        change = tagged(SliceThickness=8, **tags)
        write_series(folder, axes, places, first_instance=901 + 3 * number, change=change, **options)
    return folder


@pytest.mark.parametrize("told", [T2, None])
@pytest.mark.parametrize("uid", [{}, {"SeriesInstanceUID": "1.2.9"}])
def test_a_localiser_filed_with_a_series_is_not_used(tmp_path, told, uid):
    series = tagged(SliceThickness=4, SeriesDescription="T2", SeriesInstanceUID="1.2.1")
    folder = write_series(tmp_path / "1", SAGITTAL, PLACES, change=series)
    write_scout(folder, **{"SeriesDescription": "T2", "SeriesInstanceUID": "1.2.1", **uid})
    reading = read_series(reference(folder, told))
    assert [volume.shape[0] for volume in reading.volumes if volume.kind is not UNKNOWN] == [5]
    assert set(codes(reading)) >= {"localiser"}


def test_a_localiser_alone_is_not_used_whatever_its_name(tmp_path):
    reading = read_series(reference(write_scout(tmp_path / "1", SeriesDescription="T2 fast")))
    assert {volume.kind for volume in reading.volumes} == {UNKNOWN}
    assert set(codes(reading)) == {"localiser"}


def test_usual_slices_beside_many_thin_ones_are_no_localiser(tmp_path):
    """Of a whole study in one folder: a T1 of usual slices and a T2 of 1 mm."""
    usual = tagged(SliceThickness=4, SeriesDescription="T1", SeriesInstanceUID="1.2.1")
    places = positions(SAGITTAL, (5, -7, 11), [4.0 * step for step in range(-6, 7)])
    folder = write_series(tmp_path / "1", SAGITTAL, places, change=usual)
    thin = tagged(SliceThickness=1, SeriesDescription="T2 SPACE", SeriesInstanceUID="1.2.2")
    options = {"shape": (12, 16), "spacing": (0.4, 0.4)}
    places = positions(SAGITTAL, (5, -7, 11), list(range(-20, 21)), **options)
    write_series(folder, SAGITTAL, places, first_instance=101, change=thin, **options)
    volumes = read_series(reference(folder)).volumes
    assert {volume.kind: len(volume.pixels) for volume in volumes} == {T1: 13, T2: 41}


def test_coarse_axial_slices_of_a_localiser_do_not_win_over_the_diagnostic_ones(tmp_path):
    places = positions(AXIAL, (5, -7, 11), [4.0 * step for step in range(-5, 6)])
    folder = write_series(tmp_path / "1", AXIAL, places, change=tagged(SliceThickness=4))
    reading = read_series(reference(write_scout(folder), AXIAL_T2))
    assert [volume.shape[0] for volume in reading.volumes if volume.kind is AXIAL_T2] == [11]


def test_a_table_that_names_another_plane_is_a_problem_not_another_kind(tmp_path):
    reading = read_series(reference(write_series(tmp_path / "1", AXIAL), T2))
    assert [volume.kind for volume in reading.volumes] == [UNKNOWN]
    assert codes(reading) == ["plane-differs"]


def test_a_slice_of_saturated_noise_does_not_take_the_contrast_of_the_others(tmp_path):
    places = positions(SAGITTAL, (5.0, -7.0, 11.0), [4.0 * step for step in range(-3, 4)])

    def spoil(data):
        data.RescaleSlope, data.RescaleIntercept = 1, 0
        if data.InstanceNumber == 2:
            data.PixelData = np.random.default_rng(0).integers(0, 65535, (12, 16)).astype("<u2").tobytes()

    reading = read_series(reference(write_series(tmp_path / "1", SAGITTAL, places, change=spoil), T2))
    (volume,) = reading.volumes
    assert sorted(volume.instance_numbers.tolist()) == [1, 3, 4, 5, 6, 7]
    assert [(problem.what, problem.file) for problem in reading.problems] == [("spoiled-slice", "2.dcm")]
