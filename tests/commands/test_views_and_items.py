"""Classifiers that look at every series, and at a whole level or study at once: from training to a submission."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pandas as pd
import pytest

from pipeline.__main__ import main
from pipeline.commands.submit import main as submit
from pipeline.labels import CELL_COLUMNS, CELLS, FAMILY_COLUMNS, Family
from pipeline.phantom import make_phantom
from pipeline.scoring.oof import read_oof
from pipeline.weights.manifest import LANDMARK_TASKS, Manifest
from tests.commands.mounts import ROOT

PRESET = """
foraminal: &small
  network: {backbone: test_resnet.r160_in1k, encoder: multichannel, head: attention, width: 32, view_drop: 0.3}
  loop: {epochs: 3, batch_size: 8, batches_per_epoch: 12, learning_rate: 0.004, evaluate_every: 3, device: cpu,
         threads: 1, ema_decay: 0}
  recipes:
    across:
      views: &both
        - {kind: Sagittal T1, size_mm: 48, pixels: 32, slices: 3}
        - {kind: Axial T2, size_mm: 64, pixels: 32, slices: 1}
subarticular:
  <<: *small
  recipes:
    across:
      views:
        - {kind: Axial T2, size_mm: 48, pixels: 32, slices: 1}
        - {kind: Sagittal T2/STIR, size_mm: 48, pixels: 32, slices: 3}
canal:
  <<: *small
  recipes:
    level: {item: level, also: [foraminal, subarticular], views: *both, flip: true, jitter: {mirror: 0.5}}
    study: {item: study, also: [subarticular], views: *both, loop: {batch_size: 3}}
"""
RECIPES = [
    ("foraminal", "across", [Family.FORAMINAL]), ("subarticular", "across", [Family.SUBARTICULAR]),
    ("canal", "level", list(Family)), ("canal", "study", [Family.CANAL, Family.SUBARTICULAR]),
]  # fmt: skip

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    """Six studies, of one of which the axial series is missing, and a cache that all trainings share."""
    folder = tmp_path_factory.mktemp("phantom")
    data = make_phantom(folder / "data", studies=6, seed=11, size="small")
    table = pd.read_csv(data / "train_series_descriptions.csv", dtype=str)
    gone = table[table["series_description"] == "Axial T2"].iloc[0]
    shutil.rmtree(data / "train_images" / gone["study_id"] / gone["series_id"])
    table.drop(index=gone.name).to_csv(data / "train_series_descriptions.csv", index=False)
    other = table["study_id"][table["study_id"] != gone["study_id"]].iloc[0]
    return data, folder / "cache", gone["study_id"], other


@pytest.mark.parametrize(("family", "recipe", "graded"), RECIPES)
def test_it_is_trained_packed_evaluated_and_submitted(family, recipe, graded, phantom, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("pipeline.training.loop.draw_curves", lambda *_: None)  # they take long, and have tests
    monkeypatch.setattr("pipeline.severity.task.confusion_chart", lambda *_: None)
    data, cache, without_axial, other = phantom
    (tmp_path / "own.yaml").write_text(PRESET)
    command = ["train", "severity", "--condition", family, "--preset", str(tmp_path / "own.yaml"), "--recipe", recipe]
    assert main([*command, "--data", str(data), "--cache", str(cache), "--out", str(tmp_path / "run")]) == 0
    with (tmp_path / "run" / "history.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert losses[-1] < losses[0]
    cells = [cell for one in graded for cell in FAMILY_COLUMNS[one]]
    assert set(read_oof(tmp_path / "run" / "oof.csv").cell) <= set(cells)

    weights = tmp_path / "weights"
    assert main(["pack", str(weights), "--runs", f"{family}.{recipe}:0={tmp_path / 'run'}"]) == 0
    points = Manifest.load(ROOT / "weights" / "phantom")
    for member in points.of_task(*LANDMARK_TASKS):
        seen = (points.folder / member.seen).read_bytes()
        manifest = Manifest.load(weights).add_member(member, member.read(points.folder), seen)
    (kept,) = manifest.of_task(family)
    assert {one for one in Family if kept.config["cubes"][one][0]["pixels"] == 32} == set(graded)
    found = tmp_path / "evaluated"
    assert main(["evaluate", "severity", "--data", str(data), "--weights", str(weights), "--out", str(found)]) == 0
    assert json.loads((found / "severity.json").read_text())["cells"][family] > 0

    stages = tmp_path / "stages"
    command = ["--data", str(data / "train_images"), "--weights", str(weights), "--workers", "1", "--quiet"]
    command += ["--studies", without_axial, other]
    assert submit([*command, "--out", str(tmp_path / "submission.csv"), "--stages", str(stages)]) == 0
    rows = pd.read_csv(stages / "provenance.csv", dtype=str, keep_default_na=False)
    of_network = rows[rows["members"] != ""]
    columns = of_network["row_id"].str.partition("_")[2]
    assert set(columns) == {CELL_COLUMNS[cell] for cell in cells}
    assert set(of_network["members"]) == {f"{family}-{recipe}-fold0"}
    mine = of_network["row_id"].str.startswith(without_axial)
    sagittal = {CELL_COLUMNS[cell] for cell in cells if CELLS[cell].condition.family is not Family.SUBARTICULAR}
    assert set(columns[mine]) >= sagittal, "a missing series leaves the other views"
    assert np.isfinite(pd.read_csv(tmp_path / "submission.csv").iloc[:, 1:].to_numpy()).all()
    assert "Traceback" not in capsys.readouterr().err
