"""The presets' sections of stage four are what the code takes."""

import pytest

from pipeline.labels import Family
from pipeline.severity.predict import member_config
from pipeline.severity.recipes import load_recipes
from pipeline.weights.backbones import check_backbone


@pytest.mark.parametrize(("preset", "recipes", "rounds"), [("cpu", 1, 1), ("kaggle", 2, 1), ("winner", 3, 2)])
@pytest.mark.parametrize("family", list(Family))
def test_a_preset_gives_recipes_with_the_right_views(preset, recipes, rounds, family):
    expected = {
        Family.CANAL: {"SAGITTAL_T2", "AXIAL_T2"},
        Family.FORAMINAL: {"SAGITTAL_T1"},
        Family.SUBARTICULAR: {"AXIAL_T2"},
    }
    found = load_recipes(preset, [family], {})
    assert len(found) == len({recipe.settings.network.backbone for recipe in found}) == recipes
    for recipe in found:
        settings = recipe.settings
        assert {view.kind.name for view in settings.views_of(family)} == expected[family]
        assert settings.in_plane is None, "windows are moved, turned and sized where they are cut"
        assert settings.loop.loader_workers == 0
        assert recipe.rounds == rounds
        check_backbone(settings.network.backbone, "random")
        wanted = member_config(settings, family)["cubes"][family.value][0]
        assert wanted["pixels"] >= settings.views_of(family)[0].pixels
        if preset != "cpu":
            assert (settings.jitter.rotation, settings.jitter.resize, settings.jitter.least_mm) == (30, 0.25, 3)
