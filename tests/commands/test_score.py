"""The command that scores a table against the truth."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from pipeline.__main__ import main
from pipeline.commands.score import score_files
from pipeline.labels import CELLS
from pipeline.submission import read_submission, write_submission
from pipeline.tables import TableError


def uniform(studies: int) -> np.ndarray:
    return np.full((studies, len(CELLS), 3), 1 / 3)


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


def test_a_study_of_any_name_is_scored_under_its_id(files):
    truth, out = files
    before = score_files(truth, out)
    truth.write_text(truth.read_text().replace("\n1000,", "\n\x1b[1m,"))
    out.write_text(out.read_text().replace("\n1000_", "\n\\x1b[1m_"))
    assert score_files(truth, out) == before


def test_any_severe_is_taken_from_the_column_as_it_stands(files):
    truth, submission = files
    lines = submission.read_text().splitlines()
    submission.write_text("\n".join([lines[0], *(f"{line.split(',')[0]},0.9,0.9,0.9" for line in lines[1:])]) + "\n")
    score = score_files(truth, submission)
    assert score.spinal == pytest.approx(math.log(3))
    assert score.any_severe == pytest.approx(-math.log(0.9), abs=0.3)
    assert score.any_severe != pytest.approx(score_files(truth, submission).foraminal)
