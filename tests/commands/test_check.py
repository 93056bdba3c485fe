"""``python -m pipeline check``: what it prints, what it counts, and what its exit status says."""

from __future__ import annotations

import json
import os
import signal

import pytest

from pipeline.__main__ import main
from pipeline.commands import check
from tests.volumes.oracle import AXIAL, SAGITTAL, X, positions, turned, write_series

describe = check.describe_study
HEADER = "study_id,series_id,series_description"


@pytest.fixture
def competition(tmp_path):
    """Two studies; the axial series of the first holds two stacks, the second has a gap, and both are complete."""
    rows = [HEADER]
    for study in ("100", "200"):
        images = tmp_path / "test_images" / study
        write_series(images / "1", SAGITTAL)
        write_series(images / "2", SAGITTAL)
        tilted = turned(AXIAL, X, 14)
        steps = [0, 4, 8] if study == "100" else [0, 4, 8, 30]
        write_series(images / "3", AXIAL, positions(AXIAL, (0, 0, 40), steps))
        if study == "100":
            write_series(images / "3", tilted, positions(tilted, (0, 0, -10), [0, 4]), first_instance=4)
        rows += [f"{study},1,Sagittal T1", f"{study},2,Sagittal T2/STIR", f"{study},3,Axial T2"]
    (tmp_path / "test_series_descriptions.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_a_sound_folder(competition, capsys):
    assert main(["check", str(competition)]) == 0
    text = capsys.readouterr().out
    assert "series 3: Axial T2, 5 slices, 2 orientations" in text
    assert "series 1: Sagittal T1, 4 slices\n" in text
    assert "gap of 22.0 mm" in text
    assert "0.500 x 0.800 mm, 4.00 mm apart, instances 1 to 4" in text
    last = text.strip().splitlines()[-1]
    assert last.startswith("2 studies, 6 series, 7 stacks, 25 slices; problems: none; 0 studies would fall back")


def test_a_missing_series_would_fall_back(competition, capsys):
    for path in (competition / "test_images" / "200" / "3").iterdir():
        path.write_bytes(b"")
    assert main(["check", str(competition)]) == 1
    text = capsys.readouterr().out
    assert "200/3/1.dcm: empty-file" in text
    assert "missing, so their cells would fall back: Axial T2" in text
    assert "empty-file 4" in text
    assert "1 studies would fall back in part (missing: Axial T2 1)" in text


def test_one_damaged_slice_is_named_and_counted_but_nothing_falls_back(competition, capsys):
    path = competition / "test_images" / "100" / "1" / "2.dcm"
    path.write_bytes(path.read_bytes()[:-50])
    assert main(["check", str(competition)]) == 0
    text = capsys.readouterr().out
    assert "! 100/1/2.dcm: truncated: PixelData holds" in text
    assert "problems: truncated 1;" in text


def test_json_is_one_object_with_the_same_content(competition, capsys):
    assert main(["check", str(competition), "--json", "--workers", "2"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["summary"]["slices"] == 25
    assert [study["study_id"] for study in result["studies"]] == ["100", "200"]
    axial = result["studies"][0]["series"][2]
    assert axial["orientations"] == 2
    assert [stack["slices"] for stack in axial["stacks"]] == [3, 2]
    assert axial["stacks"][0]["slice_spacing_mm"] == 4.0


def test_an_images_folder_without_a_table_is_told_from_headers(competition, capsys):
    (competition / "test_series_descriptions.csv").unlink()
    assert main(["check", str(competition / "test_images")]) == 1
    assert "series 1: unknown, 4 slices" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["absent"], [".", "--workers", "0"], [".", "--seconds", "0"], [".", "--series", "absent.csv"]]
)
def test_a_wrong_call(tmp_path, monkeypatch, capsys, arguments):
    (tmp_path / "1" / "2").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert main(["check", *arguments]) == 2
    assert capsys.readouterr().err.startswith("check: ")


def test_a_folder_without_a_study_is_a_wrong_call(tmp_path, capsys):
    (tmp_path / "test_images").mkdir()
    assert main(["check", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert said.err.endswith(
        "test_images holds no study; expected folders <study>/<series>/<instance>.dcm or other DICOM files\n"
    )
    assert said.out == ""


def test_problems_of_one_kind_are_named_five_times_and_then_counted(competition, capsys):
    series = competition / "test_images" / "100" / "1"
    for number in range(60):
        (series / f"copy{number}.dcm").write_bytes(b"")
    main(["check", str(competition)])
    text = capsys.readouterr().out
    assert text.count(": empty-file: ") == 5
    assert "  ! empty-file: 55 more\n" in text
    assert "problems: empty-file 60;" in text
    letters = competition / "other" / "letters"
    letters.mkdir(parents=True)
    for number in range(64):
        (letters / f"{number}.dcm").write_text("no image")
    assert main(["check", str(letters)]) == 2
    said = capsys.readouterr()
    assert said.out.count(": stray-file: ") == 5
    assert said.out.endswith("  ! stray-file: 59 more\n")
    assert f"{letters} holds no study; expected" in said.err


def test_what_another_layout_is_taken_for_is_said_first_and_each_series_with_its_place(competition, capsys):
    (competition / "test_series_descriptions.csv").unlink()
    flat = competition / "other" / "visit_2"
    flat.mkdir(parents=True)
    for path in (competition / "test_images" / "100").glob("*/*.dcm"):
        path.rename(flat / f"IM{path.parent.name}{path.stem}")
    assert main(["check", str(flat)]) == 1
    first, _, series, *_ = text = capsys.readouterr().out.splitlines()
    assert first.startswith("layout: taken for files of studies in one folder, not for the competition's layout")
    assert "; 13 files from ./IM11" in series
    assert sum("taken for files" in line for line in text) == 1
    main(["check", str(flat), "--json"])
    content = json.loads(capsys.readouterr().out)
    assert [(row["study_id"], row["files"]) for row in content["sources"]] == [("study1", 13)]
    assert content["problems"][0]["what"] == "layout"
    assert "sources" not in json.loads((main(["check", str(competition), "--json"]), capsys.readouterr().out)[1])


def dies_on_200(ref, limits, coordinates=None):
    if ref.study_id == "200":
        os.kill(os.getpid(), signal.SIGKILL)
    return describe(ref, limits, coordinates)


@pytest.mark.slow
def test_a_study_that_kills_its_reader_costs_itself_alone(competition, monkeypatch, capsys):
    monkeypatch.setattr(check, "describe_study", dies_on_200)
    assert main(["check", str(competition), "--workers", "2"]) == 1
    text = capsys.readouterr().out
    assert "  series 3: Axial T2, 5 slices, 2 orientations" in text
    assert "! 200: worker-died: the process that read the study alone was killed" in text
    assert "problems: worker-died 1; 1 studies would fall back" in text


def test_names_of_any_bytes_are_shown_escaped(competition, capsys):
    images = competition / "test_images"
    (images / "100").rename(images / os.fsdecode(b"caf\xe9\n\x1b[2J"))
    (images / "200" / "1").rename(images / "200" / "\u202egpj")
    (images / "200" / "\u202egpj" / os.fsdecode(b"\r\xff.dcm")).write_bytes(b"no DICOM")
    for options in ([], ["--json"]):
        assert main(["check", str(competition), *options]) == 1
        printed = capsys.readouterr().out
        assert all(line.isprintable() for line in printed.split("\n"))
    studies = {study["study_id"]: study for study in json.loads(printed)["studies"]}
    assert "caf\\xe9\\x0a\\x1b[2J" in studies
    assert "\\u202egpj" in [series["series_id"] for series in studies["200"]["series"]]
    assert "\\x0d\\xff.dcm" in [problem["file"] for problem in studies["200"]["problems"]]


def test_a_table_of_labels_that_is_damaged_is_a_wrong_call(competition, capsys):
    (competition / "test_label_coordinates.csv").write_text("study_id\n1\n")
    assert main(["check", str(competition)]) == 2
    assert "test_label_coordinates.csv, row 1, column 'series_id': the column is missing" in capsys.readouterr().err


@pytest.mark.real
def test_the_real_studies(real_data, capsys):
    assert main(["check", str(real_data / "rsna-full" / "test_images"), "--json"]) == 0
    (study,) = json.loads(capsys.readouterr().out)["studies"]
    found = {series["description"]: (series["slices"], series["orientations"]) for series in study["series"]}
    assert found == {"Sagittal T1": (25, 1), "Sagittal T2/STIR": (25, 1), "Axial T2": (47, 1)}
    assert main(["check", str(real_data / "rsna-full" / "train_images"), "--json"]) == 0
    (study,) = json.loads(capsys.readouterr().out)["studies"]
    found = {series["description"]: (series["slices"], series["orientations"]) for series in study["series"]}
    assert found == {"Sagittal T1": (18, 1), "Sagittal T2/STIR": (18, 1), "Axial T2": (60, 6)}
    (axial,) = (series for series in study["series"] if series["description"] == "Axial T2")
    assert [stack["slices"] for stack in axial["stacks"]] == [7, 16, 9, 9, 9, 10]


def test_labels_that_cannot_be_right_are_listed(competition, capsys):
    (competition / "test_images").rename(competition / "train_images")
    (competition / "test_series_descriptions.csv").rename(competition / "train_series_descriptions.csv")
    rows = ["study_id,series_id,instance_number,condition,level,x,y"]
    rows += ["100,2,2,Spinal Canal Stenosis,L1/L2,3,2", "100,2,2,Spinal Canal Stenosis,L2/L3,3,900"]
    (competition / "train_label_coordinates.csv").write_text("\n".join(rows) + "\n")
    main(["check", str(competition), "--split", "train"])
    text = capsys.readouterr().out
    assert "! 100/2: label-in-doubt: spinal_canal_stenosis l2_l3: outside the image" in text
    assert "label-in-doubt 1" in text
