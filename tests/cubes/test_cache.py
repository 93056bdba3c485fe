"""The training cache: every grey level, the right place, nothing at a label that cannot be right, cut once."""

import os
import shutil

import numpy as np
import pandas as pd
import pytest

from pipeline.competition import open_competition
from pipeline.cubes import CubeSettings, ViewSettings
from pipeline.cubes.cache import Margin, build_cache
from pipeline.labels import CELL_COLUMNS, CELLS, Family, SeriesKind
from pipeline.owned import RefusedError
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


def cached(folder, tmp_path):
    competition = open_competition(folder, split="train")
    return build_cache([competition], Family.CANAL, SETTINGS, Margin(2.0, 1), tmp_path / "cache", jobs=1)


def test_a_cached_cube_keeps_its_grey_levels(folder, tmp_path):
    cache = cached(folder, tmp_path)
    pixels, present = cache.pixels[T2, "true"], cache.present[T2, "true"]
    assert pixels.shape == (1, 5, 5, 28, 28)
    assert present[0, 2].all()
    middle = pixels[0, 2, 2]
    assert len(np.unique(middle)) > 600, (
        "784 different pixels; 8 bits would leave 256 of a whole image, fewer of a part"
    )
    assert cache.shown("true").all()
    assert not cache.shown("predicted").any()


def test_a_folder_of_other_things_is_left_as_it_is(folder, tmp_path):
    cached(folder, tmp_path)
    (made,) = (tmp_path / "cache").iterdir()
    shutil.rmtree(made)
    made.mkdir()
    (made / "sagittal_t2_pixels.npy").write_text("years of work")
    with pytest.raises(RefusedError, match="was not made by this program"):
        cached(folder, tmp_path)
    assert [path.name for path in made.iterdir()] == ["sagittal_t2_pixels.npy"]
    assert (made / "sagittal_t2_pixels.npy").read_text() == "years of work"


def test_a_cube_is_cut_once(folder, tmp_path):
    cached(folder, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*pixels.npy")}
    assert before
    cached(folder, tmp_path)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*pixels.npy")}


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


def test_a_study_whose_pixels_were_replaced_in_place_is_cut_again(folder, tmp_path):
    before = np.array(cached(folder, tmp_path).pixels[T2, "true"][0])
    for path in sorted((folder / "train_images" / "9" / "2").iterdir()):
        times = path.stat()
        content = bytearray(path.read_bytes())
        content[-40:] = bytes(range(40))
        path.write_bytes(content)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert not np.array_equal(before, cached(folder, tmp_path).pixels[T2, "true"][0])
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.parametrize("name", ["sagittal_t2_pixels.npy", "sagittal_t2_present.npy", "done.npy"])
def test_a_damaged_cache_is_named(folder, tmp_path, name):
    cached(folder, tmp_path)
    (made,) = (tmp_path / "cache").iterdir()
    for size in (100, 0):
        os.truncate(made / name, size)
        with pytest.raises(ValueError, match=rf"{name}: a damaged cache .* remove the folder"):
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
