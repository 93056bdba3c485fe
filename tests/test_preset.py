"""Presets: sections, bases and recipes, and how what is none of them is refused."""

from __future__ import annotations

import pytest

from pipeline.config import ConfigError
from pipeline.preset import PRESET_FOLDER, PRESET_SECTIONS, load_settings, read_preset, read_recipes
from pipeline.weights.manifest import TASKS
from tests.test_config import Optimiser, Settings


def test_preset_section_then_overrides(tmp_path):
    preset = tmp_path / "p.yaml"
    preset.write_text("a:\n  epochs: 7\n  optimiser: {betas: [0.5, 0.6]}\nb:\n  epochs: 9\n")
    settings = load_settings(Settings, preset, "a", ["optimiser.lr=2"])
    assert (settings.epochs, settings.optimiser) == (7, Optimiser(lr=2.0, betas=(0.5, 0.6)))
    assert load_settings(Settings, preset, "absent") == Settings()


def test_unknown_preset_names_the_known_ones():
    with pytest.raises(ConfigError, match="expected one of cpu, kaggle, winner"):
        load_settings(Settings, "fast")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a:\n  epochs: [", r"p.yaml: not valid YAML: .* \(line 2, column 12\)$"),
        (b"a: \xff", "p.yaml: not valid YAML"),
        (b"a: 2024-13-45", "p.yaml: not valid YAML: month must be in 1..12$"),
        (b"3", "p.yaml: expected a mapping of sections, found int"),
    ],
)
def test_a_preset_that_is_not_yaml_is_refused_in_one_line_with_the_place(tmp_path, content, message):
    preset = tmp_path / "p.yaml"
    preset.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as refused:
        load_settings(Settings, preset, "a")
    assert "\n" not in str(refused.value)


def test_what_is_done_to_a_preset_that_was_read_does_not_change_the_next_reading():
    read_preset("cpu")["canal"]["loop"].clear()
    assert read_preset("cpu")["canal"]["loop"]["epochs"] > 0


def test_a_section_that_no_network_reads_is_refused(tmp_path):
    preset = tmp_path / "p.yaml"
    preset.write_text("subarticulr:\n  epochs: 7\n")
    with pytest.raises(ConfigError, match="unknown section 'subarticulr'; did you mean subarticular"):
        load_settings(Settings, preset, "canal")
    assert set(PRESET_SECTIONS) == set(TASKS)
    for shipped in PRESET_FOLDER.glob("*.yaml"):
        assert set(read_preset(shipped)) <= set(PRESET_SECTIONS)


def test_a_preset_is_laid_over_its_base(tmp_path):
    (tmp_path / "below.yaml").write_text(
        "canal:\n  epochs: 7\n  optimiser: {lr: 2, betas: [0.5, 0.6]}\naxial: {epochs: 3}\n"
    )
    (tmp_path / "above.yaml").write_text("base: below.yaml\ncanal:\n  optimiser: {lr: 3}\n")
    settings = load_settings(Settings, tmp_path / "above.yaml", "canal")
    assert (settings.epochs, settings.optimiser.lr, settings.optimiser.betas) == (7, 3, (0.5, 0.6))
    assert load_settings(Settings, tmp_path / "above.yaml", "axial").epochs == 3
    (tmp_path / "own.yaml").write_text("base: cpu\n")
    assert read_preset(tmp_path / "own.yaml") == read_preset("cpu")


def test_a_recipe_is_laid_over_its_section_and_overrides_over_both(tmp_path):
    below, above = tmp_path / "below.yaml", tmp_path / "above.yaml"
    below.write_text(
        "canal:\n  epochs: 7\n  optimiser: {lr: 2, betas: [0.5, 0.6]}\n"
        "  recipes:\n    wide: {}\n    zoom: {optimiser: {lr: 3}}\n    old: {epochs: 1}\n"
    )
    above.write_text("base: below.yaml\ncanal:\n  epochs: 8\n  recipes: {old: null, new: {epochs: 2}}\n")
    assert list(read_recipes(above, "canal")) == ["wide", "zoom", "new"]
    found = {
        name: load_settings(Settings, above, "canal", ["optimiser.warmup=0"], name) for name in ("wide", "zoom", "new")
    }
    assert [(one.epochs, one.optimiser.lr) for one in found.values()] == [(8, 2), (8, 3), (2, 2)]
    assert {one.optimiser.betas for one in found.values()} == {(0.5, 0.6)}
    assert load_settings(Settings, above, "canal").epochs == 8, "without a recipe it is the section's own settings"
    assert read_recipes("cpu", "canal") == read_recipes(None, "canal") == {"": {}}
    with pytest.raises(ConfigError, match="canal has no recipe 'old'"):
        load_settings(Settings, above, "canal", (), "old")


@pytest.mark.parametrize(
    ("recipes", "message"),
    [
        ("[a, b]", "'canal.recipes': expected a mapping"),
        ("{a: 3}", "'canal.recipes.a': expected a mapping"),
        ("{3: {}}", "'canal.recipes': expected str, found 3"),
        ("{A-b: {}}", "small letters, digits and underscores, found 'A-b'"),
        ("{a: {epoch: 3}}", "unknown setting 'epoch'"),
        ("{a: {recipes: {}}}", "unknown setting 'recipes'"),
    ],
)
def test_what_is_no_recipe_is_refused(tmp_path, recipes, message):
    (tmp_path / "p.yaml").write_text(f"canal:\n  recipes: {recipes}\n")
    with pytest.raises(ConfigError, match=message):
        load_settings(Settings, tmp_path / "p.yaml", "canal", (), "a")


@pytest.mark.parametrize("base", ["above.yaml", "[cpu]", "nowhere", "gone.yaml"])
def test_a_base_that_is_none_is_refused(tmp_path, base):
    (tmp_path / "above.yaml").write_text(f"base: {base}\n")
    with pytest.raises(ConfigError, match=r"base is|no preset"):
        read_preset(tmp_path / "above.yaml")
