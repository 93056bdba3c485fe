"""The prepared comparisons hold settings that exist."""

from pathlib import Path

import pytest

from pipeline.labels import Family
from pipeline.preset import load_settings
from pipeline.severity.settings import SeveritySettings
from pipeline.training.sweep import read_sweep

SWEEPS = sorted((Path(__file__).parent / "sweeps").glob("*.yaml"))


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_every_setting_of_a_sweep_is_one(file):
    family = Family(file.stem)
    tries = read_sweep(file)
    every = {name: load_settings(SeveritySettings, "cpu", family.value, told) for name, told in tries.items()}
    assert [one.families(family) for one in every.values()] == [(family,)] * len(tries)
    assert len(set(every.values())) == len(tries), "no two are the same"
    assert every["plain"] == load_settings(SeveritySettings, "cpu", family.value)
