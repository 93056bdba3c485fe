"""The room that training takes, reckoned before it begins."""

import pandas as pd
import pytest

from pipeline.competition import Competition
from pipeline.labels import Family
from pipeline.landmarks.train import load_train_settings
from pipeline.severity.recipes import load_recipes
from pipeline.severity.space import Space
from pipeline.weights.manifest import LANDMARK_TASKS


@pytest.fixture
def competition(monkeypatch, tmp_path):
    """1,975 labelled studies, of which nothing but the table is looked at."""
    table = pd.DataFrame({"study_id": [str(n) for n in range(1975)]})
    monkeypatch.setattr(Competition, "coordinates", table)
    return Competition(tmp_path, "train", tmp_path, (), ())


def space_of(competition, *changes, preset="cpu"):
    points = {task: load_train_settings(task, preset, [], 1) for task in LANDMARK_TASKS}
    recipes = load_recipes(preset, list(Family), {family.value: changes for family in Family})
    return Space.of([competition], points, recipes)


def test_the_cache_of_the_competition_fits_where_it_is_trained(competition):
    space = space_of(competition)
    assert space.bytes_per_study <= 9_000_000
    assert space.cache == 1975 * space.bytes_per_study <= 18e9
    assert space.most <= 20e9


@pytest.mark.parametrize("preset", ["kaggle", "winner"])
def test_several_recipes_fit_too(competition, preset):
    space = space_of(competition, preset=preset)
    assert space.cache <= 18e9
    assert space.cache + space.runs + max(space.unpacked, space.packed) == space.most <= 20e9


def test_what_is_asked_for_counts(competition):
    plain = space_of(competition)
    assert space_of(competition, "network.backbone=tf_efficientnetv2_s").runs > 1.5 * plain.runs
    again = space_of(competition, "label_noise=0.85").runs
    assert 1.1 * plain.runs < again < 1.4 * plain.runs, "of two rounds of a recipe, until the worse one goes"
    assert space_of(competition, "loop.keep_best=false").runs < 0.9 * plain.runs
    fine = "views=[{kind: Sagittal T2/STIR, pixels: 160}, {kind: Axial T2, pixels: 160}]"
    assert space_of(competition, fine).unpacked > 1.3 * plain.unpacked


def test_what_is_there_already_is_not_asked_for_again(competition, monkeypatch, tmp_path):
    space = space_of(competition)
    free = type("Usage", (), {"free": space.most - 100})
    monkeypatch.setattr("shutil.disk_usage", lambda _: free)
    with pytest.raises(OSError, match=r"needed for 1975 studies: .* GB of cache, .* GB unpacked, .* GB of runs"):
        space.check(tmp_path / "cache", tmp_path / "out")
    free.free += 100
    space.check(tmp_path / "cache", tmp_path / "out")
    free.free -= 100
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "1.safetensors").write_bytes(bytes(200))
    space.check(tmp_path / "cache", tmp_path / "out")
