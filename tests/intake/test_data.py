"""Every layout of the same files gives the same volumes, and says what it was taken for."""

from __future__ import annotations

import doctest
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from pipeline.competition import CompetitionError, open_competition
from pipeline.intake import data, masking, open_data
from pipeline.intake.masking import masked, person_words
from pipeline.labels import SeriesKind
from pipeline.volumes import StudyVolumes, read_study
from tests.intake import layouts
from tests.run.studies import write_studies
from tests.volumes.oracle import rewrite

DESCRIPTIONS = {"0": "t1_tse_sag", "1": "t2_tse_sag", "2": "t2_tse_tra"}


@pytest.fixture
def study(tmp_path) -> Path:
    """A study of three series whose headers name them."""
    folder = make_study(tmp_path / "competition", "900", "1.2.826.9")
    (tmp_path / "competition" / "test_series_descriptions.csv").unlink()
    return folder


def make_study(root: Path, name: str, uid: str, **patient: str) -> Path:
    write_studies(root, [name])
    folder = root / "test_images" / name
    layouts.with_patient(folder, uid, **patient)
    for path in layouts.images(folder):

        def named(data, text=DESCRIPTIONS[path.parent.name[-1]]):
            data.SeriesDescription = text

        rewrite(path, named)
    return folder


def content(volumes: StudyVolumes) -> list[tuple]:
    """All that later stages see, without the ids."""
    found = [
        (
            one.kind,
            one.plane,
            one.pixels.tobytes(),
            one.affines.matrix.tobytes(),
            tuple(one.instance_numbers),
            one.flags,
        )
        for one in volumes.volumes
    ]
    return sorted(found, key=str)


def codes(competition) -> list[str]:
    return [problem.what for problem in competition.problems]


@pytest.mark.parametrize("layout", layouts.LAYOUTS, ids=lambda layout: layout.__name__)
def test_every_layout_gives_the_volumes_of_the_competitions(layout, study, tmp_path):
    expected = read_study(open_competition(study.parent.parent).study("900"))
    assert {one.kind for one in expected.volumes} == set(SeriesKind) - {SeriesKind.UNKNOWN}
    competition = open_data(layout(study, tmp_path / "other"))
    (ref,) = competition.studies
    found = read_study(ref)
    assert content(found) == content(expected)
    assert found.problems == ()
    if layout is layouts.one_study:
        assert competition.sources is None
        return
    assert codes(competition) == ["layout"]
    assert ref.study_id == "study1"
    assert [one.series_id for one in ref.series] == ["series1", "series2", "series3"]
    assert list(competition.sources["files"]) == [4, 4, 4]


def test_the_competitions_layout_is_read_as_before_and_no_image_of_it_is_opened(tmp_path, monkeypatch):
    root = write_studies(tmp_path / "data", ["8", "9"])
    monkeypatch.setattr("pipeline.intake.layout.header_of", lambda *_: pytest.fail("a header was read"))
    for path in (root, root / "test_images"):
        assert open_data(path) == open_competition(path, strict=False)
    (root / "test_series_descriptions.csv").unlink()
    assert open_data(root) == open_competition(root, strict=False)


def test_studies_without_a_table_keep_the_names_of_their_folders(tmp_path):
    for number in (1, 2):
        made = make_study(tmp_path / str(number), f"80{number}", f"1.2.{number}")
        shutil.copytree(made, tmp_path / "pictures" / f"80{number}")
    competition = open_data(tmp_path / "pictures")
    assert [one.study_id for one in competition.studies] == ["801", "802"]
    assert competition.sources is None


@pytest.mark.parametrize("shape", ["one folder", "a folder a study", "patients with studies"])
def test_studies_are_told_apart_by_their_headers(shape, tmp_path):
    for number in (1, 2):
        made = make_study(tmp_path / str(number), "900", f"1.2.{number}", patient=f"P{number}00")
        for path in layouts.images(made):
            name = f"{number}-{path.parent.name}-{path.name}"
            places = {"one folder": ".", "a folder a study": str(number), "patients with studies": f"p/{number}"}
            place = tmp_path / "data" / places[shape] / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
    competition = open_data(tmp_path / "data")
    assert [one.study_id for one in competition.studies] == ["study1", "study2"]
    for ref in competition.studies:
        volumes = read_study(ref)
        assert len(volumes.volumes) == 3
        assert volumes.problems == ()


def test_folders_that_are_no_series_of_one_study_are_studies_even_with_one_series_each(tmp_path):
    for number in (1, 2):
        made = make_study(tmp_path / str(number), "900", f"1.2.{number}", patient=f"P{number}00")
        shutil.copytree(made / "900-1", tmp_path / "data" / str(number))
    competition = open_data(tmp_path / "data")
    assert "taken for folders of several studies" in competition.problems[0].detail
    assert [len(read_study(ref).volumes) for ref in competition.studies] == [1, 1]


def test_the_table_of_sources_names_no_patient_and_no_uid(study, tmp_path):
    for path in layouts.images(study):
        place = tmp_path / "data" / "x" / "DOE JANE 0042" / f"DOE_JANE.MR.{path.parent.name}.{path.stem}.IMA"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
    competition = open_data(tmp_path / "data")
    told = competition.sources.to_csv() + "".join(map(str, competition.problems))
    told += "".join(shown for one in competition.studies[0].series for shown, _ in one.files)
    told = told.casefold()
    assert not [word for word in ("doe", "jane", "0042", "1.2.826.9") if word in told]
    assert "study1,series1,4,x/***,***," in competition.sources.to_csv(index=False)


def test_masking_hides_what_the_header_names_and_where_it_names_nobody_all_but_imaging_words():
    assert doctest.testmod(masking).failed == 0
    person = person_words(["Müller^Eva", "77"])
    assert masked("a/EVA.MR/77/t2_sag/770.dcm", person) == "a/***/***/t2_sag/770.dcm"
    assert masked("Doe/T2_sag_2.nii.gz", ()) == masked("Doe/T2_sag_2.nii.gz", ["anon"]) == "***/T2_sag_2.nii.gz"
    assert masked("1234567/case_01/DICOM/PA000001/IM000002", person) == "***/case_01/DICOM/PA000001/IM000002"


def test_an_id_that_every_file_has_for_itself_tells_no_studies_apart(study, tmp_path):
    for number, path in enumerate(layouts.images(study)):
        rewrite(path, lambda data, number=number: setattr(data, "StudyInstanceUID", f"1.2.{number}"))
    competition = open_data(layouts.nested(study, tmp_path / "data"))
    (ref,) = competition.studies
    assert len(ref.series) == 3
    assert codes(competition) == ["layout", "study-assumed"]


def test_a_medium_and_its_index_that_disagree_are_said(study, tmp_path):
    place = layouts.medium(study, tmp_path / "cd")
    records = list(pydicom.dcmread(place / "DICOMDIR").DirectoryRecordSequence)[1:]
    for parts in (["..", "..", "secret"], ["/etc", "passwd"], ["DICOM", "GONE"]):
        record = Dataset()
        record.DirectoryRecordType, record.ReferencedFileID = "IMAGE", parts
        records.append(record)
    layouts.write_index(place / "DICOMDIR", records)
    competition = open_data(place)
    assert codes(competition) == ["layout", "index-unsafe", "index-absent", "index-unlisted"]
    assert "2 of its references" in competition.problems[1].detail
    assert sum(len(one.files) for one in competition.studies[0].series) == 12
    (place / "DICOMDIR").write_bytes(b"no index")
    assert codes(open_data(place))[1:] in (["index-unreadable"], [])


def test_what_is_no_image_is_counted_by_folder_and_links_are_not_followed(study, tmp_path):
    place = layouts.flat(study, tmp_path / "data")
    for number in range(3):
        (place / f"letter{number}.txt").write_text("Dear Jane Doe")
    (place / "away").symlink_to(tmp_path)
    competition = open_data(place)
    assert codes(competition) == ["layout", "not-read", "stray-file"]
    assert "3 files" in competition.problems[-1].detail


def test_a_zip_leads_nowhere(study, tmp_path):
    place = layouts.zipped(study, tmp_path / "data")
    image = layouts.images(study)[0].read_bytes()
    with zipfile.ZipFile(place, "a") as archive:
        archive.writestr("../../outside.dcm", image)
        archive.writestr("/etc/absolute.dcm", image)
        link = zipfile.ZipInfo("link.dcm")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr(zipfile.ZipInfo("packed.dcm"), image, zipfile.ZIP_LZMA)
    competition = open_data(place)
    assert codes(competition) == ["layout", *["not-read"] * 4]
    assert len(read_study(competition.studies[0]).volumes) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["competition", "data"]


def test_a_path_that_holds_nothing_is_refused_as_before(tmp_path):
    (tmp_path / "bad.zip").write_bytes(b"PK no zip")
    with pytest.raises(CompetitionError, match="no zip"):
        open_data(tmp_path / "bad.zip")
    with pytest.raises(CompetitionError, match="does not exist"):
        open_data(tmp_path / "none")
    (tmp_path / "one.txt").write_text("")
    with pytest.raises(CompetitionError, match="is a file"):
        open_data(tmp_path / "one.txt")


def test_pixels_survive_every_way(study):
    """The oracle's volumes are not all alike, or the comparison above would say little."""
    volumes = read_study(open_competition(study.parent.parent).study("900")).volumes
    assert len({one.pixels.tobytes() for one in volumes}) >= 2
    assert all(np.ptp(one.pixels) > 0 for one in volumes)


def test_a_bar_shows_the_files_of_a_large_export_and_none_where_it_is_to_be_quiet(study, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(data, "BAR_AFTER_SECONDS", 0.0)
    place = layouts.flat(study, tmp_path / "data")
    open_data(place)
    assert capsys.readouterr().err == ""
    open_data(place, quiet=False)
    assert f"headers: {len(layouts.images(study))}file" in capsys.readouterr().err
