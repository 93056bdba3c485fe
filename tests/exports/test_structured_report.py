"""Structured reports: read again by highdicom, and by the validators of dcmtk and dicom3tools where these are there."""

from __future__ import annotations

import doctest
from dataclasses import replace

import numpy as np
import pydicom
import pytest

pytest.importorskip("highdicom", reason="pip install -r requirements-sr.txt")

import highdicom as hd

from pipeline.commands.submit import main
from pipeline.exports import structured_report as module
from pipeline.exports.structured_report import write_reports
from pipeline.labels import CELLS, level_title
from tests.exports.graded import graded
from tests.exports.validators import check_report
from tests.intake.layouts import images, with_patient
from tests.run.studies import write_studies
from tests.volumes.oracle import rewrite

WEIGHTS = {"set": "phantom"}
UID = "1.2.826.0.1.3680043.8.498.77"


@pytest.fixture
def hospital(tmp_path):
    """A study as a hospital has it, with legal UIDs and a patient."""
    write_studies(tmp_path / "data", ["9"])
    folder = tmp_path / "data" / "test_images" / "9"
    with_patient(folder, UID)
    for path in images(folder):

        def known(data):
            data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
            data.FrameOfReferenceUID, data.StudyDate, data.StudyTime, data.StudyID = (
                f"{UID}.9",
                "20240503",
                "120000",
                "1",
            )

        rewrite(path, known)
    return tmp_path / "data"


def written(study, out):
    problems = write_reports(out, [study], WEIGHTS)
    return hd.sr.srread(out / f"{study.study.study_id}.dcm"), problems


def test_every_cell_that_was_seen_is_a_group_with_its_level_side_grade_and_place(hospital, tmp_path):
    study = graded(hospital)
    report, problems = written(study, tmp_path / "out")
    assert problems == []
    assert (report.PatientID, str(report.PatientName), report.StudyInstanceUID) == ("PAT-0042", "Doe^Jane", UID)
    assert (report.CompletionFlag, report.PreliminaryFlag, report.VerificationFlag) == (
        "COMPLETE", "PRELIMINARY", "UNVERIFIED",
    )  # fmt: skip
    groups = report.content.get_image_measurement_groups()
    assert len(groups) == 23
    points, plain = study.points(), study.numbers()[:, :3]
    at = {
        data.SOPInstanceUID: (path.parent.name, data.InstanceNumber)
        for path in images(hospital / "test_images" / "9")
        for data in [pydicom.dcmread(path)]
    }
    for index, group in zip(range(2, 25), groups, strict=True):
        cell = CELLS[index]
        disc, place = group.finding_sites
        assert disc.value.meaning == f"{level_title(cell.level)} disc"
        side = None if cell.condition.side is None else cell.condition.side.value.title()
        assert (place.laterality.meaning if place.laterality else None) == side
        assert [one.value for one in group.get_measurements()] == pytest.approx(plain[index], abs=1e-4)
        (evaluation,) = group.get_qualitative_evaluations()
        meaning = ("Normal or mild", "Moderate", "Severe")[plain[index].argmax()]
        assert evaluation.value.meaning == meaning
        (source,) = group.source_images
        assert at[source.referenced_sop_instance_uid] == (points.series_id[index], points.instance_number[index])
        for one in group.get_measurements():
            (coordinates,) = (item for item in one[0].ContentSequence if item.ValueType == "SCOORD3D")
            assert list(coordinates.GraphicData) == pytest.approx(points.points_mm[index], abs=1e-4)
            assert coordinates.ReferencedFrameOfReferenceUID == f"{UID}.9"


def test_codes_are_those_of_the_standard_and_the_private_scheme_is_named(hospital, tmp_path):
    report, _ = written(graded(hospital), tmp_path / "out")
    text = str(report)
    for value in ("80064006", "67459009", "62551000", "84020006", "715056000", "61853006", "415582006", "246112005"):
        assert f"'{value}'" in text
    (scheme,) = report.CodingSchemeIdentificationSequence
    assert scheme.CodingSchemeDesignator == "99LUMBAR"


def test_uids_that_are_none_are_replaced_and_said(tmp_path):
    write_studies(tmp_path / "data", ["9"])
    with_patient(tmp_path / "data" / "test_images" / "9", "46012001")  # as the competition's files have them
    report, problems = written(graded(tmp_path / "data", without=18), tmp_path / "out")
    assert [problem.what for problem in problems] == ["uids-replaced"]
    told = {str(element.value) for element in report.iterall() if element.VR == "UI" and isinstance(element.value, str)}
    assert len(told) > 10
    assert all(map(module.is_legal_uid, told))
    assert doctest.testmod(module).failed == 0


def test_a_study_that_gives_no_report_is_a_problem_and_costs_no_other(hospital, tmp_path):
    study = graded(hospital, without=22)
    nothing = graded(hospital, without=25)
    nowhere = replace(study, study=replace(study.study, series=()))
    problems = write_reports(tmp_path / "out", [nothing, nowhere, study], WEIGHTS)
    assert [problem.what for problem in problems] == ["no-structured-report"] * 2
    assert (tmp_path / "out" / "9.dcm").is_file()


def test_the_same_result_gives_the_same_document_and_another_one_another(hospital, tmp_path):
    study = graded(hospital, without=22)
    first, _ = written(study, tmp_path / "1")
    again, _ = written(study, tmp_path / "2")
    other, _ = written(replace(study, weighted=np.roll(study.weighted, 1, axis=0)), tmp_path / "3")
    assert first.SOPInstanceUID == again.SOPInstanceUID != other.SOPInstanceUID
    assert first.SeriesInstanceUID == other.SeriesInstanceUID


@pytest.mark.parametrize("uid", [UID, "46012001"], ids=["hospital", "competition"])
def test_the_validators_find_no_error(uid, hospital, tmp_path):
    with_patient(hospital / "test_images" / "9", uid)
    written(graded(hospital), tmp_path / "out")
    check_report(tmp_path / "out" / "9.dcm")


@pytest.mark.real
def test_the_validators_find_no_error_in_the_report_of_a_real_study(real_data, tmp_path):
    study = graded(real_data / "rsna-full")
    _, problems = written(study, tmp_path)
    assert [problem.what for problem in problems] == ["uids-replaced"]
    check_report(tmp_path / f"{study.study.study_id}.dcm")


def test_without_the_package_the_call_is_refused_before_any_work(tmp_path, monkeypatch, capsys):
    write_studies(tmp_path / "data", ["9"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    out = tmp_path / "out" / "s.csv"
    assert main(["--data", str(tmp_path / "data"), "--out", str(out), "--dicom-sr", str(tmp_path / "sr")]) == 2
    assert "requirements-sr.txt" in capsys.readouterr().err
    assert not out.parent.exists()


def test_a_folder_of_other_files_is_refused(tmp_path, capsys):
    write_studies(tmp_path / "data", ["9"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("mine")
    for option in ("--dicom-sr", "--slicer"):
        out = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "s.csv")]
        assert main([*out, option, str(tmp_path / "mine")]) == 2
        assert "is not empty" in capsys.readouterr().err
