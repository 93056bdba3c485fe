"""``python -m pipeline.commands.pictures``: pictures of what was found, and a word where nothing was."""

from __future__ import annotations

import os

import numpy as np
import pytest

from pipeline.commands.pictures import main
from pipeline.landmarks.landmarks import Landmarks
from pipeline.names import plain_id
from pipeline.tables import guarded_frame
from tests.volumes.oracle import SAGITTAL, write_series


@pytest.fixture
def images(tmp_path):
    """Two studies with images, and before them two that have none."""
    for study in ("1", "2"):
        (tmp_path / "data" / study / "7").mkdir(parents=True)
    for study in ("3", "4"):
        write_series(tmp_path / "data" / study / "7", SAGITTAL)
    return tmp_path / "data"


def pictures(images, stages, *options):
    return main([str(images), "--stages", str(stages), "--out", str(images.parent / "out"), *options])


def test_without_a_table_of_points_it_says_so_and_draws_nothing(images, tmp_path, capsys):
    assert pictures(images, tmp_path / "nowhere") == 2
    assert f"no label_coordinates.csv in {tmp_path / 'nowhere'}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_study_without_images_is_left_out(images, tmp_path, capsys):
    Landmarks.empty("1").to_frame().to_csv(tmp_path / "label_coordinates.csv", index=False)
    assert pictures(images, tmp_path, "--count", "1") == 0
    assert [path.name for path in (tmp_path / "out").glob("*.png")] == ["1_3.png"]
    assert pictures(images, tmp_path) == 0
    assert "2 pictures in" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == ["1_3.png", "2_4.png"]


def test_a_folder_of_other_things_is_left_as_it_is(images, tmp_path, capsys):
    Landmarks.empty("1").to_frame().to_csv(tmp_path / "label_coordinates.csv", index=False)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "1_3.png").write_bytes(b"holiday")
    assert pictures(images, tmp_path) == 2
    assert "was not made by this program" in capsys.readouterr().err
    assert (tmp_path / "out" / "1_3.png").read_bytes() == b"holiday"


@pytest.mark.parametrize("name", ["NA", "=1+1", os.fsdecode(b"caf\xe9")])
def test_points_are_found_under_the_studys_own_name(images, tmp_path, monkeypatch, name):
    (images / "3").rename(images / name)
    study_id = plain_id(name)
    points = Landmarks.empty(study_id)
    points.points_mm[0] = 1.0
    guarded_frame(points.to_frame()).to_csv(tmp_path / "label_coordinates.csv", index=False)
    drawn = []
    monkeypatch.setattr(
        "pipeline.commands.pictures.study_picture",
        lambda volumes, landmarks: (drawn.append(landmarks), np.zeros((4, 4, 3), np.uint8))[1],
    )
    assert pictures(images, tmp_path, "--count", "1") == 0
    (found,) = drawn
    assert (found.study_id, found.found.sum()) == (study_id, 1)
