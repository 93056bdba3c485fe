"""What the networks are taught: labelled points on their slices, and what is not said about the others."""

import os
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pipeline.competition import open_competition
from pipeline.labels import CELLS, LEVELS, Cell, Condition, SeriesKind
from pipeline.landmarks.canvas import whole_slice_canvases
from pipeline.landmarks.examples import ExampleSettings, axial_examples, sagittal_targets
from pipeline.landmarks.labelled import labelled_points
from pipeline.landmarks.model import CANAL_CHANNELS, FORAMINAL_CHANNELS
from pipeline.landmarks.prepare import build_examples
from tests.landmarks.spine import CANAL, HEIGHTS, axial, sagittal, study, truth
from tests.volumes.oracle import SAGITTAL, write_series

SETTINGS = ExampleSettings()
T1, T2 = SeriesKind.SAGITTAL_T1, SeriesKind.SAGITTAL_T2


def table(*marks):
    """A coordinate table of (volume, slice, condition, level, point) marks."""
    rows = []
    for volume, index, cell, point in marks:
        x, y = volume.to_source_pixel(point[None], np.array([index]))
        number = int(volume.instance_numbers[index])
        rows.append(("77", volume.series_id, number, cell.condition.value, cell.level, float(x[0]), float(y[0])))
    return pd.DataFrame(rows, columns=["study_id", "series_id", "instance_number", "condition", "level", "x", "y"])


def marked(volume, cells):
    """Each cell's point marked on the slice nearest to it."""
    points = truth()
    return [(volume, int(volume.nearest_slice(points[[i]])[0]), CELLS[i], points[i]) for i in cells]


@pytest.fixture(scope="module")
def spine():
    """T1, T2 and the labelled points of both, one of them missing."""
    t1, t2 = sagittal(T1, "1", mirrored=True), sagittal(T2, "2")
    cells = [i for i in range(5, 15) if CELLS[i] != Cell(Condition.RIGHT_FORAMINAL, "l2_l3")]
    coordinates = table(*marked(t2, range(5)), *marked(t1, cells))
    volumes = study(t1, t2)
    return t1, t2, labelled_points(volumes, coordinates), coordinates


def targets_of(volume, points):
    canvases = whole_slice_canvases(volume, SETTINGS.size_px)
    return canvases, sagittal_targets(volume, canvases.affines, points, SETTINGS.size_px, SETTINGS)


def test_labelled_points_are_patient_millimetres(spine):
    _, _, points, coordinates = spine
    assert len(points) == len(coordinates) == 14
    expected = {(cell.condition.value, cell.level): truth()[i] for i, cell in enumerate(CELLS)}
    for row in points.itertuples():
        wanted = expected[row.condition, row.level]
        assert (row.y_mm, row.z_mm) == pytest.approx(wanted[1:], abs=1e-6)
        assert row.x_mm == pytest.approx(wanted[0], abs=2.3)  # on its slice


def test_labels_of_slices_that_were_not_read_are_left_out(spine):
    t1, t2, _, coordinates = spine
    assert len(labelled_points(study(t2), coordinates)) == 5
    assert labelled_points(study(), coordinates).empty
    other = coordinates.assign(study_id="78")
    assert labelled_points(study(t1, t2), other).empty


def test_a_point_is_a_full_target_on_its_own_slice(spine):
    _, t2, points, _ = spine
    canvases, targets = targets_of(t2, points)
    for level in range(5):
        index = int(t2.nearest_slice(truth()[[level]])[0])
        assert targets.point_weight[index, level] == 1
        assert targets.visible[index, level] == targets.visible_weight[index, level] == 1
        back = canvases.affines[index] @ (*targets.points[index, level], 0)
        assert back[1:] == pytest.approx(CANAL[level, 1:], abs=1e-3)


def test_exchanged_x_and_y_would_be_noticed(spine):
    _, t2, points, coordinates = spine
    swapped = labelled_points(study(t2), coordinates.rename(columns={"x": "y", "y": "x"}))
    _, good = targets_of(t2, points)
    _, bad = targets_of(t2, swapped)
    known = good.point_weight[:, :5] == 1
    assert np.abs(good.points[:, :5][known] - bad.points[:, :5][known]).min() > 3


def test_slices_beside_have_the_place_with_less_weight_and_the_rest_have_none(spine):
    _, t2, points, _ = spine
    _, targets = targets_of(t2, points)
    index = int(t2.nearest_slice(truth()[[2]])[0])
    weight, visible = targets.point_weight[:, 2], targets.visible[:, 2]
    assert weight[index - 2 : index + 3].tolist() == pytest.approx([0.3, 0.3, 1, 0.3, 0.3])
    assert (np.delete(weight, range(index - 2, index + 3)) == 0).all()
    assert visible.sum() == 1
    assert targets.points[index - 1, 2] == pytest.approx(targets.points[index, 2], abs=1e-3)
    assert targets.visible_weight[[index - 1, index + 1], 2] == pytest.approx([0.3, 0.3])  # may be as visible
    assert (targets.visible_weight[: index - 2, 2] == 1).all()  # far away it is certainly not


def test_a_point_of_another_series_is_shown_by_the_slices_at_its_place(spine):
    """Canal points are marked on T2; the T1 slice through them shows the canal just as well."""
    t1, _, points, _ = spine
    canvases, targets = targets_of(t1, points)
    marks = points[points["condition"] == Condition.CANAL.value]
    for row in marks.itertuples():
        level = LEVELS.index(row.level)
        apart = np.abs(canvases.volume.centres_mm[:, 0] - row.x_mm)
        assert ((targets.visible[:, level] == 1) == (apart <= SETTINGS.marked_mm)).all()
        index = int(apart.argmin())
        place = canvases.affines[index].inverse @ (row.x_mm, row.y_mm, row.z_mm)
        assert targets.points[index, level] == pytest.approx(place[:2], abs=1e-3)


def test_sides_share_a_channel_and_each_slice_has_its_nearer_side(spine):
    t1, _, points, _ = spine
    canvases, targets = targets_of(t1, points)
    level = 2
    channel = FORAMINAL_CHANNELS.start + level
    left, right = (
        truth()[CELLS.index(Cell(c, LEVELS[level]))] for c in (Condition.LEFT_FORAMINAL, Condition.RIGHT_FORAMINAL)
    )
    slices = [int(t1.nearest_slice(point[None])[0]) for point in (left, right)]
    assert slices[0] > slices[1]  # left is at larger x, whatever the instance numbers say
    for index, point in zip(slices, (left, right), strict=True):
        assert targets.visible[index, channel] == 1
        back = canvases.affines[index] @ (*targets.points[index, channel], 0)
        assert back[1:] == pytest.approx(point[1:], abs=1e-3)
    assert targets.visible[:, channel].sum() == 2


def test_a_missing_point_is_not_a_target(spine):
    """Right L2/L3 has no label: the slices on that side learn nothing of where it is."""
    t1, _, points, _ = spine
    _, targets = targets_of(t1, points)
    channel = FORAMINAL_CHANNELS.start + LEVELS.index("l2_l3")
    on_the_right = t1.centres_mm[:, 0] < CANAL[1, 0] - 5
    assert (targets.point_weight[on_the_right, channel] == 0).all()
    assert targets.point_weight[:, channel].max() == 1


def test_a_study_without_a_family_is_asked_little_about_it(spine):
    t1, _, points, _ = spine
    foraminal = points[points["condition"] != Condition.CANAL.value]
    _, targets = targets_of(t1, foraminal)
    assert (targets.point_weight[:, CANAL_CHANNELS] == 0).all()
    on_marked = np.isin(t1.instance_numbers, foraminal["instance_number"])
    assert (targets.visible_weight[on_marked, CANAL_CHANNELS] == 0.5).all()
    assert (targets.visible_weight[~on_marked, CANAL_CHANNELS] == 0).all()


def test_a_point_outside_the_canvas_is_no_target(spine):
    _, t2, points, _ = spine
    outside = points.assign(z_mm=points["z_mm"] - 300)
    _, targets = targets_of(t2, outside)
    assert (targets.point_weight == 0).all()
    assert (targets.visible == 0).all()


@pytest.fixture(scope="module")
def axial_study():
    volumes = axial(mirrored=True)
    t2 = sagittal(T2, "2")
    marks = []
    for level in range(5):
        for i in (15 + level, 20 + level):
            if i != 22:  # right L3/L4 is not labelled
                marks.append((volumes[level], 1, CELLS[i], truth()[i]))
    coordinates = table(*marked(t2, range(5)), *marks)
    whole = study(t2, *volumes)
    return whole, labelled_points(whole, coordinates)


def test_axial_windows_come_as_they_are_and_mirrored(axial_study):
    volumes, points = axial_study
    images, pixel_mm, targets = axial_examples(volumes, points, SETTINGS)
    assert len(images) == len(pixel_mm) == 2 * 4 * 3  # L3/L4 has one side only and is left out
    assert (images[1::2] == images[::2, :, ::-1]).all()
    size = SETTINGS.axial_size_px
    seen = np.flatnonzero(targets.visible[:, 0])
    assert len(seen) == 8
    for k in seen:
        x, y = targets.points[k, 0]
        assert x > (size - 1) / 2 + 4  # the left recess, or the right one in its mirror image
        assert images[k, round(float(y)), round(float(x))] == pytest.approx(0.95, abs=0.02)
    swapped = [
        images[k, round(float(x)), round(float(y))] for k, (x, y) in zip(seen, targets.points[seen, 0], strict=True)
    ]
    assert min(swapped) < 0.5


def test_a_level_that_is_marked_twice_in_the_canal_is_taken_once(axial_study):
    volumes, points = axial_study
    canal = points[points["condition"] == Condition.CANAL]
    again = pd.concat([points, canal.assign(z_mm=canal["z_mm"] - 2.0)], ignore_index=True)
    for once, twice in zip(
        axial_examples(volumes, points, SETTINGS)[:2], axial_examples(volumes, again, SETTINGS)[:2], strict=True
    ):
        np.testing.assert_array_equal(once, twice)


def test_neighbouring_axial_slices_are_not_asked_whether_they_show_it(axial_study):
    volumes, points = axial_study
    _, _, targets = axial_examples(volumes, points, SETTINGS)
    by_slice = targets.visible_weight[:, 0].reshape(4, 3, 2)
    assert (by_slice[:, 1] == 1).all()  # the marked one
    assert (by_slice[:, [0, 2]] == 0).all()  # 4 mm away: may show it too
    assert (targets.point_weight.reshape(4, 3, 2)[:, [0, 2]] == 0).all()


def test_axial_windows_without_a_canal_point_are_between_the_two_recesses(axial_study):
    volumes, points = axial_study
    lone = points[points["condition"] != Condition.CANAL.value]
    images, _, targets = axial_examples(volumes, lone, SETTINGS)
    seen = np.flatnonzero(targets.visible[:, 0])
    middle = (SETTINGS.axial_size_px - 1) / 2
    assert targets.points[seen, 0, 0] - middle == pytest.approx(np.full(8, 9.0), abs=0.1)
    assert len(images) == 24


def test_no_labels_give_no_axial_example(axial_study):
    volumes, points = axial_study
    images, pixel_mm, targets = axial_examples(volumes, points.head(0), SETTINGS)
    assert images.shape == (0, SETTINGS.axial_size_px, SETTINGS.axial_size_px)
    assert len(pixel_mm) == len(targets.points) == 0


def test_a_slice_between_the_sides_belongs_to_the_nearer(spine):
    t1, _, points, _ = spine
    wide = ExampleSettings(beside_mm=40.0)
    canvases = whole_slice_canvases(t1, wide.size_px)
    targets = sagittal_targets(t1, canvases.affines, points, wide.size_px, wide)
    level = 3
    channel = FORAMINAL_CHANNELS.start + level
    marks = points[(points["level"] == LEVELS[level]) & (points["condition"] != Condition.CANAL.value)]
    for index in range(len(canvases.images)):
        apart = (marks["x_mm"] - t1.centres_mm[index, 0]).abs()
        row = marks.loc[apart.idxmin()]
        place = canvases.affines[index].inverse @ (row["x_mm"], row["y_mm"], row["z_mm"])
        assert targets.points[index, channel] == pytest.approx(place[:2], abs=1e-3)
    assert abs(HEIGHTS[level] - marks["z_mm"].mean()) < 5


def test_mirrored_storage_changes_no_target(spine):
    t1, _, points, _ = spine
    plain = sagittal(T1, "1")
    renumbered = points.copy()
    number = dict(zip(t1.instance_numbers, plain.instance_numbers, strict=True))
    own = renumbered["series_id"] == "1"
    renumbered.loc[own, "instance_number"] = renumbered.loc[own, "instance_number"].map(number)
    _, one = targets_of(t1, points)
    _, other = targets_of(replace(plain), renumbered)
    assert np.abs(one.points - other.points).max() < 1e-3
    assert (one.visible == other.visible).all()


def test_examples_of_a_study_of_any_name_stay_in_the_cache(tmp_path):
    root = tmp_path / os.fsdecode(b"d\xe9")
    names = ["x" * 250, "../../../../outside"]
    write_series(root / "train_images" / names[0] / "7", SAGITTAL)
    labels = [f"{name},7,1,Spinal Canal Stenosis,L1/L2,3,2" for name in names]
    columns = "study_id,series_id,instance_number,condition,level,x,y"
    (root / "train_label_coordinates.csv").write_text("\n".join([columns, *labels]) + "\n")
    build_examples([open_competition(root)], "sagittal", tmp_path / "cache", SETTINGS)
    (made,) = tmp_path.glob("cache/sagittal-*/*/*.safetensors")
    assert made.name.startswith("x" * 40 + ".")
    assert made.is_relative_to(tmp_path / "cache")


def test_a_study_whose_files_were_replaced_in_place_is_written_again(tmp_path):
    root = tmp_path / "data"
    write_series(root / "train_images" / "9" / "7", SAGITTAL)
    columns = "study_id,series_id,instance_number,condition,level,x,y"
    (root / "train_label_coordinates.csv").write_text(f"{columns}\n9,7,1,Spinal Canal Stenosis,L1/L2,3,2\n")

    def files():
        return set(build_examples([open_competition(root)], "sagittal", tmp_path / "cache", SETTINGS)["file"])

    before = files()
    assert files() == before
    path = root / "train_images" / "9" / "7" / "1.dcm"
    times = path.stat()
    path.write_bytes(path.read_bytes()[:-2] + b"\1\1")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert files().isdisjoint(before)
