"""The patients that are drawn."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.labels import CELL_INDEX, CELLS, LEVELS, Cell, Condition, Family, Side
from pipeline.phantom.anatomy import VERTEBRAE
from pipeline.phantom.sampling import sample_anatomy
from tests.phantom.test_grades import grade_of


@pytest.fixture(scope="module")
def patients():
    return [sample_anatomy(np.random.default_rng(seed)) for seed in range(25)]


def test_grades_follow_from_the_measurements(patients):
    for patient in patients:
        assert patient.grades.tolist() == [grade_of(value) for value in patient.narrowing]


def test_vertebrae_and_discs_alternate_down_the_spine(patients):
    for patient in patients:
        assert [vertebra.name for vertebra in patient.vertebrae] == list(VERTEBRAE)
        for index, disc in enumerate(patient.discs[:-1]):
            assert patient.vertebrae[index].bottom <= disc.top < disc.bottom <= patient.vertebrae[index + 1].top + 1e-9


def test_landmarks_descend_level_by_level_and_keep_their_sides(patients):
    for patient in patients:
        for condition in Condition:
            points = np.array([patient.landmarks[CELL_INDEX[Cell(condition, level)]] for level in LEVELS])
            assert (np.diff(points[:, 2]) < -15).all()
        for level in LEVELS:
            left, middle, right = (
                patient.landmarks[CELL_INDEX[Cell(condition, level)]][0]
                for condition in (Condition.LEFT_SUBARTICULAR, Condition.CANAL, Condition.RIGHT_SUBARTICULAR)
            )
            assert left > middle > right


def test_the_narrower_the_cell_the_smaller_its_shape(patients):
    for patient in patients:
        curve, canal = patient.curve, patient.canal
        rows = [int(curve.rows(np.array(patient.lumbar_disc(level).middle))) for level in range(5)]
        for index, cell in enumerate(CELLS):
            row = rows[LEVELS.index(cell.level)]
            if cell.condition.family is Family.CANAL:
                area = np.pi / 4 * canal.sac_depth[row] * canal.sac_width[row]
                assert area == pytest.approx(patient.measurements[index], rel=0.3)
            elif cell.condition.family is Family.SUBARTICULAR:
                column = 0 if cell.condition.side is Side.LEFT else 1
                assert canal.recess[column, row] == pytest.approx(patient.measurements[index], abs=0.4)


def test_a_seed_gives_one_patient():
    first, second = (sample_anatomy(np.random.default_rng(11)) for _ in range(2))
    np.testing.assert_array_equal(first.landmarks, second.landmarks)
    assert first.vertebrae == second.vertebrae
