"""Windows from the training cache: every grey level, the right place, nothing at a label that cannot be right."""

import multiprocessing
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from pipeline.competition import open_competition
from pipeline.cubes import CubeSettings, ViewSettings, cut_cubes
from pipeline.cubes.cache import build_cache
from pipeline.labels import CELL_COLUMNS, CELLS, Family, SeriesKind
from pipeline.landmarks import Landmarks
from pipeline.landmarks import prepare as prepare_module
from pipeline.landmarks.examples import ExampleSettings
from pipeline.landmarks.labelled import labelled_points
from pipeline.landmarks.prepare import ExamplesOf, build_examples, landmarks_of, prepare
from pipeline.owned import MARK, RefusedError
from pipeline.severity.items import WindowItems, cell_table
from pipeline.severity.windows import cut_windows
from pipeline.stacks.scratch import Scratch, write_at
from pipeline.volumes import read_study
from tests.volumes.oracle import SAGITTAL, positions, write_series

T2 = SeriesKind.SAGITTAL_T2
SETTINGS = CubeSettings(canal=(ViewSettings(T2, size_mm=24, pixels=24, slices=3),))
SHAPE = (96, 80)


@pytest.fixture
def folder(tmp_path):
    """One study of 16-bit pixels, all different in a slice, with its canal labels from top to bottom."""
    rng = np.random.default_rng(0)

    def change(data):
        data.PixelData = rng.permutation(np.arange(1000, 1000 + SHAPE[0] * SHAPE[1])).astype("<u2").tobytes()

    root = tmp_path / "data"
    places = positions(SAGITTAL, (0, 0, 0), np.arange(5) * 4.0, SHAPE, (1.0, 1.0))
    write_series(root / "train_images" / "9" / "2", SAGITTAL, places, shape=SHAPE, spacing=(1.0, 1.0), change=change)
    pd.DataFrame([("9", "2", T2.value)], columns=["study_id", "series_id", "series_description"]).to_csv(
        root / "train_series_descriptions.csv", index=False
    )
    levels = ["L1/L2", "L2/L3", "L3/L4", "L4/L5", "L5/S1"]
    rows = [("9", "2", 3, "Spinal Canal Stenosis", level, 40.0, 20.0 + 14 * n) for n, level in enumerate(levels)]
    names = ["study_id", "series_id", "instance_number", "condition", "level", "x", "y"]
    pd.DataFrame(rows, columns=names).to_csv(root / "train_label_coordinates.csv", index=False)
    labels = pd.DataFrame("Severe", index=pd.Index(["9"], name="study_id"), columns=list(CELL_COLUMNS))
    labels.to_csv(root / "train.csv")
    return root


def cached(folder, tmp_path, predicted=None):
    competition = open_competition(folder, split="train")
    return build_cache([competition], Family.CANAL, SETTINGS, 1, tmp_path / "cache", predicted, jobs=1)


def cut(cache, source="true", study=0):
    """(cells, slices, rows, cols) the windows of a study without any jitter."""
    table = cell_table(cache, pd.DataFrame(2.0, index=cache.study_ids, columns=list(CELL_COLUMNS)))
    table = replace(table, **{"true" if source == "predicted" else "predicted": np.zeros(len(table), bool)})
    batch = WindowItems(cache, table, 0.0).fetch(np.flatnonzero(table.study == study))
    view = cache.views[0]
    return cut_windows(batch["around_sagittal_t2"], batch["place_sagittal_t2"], view.pixels, view.spacing_mm).numpy()


def test_windows_are_those_that_grading_cuts(folder, tmp_path):
    """At the file's resolution and coarser ones, of whole slices there and of what was kept of them here."""
    study = read_study(open_competition(folder, split="train").studies[0])
    places = labelled_points(study, open_competition(folder, split="train").coordinates)
    landmarks = replace(Landmarks.empty("9"), points_mm=landmarks_of(places))
    for pixels, tolerance in ((24, 2e-3), (16, 0.12)):
        settings = CubeSettings(canal=(ViewSettings(T2, size_mm=24, pixels=pixels, slices=3),))
        competition = open_competition(folder, split="train")
        cache = build_cache([competition], Family.CANAL, settings, 1, tmp_path / "cache", jobs=1)
        expected = cut_cubes(study, landmarks, settings, (Family.CANAL,)).cubes
        found = cut(cache)
        assert len(expected) == 5
        for (index, _), (cube,) in expected.items():
            assert np.abs(found[index] - cube.pixels).max() < tolerance, pixels
        assert found.std() > 0.05


def test_a_window_keeps_its_grey_levels(folder, tmp_path):
    cache = cached(folder, tmp_path)
    assert len(np.unique(cut(cache)[2, 1])) > 500, "576 pixels; 8 bits would leave 256 of a whole image"
    assert cache.shown("true").all()
    assert not cache.shown("predicted").any()


def test_windows_at_predicted_points_are_cut_from_the_same_slices(folder, tmp_path):
    points = pd.read_csv(folder / "train_label_coordinates.csv", dtype={"study_id": str, "series_id": str})
    study = read_study(open_competition(folder, split="train").studies[0])
    mm = labelled_points(study, open_competition(folder, split="train").coordinates)
    predicted = points.assign(**{name: mm[name] for name in ("x_mm", "y_mm", "z_mm")})
    predicted["z_mm"] -= 3.0  # three pixels further down
    cache = cached(folder, tmp_path, predicted)
    at_label, at_guess = cut(cache), cut(cache, "predicted")
    np.testing.assert_allclose(at_guess[:, :, :-3], at_label[:, :, 3:], atol=2e-3)
    assert len(cache.pixels[T2].values) == 5 * np.prod(cache.places[T2, "true"].extent[0, 0]), "slices are kept once"


def test_a_folder_of_other_things_is_left_as_it_is(folder, tmp_path):
    cached(folder, tmp_path)
    (made,) = (tmp_path / "cache").glob("stacks-*/*")
    (made / MARK).unlink()
    (file,) = made.iterdir()
    file.write_text("years of work")
    with pytest.raises(RefusedError, match="was not made by this program"):
        cached(folder, tmp_path)
    assert [path.read_text() for path in made.iterdir()] == ["years of work"]


def test_a_series_is_decoded_once_for_all_that_is_trained_on(folder, tmp_path, monkeypatch):
    """By the localisers and the classifiers of every window, one after the other, each as a command of its own."""
    decoded = []
    monkeypatch.setattr(prepare_module, "read_study", lambda ref: decoded.append(ref.study_id) or read_study(ref))
    competition = open_competition(folder, split="train")
    examples = [ExamplesOf(kind, ExampleSettings(size_px=32, axial_size_px=32)) for kind in ("sagittal", "axial")]
    prepare([competition], tmp_path / "cache", examples)
    cached(folder, tmp_path)
    for size in (24, 32):
        settings = CubeSettings(canal=(ViewSettings(T2, size_mm=size, pixels=24, slices=3),))
        build_cache([competition], Family.CANAL, settings, 0, tmp_path / "cache", jobs=1)
    assert len(build_examples([competition], "sagittal", tmp_path / "cache", examples[0].settings)) == 5
    assert decoded == ["9"]


def test_what_is_unpacked_for_a_training_ends_with_it(folder, tmp_path):
    cache = cached(folder, tmp_path)
    assert isinstance(cache.pixels[T2].values, np.memmap)
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.name != MARK]
    assert [path.suffix for path in files] == [".safetensors"]


def test_a_label_that_cannot_be_right_gives_no_cube(folder, tmp_path):
    path = folder / "train_label_coordinates.csv"
    table = pd.read_csv(path)
    table.loc[0, "y"] = 90.0  # L1/L2 below L5/S1
    table.to_csv(path, index=False)
    shown = cached(folder, tmp_path).shown("true")[0]
    assert dict(zip([CELLS[n].level for n in range(5)], shown.tolist(), strict=True)) == {
        "l1_l2": False, "l2_l3": True, "l3_l4": True, "l4_l5": True, "l5_s1": True,
    }  # fmt: skip


def test_another_series_table_makes_another_cache(folder, tmp_path):
    assert cached(folder, tmp_path).shown("true").all()
    path = folder / "train_series_descriptions.csv"
    pd.read_csv(path).assign(series_description="Sagittal T1").to_csv(path, index=False)
    assert not cached(folder, tmp_path).shown("true").any()


def test_a_study_whose_pixels_were_replaced_in_place_is_read_again(folder, tmp_path):
    before = cut(cached(folder, tmp_path))
    for path in sorted((folder / "train_images" / "9" / "2").iterdir()):
        times = path.stat()
        content = bytearray(path.read_bytes())
        content[-4000:-3000] = bytes(1000)
        path.write_bytes(content)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert not np.array_equal(before, cut(cached(folder, tmp_path)))


def test_a_damaged_cache_is_named(folder, tmp_path):
    cached(folder, tmp_path)
    (file,) = (tmp_path / "cache").rglob("*.safetensors")
    whole = file.read_bytes()
    for content in (whole[:100], b"", whole[:-40], whole[:60] + b"x" * 40 + whole[100:]):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"safetensors: a damaged cache .* remove the file"):
            cached(folder, tmp_path)


def test_a_study_that_is_still_on_its_way_is_cut_by_the_next_run(folder, tmp_path, capsys):
    files = sorted((folder / "train_images" / "9" / "2").iterdir())
    whole = [file.read_bytes() for file in files]
    for file in files:
        file.write_bytes(b"")
    assert not cached(folder, tmp_path).shown("true").any()
    assert "nothing could be read of 1 graded studies, for example 9" in capsys.readouterr().out
    for file, content in zip(files, whole, strict=True):
        file.write_bytes(content)
    assert cached(folder, tmp_path).shown("true").all()
    assert "nothing" not in capsys.readouterr().out


def test_a_disk_without_room_for_what_will_be_kept_is_said_before_the_first_series(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10**6))
    with pytest.raises(OSError, match=r"are needed for the training cache of 1 studies \(--cache may be on another"):
        cached(folder, tmp_path)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


@pytest.mark.parametrize("named", [False, True])
def test_loading_processes_are_handed_the_open_file_and_no_copy(tmp_path, monkeypatch, named):
    """Without /proc the file has a name, which is gone with the array."""
    monkeypatch.setattr("pipeline.stacks.scratch.OPEN_FILES", Path("/gone") if named else Path("/proc/self/fd"))
    theirs_left = tmp_path / ".scratch-99999999-0123456789ab"
    theirs_left.write_bytes(b"of a process that was killed")
    (tmp_path / ".scratch-notes").write_bytes(b"years of work")
    scratch = Scratch(tmp_path, (1000, 1000), np.float16, "a test")
    assert theirs_left.exists() is not named
    write_at(scratch.path, 7005, np.array([3], np.float16))
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    other = context.Process(target=_look, args=(scratch, theirs))
    other.start()
    assert ours.recv() == (3.0, True)
    ours.send("seen")
    other.join()
    assert scratch.values[7, 5] == 4, "what one writes the other sees"
    assert len(list(tmp_path.glob(".scratch-*-*"))) == 1
    del scratch
    theirs_left.unlink(missing_ok=True)
    assert [path.name for path in tmp_path.iterdir()] == [".scratch-notes"]


def _look(scratch, pipe):
    value, scratch.values[7, 5] = float(scratch.values[7, 5]), 4
    pipe.send((value, isinstance(scratch.values, np.memmap)))
    pipe.recv()
