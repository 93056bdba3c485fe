"""The committed networks on studies as they come: series missing, stored otherwise, blank, or without a spine."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian

from pipeline.competition import open_competition
from pipeline.labels import CELL_INDEX, Cell, Condition, SeriesKind, condition_from_title, level_from_title
from pipeline.landmarks.load import load_predictor
from pipeline.phantom import make_phantom
from pipeline.volumes import read_study

WEIGHTS = Path(__file__).parents[2] / "weights" / "default"
T1, T2, AXIAL = SeriesKind.SAGITTAL_T1, SeriesKind.SAGITTAL_T2, SeriesKind.AXIAL_T2
CANAL, FORAMINAL, SUBARTICULAR = slice(0, 5), slice(5, 15), slice(15, 25)
UNSURE = 0.3
"""Confidence that no point of a picture without a lumbar spine may reach."""


@pytest.fixture(scope="module")
def predictor():
    if not (WEIGHTS / "manifest.json").is_file():
        pytest.skip(f"{WEIGHTS} has no manifest: no weights are committed here")
    return load_predictor(WEIGHTS)


@pytest.fixture(scope="module")
def folder(predictor, tmp_path_factory):
    """One small phantom with T2 weighting (a STIR study is a harder one); made only where there are weights."""
    return make_phantom(tmp_path_factory.mktemp("phantom"), studies=1, seed=4243, size="small")


@pytest.fixture(scope="module")
def volumes(folder):
    return read_study(open_competition(folder, split="train").studies[0])


@pytest.fixture(scope="module")
def truth(folder):
    return marked_points(folder)


def marked_points(folder):
    """(25, 3) mm; NaN where the phantom marks nothing."""
    points = np.full((25, 3), np.nan)
    for row in pd.read_csv(folder / "train_label_coordinates.csv").itertuples():
        cell = Cell(condition_from_title(row.condition), level_from_title(row.level))
        points[CELL_INDEX[cell]] = (row.x_mm, row.y_mm, row.z_mm)
    return points


@pytest.fixture(scope="module")
def complete(predictor, volumes):
    return predictor.predict(volumes)


def only(volumes, *kinds):
    return replace(volumes, volumes=tuple(v for v in volumes.volumes if v.kind in kinds))


def changed(volumes, change: Callable):
    """The study with the pixels of every stack changed."""
    return replace(volumes, volumes=tuple(replace(v, pixels=change(v)) for v in volumes.volumes))


def errors_mm(landmarks, truth, cells):
    """Distances of the marked points of a family, slices apart not counted for sagittal series."""
    offset = landmarks.points_mm[cells] - truth[cells]
    if cells != SUBARTICULAR:
        offset[:, 0] = 0
    distance = np.linalg.norm(offset, axis=1)
    return distance[np.isfinite(truth[cells, 0])]


def assert_right(landmarks, truth, cells, typical_mm=6.0):
    """Points are found, most of them near, none a level off."""
    errors = errors_mm(landmarks, truth, cells)
    assert np.isfinite(errors).mean() >= 0.8
    assert np.nanmedian(errors) < typical_mm
    assert np.nanmax(errors) < 17


def test_a_complete_study(complete, truth):
    for cells in (CANAL, FORAMINAL, SUBARTICULAR):
        assert_right(complete, truth, cells)
    left, right = complete.points_mm[5:10, 0], complete.points_mm[10:15, 0]
    assert (left > right)[np.isfinite(left - right)].all()


def test_a_scoliotic_study_in_stir(predictor, tmp_path):
    """On this one an earlier network, trained on few such studies, found no canal at all."""
    folder = make_phantom(tmp_path, studies=1, seed=4242, size="small")
    landmarks = predictor.predict(read_study(open_competition(folder, split="train").studies[0]))
    for cells in (CANAL, FORAMINAL):
        assert_right(landmarks, marked_points(folder), cells)


def test_t1_only(predictor, volumes, truth):
    landmarks = predictor.predict(only(volumes, T1))
    assert_right(landmarks, truth, FORAMINAL)
    assert not landmarks.found[SUBARTICULAR].any()


def test_t2_only(predictor, volumes, truth):
    landmarks = predictor.predict(only(volumes, T2))
    assert_right(landmarks, truth, CANAL)
    assert not landmarks.found[SUBARTICULAR].any()


def test_no_t2(predictor, volumes, truth):
    """Axial slices are then chosen by what T1 shows of the canal, or by the foramina."""
    landmarks = predictor.predict(only(volumes, T1, AXIAL))
    assert_right(landmarks, truth, FORAMINAL)
    assert landmarks.found[SUBARTICULAR].sum() >= 6


def test_axial_only_is_a_guess_and_says_so(predictor, volumes):
    landmarks = predictor.predict(only(volumes, AXIAL))
    assert not landmarks.found[:15].any()
    assert landmarks.confidence.max() < 0.1
    assert any("no sagittal level" in note for note in landmarks.notes)
    left, right = landmarks.points_mm[15:20, 0], landmarks.points_mm[20:25, 0]
    assert (left > right)[np.isfinite(left - right)].all()


def test_a_single_slice(predictor, volumes, truth):
    (volume, *_) = volumes.of_kind(T2)
    k = int(np.median(volume.nearest_slice(truth[CANAL][np.isfinite(truth[CANAL, 0])])))
    fields = ("pixels", "affines", "source_affines", "instance_numbers")
    single = replace(volume, **{name: getattr(volume, name)[[k]] for name in fields})
    landmarks = predictor.predict(replace(volumes, volumes=(single,)))
    assert_right(landmarks, truth, CANAL)
    assert set(landmarks.instance_number[landmarks.found]) == {int(volume.instance_numbers[k])}


def test_a_field_of_view_that_ends_at_l3(predictor, volumes, truth):
    """Nothing is invented below the picture."""
    cut = []
    for volume in only(volumes, T1, T2).volumes:
        lowest = truth[2] + np.array([0, 0, -12.0])
        _, row, _ = volume.to_pixel(lowest[None], np.array([len(volume.pixels) // 2]))
        cut.append(replace(volume, pixels=np.ascontiguousarray(volume.pixels[:, : int(row[0])])))
    landmarks = predictor.predict(replace(volumes, volumes=tuple(cut)))
    found = landmarks.points_mm[:15][landmarks.found[:15]]
    assert len(found) >= 4
    assert (found[:, 2] > truth[2, 2] - 16).all()


def stored_otherwise(folder, target, flip_rows, flip_cols, reverse):
    """The phantom's files with rows, columns or the order of instances reversed; the tags say so."""
    for path in sorted((folder / "train_images").rglob("*.dcm")):
        data = pydicom.dcmread(path)
        pixels = data.pixel_array
        position = np.array(data.ImagePositionPatient, float)
        right, down = np.array(data.ImageOrientationPatient, float).reshape(2, 3)
        row_mm, col_mm = (float(value) for value in data.PixelSpacing)
        if flip_rows:
            position, down, pixels = position + down * row_mm * (data.Rows - 1), -down, pixels[::-1]
        if flip_cols:
            position, right, pixels = position + right * col_mm * (data.Columns - 1), -right, pixels[:, ::-1]
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.PixelData = np.ascontiguousarray(pixels).tobytes()
        data["PixelData"].is_undefined_length = False
        data.ImagePositionPatient = [f"{value:.6f}" for value in position]
        data.ImageOrientationPatient = [f"{value:.10f}" for value in (*right, *down)]
        if reverse:
            data.InstanceNumber = str(1000 - int(data.InstanceNumber))
        place = target / path.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        data.save_as(place, enforce_file_format=True)
    table = "train_series_descriptions.csv"
    (target / table).write_bytes((folder / table).read_bytes())
    return read_study(open_competition(target, split="train").studies[0])


@pytest.mark.parametrize(
    ("flip_rows", "flip_cols", "reverse"), [(True, False, False), (True, True, True)], ids=["upside-down", "mirrored"]
)
def test_the_way_of_storage_changes_nothing(predictor, folder, complete, tmp_path, flip_rows, flip_cols, reverse):
    other = stored_otherwise(folder, tmp_path, flip_rows, flip_cols, reverse)
    landmarks = predictor.predict(other)
    assert (landmarks.found == complete.found).all()
    assert np.nanmax(np.abs(landmarks.points_mm - complete.points_mm)) < 0.1
    if reverse:
        assert (landmarks.instance_number[complete.found] == 1000 - complete.instance_number[complete.found]).all()


def test_a_blank_study_has_no_points(predictor, volumes):
    blank = changed(only(volumes, T1, T2), lambda v: np.full_like(v.pixels, 50))
    landmarks = predictor.predict(blank)
    assert not landmarks.found.any()
    assert len(landmarks.notes) == len(blank.volumes)


def head(volume):
    """A bright rim around grey and white matter, about as a brain looks."""
    slices, rows, cols = volume.shape
    z, y, x = np.ogrid[-1.5 : 1.5 : slices * 1j, -1.2 : 1.2 : rows * 1j, -1.2 : 1.2 : cols * 1j]
    radius = np.sqrt(x**2 / 0.7 + y**2 + z**2 * 0.5)
    folds = 0.5 + 0.3 * np.sin(18 * x + 6 * np.sin(9 * y)) * np.sin(15 * y)
    return np.where(radius < 0.85, folds, np.where(radius < 1.0, 1.0, 0.02)).astype(np.float32)


def noise(volume):
    return np.random.default_rng(0).normal(100, 20, volume.shape).astype(np.float32)


def uniform_body(volume):
    """A homogeneous cylinder, as a quality-assurance phantom shows."""
    _, rows, cols = volume.shape
    y, x = np.ogrid[-1.4 : 1.4 : rows * 1j, -1.4 : 1.4 : cols * 1j]
    return np.broadcast_to((np.hypot(x, y) < 1) * 100.0, volume.shape).astype(np.float32)


@pytest.mark.parametrize("picture", [head, noise, uniform_body])
def test_a_picture_without_a_lumbar_spine_is_not_believed(predictor, volumes, complete, picture):
    landmarks = predictor.predict(changed(only(volumes, T1, T2), picture))
    assert landmarks.confidence.max() < UNSURE
    assert np.median(complete.confidence[:15]) > UNSURE


def test_a_study_without_a_spine_still_has_its_table(predictor, volumes):
    """What stands in falls back to the prior: the table is there, short or empty, and valid."""
    landmarks = predictor.predict(changed(volumes, noise))
    frame = landmarks.to_frame()
    assert len(frame) == landmarks.found.sum()
    assert frame["confidence"].between(0, 1).all()
    assert set(frame["condition"]) <= {condition.title for condition in Condition}
