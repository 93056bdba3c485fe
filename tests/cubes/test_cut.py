"""Cubes: the centre is the landmark, right mirrors left, slices are slices, gaps are absent."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.cubes import CubeSettings, ViewSettings, cut_cubes
from pipeline.labels import CELL_INDEX, CELLS, LEVELS, Cell, Condition, Family, SeriesKind
from pipeline.landmarks.canvas import whole_slice_canvases
from pipeline.landmarks.landmarks import Landmarks
from pipeline.volumes import Affine, Plane, StudyVolumes, Volume, normalise
from pipeline.volumes import volume as volume_module
from pipeline.volumes.volume import ASSUMED_PLACE

SLANTED = np.array([2.0, -1.0, 2.0]) / 3.0
AXES = {
    Plane.SAGITTAL: (np.array([0.0, 1, 0]), np.array([0.0, 0, -1]), np.array([1.0, 0, 0])),
    Plane.AXIAL: (np.array([1.0, 0, 0]), np.array([0.0, 1, 0]), np.array([0.0, 0, -1])),
}
SPACING = 1.0


def stack(plane, kind, positions, value, series_id="1"):
    """A stack through the origin whose pixels are ``value`` of their patient point (N, 3)."""
    right, down, normal = AXES[plane]
    size = 210
    matrices = np.repeat(np.eye(4)[None], len(positions), axis=0)
    for matrix, position in zip(matrices, positions, strict=True):
        matrix[:3, 0], matrix[:3, 1], matrix[:3, 2] = right * SPACING, down * SPACING, normal
        matrix[:3, 3] = normal * position - (right + down) * SPACING * (size - 1) / 2
    affines = Affine(matrices)
    row, col = np.indices((size, size))
    grid = np.stack([col, row, np.zeros_like(col), np.ones_like(col)], -1)
    pixels = np.stack([value((grid @ matrix.T)[..., :3]) for matrix in matrices]).astype(np.float32)
    numbers = np.arange(1, len(positions) + 1)
    return Volume(pixels, affines, affines, numbers, plane, kind, "s", series_id)


def spine(tilt=0.0):
    """Landmarks of a spine that is symmetric about x = 0 and leans forwards by ``tilt`` mm a level."""
    points = np.zeros((25, 3))
    for index, cell in enumerate(CELLS):
        level = LEVELS.index(cell.level)
        x = {None: 0.0, "left": 1.0, "right": -1.0}[cell.condition.side]
        x *= 16.0 if cell.condition.family is Family.FORAMINAL else 9.0
        points[index] = (x, 3.0 + tilt * level, 60.0 - 30.0 * level)
    empty = Landmarks.empty("s")
    return replace(empty, points_mm=points)


def study(value, gap=None):
    sagittal = np.arange(-28.0, 29.0, 4.0)
    if gap is not None:
        sagittal = np.delete(sagittal, gap)
    volumes = (
        stack(Plane.SAGITTAL, SeriesKind.SAGITTAL_T1, sagittal, value, "11"),
        stack(Plane.SAGITTAL, SeriesKind.SAGITTAL_T2, sagittal, value, "12"),
        stack(Plane.AXIAL, SeriesKind.AXIAL_T2, np.arange(-80.0, 81.0, 4.0), value, "13"),
    )
    return StudyVolumes("s", volumes, ())


@pytest.fixture
def raw(monkeypatch):
    """Cubes of the pixels as they are, without normalisation by percentiles."""
    monkeypatch.setattr(volume_module, "normalise", lambda pixels: pixels)


def symmetric(points):
    """A pattern that is the same on both sides of the patient, and different everywhere else."""
    x, y, z = np.abs(points[..., 0]), points[..., 1], points[..., 2]
    return np.sin(x / 5) + np.cos(y / 7 + x / 9) + np.sin(z / 6 + y / 11)


@pytest.mark.usefixtures("raw")
@pytest.mark.parametrize("cell", [0, 7, 12, 16, 23])
def test_every_pixel_is_where_the_frame_says(cell):
    # The oracle: pixels are a linear function of the patient point, so the middle pixel must give the landmark's.
    landmarks = spine(tilt=4.0)
    settings = CubeSettings(**{f.value: tuple(replace(v, pixels=97) for v in CubeSettings().of(f)) for f in Family})
    cubes = cut_cubes(study(lambda points: points @ SLANTED), landmarks, settings)
    found = {kind: views for (index, kind), views in cubes.cubes.items() if index == cell}
    assert found
    for kind, (cube,) in found.items():
        normal = AXES[Plane.AXIAL if kind is SeriesKind.AXIAL_T2 else Plane.SAGITTAL][2]
        middle = len(cube.pixels) // 2
        on_slice = landmarks.points_mm[cell] - normal * cube.offset_mm
        np.testing.assert_allclose(cube.pixels[middle, 48, 48], on_slice @ SLANTED, atol=0.01)
        corner = on_slice + (cube.right * 20 - cube.down * 30) * cube.spacing_mm
        np.testing.assert_allclose(cube.pixels[middle, 48 - 30, 48 + 20], corner @ SLANTED, atol=0.01)
        assert abs(cube.offset_mm) <= 2.0


def test_right_cubes_are_mirror_images_of_left_ones():
    cubes = cut_cubes(study(symmetric), spine(tilt=2.0), CubeSettings())
    pairs = 0
    for left, right in (
        (Condition.LEFT_FORAMINAL, Condition.RIGHT_FORAMINAL),
        (Condition.LEFT_SUBARTICULAR, Condition.RIGHT_SUBARTICULAR),
    ):
        for level in LEVELS:
            kind = SeriesKind.SAGITTAL_T1 if left is Condition.LEFT_FORAMINAL else SeriesKind.AXIAL_T2
            (one,), (other,) = cubes.get(Cell(left, level), kind), cubes.get(Cell(right, level), kind)
            np.testing.assert_allclose(one.pixels, other.pixels, atol=2e-3)
            assert one.pixels.std() > 0.05
            pairs += 1
    assert pairs == 10


@pytest.mark.parametrize("kind", [SeriesKind.SAGITTAL_T1, SeriesKind.SAGITTAL_T2, SeriesKind.AXIAL_T2])
@pytest.mark.parametrize("family", [Family.FORAMINAL, Family.SUBARTICULAR])
@pytest.mark.usefixtures("raw")
def test_every_family_may_look_at_every_series_around_its_own_point_with_right_as_left(family, kind):
    settings = CubeSettings(**{family.value: (ViewSettings(kind, pixels=97, slices=3),)})
    landmarks, looked = spine(tilt=2.0), []
    for value in (symmetric, lambda points: points @ SLANTED):
        cubes = cut_cubes(study(value), landmarks, settings, (family,))
        for level in LEVELS:
            left, right = (
                (Cell(condition, level), cubes.get(Cell(condition, level), kind)[0])
                for condition in Condition
                if condition.family is family
            )
            if value is symmetric:
                np.testing.assert_allclose(left[1].pixels, right[1].pixels, atol=2e-3)
                assert left[1].pixels.std() > 0.05
                looked.append(level)
                continue
            for cell, cube in (left, right):
                normal = AXES[Plane.AXIAL if kind is SeriesKind.AXIAL_T2 else Plane.SAGITTAL][2]
                on_slice = landmarks.points_mm[CELL_INDEX[cell]] - normal * cube.offset_mm
                np.testing.assert_allclose(cube.pixels[1, 48, 48], on_slice @ SLANTED, atol=0.01)
    assert looked == list(LEVELS)


def test_sides_are_listed_from_lateral_to_medial():
    cubes = cut_cubes(study(lambda points: np.abs(points[..., 0])), spine(), CubeSettings())
    for side in (Condition.LEFT_FORAMINAL, Condition.RIGHT_FORAMINAL):
        (cube,) = cubes.get(Cell(side, "l3_l4"), SeriesKind.SAGITTAL_T1)
        means = cube.pixels.mean((1, 2))
        assert means[0] > means[1] > means[2]


def test_beliefs_about_slices_go_with_the_slices_of_the_point_s_own_series():
    left, right = (Cell(condition, "l3_l4") for condition in (Condition.LEFT_FORAMINAL, Condition.RIGHT_FORAMINAL))
    beside = np.full((25, 2), np.nan)
    beside[[CELL_INDEX[left], CELL_INDEX[right]]] = (0.1, 0.3)  # towards the patient's right, towards the left
    landmarks = replace(spine(), beside=beside, series_id=("11",) * 25)
    cubes = cut_cubes(study(lambda at: at[..., 0]), landmarks, CubeSettings())
    (of_left,), (of_right,) = (cubes.get(cell, SeriesKind.SAGITTAL_T1) for cell in (left, right))
    for cube in (of_left, of_right):
        x = cube.pixels[:, 48, 48]  # normalised, but still growing with x
        shares = cube.shares if x[2] > x[0] else cube.shares[::-1]
        assert shares == pytest.approx([0.1, 0.6, 0.3])
    assert not np.allclose(of_left.shares, of_right.shares)  # one of them is mirrored
    elsewhere = cut_cubes(study(lambda at: at[..., 0]), replace(landmarks, series_id=("99",) * 25), CubeSettings())
    assert np.isnan(elsewhere.get(left, SeriesKind.SAGITTAL_T1)[0].shares).all()


def test_how_sure_the_levels_are_goes_with_the_cubes():
    numbering = np.tile([0.1, 0.7, 0.2], (25, 1))
    cubes = cut_cubes(study(symmetric), replace(spine(), numbering=numbering), CubeSettings())
    assert cubes.numbering == pytest.approx(numbering)


def test_windows_follow_the_spine():
    landmarks = spine(tilt=10.0)
    (cube,) = cut_cubes(study(symmetric), landmarks, CubeSettings()).get(
        Cell(Condition.CANAL, "l3_l4"), SeriesKind.SAGITTAL_T2
    )
    along = np.array([0.0, 10.0, -30.0]) / np.hypot(10, 30)
    np.testing.assert_allclose(cube.down, along, atol=1e-9)
    np.testing.assert_allclose(cube.right @ cube.down, 0, atol=1e-9)


def test_a_gap_in_the_stack_is_absent_and_not_bridged():
    # Without the slices at 8 and 12 mm the one medial of the left foramen (16 mm) is 12 mm away.
    positions = np.arange(-28.0, 29.0, 4.0)
    gap = [int(np.flatnonzero(positions == p)[0]) for p in (8.0, 12.0)]
    cubes = cut_cubes(study(symmetric, gap), spine(), CubeSettings())
    (cube,) = cubes.get(Cell(Condition.LEFT_FORAMINAL, "l2_l3"), SeriesKind.SAGITTAL_T1)
    assert cube.present.tolist() == [True, True, False]
    assert not cube.pixels[2].any()
    assert cube.pixels[1].any()


def test_unknown_points_and_series_that_do_not_reach_give_no_cube():
    landmarks = spine()
    landmarks.points_mm[CELL_INDEX[Cell(Condition.CANAL, "l1_l2")]] = np.nan
    landmarks.points_mm[CELL_INDEX[Cell(Condition.CANAL, "l5_s1")]] = (0, 3, -400)
    cubes = cut_cubes(study(symmetric), landmarks, CubeSettings(), (Family.CANAL,))
    assert {CELLS[index].level for index, _ in cubes.cubes} == {"l2_l3", "l3_l4", "l4_l5"}
    assert cubes.get(Cell(Condition.LEFT_FORAMINAL, "l3_l4"), SeriesKind.SAGITTAL_T1) == ()


def test_a_view_says_what_is_wrong_with_it():
    with pytest.raises(ValueError, match="odd number"):
        ViewSettings(SeriesKind.AXIAL_T2, slices=4)
    with pytest.raises(ValueError, match="size_mm"):
        ViewSettings(SeriesKind.AXIAL_T2, size_mm=0)


def test_widening_keeps_the_spacing_and_the_centre():
    view = ViewSettings(SeriesKind.AXIAL_T2, size_mm=80, pixels=96)
    wide = view.widened(9.0, 1)
    assert wide.spacing_mm == pytest.approx(view.spacing_mm)
    assert (wide.pixels - view.pixels) % 2 == 0
    assert wide.slices == view.slices + 2


@pytest.mark.parametrize("step", [0.8, 1.0, 2.0])
def test_a_thin_series_shows_as_much_depth_as_a_thick_one(step):
    """Values are the patient's x, so that the windows say which depth they show."""
    view = ViewSettings(SeriesKind.SAGITTAL_T1, slices=5)
    settings = CubeSettings(foraminal=(view,))
    thin = stack(
        Plane.SAGITTAL, SeriesKind.SAGITTAL_T1, np.arange(-30.0, 30.0, step), lambda points: points[..., 0], "11"
    )
    cubes = cut_cubes(StudyVolumes("s", (thin,), ()), spine(), settings, (Family.FORAMINAL,))
    (cube,) = cubes.get(Cell(Condition.RIGHT_FORAMINAL, "l3_l4"), SeriesKind.SAGITTAL_T1)
    assert cube.present.all()
    depths = np.median(cube.pixels, axis=(1, 2))
    per_mm = np.polyfit(thin.positions_mm, np.median(normalise(thin.pixels), axis=(1, 2)), 1)[0]
    assert np.diff(depths) / per_mm == pytest.approx(4.0, rel=0.1)


def test_a_point_is_not_carried_to_or_from_a_series_whose_place_is_assumed():
    volumes = study(lambda points: points @ SLANTED).volumes
    own = tuple("12" if cell.condition is Condition.CANAL else "11" for cell in CELLS)
    points = replace(spine(), series_id=own)
    canal = Cell(Condition.CANAL, "l3_l4")
    for lost, shown in (("none", {"12", "13"}), ("12", {"12"}), ("13", {"12"})):
        flagged = tuple(replace(v, flags=(ASSUMED_PLACE,)) if v.series_id == lost else v for v in volumes)
        cubes = cut_cubes(StudyVolumes("s", flagged, ()), points, CubeSettings(), (Family.CANAL,))
        kinds = (SeriesKind.SAGITTAL_T2, SeriesKind.AXIAL_T2)
        assert {cube.series_id for kind in kinds for cube in cubes.get(canal, kind)} == shown


@pytest.mark.usefixtures("raw")
def test_the_canal_is_cut_from_the_axial_stack_in_which_the_recesses_were_found():
    """Two overlapping stacks of one series: the nearer one is not the one that stage two chose by its tilt."""
    chosen = stack(Plane.AXIAL, SeriesKind.AXIAL_T2, np.arange(-81.0, 82.0, 3.0) + 0.9, lambda at: at[..., 0] * 0 + 1)
    nearer = stack(Plane.AXIAL, SeriesKind.AXIAL_T2, np.arange(-81.0, 82.0, 3.0), lambda at: at[..., 0] * 0 + 2)
    volumes = StudyVolumes("s", (replace(nearer, instance_numbers=nearer.instance_numbers + 100), chosen), ())
    series: list[str | None] = [None] * 25
    numbers = np.full(25, -1)
    for level in LEVELS[:3]:
        index = CELL_INDEX[Cell(Condition.LEFT_SUBARTICULAR, level)]
        series[index], numbers[index] = "1", 20
    landmarks = replace(spine(), series_id=tuple(series), instance_number=numbers)
    cubes = cut_cubes(volumes, landmarks, CubeSettings(), (Family.CANAL,))
    kind = SeriesKind.AXIAL_T2
    found = [float(cubes.get(Cell(Condition.CANAL, level), kind)[0].pixels[1, 48, 48]) for level in LEVELS]
    assert found == [1, 1, 1, 2, 2], "where no recess was found, the nearer stack"


def test_a_stack_is_normalised_once_for_all_networks_that_see_it(monkeypatch):
    given = study(symmetric)
    done = []
    monkeypatch.setattr(volume_module, "normalise", lambda pixels: done.append(pixels) or normalise(pixels))
    view = ViewSettings(SeriesKind.SAGITTAL_T1, size_mm=64.0)
    for settings in (CubeSettings(), CubeSettings(foraminal=(view,))):
        cut_cubes(given, spine(), settings)
    whole_slice_canvases(given.volumes[0], 64)
    assert len(done) == len(given.volumes)
