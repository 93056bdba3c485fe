"""Property tests over tables: whatever a CSV file holds, reading ends in good rows and named errors."""

from __future__ import annotations

import csv
import io
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.competition import open_competition
from pipeline.labels import CELL_COLUMNS, GRADES, SeriesKind
from pipeline.submission import read_submission
from pipeline.tables import (
    COORDINATE_COLUMNS,
    PATIENT_COLUMNS,
    SERIES_COLUMNS,
    TableError,
    read_coordinates,
    read_labels,
    read_row_ids,
    read_series_table,
    read_text_table,
    with_readings,
)

FEW = settings(max_examples=60, deadline=None)
READERS = (read_series_table, read_labels, read_coordinates, read_row_ids, read_submission)
CELL = st.one_of(
    st.sampled_from(["", "1", "100", "Sagittal T1", "Axial T2", "Severe", "Normal/Mild", "Left Subarticular Stenosis"]),
    st.sampled_from(["L4/L5", "Spinal Canal Stenosis", "0.5", "nan", "inf", "-1", "1e400", "1e30", "9" * 30, "../x"]),
    st.floats().map(str),
    st.text(max_size=8),
)


def table_of(columns, rows=6):
    """CSV text with the right header and anything in its cells."""

    def write(cells):
        file = io.StringIO()
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(cells)
        return file.getvalue().encode("utf-8", "surrogatepass")

    return st.lists(st.lists(CELL, min_size=len(columns), max_size=len(columns)), max_size=rows).map(write)


def read(reader, content):
    """The reader's answer to a file of these bytes; None where it refuses the file as a table."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        path.write_bytes(content)
        try:
            return reader(path)
        except TableError as error:
            refused = error
        assert refused.file == str(path)
        return None


@FEW
@pytest.mark.parametrize("reader", READERS)
@given(st.binary(max_size=300))
@example(b"")
@example(b"\xef\xbb\xbf")
@example(b"study_id,series_id,series_description\n1,\x00,Axial T2\n")
@example(b'row_id,normal_mild,moderate,severe\n"a')
def test_any_bytes_are_a_table_or_refused_by_name(reader, content):
    read(reader, content)


@FEW
@given(table_of(SERIES_COLUMNS))
def test_series_that_are_kept_are_named_and_listed_once(content):
    table = read(read_series_table, content)
    if table is not None:
        kept = table.content
        assert (kept["study_id"] != "").all()
        assert (kept["series_id"] != "").all()
        assert not kept.duplicated(["study_id", "series_id"]).any()
        assert all(isinstance(kind, SeriesKind) for kind in kept["kind"])  # with pyarrow, pandas 3 makes texts of them
        assert all(error.row >= 2 and error.column in SERIES_COLUMNS for error in table.errors)


@FEW
@given(table_of((*COORDINATE_COLUMNS, *PATIENT_COLUMNS)))
@example((",".join(COORDINATE_COLUMNS) + "\n1,1,1e30,Spinal Canal Stenosis,L4/L5,1,1\n").encode())
def test_coordinates_that_are_kept_are_finite(content):
    table = read(read_coordinates, content)
    if table is not None:
        assert np.isfinite(table.content[["x", "y"]].to_numpy(float)).all()
        assert table.content["instance_number"].dtype == np.int64
        assert not np.isinf(table.content[[c for c in PATIENT_COLUMNS if c in table.content]].to_numpy(float)).any()


@FEW
@given(table_of(("study_id", *CELL_COLUMNS), rows=3))
def test_grades_are_grades_or_absent(content):
    table = read(read_labels, content)
    if table is not None:
        grades = table.content.to_numpy()
        assert set(grades[~np.isnan(grades)]) <= {0.0, 1.0, 2.0}
        assert table.content.index.is_unique


@FEW
@given(table_of(("row_id", *GRADES)))
def test_a_submission_that_is_accepted_is_one_of_distributions(content):
    table = read(read_submission, content)
    if table is not None:
        assert np.isfinite(table.to_numpy()).all()
        assert (table.to_numpy() >= 0).all()
        assert (table.sum(axis=1) > 0).all()
        assert table.index.is_unique


@FEW
@given(table_of(SERIES_COLUMNS), st.one_of(table_of(("row_id", *GRADES)), st.binary(max_size=100)))
def test_studies_on_the_disk_are_there_whatever_the_tables_hold(series, sample):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for study in ("100", "200"):
            (root / "test_images" / study / "1").mkdir(parents=True)
        (root / "test_series_descriptions.csv").write_bytes(series)
        (root / "sample_submission.csv").write_bytes(sample)
        found = {study.study_id for study in open_competition(root, strict=False).studies}
        assert {"100", "200"} <= found


def test_readings_grade_the_canal_where_train_csv_does_not(tmp_path):
    truth = tmp_path / "train.csv"
    columns = ",".join(CELL_COLUMNS)
    truth.write_text(f"study_id,{columns}\n1,Severe{',' * 24}\n2{',' * 25}\n")
    readings = tmp_path / "readings.csv"
    rows = ["study_id,level,grade,usable", "1,L1/L2,0,1", "2,L4/L5,1,1", "2,L5/S1,2,0", "3,L1/L2,2,1"]
    readings.write_text("\n".join(rows) + "\n")
    labels = read_labels(truth).content
    found = with_readings(labels, [readings])
    assert found.at["1", "spinal_canal_stenosis_l1_l2"] == 2, "the competition's own grade stands"
    assert found.loc["2"].dropna().to_dict() == {"spinal_canal_stenosis_l4_l5": 1.0}
    assert labels.loc["2"].isna().all(), "the table that was given is as it was"
    readings.write_text("study_id,level,grade\n1,L1/L2,0\n2,L4/L5,3\n")
    with pytest.raises(TableError, match=r"row 3, column 'grade'.*expected 0, 1 or 2"):
        with_readings(labels, [readings])


def test_a_row_with_more_cells_than_the_first_line_has_names_is_refused(tmp_path):
    """pandas cuts it short and says so in a warning that nobody reads; which cell is too many is not known."""
    path = tmp_path / "series.csv"
    path.write_text("study_id,series_id,series_description\n1,2,Sagittal T2,STIR\n1,3,Sagittal T1,\n")
    with pytest.raises(TableError, match="more cells than its first line has names"):
        read_text_table(path, ["study_id"])


def test_labels_are_grades_or_nothing(tmp_path):
    path = tmp_path / "train.csv"
    header = ",".join(["study_id", *CELL_COLUMNS])
    path.write_text(f"{header}\n007,{','.join(['Normal/Mild', 'Moderate', 'Severe', ''] + [''] * 21)}\n")
    labels = read_labels(path).strict()
    assert list(labels.index) == ["007"]
    assert labels.iloc[0, :3].tolist() == [0, 1, 2]
    assert labels.iloc[0, 3:].isna().all()
    path.write_text(f"{header}\n007,{','.join(['Mild'] + [''] * 24)}\n")
    with pytest.raises(TableError, match=r"train.csv, row 2, column 'spinal_canal_stenosis_l1_l2': found 'Mild'"):
        read_labels(path).strict()


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ("1,2,1.5,Spinal Canal Stenosis,L1/L2,3,4", "instance_number"),
        ("1,2,1,Canal Stenosis,L1/L2,3,4", "condition"),
        ("1,2,1,Spinal Canal Stenosis,L1/S2,3,4", "level"),
        ("1,2,1,Spinal Canal Stenosis,L1/L2,inf,4", "x"),
        ("1,2,1,Spinal Canal Stenosis,L1/L2,3,", "y"),
        (",2,1,Spinal Canal Stenosis,L1/L2,3,4", "study_id"),
    ],
)
def test_a_wrong_coordinate_is_named_by_row_and_column(tmp_path, row, column):
    path = tmp_path / "c.csv"
    path.write_text(",".join(COORDINATE_COLUMNS) + "\n" + "1,2,7,Left Subarticular Stenosis,L5/S1,3.5,4\n" + row + "\n")
    table = read_coordinates(path)
    assert [(error.row, error.column) for error in table.errors] == [(3, column)]
    assert table.content.to_dict("records") == [
        {
            "study_id": "1",
            "series_id": "2",
            "instance_number": 7,
            "condition": "left_subarticular_stenosis",
            "level": "l5_s1",
            "x": 3.5,
            "y": 4.0,
        }
    ]


def test_rows_are_counted_as_an_editor_shows_them(tmp_path):
    path = tmp_path / "s.csv"
    path.write_text("\ufeffstudy_id,series_id,series_description\n1,2,Axial T2\n\n\n1,,Axial T2\n", encoding="utf-8")
    assert [error.row for error in read_series_table(path).errors] == [5]
