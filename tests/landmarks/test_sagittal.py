"""Sides, midline and slices of sagittal series."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.labels import SeriesKind, Side
from pipeline.landmarks.decode import Chain, DecodeSettings
from pipeline.landmarks.model import FORAMINAL_CHANNELS
from pipeline.landmarks.sagittal import (
    LevelPoints,
    canal_points,
    foraminal_points,
    marked_slices,
    midline_from,
    run_network,
    sees_canal,
)
from pipeline.volumes import Affine
from tests.landmarks.spine import CANAL, HEIGHTS, sagittal, sagittal_net, truth
from tests.volumes.oracle import turned

T1, T2 = SeriesKind.SAGITTAL_T1, SeriesKind.SAGITTAL_T2
DECODE = DecodeSettings()


def seen(volume):
    return run_network(sagittal_net(), volume, torch.device("cpu"))


@pytest.fixture(scope="module")
def output():
    return seen(sagittal(T1, "1"))


def canal_at(points_mm, volume):
    chain = Chain(np.zeros((5, 2)), np.ones(5), np.array([0.0, 1.0, 0.0]))
    return LevelPoints(volume, points_mm, np.zeros(5, int), np.ones(5), np.full((5, 2), np.nan), chain)


def test_the_network_sees_every_slice_in_batches(output):
    volume = output.canvases.volume
    assert output.maps.shape == (16, 10, 48, 48)
    assert output.maps.sum((2, 3)) == pytest.approx(np.ones((16, 10)), abs=1e-4)
    assert output.x_mm == pytest.approx(volume.centres_mm[:, 0])
    again = run_network(sagittal_net(), volume, torch.device("cpu"), batch=5)
    assert np.abs(again.maps - output.maps).max() < 1e-6


def test_canal_points_lie_on_the_slice_nearest_to_the_leaning_canal(output):
    found = canal_points(output, DECODE)
    nearest = np.abs(output.x_mm[:, None] - CANAL[:, 0]).argmin(axis=0)
    assert np.abs(found.slice_index - nearest).max() <= 1
    assert np.abs(found.points_mm[:, 1:] - CANAL[:, 1:]).max() < 1.5


@pytest.mark.parametrize("mirrored", [False, True])
def test_sides_are_the_patients_however_slices_are_stored(mirrored):
    volume = sagittal(T1, "1", mirrored=mirrored)
    sides = foraminal_points(seen(volume), CANAL[:, 0], DECODE)
    for side, cells in ((Side.LEFT, slice(5, 10)), (Side.RIGHT, slice(10, 15))):
        assert np.abs(sides[side].points_mm - truth()[cells]).max() < 3.0
    assert (sides[Side.LEFT].points_mm[:, 0] > sides[Side.RIGHT].points_mm[:, 0] + 25).all()
    numbers = volume.instance_numbers
    left, right = (numbers[sides[side].slice_index] for side in (Side.LEFT, Side.RIGHT))
    assert (left < right).all() if mirrored else (left > right).all()


@pytest.mark.parametrize("degrees", [-15.0, 15.0])
def test_a_stack_that_is_tilted_has_its_foramina_on_the_same_slices(output, degrees):
    """The whole study turned about the anterior-posterior axis: the images are the same, and so is the answer."""
    turn = np.eye(4)
    turn[:3, :3] = turned(np.eye(3), np.array([0.0, 1.0, 0.0]), degrees)
    canvases = replace(output.canvases, affines=Affine(turn) @ output.canvases.affines)
    middle = (canvases.images.shape[-1] - 1) / 2
    x_mm = (canvases.affines @ (middle, middle, 0))[:, 0]
    tilted = replace(output, canvases=canvases, x_mm=x_mm)
    upright = foraminal_points(output, CANAL[:, 0], DECODE)
    sides = foraminal_points(tilted, (CANAL @ turn[:3, :3].T)[:, 0], DECODE)
    for side in Side:
        assert np.abs(sides[side].slice_index - upright[side].slice_index).max() <= 1, side


def test_a_series_on_one_side_has_one_side():
    sides = foraminal_points(seen(sagittal(T1, "1", np.array([18.0, 22.4]))), CANAL[:, 0], DECODE)
    assert set(sides) == {Side.LEFT}


def test_a_level_without_a_slice_on_that_side_has_no_point_there():
    """A spine leaning so far that the only slice is left of it below and right of it above."""
    sides = foraminal_points(seen(sagittal(T1, "1", np.array([21.0]))), np.array([40.0, 0, 0, 0, 0]), DECODE)
    assert np.isfinite(sides[Side.LEFT].points_mm[:, 0]).tolist() == [False, True, True, True, True]
    assert np.isfinite(sides[Side.RIGHT].points_mm[:, 0]).tolist() == [True, False, False, False, False]


def test_the_midline_follows_a_known_canal(output):
    points = CANAL.copy()
    points[[0, 3]] = np.nan
    midline, how = midline_from(output, canal_at(points, output.canvases.volume))
    assert how == "canal"
    assert midline == pytest.approx(np.interp(np.arange(5), [1, 2, 4], CANAL[[1, 2, 4], 0]))


def test_without_canal_the_midline_lies_between_the_foramina(output):
    lost = canal_at(np.full((5, 3), np.nan), output.canvases.volume)
    for canal in (None, lost):
        midline, how = midline_from(output, canal)
        assert how == "foramina"
        assert midline == pytest.approx(np.full(5, CANAL[:, 0].mean()), abs=3)


def test_without_canal_and_foramina_the_midline_is_the_middle_of_the_magnet():
    midline, how = midline_from(seen(sagittal(T1, "1", np.array([21.0]))), None)
    assert how == "patient x = 0"
    assert (midline == 0).all()
    close = seen(sagittal(T1, "1", np.array([19.0, 23.4])))  # two slices of one side are not two sides
    assert midline_from(close, None)[1] == "patient x = 0"


def test_a_canal_is_seen_where_most_levels_show_it(output):
    assert sees_canal(output)
    assert not sees_canal(seen(sagittal(T1, "1", np.array([-30.0, -26.0]))))
    few = output.visible.copy()
    few[:, 2:5] = 0.01
    assert not sees_canal(replace(output, visible=few))


def test_a_slice_whose_own_map_looks_elsewhere_takes_the_groups_point(output):
    chosen = canal_points(output, DECODE).slice_index[2]
    maps = output.maps.copy()
    maps[chosen, 2] = np.roll(maps[chosen, 2], 25, axis=0)
    found = canal_points(replace(output, maps=maps), DECODE)
    assert np.abs(found.points_mm[2, 1:] - CANAL[2, 1:]).max() < 2.5


def test_points_outside_the_image_are_absent():
    """The canvas of an image that is wider than tall goes on below it; the spine does not."""
    short = seen(sagittal(T2, "2", lowest_mm=HEIGHTS[2] - 14))
    found = canal_points(short, DECODE)
    assert np.isfinite(found.points_mm[:, 0]).tolist() == [True, True, True, False, False]
    assert (found.slice_index[3:] == -1).all()
    assert (found.confidence[3:] == 0).all()
    below = short.canvases.affines[0] @ (96, 188, 0)
    assert below[2] < HEIGHTS[3]  # there is room on the canvas


def test_visibility_decides_between_slices_of_a_side(output):
    visible = output.visible.copy()
    maps = output.maps.copy()
    best = foraminal_points(output, CANAL[:, 0], DECODE)[Side.LEFT].slice_index[2]
    wanted = int(np.abs(output.x_mm - output.x_mm[best] - 4.0).argmin())
    visible[wanted, FORAMINAL_CHANNELS.start + 2] = 1.0
    visible[best, FORAMINAL_CHANNELS.start + 2] = 0.2
    maps[wanted, FORAMINAL_CHANNELS.start + 2] = maps[best, FORAMINAL_CHANNELS.start + 2]
    found = foraminal_points(replace(output, visible=visible, maps=maps), CANAL[:, 0], DECODE)[Side.LEFT]
    assert wanted != best
    assert found.slice_index[2] == wanted


def test_of_two_slices_that_show_a_foramen_alike_the_medial_one_is_the_upper_levels_and_the_lateral_one_the_lowest():
    lateral_mm = np.tile(np.array([[10.0], [14.0], [18.0], [30.0]]), 5)
    mass = np.full((4, 5), 0.8)
    alike = np.tile(np.array([[0.1], [0.6], [0.62], [0.1]]), 5)
    chosen, _ = marked_slices(alike, mass, lateral_mm, DECODE)
    assert (chosen[0], chosen[4]) == (1, 2)
    indifferent = replace(DECODE, lateral=(0.0,) * 5)
    assert (marked_slices(alike, mass, lateral_mm, indifferent)[0] == 2).all()
    clear = np.tile(np.array([[0.1], [0.2], [0.95], [0.1]]), 5)
    assert (marked_slices(clear, mass, lateral_mm, DECODE)[0] == 2).all()
    # Neither a slice of the other side nor one far away is ever preferred.
    alike[1] = -1.0
    alike[3, 4] = 0.6
    chosen, beside = marked_slices(alike, mass, lateral_mm, DECODE)
    assert (chosen == 2).all()
    assert (beside == 0).all()


def test_lateral_is_away_from_the_midline_on_both_sides(output):
    """Slices that all show the foramina alike: the choice is then the preference's alone."""
    visible, maps = output.visible.copy(), output.maps.copy()
    visible[:, FORAMINAL_CHANNELS] = 0.6
    maps[:, FORAMINAL_CHANNELS] = maps[:, FORAMINAL_CHANNELS].mean(0)
    alike = replace(output, visible=visible, maps=maps)
    medial, lateral = (
        foraminal_points(alike, CANAL[:, 0], replace(DECODE, lateral=(sign,) * 5)) for sign in (-0.3, 0.3)
    )
    for side in Side:
        nearer, further = (np.abs(found[side].points_mm[:, 0] - CANAL[:, 0]) for found in (medial, lateral))
        assert (nearer < further - 2).all()


def test_the_belief_in_the_slices_beside_follows_the_odds_that_they_show_the_foramen():
    lateral_mm = np.tile(np.array([[6.0], [10.0], [14.0], [18.0]]), 5)
    mass = np.full((4, 5), 0.8)
    indifferent = replace(DECODE, lateral=(0.0,) * 5)
    visible = np.tile(np.array([[0.9], [0.2], [0.6], [0.5]]), 5)
    visible[0] = -1.0
    chosen, beside = marked_slices(visible, mass, lateral_mm, indifferent)
    assert (chosen == 2).all()
    odds = np.array([0.25, 1.5, 1.0])
    assert beside == pytest.approx(np.tile((odds / odds.sum())[[0, 2]], (5, 1)))
    last, none_after = marked_slices(visible[:3], mass[:3], lateral_mm[:3], indifferent)
    assert (last == 2).all()
    assert (none_after[:, 1] == 0).all()


def test_a_preference_for_each_level_is_demanded():
    with pytest.raises(ValueError, match="each of 5 levels"):
        DecodeSettings(lateral=(0.0, 0.0))
