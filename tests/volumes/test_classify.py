"""What a series shows, without a table: plane from geometry, weighting from its name, else from TE and TR."""

from __future__ import annotations

import pytest

from pipeline.competition import StudyRef
from pipeline.labels import SeriesKind
from pipeline.volumes import Plane, read_series, read_study
from pipeline.volumes.classify import Acquisition, Contrast, contrast_of, kind_of
from tests.volumes.oracle import AXIAL, CORONAL, SAGITTAL, reference, write_series


@pytest.mark.parametrize(
    ("description", "contrast"),
    [
        ("T1", Contrast.T1),
        ("T2", Contrast.T2),
        ("t2_tse_sag", Contrast.T2),
        ("SAG T1 FLAIR", Contrast.T1),
        ("Sag STIR", Contrast.T2),
        ("t2_tirm_sag_p2", Contrast.T2),
        ("AXT2", Contrast.T2),
        ("SAGT1W", Contrast.T1),
        ("FST2 SAG", Contrast.T2),
        ("T1 and T2", None),
        ("SAT1", None),
        ("levels T11-T12", None),
        ("localizer", None),
        ("SPINE T1-L5 SAG", None),
        ("SAG TSE T2-S1", None),
        ("SAG T2 T1-L5", Contrast.T2),
        ("AX T2 ADC", None),
        ("ep2d_diff_T2_TRACE", None),
        ("Sagittal \u7ffb\u8bd1 T2", Contrast.T2),
        ("", None),
    ],
)
def test_contrast_from_the_name(description, contrast):
    assert contrast_of(Acquisition(description)) is contrast


@pytest.mark.parametrize(
    ("echo", "repetition", "inversion", "contrast"),
    [
        (10, 550, None, Contrast.T1),
        (8, 2000, 800, Contrast.T1),  # T1 FLAIR
        (105, 3500, None, Contrast.T2),
        (45, 4000, 160, Contrast.T2),  # STIR
        (15, 3000, None, None),  # proton density
        (10, None, None, None),
        (3, 8, None, None),  # a gradient echo, as scouts are
        (None, 500, None, None),
        (0, 0, None, None),
        (-5, 400, None, None),
    ],
)
def test_contrast_from_times(echo, repetition, inversion, contrast):
    assert contrast_of(Acquisition("", echo, repetition, inversion)) is contrast


def test_the_name_counts_before_the_times():
    assert contrast_of(Acquisition("T1 post contrast", 105, 3500)) is Contrast.T1


@pytest.mark.parametrize(
    ("told", "plane", "kind"),
    [
        (SeriesKind.SAGITTAL_T1, Plane.SAGITTAL, SeriesKind.SAGITTAL_T1),
        (SeriesKind.AXIAL_T2, Plane.SAGITTAL, SeriesKind.UNKNOWN),
        (SeriesKind.SAGITTAL_T2, Plane.AXIAL, SeriesKind.UNKNOWN),
        (SeriesKind.SAGITTAL_T1, Plane.AXIAL, SeriesKind.UNKNOWN),
        (SeriesKind.SAGITTAL_T2, Plane.CORONAL, SeriesKind.UNKNOWN),
        (None, Plane.SAGITTAL, SeriesKind.UNKNOWN),
        (SeriesKind.UNKNOWN, Plane.SAGITTAL, SeriesKind.UNKNOWN),
    ],
)
def test_the_tables_weighting_and_the_geometrys_plane(told, plane, kind):
    assert kind_of(told, plane, Acquisition()) is kind


def test_the_table_counts_before_the_header():
    assert kind_of(SeriesKind.SAGITTAL_T1, Plane.SAGITTAL, Acquisition("T2")) is SeriesKind.SAGITTAL_T1


def test_a_study_without_a_table(tmp_path):
    def named(text):
        return lambda data: setattr(data, "SeriesDescription", text)

    def timed(data):
        data.EchoTime, data.RepetitionTime = 110, 4000

    write_series(tmp_path / "1", SAGITTAL, change=named("T1"))
    write_series(tmp_path / "2", SAGITTAL, change=timed)
    write_series(tmp_path / "3", AXIAL, change=named("T2"))
    write_series(tmp_path / "4", CORONAL, change=named("T2"))
    write_series(tmp_path / "5", SAGITTAL)
    study = StudyRef("100", tmp_path, tuple(reference(tmp_path / name) for name in "12345"))
    reading = read_study(study)
    assert [volume.kind for volume in reading.volumes] == [
        SeriesKind.SAGITTAL_T1,
        SeriesKind.SAGITTAL_T2,
        SeriesKind.AXIAL_T2,
        SeriesKind.UNKNOWN,
        SeriesKind.UNKNOWN,
    ]
    assert [volume.series_id for volume in reading.of_kind(SeriesKind.AXIAL_T2)] == ["3"]
    assert [(problem.what, problem.series_id) for problem in reading.problems] == [("kind-unknown", "5")]


def test_a_name_in_another_alphabet_is_read(tmp_path):
    def change(data):
        data.SpecificCharacterSet = "ISO_IR 192"
        data.SeriesDescription = "Rücken T2 矢状"
        data.PatientName = "Müller^Jürgen=山田"

    (volume,) = read_series(reference(write_series(tmp_path / "1", change=change))).volumes
    assert volume.kind is SeriesKind.SAGITTAL_T2
