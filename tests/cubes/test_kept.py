"""Cubes on the disk between two rounds."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.cubes import CubeSettings, StudyCubes
from pipeline.cubes.kept import load_cubes, save_cubes
from tests.ensemble.test_networks import CUBES


def test_cubes_are_kept_between_rounds(tmp_path):
    path = tmp_path / "x.cubes"
    unsure = np.tile([0.1, 0.7, 0.2], (25, 1))
    settings, other = CubeSettings(), CubeSettings(series=2)
    save_cubes(path, {settings: CUBES, other: StudyCubes("1", {}, unsure)})
    kept = load_cubes(path)
    assert kept is not None
    assert kept[other].numbering == pytest.approx(unsure)
    assert (kept[settings].numbering[:, 1] == 1).all()
    assert kept[other].cubes == {}
    assert kept[settings].cubes.keys() == CUBES.cubes.keys()
    for key, views in CUBES.cubes.items():
        for before, after in zip(views, kept[settings].cubes[key], strict=True):
            assert after.pixels == pytest.approx(before.pixels, abs=1e-3)
            assert after.pixels.dtype == np.float32
            for name in ("present", "centre_mm", "right", "down", "shares"):
                assert np.array_equal(getattr(after, name), getattr(before, name), equal_nan=True), name
            assert (after.spacing_mm, after.offset_mm, after.series_id) == (0.8, 1.5, before.series_id)
    path.write_bytes(path.read_bytes()[:-50])
    assert load_cubes(path) is None
    assert load_cubes(tmp_path / "absent") is None
