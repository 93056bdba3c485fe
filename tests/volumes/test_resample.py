"""Resampling, projecting and cropping return the linear oracle to 0.01 mm, and nothing where there is no data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from pipeline.volumes import normalise, read_series, resample_in_plane, sample_patch
from tests.volumes.oracle import (
    AXIAL,
    SAGITTAL,
    SLANTED,
    TOLERANCE,
    X,
    Y,
    Z,
    assert_linear,
    at,
    positions,
    reference,
    turned,
    write_series,
)


def make(folder, axes=SAGITTAL, steps=(-6, -2, 2, 6), shape=(40, 50), spacing=(0.5, 0.8), gradient=SLANTED):
    places = positions(axes, (5, -7, 11), steps, shape, spacing)
    (volume,) = read_series(
        reference(write_series(folder, axes, places, shape=shape, spacing=spacing, gradient=gradient))
    ).volumes
    return volume


@pytest.mark.parametrize("spacing", [0.3, 0.5, 0.65, 1.0, 2.0])
@pytest.mark.parametrize("axes", [SAGITTAL, turned(turned(AXIAL, X, 17), Z, 5)])
def test_in_plane_resampling_is_exact(tmp_path, axes, spacing):
    volume = make(tmp_path / "1", axes)
    result = resample_in_plane(volume, spacing)
    assert result.spacing_mm == pytest.approx((spacing, spacing))
    assert result.shape[0] == volume.shape[0]
    assert np.allclose(result.centres_mm, volume.centres_mm)
    assert_linear(result)
    old, new = (np.array(v.shape[1:]) * v.spacing_mm for v in (volume, result))
    assert np.all(old - new < 2 * spacing + 0.8)


def test_resampled_points_still_map_to_the_files_pixels(tmp_path):
    volume = make(tmp_path / "1", turned(SAGITTAL, Z, 9))
    result = resample_in_plane(volume, 1.1)
    point = at(result, np.array([2]), np.array([4.0]), np.array([7.0]))
    assert np.allclose(result.to_source_pixel(point, np.array([2])), volume.to_source_pixel(point, np.array([2])))
    assert np.array_equal(result.instance_numbers, volume.instance_numbers)


def test_growing_pixels_does_not_alias(tmp_path):
    """Stripes finer than the new grid become grey; point sampling would keep them at full contrast."""
    stripes = np.where(np.arange(50) % 2, 2000, 1000) * np.ones((40, 1))

    def change(data):
        data.PixelData = stripes.astype("<u2").tobytes()
        data.RescaleSlope, data.RescaleIntercept = 1, 0

    places = positions(SAGITTAL, (0, 0, 0), [0, 4], (40, 50), (0.5, 0.5))
    folder = write_series(tmp_path / "1", SAGITTAL, places, shape=(40, 50), spacing=(0.5, 0.5), change=change)
    (volume,) = read_series(reference(folder)).volumes
    result = resample_in_plane(volume, 1.5)
    inner = result.pixels[:, 2:-2, 2:-2]
    assert np.abs(inner - 1500).max() < 60


def test_spacing_must_be_positive(tmp_path):
    with pytest.raises(ValueError, match="in-plane spacing is 0"):
        resample_in_plane(make(tmp_path / "1"), 0)


@pytest.mark.parametrize("seed", range(4))
def test_patch_is_projected_onto_the_slice(tmp_path, seed):
    volume = make(tmp_path / "1", turned(SAGITTAL, Z, 12))
    rng = np.random.default_rng(seed)
    right = turned(SAGITTAL, X, rng.uniform(-40, 40))[0]
    down = np.cross(right, [-1.0, 0, 0])
    down = down / np.linalg.norm(down)
    size, spacing = (9, 14), 0.37
    centre = volume.centres_mm[1] + rng.normal(size=3)
    patch = sample_patch(volume, 1, centre, right, down, size, spacing)
    assert patch.shape == size
    assert patch.dtype == np.float32
    rows, cols = np.indices(size)
    points = centre + right * ((cols - 6.5) * spacing)[..., None] + down * ((rows - 4.0) * spacing)[..., None]
    normal = volume.affines[1].normal
    projected = points - ((points - volume.centres_mm[1]) @ normal)[..., None] * normal
    assert np.abs(patch - projected @ SLANTED).max() <= TOLERANCE


def test_patch_beyond_the_slice_is_fill_and_never_repeated_pixels(tmp_path):
    volume = make(tmp_path / "1", spacing=(1.0, 1.0))
    corner = at(volume, np.array([0]), np.array([0.0]), np.array([0.0]))[0]
    patch = sample_patch(volume, 0, corner, Y, -Z, (5, 5), 0.4)
    assert np.isfinite(patch[2:, 2:]).all()
    assert np.isnan(patch[:2]).all()
    assert np.isnan(patch[:, :2]).all()
    filled = sample_patch(volume, 0, corner, Y, -Z, (5, 5), 0.4, fill=-1.0)
    assert (filled[:2] == -1).all()


def test_normalise_is_about_zero_to_one_without_losing_levels():
    values = np.arange(1000, dtype=np.float32).reshape(10, 10, 10) * 3 - 500
    values[0, 0, 0], values[-1, -1, -1] = -1e4, 1e5
    result = normalise(values)
    assert result.dtype == np.float32
    assert -0.5 <= result.min() < 0 < 1 < result.max() <= 1.5
    assert len(np.unique(result)) > 990
    order = np.argsort(values.ravel())
    assert np.all(np.diff(result.ravel()[order]) >= 0)
    assert np.percentile(result, 50) == pytest.approx(0.5, abs=0.02)


def test_normalise_ignores_units_and_keeps_nan():
    values = np.random.default_rng(0).gamma(2, 100, (4, 50, 50)).astype(np.float32)
    assert np.allclose(normalise(values), normalise(values * 7 + 300), atol=1e-4)
    values[0, 0, :3] = np.nan
    assert np.isnan(normalise(values)).sum() == 3


@pytest.mark.parametrize("pixels", [np.full((2, 3, 3), 7.0), np.full((2, 3, 3), np.nan)])
def test_normalise_without_contrast(pixels):
    result = normalise(pixels.astype(np.float32))
    assert np.array_equal(np.isnan(result), np.isnan(pixels))
    assert np.nan_to_num(result).max() == 0


def test_normalise_of_mostly_background_uses_the_whole_range():
    values = np.zeros((1, 100, 100), np.float32)
    values[0, 0, :50] = np.arange(50)
    assert np.ptp(normalise(values)) == pytest.approx(1.0)


@pytest.mark.parametrize(("step", "distance"), [(0.5, 4.0), (1.0, 4.0), (1.5, 4.5), (2.0, 4.0)])
def test_thin_slices_are_averaged_to_about_4_mm(tmp_path, step, distance):
    volume = make(tmp_path / "1", turned(SAGITTAL, Z, 9), np.arange(0, 24, step))
    thick = volume.thickened
    assert thick.slice_spacing_mm == pytest.approx(distance)
    assert_linear(thick)
    assert set(thick.instance_numbers) <= set(volume.instance_numbers)


@pytest.mark.parametrize("step", [2.5, 3.0, 4.0, 5.5])
def test_usual_slices_and_single_ones_stay_as_they_are(tmp_path, step):
    volume = make(tmp_path / "1", steps=np.arange(5) * step)
    assert volume.thickened is volume
    single = make(tmp_path / "2", steps=[0])
    assert single.thickened is single


def test_nothing_is_averaged_across_a_gap(tmp_path):
    volume = make(tmp_path / "1", AXIAL, [*range(8), *range(30, 38)])
    thick = volume.thickened
    assert_linear(thick)
    assert thick.slice_steps_mm == pytest.approx([4, 26, 4])


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2)])
def test_slices_of_a_row_or_a_pixel_have_windows_too(tmp_path, shape):
    volume = make(tmp_path / "1", turned(SAGITTAL, X, 8), shape=shape)
    centre = volume.affines[1] @ ((shape[1] - 1) / 2, (shape[0] - 1) / 2, 0)
    right, down = volume.affines[1].right, volume.affines[1].down
    patch = sample_patch(volume, 1, centre, right, down, (21, 21), 0.4)
    rows, cols = np.nonzero(np.isfinite(patch))
    assert patch[10, 10] == pytest.approx(volume.pixels[1].mean(), abs=0.01)
    assert np.ptp(rows) * 0.4 <= (shape[0] - 1) * 0.5 + 1e-6
    assert np.ptp(cols) * 0.4 <= (shape[1] - 1) * 0.8 + 1e-6


@pytest.mark.parametrize("degrees", [0, 20, 200])
def test_a_window_is_what_simpleitk_samples(tmp_path, degrees):
    pixels = np.random.default_rng(degrees).random((4, 40, 50), np.float32)
    volume = replace(make(tmp_path / "1"), pixels=pixels)
    affine = volume.affines[2]
    right, down = turned(np.array([affine.right, affine.down]), affine.normal, degrees)
    found = sample_patch(volume, 2, affine @ (24.3, 19.6, 0), right, down, (9, 12), 0.6)
    row_mm, col_mm = volume.spacing_mm
    image = sitk.GetImageFromArray(pixels[2])
    image.SetSpacing((col_mm, row_mm))
    in_plane = np.array([[one @ affine.right, one @ affine.down] for one in (right, down)])
    grid = sitk.Image([12, 9], sitk.sitkFloat32)
    grid.SetSpacing((0.6, 0.6))
    grid.SetDirection(in_plane.T.ravel().tolist())
    grid.SetOrigin(((24.3 * col_mm, 19.6 * row_mm) - 0.6 * np.array([5.5, 4.0]) @ in_plane).tolist())
    expected = sitk.GetArrayFromImage(sitk.Resample(image, grid, sitk.Transform(), sitk.sitkLinear))
    assert np.abs(found - expected).max() < 1e-5
