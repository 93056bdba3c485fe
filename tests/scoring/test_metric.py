"""The metric against hand-computed cases."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from pipeline.__main__ import main
from pipeline.labels import CELL_INDEX, CELLS, Cell, Condition
from pipeline.scoring.metric import CLIP, score_arrays, score_files
from pipeline.submission import read_submission, write_submission
from pipeline.tables import TableError

CANAL = [CELL_INDEX[Cell(Condition.CANAL, level)] for level in ("l1_l2", "l2_l3", "l3_l4", "l4_l5", "l5_s1")]


def uniform(studies: int) -> np.ndarray:
    return np.full((studies, len(CELLS), 3), 1 / 3)


def test_uniform_thirds_give_the_log_of_three_on_each_condition():
    grades = np.random.default_rng(0).integers(0, 3, (40, 25)).astype(float)
    score = score_arrays(grades, uniform(40))
    assert score.spinal == pytest.approx(1.0986, abs=1e-4)
    assert score.foraminal == pytest.approx(math.log(3))
    assert score.subarticular == pytest.approx(math.log(3))


def test_any_severe_of_uniform_thirds_is_the_binary_loss_at_one_third():
    grades = np.zeros((2, 25))
    grades[0, CANAL[3]] = 2
    expected = (4 * -math.log(1 / 3) + 1 * -math.log(2 / 3)) / 5
    assert score_arrays(grades, uniform(2)).any_severe == pytest.approx(expected)


def test_cells_are_weighted_by_true_grade():
    grades = np.full((1, 25), np.nan)
    grades[0, CANAL[:3]] = [0, 1, 2]
    probabilities = uniform(1)
    probabilities[0, CANAL[0]] = [0.5, 0.25, 0.25]
    probabilities[0, CANAL[1]] = [0.25, 0.5, 0.25]
    probabilities[0, CANAL[2]] = [0.1, 0.2, 0.7]
    score = score_arrays(grades, probabilities)
    assert score.spinal == pytest.approx(-(math.log(0.5) + 2 * math.log(0.5) + 4 * math.log(0.7)) / 7)
    assert score.any_severe == pytest.approx(-math.log(0.7))
    assert math.isnan(score.foraminal)
    assert math.isnan(score.score)
    assert score.cells == 3


def test_any_severe_takes_the_largest_probability_and_the_heaviest_weight_of_the_study():
    grades = np.zeros((2, 25))
    grades[0, CANAL[1]] = 1  # no severe level, weight 2
    grades[1, CANAL[4]] = 2  # severe, weight 4
    probabilities = uniform(2)
    probabilities[0, CANAL] = [[0.9, 0.08, 0.02]] * 4 + [[0.3, 0.3, 0.4]]
    probabilities[1, CANAL] = [[0.2, 0.2, 0.6]] + [[0.8, 0.1, 0.1]] * 4
    expected = (2 * -math.log(0.6) + 4 * -math.log(0.6)) / 6
    assert score_arrays(grades, probabilities).any_severe == pytest.approx(expected)


def test_left_and_right_are_pooled():
    grades = np.full((1, 25), np.nan)
    left = CELL_INDEX[Cell(Condition.LEFT_FORAMINAL, "l4_l5")]
    right = CELL_INDEX[Cell(Condition.RIGHT_FORAMINAL, "l4_l5")]
    grades[0, [left, right]] = [2, 0]
    probabilities = uniform(1)
    probabilities[0, left], probabilities[0, right] = [0.2, 0.2, 0.6], [0.5, 0.3, 0.2]
    expected = -(4 * math.log(0.6) + math.log(0.5)) / 5
    assert score_arrays(grades, probabilities).foraminal == pytest.approx(expected)


def test_rows_are_normalised_and_clipped():
    grades = np.zeros((1, 25))
    grades[0, 0] = 2
    probabilities = uniform(1) * 60
    probabilities[0, CANAL] = [[9, 1, 0]] * 5
    score = score_arrays(grades, probabilities)
    assert score.foraminal == pytest.approx(math.log(3))
    assert score.any_severe == pytest.approx(-math.log(CLIP))
    assert score.spinal == pytest.approx((4 * -math.log(CLIP) + 4 * -math.log(0.9)) / 8)


def test_a_study_without_canal_grades_does_not_count_for_any_severe():
    grades = np.full((2, 25), np.nan)
    grades[0, CANAL] = 0
    probabilities = uniform(2)
    probabilities[1, CANAL] = [[0, 0, 1]] * 5
    assert score_arrays(grades, probabilities).any_severe == pytest.approx(-math.log(2 / 3))


@pytest.fixture
def files(tmp_path, write_labels):
    grades = np.random.default_rng(1).integers(0, 3, (3, 25)).astype(float)
    grades[2, 7] = np.nan
    truth = write_labels(grades)
    out = tmp_path / "submission.csv"
    write_submission(out, ["1000", "1001", "1002", "9"], uniform(4))
    return truth, out


def test_command_prints_one_json_object_and_allows_more_studies(files, capsys):
    assert main(["score", *map(str, files), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert set(printed) == {"spinal", "foraminal", "subarticular", "any_severe", "score"}
    assert printed["spinal"] == pytest.approx(math.log(3))
    assert printed["score"] == pytest.approx(sum(v for k, v in printed.items() if k != "score") / 4)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda lines: [*lines[:-1], lines[-1].rsplit(",", 1)[0] + ",nan"], "expected a finite number"),
        (lambda lines: [*lines[:3], lines[3].rsplit(",", 1)[0] + ",-0.1", *lines[4:]], "expected a finite number"),
        (lambda lines: [*lines[:3], lines[3].rsplit(",", 1)[0] + ",high", *lines[4:]], "found 'high'"),
        (lambda lines: [*lines[:3], lines[3].split(",")[0] + ",0,0,0", *lines[4:]], "all 0"),
        (lambda lines: [*lines, lines[5]], "a second time"),
        (lambda lines: lines[:5] + lines[6:], "1 rows are missing"),
        (lambda lines: [line.rsplit(",", 1)[0] for line in lines], "column 'severe'"),
        (lambda lines: [line + ",1" if n else line + ",extra" for n, line in enumerate(lines)], "unexpected column"),
        (lambda _: [], "not a CSV table"),
    ],
)
def test_an_invalid_submission_is_refused_with_the_place(files, capsys, damage, message):
    truth, out = files
    out.write_text("\n".join(damage(out.read_text().splitlines()[:76])) + "\n")
    assert main(["score", str(truth), str(out)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "submission.csv" in error


def test_a_grade_that_does_not_exist_is_refused_with_row_and_column(files):
    truth, out = files
    truth.write_text(truth.read_text().replace("Moderate", "Mild", 1))
    with pytest.raises(TableError, match=r"train.csv, row \d, column '.*_l\d_.*': found 'Mild', expected Normal/Mild"):
        score_files(truth, out)


def test_no_grade_at_all_is_status_one(write_labels, files, capsys):
    truth = write_labels(np.full((1, 25), np.nan), name="empty.csv")
    assert main(["score", str(truth), str(files[1])]) == 1
    assert "holds no grade" in capsys.readouterr().err


def test_written_rows_are_sorted_by_row_id_and_read_back(files):
    rows = list(read_submission(files[1]).index[:25])
    assert rows == sorted(rows)
    assert rows[0] == "1000_left_neural_foraminal_narrowing_l1_l2"
