"""Points on pictures: the right place, the right colour."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.labels import LEVELS, SeriesKind
from pipeline.landmarks.landmarks import Landmarks
from pipeline.landmarks.overlay import LEVEL_COLOURS, SIDE_PX, slice_picture, study_picture
from pipeline.volumes import Plane
from tests.landmarks.spine import stack, study
from tests.volumes.oracle import at

SCALE = SIDE_PX / 200
"""Screen pixels a mm: the slices are 200 mm high."""
GREEN = (0, 220, 0)


@pytest.fixture
def volume():
    centres = np.array([[x, 10.0, 0.0] for x in (-4.0, 0.0, 4.0)])
    empty = stack(Plane.SAGITTAL, centres, (100, 80), (2.0, 1.0), SeriesKind.SAGITTAL_T2, "5")
    return replace(empty, pixels=np.zeros_like(empty.pixels))


def centre_of(picture, colour):
    rows, cols = np.nonzero((picture == colour).all(axis=-1))
    return cols.mean(), rows.mean()


def test_a_point_is_drawn_where_its_pixel_is(volume):
    point = at(volume, np.array([1]), np.array([20.0]), np.array([70.0]))
    picture = slice_picture(volume, 1, [(point, GREEN)])
    assert picture.shape == (SIDE_PX, SIDE_PX, 3)
    assert picture.dtype == np.uint8
    x, y = centre_of(picture, GREEN)
    assert (x, y) == pytest.approx((20.5 * SCALE, 141 * SCALE), abs=1)


def test_a_point_is_drawn_over_the_brightest_pixel_of_the_slice(volume):
    pixels = volume.pixels.copy()
    pixels[:, 30:34, 50:54] = 100.0
    bright = replace(volume, pixels=pixels)
    point = at(bright, np.array([0]), np.array([51.5]), np.array([31.5]))
    picture = slice_picture(bright, 0, [])
    x, y = centre_of(picture, (255, 255, 255))
    assert (x, y) == pytest.approx(centre_of(slice_picture(bright, 0, [(point, GREEN)]), GREEN), abs=1.5)


def test_points_beside_the_slice_are_projected_on_it(volume):
    point = at(volume, np.array([1]), np.array([20.0]), np.array([70.0])) + 30 * volume.normal
    picture = slice_picture(volume, 1, [(point, GREEN)])
    assert centre_of(picture, GREEN) == pytest.approx((20.5 * SCALE, 141 * SCALE), abs=1)


def test_no_points_and_points_outside_leave_the_picture_alone(volume):
    plain = slice_picture(volume, 1, [(np.zeros((0, 3)), GREEN)])
    assert plain.max() == 0
    far = np.array([[0.0, 900.0, 0.0]])
    assert slice_picture(volume, 1, [(far, GREEN)]).max() == 0
    assert slice_picture(volume, 1, [], caption="7").max() > 0


def landmarks_on(volume, marks):
    """Landmarks with some canal points, given as {level: (slice, col, row)}."""
    empty = Landmarks.empty("77")
    points, numbers = empty.points_mm.copy(), empty.instance_number.copy()
    series = list(empty.series_id)
    for level, (index, col, row) in marks.items():
        points[level] = at(volume, np.array([index]), np.array([col]), np.array([row]))[0]
        numbers[level], series[level] = volume.instance_numbers[index], volume.series_id
    return replace(empty, points_mm=points, instance_number=numbers, series_id=tuple(series))


def test_a_study_shows_each_slice_that_holds_a_point(volume):
    landmarks = landmarks_on(volume, {0: (0, 20.0, 20.0), 1: (2, 30.0, 40.0), 2: (2, 40.0, 60.0)})
    picture = study_picture(study(volume), landmarks)
    assert picture.shape == (SIDE_PX, 6 * SIDE_PX, 3)
    first, second = picture[:, :SIDE_PX], picture[:, SIDE_PX : 2 * SIDE_PX]
    assert centre_of(first, LEVEL_COLOURS[0]) == pytest.approx((20.5 * SCALE, 41 * SCALE), abs=1.5)
    assert not (second == LEVEL_COLOURS[0]).all(axis=-1).any()
    assert centre_of(second, LEVEL_COLOURS[1]) == pytest.approx((30.5 * SCALE, 81 * SCALE), abs=1.5)
    assert centre_of(second, LEVEL_COLOURS[2]) == pytest.approx((40.5 * SCALE, 121 * SCALE), abs=1.5)


def test_a_study_without_points_is_one_black_tile(volume):
    picture = study_picture(study(volume), Landmarks.empty("77"))
    assert picture.shape == (SIDE_PX, SIDE_PX, 3)
    assert picture.max() == 0


def test_levels_have_their_own_colours():
    assert len(set(LEVEL_COLOURS)) == len(LEVELS)
