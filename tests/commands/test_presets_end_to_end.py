"""Presets from phantoms to a scored submission: ``train all``, then ``submit.py --fold 0``.

Backbones are swapped for timm's smallest and images shrunk; encoder, head, slices, sampling, loss, augmentation and
everything else stay the preset's own. Nothing that is trained so shortly grades well, so what is checked is that every
part fits the next one, and that held-out studies meet only networks that have not seen them. Here all presets go on
from the same points, and of ``kaggle`` and ``winner`` some recipes stand for all: together they hold every backbone,
encoder and head. ``python -m tests.commands.test_presets_end_to_end`` takes all recipes of ``kaggle`` on 60 phantoms,
twice, and prints the score.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import yaml

from pipeline.__main__ import main
from pipeline.commands.submit import main as submit
from pipeline.commands.train_graders import SECOND
from pipeline.competition import open_competition
from pipeline.ensemble.combine import CONTEXT_FILE, ENSEMBLE_FILE, fitted
from pipeline.folds import make_folds
from pipeline.labels import CELLS, Family
from pipeline.phantom import make_phantom
from pipeline.severity.recipes import load_recipes
from pipeline.submission import probabilities_of, read_submission
from pipeline.training.ladder import LadderSettings
from pipeline.weights.backbones import has_fixed_size
from pipeline.weights.manifest import LANDMARK_TASKS, Manifest

STUDIES = 6
TINY, TINY_FIXED = "test_resnet.r160_in1k", "test_coatnet"
LOOP = {"epochs": 1, "batch_size": 8, "loader_workers": 0, "threads": 1, "ema_decay": 0, "device": "cpu"}
POINTS = {
    "landmarks": {"model.size_px": 96, "examples.size_px": 96},
    "axial": {"model.size_px": 64, "examples.axial_size_px": 96, "examples.axial_pixel_mm": 1.4},
}
POINTS_LOOP = {"loop.batches_per_epoch": 40, "loop.learning_rate": 0.005, "evaluated": 16}
WINDOW_PX = 32
LEFT_OUT = {
    "cpu": {},
    "kaggle": {Family.CANAL: ["channels"], Family.SUBARTICULAR: ["sequence"]},
    "winner": {
        Family.CANAL: ["convnext", "caformer"],
        Family.FORAMINAL: ["convnext", "efficientnet"],
        Family.SUBARTICULAR: ["convnext", "efficientnet"],
    },
}
"""Recipes that the tests do without."""
ROUNDS = {
    "cpu": [],
    "kaggle": ["--set", "foraminal-channels.label_noise=0.7"],
    "winner": [part for family in Family for part in ("--set", f"{family}.label_noise=0")],
}
"""Networks that are trained so shortly rule nothing out at the 0.85 of ``winner``."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def short():
    """Without charts, and with a low ladder: they took two thirds of the time and have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.training.loop.draw_curves", lambda *_: None)
        patch.setattr("pipeline.severity.task.confusion_chart", lambda *_: None)
        patch.setattr("pipeline.training.ladder.LadderSettings", partial(LadderSettings, items=4, reach=0.9))
        yield


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A phantom's folder, and one with the cache and the runs of its point networks, from which all presets go on."""
    phantom = make_phantom(tmp_path_factory.mktemp("phantom"), studies=STUDIES, seed=5, size="small")
    folder = tmp_path_factory.mktemp("points")
    for task in LANDMARK_TASKS:
        command = ["train", task, "--data", str(phantom), "--preset", "cpu", "--folds", "all"]
        command += ["--cache", str(folder / "cache"), "--out", str(folder / "run" / task)]
        told = [text.removeprefix(f"{task}.") for text in shrunk("cpu") if text.startswith(f"{task}.")]
        assert main([*command, *(part for text in told for part in ("--set", text))]) == 0
    return phantom, folder


def shrunk(preset):
    """``section.key=value`` texts that make a preset's networks small."""
    changes = []
    for section, sizes in POINTS.items():
        tiny = {"model.backbone": TINY, "model.initial": "random", "model.width": 16}
        changes += [(section, tiny | sizes | POINTS_LOOP)]
    for recipe in load_recipes(preset, list(Family), {}):
        views = [
            {"kind": view.kind.value, "size_mm": view.size_mm, "pixels": WINDOW_PX, "slices": view.slices}
            for view in recipe.settings.views_of(recipe.family)
        ]
        fixed = has_fixed_size(recipe.settings.network.backbone)
        tiny = {"network.backbone": TINY_FIXED if fixed else TINY, "network.initial": "random", "network.width": 32}
        changes += [(recipe.name, tiny | {"views": json.dumps(views), "loop.batches_per_epoch": 2})]
    return [
        f"{section}.{key}={value}"
        for section, values in changes
        for key, value in (values | {f"loop.{name}": value for name, value in LOOP.items()}).items()
    ]


def train_all(preset, phantom, folder, settings):
    """Train a shrunk preset on phantoms and return the folder of its runs."""
    out = folder / "run"
    command = ["train", "all", "--data", str(phantom), "--preset", str(preset), "--out", str(out)]
    command += ["--cache", str(folder / "cache"), "--force"]  # so little trained, hardly better than nothing
    assert main([*command, *(part for text in shrunk(preset) for part in ("--set", text)), *settings]) == 0
    return out


def submission(phantom, weights, table):
    """What ``submit.py`` is told for the studies of a phantom's training set that the first fold holds out."""
    return [
        "--data", str(phantom / "train_images"), "--weights", str(weights), "--fold", "0", "--workers", "1",
        "--out", str(table),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["cpu", "kaggle", "winner"])
def test_a_preset_goes_from_phantoms_to_a_scored_submission(name, found, tmp_path, capsys):
    phantom, points = found
    shutil.copytree(points, tmp_path, dirs_exist_ok=True)
    preset = tmp_path / f"{name}.yaml"
    without = {family.value: {"recipes": dict.fromkeys(keys)} for family, keys in LEFT_OUT[name].items()}
    preset.write_text(yaml.safe_dump({"base": name, **without}))
    out = train_all(preset, phantom, tmp_path, ROUNDS[name])
    weights = out / "weights"
    manifest = Manifest.load(weights)
    recipes = {recipe.name: recipe for recipe in load_recipes(preset, list(Family), {})}
    assert sorted((member.recipe, member.fold) for member in manifest.members) == sorted(
        (name, fold) for name in (*LANDMARK_TASKS, *recipes) for fold in range(5)
    )
    assert {ENSEMBLE_FILE, CONTEXT_FILE, "landmark_errors.json"} <= set(manifest.files)
    assert fitted(manifest)[0].recipes.keys() == recipes.keys(), "every recipe is weighed against the others"
    for member in manifest.of_task(*Family):
        kept, own = member.config["severity"], recipes[member.recipe].settings
        assert kept["network"]["encoder"] == own.network.encoder
        assert kept["network"]["head"] == own.network.head
        assert kept["flip"] == own.flip
        assert [view["slices"] for view in kept["views"]] == [view.slices for view in own.views_of(Family(member.task))]
    said = capsys.readouterr().out
    again = ["foraminal-channels"] if name == "kaggle" else []
    assert [one.parent.name for one in (out / SECOND).glob("*/oof.csv")] == again
    assert [one for one in recipes if f"{one} scores" in said] == again
    if again:
        (left_out,) = re.findall(r"label noise: (\d+) of 60 cells removed", said)
        files = out.glob(f"{SECOND}/*/fold*/review.json")
        ruled_out = sum(json.loads(file.read_text())["by_an_earlier_run"]["label ruled out"] for file in files)
        assert ruled_out == 4 * int(left_out) > 0, "each is left out of the four folds that would train on it"

    table, stages = tmp_path / "submission.csv", tmp_path / "stages"
    submit([*submission(phantom, weights, table), "--stages", str(stages)])
    assert "score: spinal" in capsys.readouterr().out
    folds = make_folds(open_competition(phantom, split="train").labels)
    held_out = sorted(str(study) for study in folds.index[folds == 0])
    probabilities = probabilities_of(read_submission(table), held_out, table)
    assert probabilities.shape == (len(held_out), len(CELLS), 3)
    rows = pd.read_csv(stages / "provenance.csv", keep_default_na=False)
    bare = rows[rows["source"] == "prior"]
    assert set(bare["reason"]) <= {"level not found"}, "so little trained, a localiser may find nothing of a study"
    graded = rows[rows["source"] == "model"]
    assert len(graded)
    assert all(name.endswith("-fold0") for names in graded["members"] for name in names.split(";"))
    assert all(name.endswith("-fold0") for names in graded["landmarks"] for name in names.split(";"))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        many = make_phantom(Path(name) / "phantom", studies=60, seed=5, size="small", workers=2)
        every = [part for family in Family for part in ("--set", f"{family}.label_noise=0.85")]
        runs = train_all("kaggle", many, Path(name), every)
        sys.exit(submit(submission(many, runs / "weights", Path(name) / "submission.csv")))
