"""A study's 25 points by networks that see perfectly: what is left to get wrong is stage two's own."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pipeline.labels import CELL_INDEX, CELLS, Cell, Condition, Family, SeriesKind
from pipeline.landmarks.axial import levels_from_stacks
from pipeline.landmarks.landmarks import COLUMNS, Landmarks
from pipeline.landmarks.predict import GUESSED, LandmarkPredictor, LandmarkSettings
from pipeline.volumes import Affine
from pipeline.volumes.volume import ASSUMED_PLACE, ASSUMED_SIDES
from tests.landmarks.spine import HEIGHTS, axial, axial_net, sagittal, sagittal_net, study, truth

T1, T2 = SeriesKind.SAGITTAL_T1, SeriesKind.SAGITTAL_T2
CANAL, FORAMINAL, SUBARTICULAR = slice(0, 5), slice(5, 15), slice(15, 25)
SEEN = 0.3
"""Confidence of a point that was seen, not continued or guessed."""


@pytest.fixture(scope="module")
def predictor():
    return LandmarkPredictor(sagittal_net(), axial_net())


def assert_near(landmarks, cells=slice(None), in_plane_mm=1.5, slice_mm=3.0):
    """The points are where they were drawn: exact in the plane, within a slice across."""
    wanted = np.arange(25)[cells]
    assert landmarks.found[wanted].all()
    off = np.abs(landmarks.points_mm - truth())[wanted]
    across = np.where(np.array([c.condition.family is Family.SUBARTICULAR for c in CELLS])[wanted], 2, 0)
    rows = np.arange(len(wanted))
    assert off[rows, across].max() <= slice_mm
    off[rows, across] = 0
    assert off.max() <= in_plane_mm


def assert_on_file(landmarks, volumes):
    """Series, instance and file pixels say the same place as the millimetres."""
    for i in np.flatnonzero(landmarks.found):
        number = int(landmarks.instance_number[i])
        volume = next(v for v in volumes if v.series_id == landmarks.series_id[i] and number in v.instance_numbers)
        place = volume.from_source_pixel(number, landmarks.x[i], landmarks.y[i])
        assert place == pytest.approx(landmarks.points_mm[i], abs=1e-6)


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_complete_study_whatever_way_it_is_stored(predictor, mirrored):
    volumes = [sagittal(T1, "1", mirrored=mirrored), sagittal(T2, "2", mirrored=mirrored), *axial("9", mirrored)]
    landmarks = predictor.predict(study(*volumes))
    assert_near(landmarks)
    assert_on_file(landmarks, volumes)
    assert (landmarks.confidence > SEEN).all()
    assert landmarks.notes == ()
    families = [cell.condition.family for cell in CELLS]
    expected = {Family.CANAL: "2", Family.FORAMINAL: "1", Family.SUBARTICULAR: "9"}
    assert list(landmarks.series_id) == [expected[family] for family in families]


def test_canal_points_can_be_moved_backward_within_their_slices():
    volumes = [sagittal(T1, "1"), sagittal(T2, "2"), *axial("9")]
    before, after = (
        LandmarkPredictor(sagittal_net(), axial_net(), settings=LandmarkSettings(canal_back_mm=back)).predict(
            study(*volumes)
        )
        for back in (0.0, 2.0)
    )
    moved = after.points_mm - before.points_mm
    assert np.linalg.norm(moved[CANAL], axis=1) == pytest.approx(2.0, abs=1e-6)
    assert (moved[CANAL, 1] > 1.8).all()  # patient y grows to the back
    assert moved[FORAMINAL] == pytest.approx(0)
    assert_on_file(after, volumes)


def test_exchanged_x_and_y_would_be_noticed(predictor):
    volume = sagittal(T2, "2")
    landmarks = predictor.predict(study(volume))
    with pytest.raises(AssertionError):
        assert_on_file(replace(landmarks, x=landmarks.y, y=landmarks.x), [volume])


def test_every_point_says_how_sure_its_level_is_and_axial_points_are_as_sure_as_the_canal(predictor):
    landmarks = predictor.predict(study(sagittal(T1, "1"), sagittal(T2, "2"), *axial("9")))
    assert landmarks.numbering.sum(axis=1) == pytest.approx(1)
    assert (landmarks.numbering[:, 1] > 0.5).all()
    for side in (slice(15, 20), slice(20, 25)):
        assert landmarks.numbering[side] == pytest.approx(landmarks.numbering[CANAL])


def test_only_t1(predictor):
    landmarks = predictor.predict(study(sagittal(T1, "1")))
    assert_near(landmarks, slice(0, 15))
    assert not landmarks.found[SUBARTICULAR].any()
    assert any("from sagittal T1" in note for note in landmarks.notes)


@pytest.mark.parametrize("below", [0.0, -4.0])
def test_where_nothing_shows_the_canal_axial_slices_are_chosen_by_the_foramina(below):
    """The lateral slices of a T1 series, as in a folder that keeps only what an annotator marked."""
    lateral = sagittal(T1, "1", x_mm=np.array([-21.0, -17.0, -13.0, -9.0, 17.0, 21.0, 25.0, 29.0]))
    settings = LandmarkSettings(below_foramina_mm=below)
    landmarks = LandmarkPredictor(sagittal_net(), axial_net(), settings=settings).predict(study(lateral, *axial("9")))
    assert not landmarks.found[CANAL].any()
    foramina = (landmarks.points_mm[5:10] + landmarks.points_mm[10:15]) / 2
    recesses = (landmarks.points_mm[15:20] + landmarks.points_mm[20:25]) / 2
    assert foramina[:, 2] - recesses[:, 2] == pytest.approx(below, abs=2.0), "half a slice and the tilt of the spine"


def test_only_t2(predictor):
    landmarks = predictor.predict(study(sagittal(T2, "2")))
    assert_near(landmarks, slice(0, 15))
    assert not landmarks.found[SUBARTICULAR].any()
    assert sum("from sagittal T2" in note for note in landmarks.notes) == 2


def test_only_axial_gives_the_levels_in_the_stacks_order_and_says_that_it_guessed(predictor):
    volumes = axial()
    landmarks = predictor.predict(study(*volumes))
    assert not landmarks.found[:15].any()
    assert landmarks.found[SUBARTICULAR].all()
    assert (landmarks.confidence[SUBARTICULAR] == GUESSED).all()
    off = np.abs(landmarks.points_mm[SUBARTICULAR, 2] - np.tile(HEIGHTS, 2))
    assert off.max() < 5
    left, right = landmarks.points_mm[15:20, 0], landmarks.points_mm[20:25, 0]
    assert (left > right).all()
    assert_on_file(landmarks, volumes)
    assert any("order of the axial stacks" in note for note in landmarks.notes)


def adrift(volume, *flags):
    """The volume moved along the spine by a level, which its flags say is not measured."""
    matrix = volume.affines.matrix.copy()
    matrix[:, 2, 3] -= 34.0
    return replace(volume, affines=Affine(matrix), source_affines=Affine(matrix), flags=flags)


def test_a_series_without_its_place_renumbers_no_other_and_keeps_its_own_points(predictor):
    lost = adrift(sagittal(T1, "1"), ASSUMED_PLACE)
    landmarks = predictor.predict(study(lost, sagittal(T2, "2"), *axial("9")))
    assert_near(landmarks, CANAL)
    assert_near(landmarks, SUBARTICULAR)
    own = landmarks.points_mm[FORAMINAL] - truth()[FORAMINAL]
    assert own[:, 2] == pytest.approx(-34, abs=1.5)
    assert set(landmarks.series_id[5:15]) == {"1"}


def test_where_sides_are_not_known_no_foramen_is_placed_and_the_note_names_the_series(predictor):
    lost = adrift(sagittal(T1, "1"), ASSUMED_PLACE, ASSUMED_SIDES)
    landmarks = predictor.predict(study(lost))
    assert landmarks.found[CANAL].all()
    assert not landmarks.found[FORAMINAL].any()
    assert any("series 1" in note and "no foraminal row" in note for note in landmarks.notes)


def test_axial_levels_do_not_follow_from_a_canal_that_is_not_placed(predictor):
    """They are guessed from the order of the stacks then, and the numbering says how little that is worth."""
    lost = adrift(sagittal(T2, "2"), ASSUMED_PLACE, ASSUMED_SIDES)
    landmarks = predictor.predict(study(lost, *axial("9")))
    assert landmarks.found[CANAL].all()
    assert (landmarks.confidence[SUBARTICULAR] <= GUESSED).all()
    assert (landmarks.numbering[SUBARTICULAR, 1] < 0.5).all()
    assert any("order of the axial stacks" in note for note in landmarks.notes)


def test_a_placed_t1_gives_the_axial_levels_where_the_t2_is_not_placed(predictor):
    lost = adrift(sagittal(T2, "2"), ASSUMED_PLACE, ASSUMED_SIDES)
    assert_near(predictor.predict(study(sagittal(T1, "1"), lost, *axial("9"))), SUBARTICULAR)


def test_axial_slices_without_their_place_show_no_level(predictor):
    lost = [replace(volume, flags=(ASSUMED_PLACE, ASSUMED_SIDES)) for volume in axial("9")]
    landmarks = predictor.predict(study(sagittal(T2, "2"), *lost))
    assert not landmarks.found[SUBARTICULAR].any()
    assert any("series 9" in note for note in landmarks.notes)


def test_thin_slices_are_looked_at_as_thick_ones(predictor):
    thin = sagittal(T2, "2", x_mm=np.arange(-28.0, 36.0, 1.0))
    landmarks = predictor.predict(study(thin))
    assert_near(landmarks, CANAL, slice_mm=4.0)
    for i in np.flatnonzero(landmarks.found):
        place = thin.from_source_pixel(int(landmarks.instance_number[i]), landmarks.x[i], landmarks.y[i])
        assert place == pytest.approx(landmarks.points_mm[i], abs=0.6)  # an even number has no middle slice


def test_one_axial_block_alone_shows_no_level(predictor):
    """A single stack through all levels, as hospitals cut it that do not angle to the discs."""
    first = axial()[0]
    heights = np.arange(90.0, -90.0, -4.0)
    matrices = np.repeat(first.affines.matrix[:1], len(heights), axis=0)
    matrices[:, 2, 3] = heights
    affines = Affine(matrices)
    pixels = np.repeat(first.pixels[:1], len(heights), axis=0)
    numbers = np.arange(1, len(heights) + 1)
    block = replace(first, pixels=pixels, affines=affines, source_affines=affines, instance_numbers=numbers)
    landmarks = predictor.predict(study(block))
    assert not landmarks.found.any()
    assert any("not known" in note for note in landmarks.notes)


@pytest.mark.parametrize(("kind", "x_mm", "cells"), [(T2, 4.0, CANAL), (T1, 21.0, slice(5, 10))])
def test_a_single_slice(predictor, kind, x_mm, cells):
    landmarks = predictor.predict(study(sagittal(kind, "1", np.array([x_mm]))))
    assert_near(landmarks, cells, slice_mm=4.0)
    assert (landmarks.confidence[cells] > SEEN).all()


def test_a_field_of_view_that_ends_at_l3(predictor):
    """L3/L4 lies on the last rows; what the image does not show gets no point."""
    lowest = HEIGHTS[2] - 14
    landmarks = predictor.predict(
        study(sagittal(T1, "1", lowest_mm=lowest), sagittal(T2, "2", lowest_mm=lowest), *axial())
    )
    for condition in Condition:
        for level, wanted in (("l1_l2", True), ("l2_l3", True), ("l3_l4", True), ("l4_l5", False), ("l5_s1", False)):
            assert landmarks.found[CELL_INDEX[Cell(condition, level)]] == wanted, (condition, level)
    assert_near(landmarks, landmarks.found)


def test_sides_need_no_t2(predictor):
    """Slices all on one side of patient x = 0: the foramina themselves say where the middle is."""
    shift = np.array([40.0, 0, 0])
    moved = sagittal(T1, "1", np.arange(10.0, 78.0, 4.4), points=truth() + shift)
    landmarks = predictor.predict(study(moved))
    assert_near(replace(landmarks, points_mm=landmarks.points_mm - shift), slice(0, 15))


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_a_blank_image_gives_no_sagittal_point(predictor, value):
    blank = sagittal(T2, "2")
    blank = replace(blank, pixels=np.full_like(blank.pixels, value))
    landmarks = predictor.predict(study(blank))
    assert not landmarks.found.any()
    assert (landmarks.confidence == 0).all()
    assert landmarks.notes == ("series 2 is blank",)


def test_a_blank_t2_leaves_the_work_to_t1(predictor):
    blank = sagittal(T2, "2")
    blank = replace(blank, pixels=np.zeros_like(blank.pixels))
    landmarks = predictor.predict(study(blank, sagittal(T1, "1"), *axial()))
    assert_near(landmarks)


def test_the_better_of_two_series_is_used(predictor):
    poor = sagittal(T2, "2", np.array([-30.0, -26.0, 30.0, 34.0]))
    landmarks = predictor.predict(study(poor, sagittal(T2, "3")))
    assert_near(landmarks, CANAL)
    assert set(landmarks.series_id[:5]) == {"3"}


def test_a_level_without_axial_slices_is_noted(predictor):
    landmarks = predictor.predict(study(sagittal(T2, "2"), *axial(levels=(2, 3, 4))))
    assert landmarks.found[SUBARTICULAR].tolist() == [False, False, True, True, True] * 2
    assert sum("no axial slice within" in note for note in landmarks.notes) == 2


def test_no_series_and_no_networks():
    nothing = LandmarkPredictor(sagittal_net(), None).predict(study())
    assert not nothing.found.any()
    assert nothing.study_id == "77"
    blind = LandmarkPredictor(None, None).predict(study(sagittal(T2, "2")))
    assert not blind.found.any()


def test_without_an_axial_network_the_recesses_are_placed_by_anatomy():
    landmarks = LandmarkPredictor(sagittal_net(), None).predict(study(sagittal(T2, "2"), *axial()))
    assert landmarks.found[SUBARTICULAR].all()
    off = np.linalg.norm(landmarks.points_mm - truth(), axis=1)[SUBARTICULAR]
    assert off.max() < 4
    assert (landmarks.confidence[SUBARTICULAR] <= 0.1).all()


def test_landmarks_survive_their_table(predictor, tmp_path):
    volumes = [sagittal(T1, "1"), sagittal(T2, "2"), *axial(levels=(0, 1, 3, 4))]
    landmarks = predictor.predict(study(*volumes))
    frame = landmarks.to_frame()
    assert list(frame.columns) == list(COLUMNS)
    assert len(frame) == 23
    assert {"Left Subarticular Stenosis", "Spinal Canal Stenosis"} <= set(frame["condition"])
    path = tmp_path / "label_coordinates.csv"
    frame.to_csv(path, index=False)
    back = Landmarks.from_frame("77", pd.read_csv(path, dtype={"study_id": str, "series_id": str}))
    assert (back.numbering[landmarks.found, 1] < 1).all()
    for name in ("points_mm", "confidence", "beside", "numbering", "instance_number", "x", "y"):
        assert getattr(back, name) == pytest.approx(getattr(landmarks, name), nan_ok=True)
    assert back.series_id == landmarks.series_id
    assert not Landmarks.from_frame("78", frame).found.any()


def test_a_table_with_a_cell_twice_is_refused(predictor):
    frame = predictor.predict(study(sagittal(T2, "2"))).to_frame()
    with pytest.raises(ValueError, match=r"study 77: two rows for spinal_canal_stenosis_l1_l2"):
        Landmarks.from_frame("77", pd.concat([frame, frame.head(1)]))


def test_arrays_of_another_shape_are_refused():
    empty = Landmarks.empty("77")
    with pytest.raises(ValueError, match=r"points_mm has shape \(24, 3\), expected \(25, 3\)"):
        replace(empty, points_mm=empty.points_mm[1:])
    with pytest.raises(ValueError, match="24 series ids"):
        replace(empty, series_id=(None,) * 24)


def test_the_same_axial_stacks_in_a_second_series_are_no_further_levels():
    once, twice = levels_from_stacks(axial("9")), levels_from_stacks([*axial("9"), *axial("10")])
    assert twice == pytest.approx(once)
    assert once[:, 2] == pytest.approx(np.array(HEIGHTS) + 0.5)


def test_points_that_were_hardly_recognised_are_named(predictor, monkeypatch):
    """On two phantoms with a field of view into the chest they were a level off, and nothing was said."""
    volumes = [sagittal(T1, "1"), sagittal(T2, "2"), *axial()]
    median = np.median(predictor.predict(study(*volumes)).confidence[CANAL])
    monkeypatch.setattr("pipeline.landmarks.predict.DOUBTFUL", median + 0.001)
    notes = predictor.predict(study(*volumes)).notes
    assert f"canal and axial points were hardly recognised (median confidence {median:.2f})" in "; ".join(notes)
    monkeypatch.setattr("pipeline.landmarks.predict.DOUBTFUL", 1.001)
    assert [note.split(" points")[0] for note in predictor.predict(study(*volumes)).notes] == [
        "canal and axial", "left foraminal", "right foraminal",
    ]  # fmt: skip
