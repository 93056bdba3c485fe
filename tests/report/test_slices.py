"""Slices as pictures: the file's grey levels, points on their pixels, letters from the geometry and not by habit."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.labels import CELL_INDEX, CELLS, Cell, Condition, SeriesKind
from pipeline.landmarks.landmarks import Landmarks
from pipeline.report.record import StudyRecord
from pipeline.report.slices import MOST_PIXELS, letters, viewers
from pipeline.volumes import Affine, Plane, StudyVolumes
from pipeline.volumes.volume import ASSUMED_SIDES
from tests.landmarks.spine import stack
from tests.volumes.oracle import at


def volume(plane=Plane.SAGITTAL, kind=SeriesKind.SAGITTAL_T2, shape=(100, 80), **changes):
    centres = np.array([[x, 10.0, 0.0] if plane is Plane.SAGITTAL else [0.0, 10.0, -x] for x in (-4.0, 0.0, 4.0)])
    empty = stack(plane, centres, shape, (2.0, 1.0), kind, "5")
    ramp = np.linspace(0, 500, empty.pixels.size, dtype=np.float32).reshape(empty.pixels.shape)
    return replace(empty, pixels=ramp, **changes)


def record(landmarks=None, marked=None):
    nothing = np.full((len(CELLS), 3), 1 / 3)
    points = landmarks or Landmarks.empty("7")
    return StudyRecord("7", nothing, nothing, ({"source": "model"},) * 25, points, (), np.full(25, np.nan), marked)


def shown(volumes, study=None):
    return viewers(StudyVolumes("7", tuple(volumes), ()), study or record())


def picture(stack):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(stack["image"].partition(",")[2]))).convert("L"), float)


def test_a_tile_holds_the_grey_levels_of_its_slice_in_the_range_that_is_said():
    one = volume()
    (stack_,) = shown([one])[0]["stacks"]
    width, height = stack_["tile"]
    assert (width, height) == (80, 100)
    floor, ceiling = stack_["range"]
    for number in range(3):
        top, left = number // stack_["across"] * height, number % stack_["across"] * width
        tile = picture(stack_)[top : top + height, left : left + width] / 255 * (ceiling - floor) + floor
        assert np.abs(tile - one.pixels[number]).mean() < 12, "of 500: WebP keeps some 220 levels"


def test_points_lie_on_their_pixels_on_their_own_slice_alone():
    one = volume()
    cell = Cell(Condition.CANAL, "l4_l5")
    points = Landmarks.empty("7")
    points.points_mm[CELL_INDEX[cell]] = at(one, np.array([1]), np.array([20.0]), np.array([70.0]))[0]
    points.instance_number[CELL_INDEX[cell]] = one.instance_numbers[1]
    series = tuple("5" if index == CELL_INDEX[cell] else None for index in range(len(CELLS)))
    instance = int(one.instance_numbers[2])
    place = {"series_id": "5", "instance_number": instance, "condition": cell.condition.value, "level": "l4_l5"}
    marked = pd.DataFrame([{"study_id": "7", **place, "x": 3.0, "y": 8.0}])
    slices = shown([one], record(replace(points, series_id=series), marked))[0]["stacks"][0]["slices"]
    assert [len(one["points"]) for one in slices] == [0, 1, 1]
    assert (slices[1]["points"][0]["x"], slices[1]["points"][0]["y"]) == pytest.approx((20, 70), abs=1e-3)
    assert slices[1]["points"][0]["label"] == "L4/L5"
    expected = one.affines[2].inverse @ one.from_source_pixel(instance, 3.0, 8.0)
    assert (slices[2]["points"][0]["x"], slices[2]["points"][0]["y"]) == pytest.approx(expected[:2], abs=1e-3)
    assert slices[2]["points"][0]["by"] == "reader"


def test_letters_follow_the_geometry():
    assert letters([1, 0, 0]) == "L"
    assert letters([0, -0.8, -0.6]) == "AF"
    sagittal = shown([volume()])[0]["stacks"][0]["slices"][0]
    assert sagittal["letters"] == ["A", "P", "H", "F"]
    axial = volume(Plane.AXIAL, SeriesKind.AXIAL_T2)
    assert shown([axial])[0]["stacks"][0]["slices"][0]["letters"] == ["R", "L", "A", "P"]
    turned = axial.affines.matrix.copy()
    turned[:, :3, 0] *= -1
    mirrored = replace(axial, affines=Affine(turned))
    assert shown([mirrored])[0]["stacks"][0]["slices"][0]["letters"][:2] == ["L", "R"]


def test_a_side_that_is_assumed_carries_a_question_mark():
    axial = volume(Plane.AXIAL, SeriesKind.AXIAL_T2, flags=(ASSUMED_SIDES,))
    assert shown([axial])[0]["stacks"][0]["slices"][0]["letters"] == ["R?", "L?", "A", "P"]


def test_a_study_of_many_pixels_is_shrunk_and_keeps_its_aspect():
    large = volume(shape=(3000, 2400))
    (stack_,) = shown([large])[0]["stacks"]
    width, height = stack_["tile"]
    assert 3 * width * height <= MOST_PIXELS * 1.01
    assert height / width == pytest.approx(3000 / 2400, rel=0.01)
    assert (stack_["rows"], stack_["cols"]) == (3000, 2400)


def test_what_is_not_finite_is_dark_and_breaks_nothing():
    one = volume()
    one.pixels[0, :50] = np.nan
    (stack_,) = shown([one])[0]["stacks"]
    assert picture(stack_)[:40, :80].mean() < 5
