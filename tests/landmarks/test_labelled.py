"""Labels that contradict the anatomy or the image are found, and only those; nothing is learnt from them."""

from itertools import pairwise

import numpy as np
import pytest

from pipeline.labels import CELL_INDEX, CELLS, LEVELS, Cell, Condition, SeriesKind
from pipeline.landmarks.labelled import APART, ORDER, OUTSIDE, SIDES, find_mislabelled, labelled_points
from tests.landmarks.spine import axial, sagittal, study, truth
from tests.landmarks.test_examples import marked, table

T1, T2 = SeriesKind.SAGITTAL_T1, SeriesKind.SAGITTAL_T2


@pytest.fixture(scope="module")
def case():
    """A study and its 25 right labels."""
    t1, t2, stacks = sagittal(T1, "1", mirrored=True), sagittal(T2, "2"), axial()
    marks = [*marked(t2, range(5)), *marked(t1, range(5, 15))]
    marks += [(stacks[LEVELS.index(CELLS[i].level)], 1, CELLS[i], truth()[i]) for i in range(15, 25)]
    return study(t1, t2, *stacks), table(*marks)


def doubts(case, change):
    """Reasons by cell after a change of the coordinate table."""
    volumes, coordinates = case
    coordinates = coordinates.copy()
    change(coordinates)
    points = labelled_points(volumes, coordinates)
    reasons = find_mislabelled(volumes, points)
    cells = [(condition, level) for condition, level in zip(points["condition"], points["level"], strict=True)]
    return {cell: reason for cell, reason in zip(cells, reasons, strict=True) if reason}


def exchange(coordinates, column, first, second):
    """Two rows (condition, level) with each other's ``column``."""
    rows = [
        coordinates.index[(coordinates["condition"] == condition.value) & (coordinates["level"] == level)][0]
        for condition, level in (first, second)
    ]
    coordinates.loc[rows, column] = coordinates.loc[rows[::-1], column].to_numpy()


def test_right_labels_are_not_doubted(case):
    assert doubts(case, lambda table: None) == {}


def test_exchanged_sides(case):
    for left, right in (
        (Condition.LEFT_FORAMINAL, Condition.RIGHT_FORAMINAL),
        (Condition.LEFT_SUBARTICULAR, Condition.RIGHT_SUBARTICULAR),
    ):
        found = doubts(case, lambda t, a=left, b=right: exchange(t, "condition", (a, "l3_l4"), (b, "l3_l4")))
        assert found == {(left.value, "l3_l4"): SIDES, (right.value, "l3_l4"): SIDES}


def test_exchanged_levels_cost_one_of_the_two(case):
    first, second = (Condition.CANAL, "l2_l3"), (Condition.CANAL, "l3_l4")
    found = doubts(case, lambda t: exchange(t, "level", first, second))
    assert list(found.values()) == [ORDER]
    assert set(found) <= {(condition.value, level) for condition, level in (first, second)}


def test_a_point_at_the_wrong_level_is_the_one_left_out(case):
    def change(coordinates):
        rows = coordinates["condition"] == Condition.CANAL.value
        top = coordinates.index[rows & (coordinates["level"] == "l1_l2")][0]
        bottom = coordinates.index[rows & (coordinates["level"] == "l5_s1")][0]
        coordinates.loc[top, ["x", "y"]] = coordinates.loc[bottom, ["x", "y"]].to_numpy() + np.array([0, 3])

    assert doubts(case, change) == {(Condition.CANAL.value, "l1_l2"): ORDER}


@pytest.mark.parametrize(
    "pair",
    [
        (Condition.LEFT_FORAMINAL, Condition.RIGHT_FORAMINAL),
        (Condition.LEFT_SUBARTICULAR, Condition.RIGHT_SUBARTICULAR),
    ],
)
def test_a_side_that_is_numbered_a_level_lower_than_the_other(case, pair):
    volumes, coordinates = case
    changed = coordinates.copy()
    rows = coordinates.index[coordinates["condition"] == pair[1].value]
    by_level = {coordinates.loc[row, "level"]: row for row in rows}
    places = ["series_id", "instance_number", "x", "y"]
    for upper, lower in pairwise(LEVELS):
        changed.loc[by_level[upper], places] = coordinates.loc[by_level[lower], places].to_numpy()

    def without(*levels):
        return volumes, changed.drop(index=[by_level[level] for level in levels])

    found = doubts(without("l5_s1"), lambda table: None)
    assert set(found.values()) == {APART}
    assert len(found) == 9  # nobody knows which side is right
    assert not doubts(without("l1_l2", "l2_l3", "l5_s1"), lambda table: None)  # two levels say too little


def test_a_point_beyond_the_image(case):
    def change(coordinates):
        coordinates.loc[0, "x"] = 5000.0

    condition, level = CELLS[CELL_INDEX[Cell(Condition.CANAL, "l1_l2")]]
    assert doubts(case, change) == {(condition.value, level): OUTSIDE}


def test_exchanged_x_and_y_are_noticed_where_they_leave_the_image_or_the_order(case):
    def change(coordinates):
        coordinates[["x", "y"]] = coordinates[["y", "x"]].to_numpy()

    assert len(doubts(case, change)) >= 5


def test_no_labels_no_doubts(case):
    volumes, coordinates = case
    assert not len(find_mislabelled(volumes, labelled_points(volumes, coordinates[:0])))
