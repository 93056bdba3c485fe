"""The presets' sections of stage four are what the code takes."""

import pytest
import timm

from pipeline.config import load_settings
from pipeline.labels import Family
from pipeline.severity.predict import member_config
from pipeline.severity.settings import SeveritySettings


@pytest.mark.parametrize("preset", ["cpu", "kaggle", "winner"])
@pytest.mark.parametrize("family", list(Family))
def test_a_preset_gives_settings_with_the_right_views(preset, family):
    settings = load_settings(SeveritySettings, preset, family.value)
    kinds = {view.kind.name for view in settings.views_of(family)}
    expected = {
        Family.CANAL: {"SAGITTAL_T2", "AXIAL_T2"},
        Family.FORAMINAL: {"SAGITTAL_T1"},
        Family.SUBARTICULAR: {"AXIAL_T2"},
    }
    assert kinds == expected[family]
    assert (settings.in_plane is None) == (preset == "cpu"), "on one CPU the loading process is the training process"
    assert timm.is_model(settings.network.backbone.split(".")[0])
    wanted = member_config(settings, family)["cubes"][family.value][0]
    assert wanted["pixels"] >= settings.views_of(family)[0].pixels
