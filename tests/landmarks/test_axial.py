"""Which axial slice shows a level, and where its recesses lie."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.labels import SeriesKind
from pipeline.landmarks.axial import AxialSettings, choose_slice, find_recesses
from pipeline.volumes import Plane
from tests.landmarks.spine import CANAL, RECESS, X, axial, axial_net, stack, truth
from tests.volumes.oracle import turned

CPU = torch.device("cpu")
SETTINGS = AxialSettings()


def oblique(degrees, middle, steps=(4.0, 0.0, -4.0), shape=(150, 150), series_id="9"):
    """A stack turned about the patient's x, its slices stepping along their own normal."""
    right, down = turned(np.eye(3)[:2], X, degrees)
    normal = np.cross(right, down)
    centres = np.asarray(middle) + np.array(steps)[:, None] * normal
    return stack(Plane.AXIAL, centres, shape, 1.0, SeriesKind.AXIAL_T2, series_id, (right, down, -normal))


def along(degrees):
    return turned(np.array([[0.0, 0, 1]]), X, degrees)[0]


def test_the_nearest_slice_of_all_stacks_is_chosen():
    volumes = [oblique(angle, (0, 10, height)) for angle, height in ((12, 70), (5, 36), (0, 1), (-10, -33), (-25, -64))]
    for level, angle in enumerate((12, 5, 0, -10, -25)):
        number, index, distance = choose_slice(volumes, CANAL[level], along(angle), SETTINGS)
        assert number == level
        own = volumes[level].to_pixel(np.repeat(CANAL[level][None], 3, 0), np.arange(3))[2]
        assert index == np.abs(own).argmin()
        assert distance == pytest.approx(np.abs(own).min())


def test_of_two_slices_equally_near_the_one_along_the_disc_is_chosen():
    point = CANAL[4]
    across, along_disc = oblique(0, point), oblique(-25, point)
    assert choose_slice([across, along_disc], point, along(-25), SETTINGS)[0] == 1
    assert choose_slice([along_disc, across], point, along(-25), SETTINGS)[0] == 0
    assert choose_slice([across, along_disc], point, along(0), SETTINGS)[0] == 0


def test_a_slice_that_does_not_hold_the_point_is_passed_over():
    point = CANAL[2]
    beside = oblique(0, point + np.array([120.0, 0, 0]))
    holds = oblique(0, point + np.array([0, 0, 6.0]))
    assert choose_slice([beside, holds], point, along(0), SETTINGS)[:2] == (1, 2)
    assert choose_slice([beside], point, along(0), SETTINGS) is None


def test_no_slice_within_reach():
    assert choose_slice([oblique(0, CANAL[2] + np.array([0, 0, 15.0]))], CANAL[2], along(0), SETTINGS) is None
    assert choose_slice([], CANAL[2], along(0), SETTINGS) is None


def test_left_is_found_in_the_window_and_right_in_its_mirror_image():
    volumes = axial()
    places = [(level, 1, CANAL[level]) for level in range(5)]
    found = find_recesses(axial_net(), volumes, places, CPU, SETTINGS)
    for level, points in enumerate(found):
        assert points.volume is volumes[level]
        for side, cell in ((0, 15 + level), (1, 20 + level)):
            off = points.points_mm[side] - truth()[cell]
            assert np.abs(off[:2]).max() < 1.0
            assert abs(off[2]) < 3
        assert (points.confidence > 0.5).all()


def test_without_a_network_geometry_places_both():
    volumes = axial()
    (points,) = find_recesses(None, volumes, [(2, 1, CANAL[2])], CPU, SETTINGS)
    left, right = points.points_mm
    assert left[:2] - CANAL[2][:2] == pytest.approx([SETTINGS.lateral_mm, SETTINGS.posterior_mm])
    assert right[:2] - CANAL[2][:2] == pytest.approx([-SETTINGS.lateral_mm, SETTINGS.posterior_mm])
    assert (points.confidence == 0.1).all()


def test_a_point_far_from_where_recesses_are_is_not_believed():
    volumes = axial()
    wrong = CANAL[2] + np.array([30.0, 0, 0])  # the window's middle is far from the canal
    (points,) = find_recesses(axial_net(), volumes, [(2, 1, wrong)], CPU, SETTINGS)
    assert points.points_mm[0][:2] - wrong[:2] == pytest.approx([SETTINGS.lateral_mm, SETTINGS.posterior_mm])
    assert points.confidence[0] == pytest.approx(0.1)


def test_a_network_that_is_trusted_half_answers_half_way_to_the_expected_place():
    places = [(2, 1, CANAL[2])]
    whole, half, none = (
        find_recesses(net, axial(), places, CPU, replace(SETTINGS, trust=trust))[0]
        for net, trust in ((axial_net(), 1.0), (axial_net(), 0.5), (None, 1.0))
    )
    assert np.linalg.norm(whole.points_mm - none.points_mm, axis=1).min() > 0.5
    assert half.points_mm == pytest.approx((whole.points_mm + none.points_mm) / 2)
    assert half.confidence == pytest.approx(whole.confidence)
    with pytest.raises(ValueError, match=r"trust is 1\.5"):
        AxialSettings(trust=1.5)


def test_nothing_to_do():
    assert find_recesses(axial_net(), axial(), [], CPU, SETTINGS) == []


def test_the_expected_place_follows_an_oblique_slice():
    volume = oblique(-25, CANAL[4])
    (points,) = find_recesses(None, [volume], [(0, 1, CANAL[4])], CPU, SETTINGS)
    offset = points.points_mm[0] - CANAL[4]
    assert offset @ volume.normal == pytest.approx(0, abs=1e-6)
    assert np.linalg.norm(offset) == pytest.approx(np.hypot(SETTINGS.lateral_mm, SETTINGS.posterior_mm))
    assert np.sign(offset[0]) == np.sign(RECESS[0])
