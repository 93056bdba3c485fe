"""The jitter of training follows the localiser's errors, but never stops."""

import json

import pytest

from pipeline.labels import Family
from pipeline.severity.jitter import fit_jitter
from pipeline.severity.settings import JitterSettings


@pytest.mark.parametrize(("measured", "least", "expected"), [(0.8, 3.0, 3.0), (4.5, 3.0, 4.5), (0.8, 0.0, 0.8)])
def test_a_good_localiser_does_not_switch_the_jitter_off(tmp_path, measured, least, expected):
    path = tmp_path / "landmark_errors.json"
    path.write_text(json.dumps({"canal": {"in_plane_sd_mm": measured, "slice_offsets": {"0": 3, "1": 1}}}))
    fitted = fit_jitter(JitterSettings(least_mm=least), path, Family.CANAL)
    assert (fitted.sd_mm, fitted.slice_share) == (expected, 0.25)
