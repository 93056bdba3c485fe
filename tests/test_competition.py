"""Folders and tables that do not agree."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.competition import CompetitionError, open_competition
from pipeline.labels import CELL_COLUMNS, SeriesKind
from pipeline.tables import TableError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def root(tmp_path):
    """Two studies of two series each, one image file in every series, and the table that describes them."""
    lines = ["study_id,series_id,series_description"]
    for study in ("20", "3"):
        for series, text in (("1", "Sagittal T1"), ("2", "Axial T2")):
            folder = tmp_path / "train_images" / study / f"{study}{series}"
            folder.mkdir(parents=True)
            (folder / "1.dcm").write_bytes(b"x")
            lines.append(f"{study},{study}{series},{text}")
    (tmp_path / "train_series_descriptions.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def problems(competition):
    return {(p.what, p.study_id, p.series_id) for p in competition.problems}


@pytest.mark.parametrize("below", ["", "train_images"])
def test_a_competition_folder_and_its_images_folder_are_the_same(root, below):
    competition = open_competition(root / below)
    assert competition.split == "train"
    assert [study.study_id for study in competition.studies] == ["20", "3"]  # sorted as text, as the sample is
    assert competition.study("3").series[1].description is SeriesKind.AXIAL_T2
    assert competition.problems == ()
    assert competition.labels is None


def test_an_images_folder_of_any_name_takes_the_table_it_is_given(root):
    images = (root / "train_images").rename(root / "scans")
    table = (root / "train_series_descriptions.csv").rename(root / "mine.csv")
    assert open_competition(images).studies[0].series[0].description is None
    assert open_competition(images, series_csv=table).studies[0].series[0].description is SeriesKind.SAGITTAL_T1


def test_the_folder_of_one_study_is_that_study(root):
    competition = open_competition(root / "train_images" / "20", series_csv=root / "train_series_descriptions.csv")
    assert [study.study_id for study in competition.studies] == ["20"]
    assert len(competition.studies[0].series) == 2


def test_whatever_folder_and_table_do_not_agree_on_is_counted(root):
    images = root / "train_images"
    (images / "3" / "39").mkdir()
    (images / "3" / "31" / "1.dcm").unlink()
    (images / "3" / "31").rmdir()
    (images / "77" / "770").mkdir(parents=True)
    (images / "88").mkdir()
    (images / "readme.txt").write_text("x")
    (images / "20" / "0.dcm").write_bytes(b"x")
    (images / ".DS_Store").write_bytes(b"x")
    with (root / "train_series_descriptions.csv").open("a") as table:
        table.write("55,551,Axial T2\n20,204,Coronal PD\n")
    competition = open_competition(root)
    assert [study.study_id for study in competition.studies] == ["20", "3", "55", "77", "88"]
    assert competition.study("55").series == ()
    assert problems(competition) == {
        ("series-unlisted", "3", "39"),
        ("series-absent", "3", "31"),
        ("study-unlisted", "77", None),
        ("study-unlisted", "88", None),
        ("study-empty", "88", None),
        ("stray-file", "", None),
        ("stray-file", "20", None),
        ("study-absent", "55", None),
        ("description-unknown", "20", "204"),
        ("series-absent", "20", "204"),
    }
    assert [problem.what for problem in competition.problems].count("study-unlisted") == 2


def test_links_that_lead_in_circles_end(root):
    images = root / "train_images"
    (images / "loop").symlink_to(images / "loop")
    (images / "up").symlink_to(root)
    competition = open_competition(root)
    assert ("stray-file", "", None) in problems(competition)
    assert "up" in [study.study_id for study in competition.studies]


def test_a_study_id_that_is_a_path_never_becomes_one(root):
    with (root / "train_series_descriptions.csv").open("a") as table:
        table.write("../../etc,1,Axial T2\n")
    competition = open_competition(root)
    assert competition.study("../../etc").path == root / "train_images"
    assert ("study-id-unsafe", "../../etc", None) in problems(competition)


def test_ids_of_names_that_cannot_be_written_are_the_same_in_every_table(root):
    images = root / "train_images"
    for name in (b"\x1b[1m", b"caf\xe9", b"caf\\xe9"):
        (images / os.fsdecode(name) / "7").mkdir(parents=True)
    with (root / "train_series_descriptions.csv").open("a") as table:
        table.write("\x1b[1m,7,Axial T2\ncaf\\xe9,7,Axial T2\n")
    (root / "train.csv").write_text(f"study_id,{','.join(CELL_COLUMNS)}\n\x1b[1m{',' * 25}\n")
    competition = open_competition(root)
    assert competition.study("\\x1b[1m").path == images / "\x1b[1m"
    assert competition.study("\\x1b[1m").series[0].description is SeriesKind.AXIAL_T2
    assert competition.study("caf\\xe9").path == images / os.fsdecode(b"caf\xe9")
    assert competition.study("caf\\xe9").series[0].description is None
    assert competition.study("caf\\\\xe9").series[0].description is SeriesKind.AXIAL_T2
    assert "\\x1b[1m" in competition.labels.index
    assert {("name-escaped", name, None) for name in ("\\x1b[1m", "caf\\xe9", "caf\\\\xe9")} <= problems(competition)


def test_ids_do_not_depend_on_the_locale(root):
    (root / "train_images" / "Müller" / "7").mkdir(parents=True)
    with (root / "train_series_descriptions.csv").open("a", encoding="utf-8") as table:
        table.write("Müller,7,Axial T2\n")
    code = "import sys; from pipeline.competition import open_competition as read; c = read(sys.argv[1]); "
    code += "print(ascii([s.study_id for s in c.studies]), c.problems)"
    plain = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", code, root]
    printed = subprocess.run(command, env=plain, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert printed == "['20', '3', 'M\\xfcller'] ()\n"


def test_paths_that_are_no_folder_of_studies_are_refused(root, tmp_path):
    with pytest.raises(CompetitionError, match="does not exist"):
        open_competition(tmp_path / "nowhere")
    with pytest.raises(CompetitionError, match="is a file"):
        open_competition(root / "train_series_descriptions.csv")
    with pytest.raises(CompetitionError, match="has no test_images; found train_images"):
        open_competition(root, split="test")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("study_id,series_id\n1,2\n", r"row 1, column 'series_description': the column is missing"),
        ("study_id,series_id,series_description\n1,2,Axial T2\n,3,Axial T2\n", r"row 3, column 'study_id': is empty"),
        ("study_id,series_id,series_description\n1,2,Axial T2\n1,2,Axial T2\n", r"row 3, column 'series_id': '2'"),
        ("", "is not a CSV table"),
    ],
)
def test_a_wrong_table_of_series_is_refused_or_worked_around(root, text, message):
    path = root / "train_series_descriptions.csv"
    path.write_text(text)
    with pytest.raises(TableError, match=message) as caught:
        open_competition(root)
    assert caught.value.file == str(path)
    assert len(open_competition(root, strict=False).problems) > 0


@pytest.mark.real
def test_the_real_tables_are_read(real_data):
    competition = open_competition(real_data / "rsna-t1")
    assert len(competition.studies) == 1590
    assert competition.problems == ()
    assert competition.labels is not None
    assert competition.labels.shape == (1590, 25)
    assert competition.coordinates is not None
    assert set(competition.coordinates["study_id"]) <= {study.study_id for study in competition.studies}


def test_ids_that_a_spreadsheet_changed_mean_their_folders(root):
    """Decimals, lost zeros and powers of ten make no studies of their own."""
    (root / "train_images" / "20").rename(root / "train_images" / "0020")
    (root / "train_images" / "3").rename(root / "train_images" / "4003253")
    lines = [
        "study_id,series_id,series_description",
        "20.0,201.0,Sagittal T1",
        "4.003E+06,31,Sagittal T1",
        "20.0,202,Axial T2",
    ]
    (root / "train_series_descriptions.csv").write_text("\n".join(lines) + "\n")
    cells = ",".join(CELL_COLUMNS)
    (root / "train.csv").write_text(f"study_id,{cells}\n20,{'Severe,' * 25}"[:-1] + "\n")
    point = "20.0,201.0,1,Spinal Canal Stenosis,L1/L2,3,4"
    (root / "train_label_coordinates.csv").write_text(
        f"study_id,series_id,instance_number,condition,level,x,y\n{point}\n"
    )
    competition = open_competition(root)
    assert [study.study_id for study in competition.studies] == ["0020", "4003253"]
    kinds = [series.description for study in competition.studies for series in study.series]
    assert kinds == [SeriesKind.SAGITTAL_T1, SeriesKind.AXIAL_T2, SeriesKind.SAGITTAL_T1, None]
    assert problems(competition) == {
        ("id-rewritten", "0020", None),
        ("id-rewritten", "4003253", None),
        ("series-unlisted", "4003253", "32"),
    }
    assert competition.labels.index.tolist() == ["0020"]
    assert competition.coordinates[["study_id", "series_id"]].to_numpy().tolist() == [["0020", "201"]]


def test_a_rounded_id_that_may_mean_several_folders_is_named_and_makes_no_study(root):
    for old, new in (("20", "4003253"), ("3", "4003254")):
        (root / "train_images" / old).rename(root / "train_images" / new)
    (root / "train_series_descriptions.csv").write_text(
        "study_id,series_id,series_description\n4.0E+06,201,Sagittal T1\n"
    )
    competition = open_competition(root)
    assert [study.study_id for study in competition.studies] == ["4003253", "4003254"]
    assert ("id-rounded", "", None) in problems(competition)


@pytest.mark.parametrize("name", ["__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information"])
def test_what_systems_leave_behind_is_no_study_and_no_series(root, name):
    for place in (root / "train_images", root / "train_images" / "3"):
        (place / name / "20").mkdir(parents=True)
        (place / name / "._1.dcm").write_bytes(b"x")
    competition = open_competition(root)
    assert [study.study_id for study in competition.studies] == ["20", "3"]
    assert [series.series_id for series in competition.study("3").series] == ["31", "32"]
    assert competition.problems == ()


@pytest.mark.parametrize("name", ["1.IMA", "IM000001", "MR.1.2.840.7"])
def test_a_study_of_files_of_other_names_is_one_study(root, name):
    for file in (root / "train_images" / "20").glob("*/1.dcm"):
        file.write_bytes(bytes(128) + b"DICM")
        file.rename(file.with_name(name))
    (study,) = open_competition(root / "train_images" / "20").studies
    assert [series.series_id for series in study.series] == ["201", "202"]


def test_images_right_in_the_folder_of_a_study_are_read_as_a_series(root):
    folder = root / "train_images" / "55"
    folder.mkdir()
    for number in range(3):
        (folder / f"IM{number}").write_bytes(bytes(128) + b"DICM")
    (series,) = open_competition(root).study("55").series
    assert series.path == folder
