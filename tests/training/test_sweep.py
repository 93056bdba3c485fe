"""What a sweep's file names: a grid gives every combination, a list what it says."""

from __future__ import annotations

import pytest

from pipeline.config import ConfigError
from pipeline.preset import load_settings
from pipeline.severity.settings import SeveritySettings
from pipeline.training.sweep import read_sweep


def sweep(tmp_path, text):
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    return read_sweep(path)


def test_a_grid_is_every_combination_in_a_folder_of_its_own(tmp_path):
    found = sweep(tmp_path, "grid:\n  loop.epochs: [4, 16]\n  mix: [{kind: none}, {kind: cutmix, share: 0.5}]\n")
    assert len(found) == 4
    settings = {name: load_settings(SeveritySettings, overrides=one) for name, one in found.items()}
    assert {(one.loop.epochs, one.mix.share) for one in settings.values()} == {
        (epochs, share) for epochs in (4, 16) for share in (SeveritySettings().mix.share, 0.5)
    }
    assert next(iter(found)) == "loop.epochs=4,mix=kindnone"


def test_a_list_is_what_it_names(tmp_path):
    found = sweep(tmp_path, "list:\n  zoom: {network.width: 64, loop.epochs: 2}\n  plain: {}\n")
    assert found == {"zoom": ["network.width=64", "loop.epochs=2"], "plain": []}


def test_names_that_are_too_long_or_the_same_are_numbered(tmp_path):
    found = sweep(tmp_path, f"grid:\n  start_from: ['{'a' * 120}', 'a b', 'ab']\n")
    assert list(found) == ["try000", "start_from=ab", "try002"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grid: {a: [1]}\nlist: {b: {}}", "expected one key"),
        ("[1, 2]", "expected one key"),
        ("grid: {}", "expected a mapping"),
        ("grid: {loop.epochs: 4}", "expected a list of values"),
        ("grid: {a: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], b: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], "
         "c: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]}", "1100 combinations"),
        ("list: {../up: {}}", "no name for a folder"),
        ("list: {..: {}}", "no name for a folder"),
        ("list: {a: 4}", "expected settings"),
        ("list: {a: [", "is no YAML"),
    ],
)  # fmt: skip
def test_what_is_no_sweep_is_refused(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        sweep(tmp_path, text)
