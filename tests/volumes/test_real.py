"""The real studies: what the two whole ones hold, and that geometry agrees with the points that were marked."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pipeline.competition import open_competition
from pipeline.labels import Condition, SeriesKind, condition_from_title
from pipeline.volumes import read_study

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def labelled(real_data):
    competition = open_competition(real_data / "rsna-full", split="train")
    return read_study(competition.study("100206310")), competition


def test_the_labelled_study_holds_18_18_and_60_slices_in_six_axial_blocks(labelled):
    study, _ = labelled
    assert study.problems == ()
    counts = {kind: [len(volume.pixels) for volume in study.of_kind(kind)] for kind in SeriesKind}
    assert counts[SeriesKind.SAGITTAL_T1] == [18]
    assert counts[SeriesKind.SAGITTAL_T2] == [18]
    assert counts[SeriesKind.AXIAL_T2] == [7, 16, 9, 9, 9, 10]
    normals = [volume.normal for volume in study.of_kind(SeriesKind.AXIAL_T2)[:3]]
    assert all(a @ b > np.cos(np.radians(1.0)) for a in normals for b in normals)


def test_the_test_study_holds_25_25_and_47_slices_in_one_axial_stack(real_data):
    study = read_study(open_competition(real_data / "rsna-full", split="test").study("44036939"))
    assert study.problems == ()
    assert [len(volume.pixels) for volume in study.of_kind(SeriesKind.SAGITTAL_T1)] == [25]
    assert [len(volume.pixels) for volume in study.of_kind(SeriesKind.SAGITTAL_T2)] == [25]
    assert [len(volume.pixels) for volume in study.of_kind(SeriesKind.AXIAL_T2)] == [47]


def test_canal_points_of_the_sagittal_lie_on_the_axial_slices_that_were_marked(labelled):
    """Within one slice, and under 15 mm from the middle of that level's two subarticular points."""
    study, competition = labelled
    volumes = study.volumes

    def to_mm(row: pd.Series) -> np.ndarray:
        for volume in volumes:
            if volume.series_id == row.series_id and row.instance_number in volume.instance_numbers:
                return volume.from_source_pixel(int(row.instance_number), row.x, row.y)
        raise AssertionError(f"no slice for {row.to_dict()}")

    points = competition.coordinates.copy()
    points["mm"] = [to_mm(row) for row in points.itertuples(index=False)]
    points["condition"] = [
        Condition(value) if value in set(Condition) else condition_from_title(value) for value in points["condition"]
    ]
    axial = study.of_kind(SeriesKind.AXIAL_T2)
    for level, marked in points.groupby("level"):
        canal = marked.loc[marked["condition"] == Condition.CANAL, "mm"].iloc[0]
        sides = marked[marked["condition"].isin([Condition.LEFT_SUBARTICULAR, Condition.RIGHT_SUBARTICULAR])]
        nearest = min(
            (abs(volume.to_pixel(canal[None], index)[2][0]), int(volume.instance_numbers[index[0]]))
            for volume in axial
            for index in [volume.nearest_slice(canal[None])]
        )
        assert min(abs(nearest[1] - sides["instance_number"])) <= 1, level
        assert np.linalg.norm(canal - np.mean(list(sides["mm"]), axis=0)) < 15, level
        left = sides.loc[sides["condition"] == Condition.LEFT_SUBARTICULAR, "mm"].iloc[0]
        right = sides.loc[sides["condition"] == Condition.RIGHT_SUBARTICULAR, "mm"].iloc[0]
        assert left[0] > right[0] + 5, level


def test_left_foramina_lie_left_of_right_ones(labelled):
    study, competition = labelled
    (sagittal,) = study.of_kind(SeriesKind.SAGITTAL_T1)
    points = competition.coordinates[competition.coordinates["series_id"] == sagittal.series_id]
    x = {"left": [], "right": []}
    for row in points.itertuples(index=False):
        side = "left" if str(row.condition).lower().startswith("left") else "right"
        x[side].append(sagittal.from_source_pixel(int(row.instance_number), row.x, row.y)[0])
    assert min(x["left"]) > max(x["right"]) + 10


@pytest.mark.slow
@pytest.mark.parametrize(("name", "studies"), [("rsna-t1", 1590), ("spider", 177)])
def test_every_study_reads_without_a_problem(real_data, name, studies):
    competition = open_competition(real_data / name)
    assert len(competition.studies) == studies
    for study in competition.studies:
        reading = read_study(study)
        assert reading.problems == (), study.study_id
        assert reading.volumes
        assert all(volume.kind is not SeriesKind.UNKNOWN for volume in reading.volumes)
