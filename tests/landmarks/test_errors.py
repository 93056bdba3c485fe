"""Predicted points against labelled ones: figures worked out by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pipeline.__main__ import main
from pipeline.labels import CELL_INDEX, CELLS, LEVELS, Cell, Condition, SeriesKind
from pipeline.landmarks.errors import COMPARED, compare, error_distribution, summarise
from pipeline.landmarks.predict import LandmarkPredictor
from pipeline.weights.manifest import Manifest
from tests.landmarks.spine import axial, axial_net, sagittal, sagittal_net, study, truth
from tests.landmarks.test_examples import marked, table
from tests.volumes.oracle import at

T1, T2 = SeriesKind.SAGITTAL_T1, SeriesKind.SAGITTAL_T2


@pytest.fixture(scope="module")
def case():
    """A study, its labels, and landmarks that are exactly the labels."""
    t1, t2, stacks = sagittal(T1, "1"), sagittal(T2, "2"), axial()
    marks = [*marked(t2, range(5)), *marked(t1, range(5, 15))]
    for i in range(15, 25):
        marks.append((stacks[LEVELS.index(CELLS[i].level)], 1, CELLS[i], truth()[i]))
    coordinates = table(*marks)
    volumes = study(t1, t2, *stacks)
    landmarks = LandmarkPredictor(sagittal_net(), axial_net()).predict(volumes)
    points, numbers = landmarks.points_mm.copy(), landmarks.instance_number.copy()
    for volume, index, cell, point in marks:
        i = CELL_INDEX[cell]
        col, row, _ = volume.to_pixel(point[None], np.array([index]))
        points[i] = at(volume, np.array([index]), col, row)[0]
        numbers[i] = volume.instance_numbers[index]
    return volumes, coordinates, replace(landmarks, points_mm=points, instance_number=numbers)


def moved(landmarks, condition, level, offset=(0.0, 0.0, 0.0), to=None):
    """The landmarks with one point moved, or put on another cell's point."""
    points = landmarks.points_mm.copy()
    i = CELL_INDEX[Cell(condition, level)]
    points[i] = points[i] + offset if to is None else points[CELL_INDEX[to]]
    return replace(landmarks, points_mm=points)


def row_of(errors, condition, level):
    return errors[(errors["condition"] == condition.value) & (errors["level"] == level)].iloc[0]


def test_exact_points_have_no_error(case):
    volumes, coordinates, exact = case
    errors = compare(exact, volumes, coordinates)
    assert list(errors.columns) == list(COMPARED)
    assert len(errors) == 25
    assert errors[["in_plane_mm", "along_normal_mm", "slices"]].to_numpy(float).max() < 1e-6
    assert not errors["shifted"].any()
    assert not errors["wrong_side"].any()
    figures = summarise(errors)
    assert set(figures) >= {"canal", "foraminal", "subarticular", "canal l1_l2", "all"}
    assert figures["all"]["points"] == 25
    for name in ("found", "within_3mm", "same_slice"):
        assert figures["all"][name] == 1


def test_distances_are_split_into_plane_and_normal(case):
    volumes, coordinates, exact = case
    landmarks = moved(exact, Condition.CANAL, "l3_l4", (4.4, 3.0, 4.0))
    row = row_of(compare(landmarks, volumes, coordinates), Condition.CANAL, "l3_l4")
    assert row["in_plane_mm"] == pytest.approx(5.0)
    assert row["along_normal_mm"] == pytest.approx(4.4)
    assert not row["shifted"]


def test_the_neighbouring_slice_is_counted(case):
    volumes, coordinates, exact = case
    numbers = exact.instance_number.copy()
    numbers[2] += 2
    errors = compare(replace(exact, instance_number=numbers), volumes, coordinates)
    assert row_of(errors, Condition.CANAL, "l3_l4")["slices"] == 2
    figures = summarise(errors)["canal"]
    assert figures["slice_off_by_more_than_1"] == pytest.approx(0.2)
    assert figures["same_slice"] == pytest.approx(0.8)


def test_a_point_in_another_series_or_stack_is_told(case):
    volumes, coordinates, exact = case
    series = list(exact.series_id)
    series[0] = "1"
    numbers = exact.instance_number.copy()
    i = CELL_INDEX[Cell(Condition.LEFT_SUBARTICULAR, "l1_l2")]
    numbers[i] += 3  # the same series, its next stack
    errors = compare(replace(exact, series_id=tuple(series), instance_number=numbers), volumes, coordinates)
    assert np.isnan(row_of(errors, Condition.CANAL, "l1_l2")["slices"])
    assert np.isnan(row_of(errors, Condition.LEFT_SUBARTICULAR, "l1_l2")["slices"])
    assert summarise(errors)["all"]["other_stack"] == pytest.approx(2 / 25)


@pytest.mark.parametrize("condition", list(Condition))
def test_a_point_one_level_off_is_shifted(case, condition):
    volumes, coordinates, exact = case
    landmarks = moved(exact, condition, "l3_l4", to=Cell(condition, "l4_l5"))
    errors = compare(landmarks, volumes, coordinates)
    assert errors["shifted"].sum() == 1
    assert row_of(errors, condition, "l3_l4")["shifted"]
    assert not errors["wrong_side"].any()


def test_axial_points_are_not_shifted_by_where_they_lie_in_the_plane(case):
    """In an axial plane the other levels' points lie on top of each other; only their height tells them apart."""
    volumes, coordinates, exact = case
    landmarks = moved(exact, Condition.LEFT_SUBARTICULAR, "l3_l4", (3.0, -2.0, 1.0))
    assert not compare(landmarks, volumes, coordinates)["shifted"].any()


@pytest.mark.parametrize(
    ("condition", "other"),
    [
        (Condition.LEFT_FORAMINAL, Condition.RIGHT_FORAMINAL),
        (Condition.RIGHT_SUBARTICULAR, Condition.LEFT_SUBARTICULAR),
    ],
)
def test_a_point_on_the_other_side_is_told(case, condition, other):
    volumes, coordinates, exact = case
    landmarks = moved(exact, condition, "l2_l3", to=Cell(other, "l2_l3"))
    errors = compare(landmarks, volumes, coordinates)
    assert errors["wrong_side"].sum() == 1
    assert row_of(errors, condition, "l2_l3")["wrong_side"]
    assert not errors["shifted"].any()


def test_points_not_found_count_as_such(case):
    volumes, coordinates, exact = case
    points = exact.points_mm.copy()
    points[:2] = np.nan
    errors = compare(replace(exact, points_mm=points), volumes, coordinates)
    figures = summarise(errors)["canal"]
    assert figures["found"] == pytest.approx(0.6)
    assert figures["within_10mm"] == pytest.approx(0.6)
    assert figures["median_mm"] == pytest.approx(0, abs=1e-9)
    assert figures["other_stack"] == 0


def test_figures_by_hand():
    distances = [1.0, 2.0, 4.0, 8.0, np.nan]
    errors = pd.DataFrame(
        {
            "condition": Condition.CANAL.value,
            "level": LEVELS,
            "in_plane_mm": distances,
            "slices": [0.0, 0.0, 1.0, 2.0, np.nan],
            "shifted": [False, False, False, True, False],
            "wrong_side": False,
            "field_mm": [300.0, 300.0, 300.0, 300.0, 2000.0],
            "doubt": ["", "", "", "left and right a level apart", ""],
        }
    )
    figures = summarise(errors)
    assert figures["canal, pixel spacing plausible"]["found"] == 1.0
    assert figures["canal"]["found"] == 0.8
    assert figures["canal, labels without contradiction"]["shifted"] == 0
    assert figures["canal, labels without contradiction"]["points"] == 4
    canal = figures["canal"]
    assert canal["median_mm"] == 3.0
    assert canal["p95_mm"] == pytest.approx(4 + 0.85 * 4)
    assert (canal["within_3mm"], canal["within_5mm"], canal["within_10mm"]) == pytest.approx((0.4, 0.6, 0.8))
    assert (canal["shifted"], canal["same_slice"], canal["slice_off_by_more_than_1"]) == pytest.approx((0.2, 0.4, 0.2))
    assert figures["canal l4_l5"]["median_mm"] == 8.0
    assert np.isnan(figures["canal l5_s1"]["median_mm"])
    assert "foraminal" not in figures


def test_the_error_distribution_for_the_jitter():
    generator = np.random.default_rng(0)
    radius = np.linalg.norm(generator.normal(0, 2.0, (4000, 2)), axis=1)
    errors = pd.DataFrame(
        {
            "condition": Condition.LEFT_FORAMINAL.value,
            "in_plane_mm": radius,
            "slices": np.repeat([0.0, 1.0, 2.0, 7.0], 1000),
        }
    )
    found = error_distribution(errors)
    assert set(found) == {"foraminal"}
    assert found["foraminal"]["in_plane_sd_mm"] == pytest.approx(2.0, rel=0.05)
    assert found["foraminal"]["slice_offsets"] == {"0": 0.25, "1": 0.25, "2": 0.25, "3": 0.25}
    assert found["foraminal"]["points"] == 4000


def test_a_folder_of_other_things_is_left_as_it_is(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("pipeline.commands.evaluate_landmarks.open_competition", lambda path, split: None)
    monkeypatch.setattr("pipeline.commands.evaluate_landmarks._studies", lambda *_: [])
    Manifest(tmp_path / "weights", "own", "").save()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "errors.csv").write_text("years of work")
    command = ["evaluate", "landmarks", "--data", str(tmp_path), "--weights", str(tmp_path / "weights")]
    assert main([*command, "--out", str(tmp_path / "out")]) == 2
    assert "was not made by this program" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["errors.csv"]
    assert (tmp_path / "out" / "errors.csv").read_text() == "years of work"
