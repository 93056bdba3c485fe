"""What is kept of a stack: all grey levels of the right place, the slices of the levels, and nothing far away."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pipeline.labels import CELLS, LEVELS, Family, SeriesKind
from pipeline.landmarks.prepare import prepare
from pipeline.stacks import KeptStack, StudyStacks, keep_stack, read_stacks, write_stacks
from pipeline.stacks.kept import LEVEL_MM, from_levels, to_levels
from pipeline.stacks.store import POINT_COLUMNS
from pipeline.volumes import Affine, Plane, Volume, normalise, read_study
from tests.stacks.complete import complete_studies

MOST_BYTES = 9_000_000
"""Of a complete study on average, localisers' slices included."""
ACROSS_MM = {None: 0.0, "left": 12.0, "right": -12.0}
POINTS = np.array([(ACROSS_MM[cell.condition.side], 10.0, 60.0 - 30 * LEVELS.index(cell.level)) for cell in CELLS])


def stack(kind, places, shape):
    """A stack of pixels that are all different in a slice, through the points."""
    plane = Plane.AXIAL if kind is SeriesKind.AXIAL_T2 else Plane.SAGITTAL
    axes = [[1, 0, 0], [0, 1, 0], [0, 0, -1]] if plane is Plane.AXIAL else [[0, 1, 0], [0, 0, -1], [1, 0, 0]]
    right, down, along = np.array(axes, float)
    rows, cols = shape
    corner = -(right * (cols - 1) + down * (rows - 1)) / 2
    affines = Affine.stack([Affine.of_plane(right, down, corner + along * place, (1.0, 1.0)) for place in places])
    pixels = np.random.default_rng(0).permuted(np.tile(np.arange(rows * cols), (len(places), 1)), axis=1)
    pixels = pixels.reshape(len(places), rows, cols).astype(np.float32)
    return Volume(pixels, affines, affines, np.arange(len(places)) + 1, plane, kind, "9", "2")


def test_a_sagittal_stack_keeps_its_slices_and_the_spine_of_each():
    whole = stack(SeriesKind.SAGITTAL_T1, np.arange(-30, 31, 4.0), (320, 300))
    kept = keep_stack(whole, POINTS).volume
    assert len(kept.pixels) == len(whole.pixels)
    height, width = np.array(kept.shape[1:]) * kept.spacing_mm
    assert 258 < height < 264
    assert 98 < width < 104
    assert kept.shows(POINTS[0], 7)
    before, after = (
        [volume.pixels[index, round(row), round(col)] for index, col, row in zip(nearest, *places, strict=True)]
        for volume in (whole, kept)
        for nearest in [volume.nearest_slice(POINTS)]
        for places in [volume.to_pixel(POINTS, nearest)[:2]]
    )
    assert before == after, "the same pixel at the same place"


def test_an_axial_stack_keeps_the_slices_of_the_levels():
    whole = stack(SeriesKind.AXIAL_T2, np.arange(-140, 141, 4.0), (200, 200))
    only = np.where((np.array([LEVELS.index(cell.level) for cell in CELLS]) % 4 == 0)[:, None], POINTS, np.nan)
    kept = keep_stack(whole, only).volume
    heights = kept.centres_mm[:, 2]
    apart = np.abs(heights[:, None] - [60.0, -60.0]).min(1)
    assert apart.max() <= LEVEL_MM
    assert len(heights) == 2 * 7
    assert kept.instance_numbers.tolist() == whole.instance_numbers[np.isin(whole.centres_mm[:, 2], heights)].tolist()
    assert 88 < kept.shape[1] < 94
    assert 108 < kept.shape[2] < 114


def test_foramina_stand_in_for_a_level_without_other_points():
    whole = stack(SeriesKind.AXIAL_T2, np.arange(-140, 141, 4.0), (200, 200))
    foraminal = np.array([cell.condition.family is Family.FORAMINAL for cell in CELLS])
    higher = POINTS + np.where(foraminal, 10.0, 0.0)[:, None] * [0, 0, 1]
    both, alone = keep_stack(whole, higher), keep_stack(whole, np.where(foraminal[:, None], higher, np.nan))
    # Every fourth mm: up to 14 mm above 70 and above 60
    assert (alone.volume.centres_mm[:, 2].max(), both.volume.centres_mm[:, 2].max()) == (84.0, 72.0)


def test_nothing_is_kept_where_no_point_says_what():
    whole = stack(SeriesKind.AXIAL_T2, np.arange(-8, 9, 4.0), (50, 50))
    assert keep_stack(whole, np.full((25, 3), np.nan)) is None
    assert keep_stack(whole, POINTS + np.array([0, 0, 500.0])) is None
    assert keep_stack(whole, POINTS + np.array([500.0, 0, 0])) is None


@pytest.mark.parametrize(
    "pixels",
    [
        np.arange(-500, 65000 - 500, 3, dtype=np.float32),
        np.arange(3000, dtype=np.float32) * np.float32(0.37) - 11,
        np.full(8, -3.5, np.float32),
        np.array([0, 2**24], np.float32),
    ],
    ids=["signed", "slope", "constant", "far apart"],
)
def test_every_level_comes_back_from_16_bits(pixels):
    numbers, scale = to_levels(pixels.reshape(1, 1, -1))
    assert numbers.dtype == np.uint16
    assert np.array_equal(from_levels(numbers, scale).ravel(), pixels)


def test_more_levels_than_16_bits_have_are_rounded_to_as_many():
    pixels = np.random.default_rng(0).normal(0, 1e5, (1, 300, 300)).astype(np.float32)
    back = from_levels(*to_levels(pixels))
    assert np.abs(back - pixels).max() <= np.ptp(pixels) / (2**16 - 1)


def test_a_file_gives_back_what_was_written(tmp_path):
    kept = tuple(
        keep_stack(replace(stack(kind, np.arange(-20, 21, 4.0), (80, 90)), flags=("motion",)), POINTS)
        for kind in (SeriesKind.SAGITTAL_T2, SeriesKind.AXIAL_T2)
    )
    points = pd.DataFrame([("2", 3, "spinal_canal_stenosis", "l1_l2", 1.5, 2.25, -1 / 3)], columns=list(POINT_COLUMNS))
    write_stacks(tmp_path / "9", StudyStacks("s\udce9", kept, points))
    back = read_stacks(tmp_path / "9")
    assert back.study_id == "s\udce9"
    pd.testing.assert_frame_equal(back.points, points)
    for mine, theirs in zip(kept, back.stacks, strict=True):
        assert mine.limits == theirs.limits
        for name in ("pixels", "instance_numbers"):
            assert np.array_equal(getattr(mine.volume, name), getattr(theirs.volume, name))
        assert np.array_equal(mine.volume.affines.matrix, theirs.volume.affines.matrix)
        assert np.array_equal(mine.volume.source_affines.matrix, theirs.volume.source_affines.matrix)
        assert (theirs.volume.kind, theirs.volume.plane, theirs.volume.flags) == (
            mine.volume.kind, mine.volume.plane, ("motion",),
        )  # fmt: skip
    assert [one.volume.kind for one in read_stacks(tmp_path / "9", [SeriesKind.AXIAL_T2]).stacks] == ["Axial T2"]


def test_a_part_is_normalised_as_the_whole():
    whole = stack(SeriesKind.SAGITTAL_T1, np.arange(-20, 21, 4.0), (320, 300))
    kept: KeptStack = keep_stack(whole, POINTS)
    part = normalise(kept.volume.pixels, kept.limits)
    assert np.isin(part, normalise(whole.pixels)).all()


@pytest.mark.real
def test_two_complete_studies_keep_every_pixel_in_nine_megabytes_each(real_data, tmp_path):
    """Inside what is kept every pixel is the DICOM's."""
    total = 0
    for competition, predicted in complete_studies(real_data):
        (files,) = prepare([competition], tmp_path, predicted=predicted, workers=1)
        total += files.stacks.stat().st_size
        kept, whole = read_stacks(files.stacks), read_study(files.ref)
        kinds = {stack.volume.kind for stack in kept.stacks}
        assert kinds == set(SeriesKind) - {SeriesKind.UNKNOWN}
        for one in kept.stacks:
            volume = one.volume
            (source,) = (
                v for v in whole.volumes
                if v.series_id == volume.series_id and set(volume.instance_numbers) <= set(v.instance_numbers)
            )  # fmt: skip
            slices = np.flatnonzero(np.isin(source.instance_numbers, volume.instance_numbers))
            corner = volume.affines.origin_mm
            col, row, offset = source.to_pixel(corner, slices)
            assert np.abs(offset).max() < 1e-6
            for pixels, index, c, r in zip(volume.pixels, slices, col, row, strict=True):
                top, left = round(r), round(c)
                assert abs(top - r) + abs(left - c) < 1e-6
                part = source.pixels[index, top : top + volume.shape[1], left : left + volume.shape[2]]
                assert np.array_equal(pixels, part)
    assert total / 2 <= MOST_BYTES
