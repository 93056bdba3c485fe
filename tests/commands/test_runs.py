"""The comparison of runs: settings that differ, paired differences, curves."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import yaml

from pipeline.__main__ import main
from pipeline.labels import FAMILY_COLUMNS, Family
from pipeline.scoring.oof import OofTable, write_oof

CANAL = list(FAMILY_COLUMNS[Family.CANAL])


def table(grades: np.ndarray, log_p: np.ndarray, fold: int) -> OofTable:
    """Canal cells of studies: grades (studies, 5), log_p (studies, 5, 3)."""
    count = grades.size
    return OofTable(
        study_id=np.repeat([f"s{fold}-{n}" for n in range(len(grades))], grades.shape[1]),
        cell=np.tile(CANAL, len(grades)),
        fold=np.zeros(count, int),
        grade=grades.ravel(),
        predicted_point=np.ones(count, bool),
        log_p=log_p.reshape(-1, 3),
    )


def answers(generator: np.random.Generator, grades: np.ndarray, skill: float) -> np.ndarray:
    """Log-probabilities that know the grade a little; whole studies are easier or harder."""
    logits = generator.normal(size=(*grades.shape, 3)) * 0.5 + skill * np.eye(3)[np.maximum(grades, 0)]
    logits += generator.normal(size=(len(grades), 1, 3))
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def write_run(path, score, task="canal", oof=None, **config):
    path.mkdir(parents=True)
    fold = path.name.removeprefix("fold")
    (path / "config.yaml").write_text(yaml.safe_dump({"task": f"{task} fold {fold}", "config": config}))
    rows = ["epoch,loss,seconds,peak_mb,score", "1,0.9,60,800,", f"2,0.8,60,900,{score}"]
    (path / "history.csv").write_text("\n".join(rows) + "\n")
    if oof is not None:
        write_oof(oof, path)


@pytest.fixture
def pair(tmp_path):
    generator = np.random.default_rng(3)
    for name, skill, width in (("first", 1.0, 64), ("second", 1.5, 128)):
        for fold in range(2):
            grades = generator.integers(0, 3, (40, 5))
            oof = table(grades, answers(generator, grades, skill), fold)
            write_run(tmp_path / name / f"fold{fold}", 0.6, oof=oof, network={"width": width, "depth": 3})
    return [str(tmp_path / "first"), str(tmp_path / "second")]


def test_what_differs_and_by_how_much(pair, capsys):
    assert main(["runs", *pair, "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first["settings"] == {"network.width": "64"}
    assert second["settings"] == {"network.width": "128"}
    assert first["difference"] is None
    assert second["scores"] == {"0": 0.6, "1": 0.6}
    assert second["minutes"] == 4
    assert second["peak_mb"] == 900
    canal = second["difference"]["spinal"]
    assert set(second["difference"]) == {"spinal", "any_severe"}
    assert canal["difference"] < 0
    assert 0 < canal["standard_error"] < 1
    assert canal["over"] == "400 cells"


def test_people_read_the_same(pair, capsys):
    assert main(["runs", *pair]) == 0
    said = capsys.readouterr().out
    assert "score 0.6000 (fold 0: 0.6000, 1: 0.6000)" in said
    assert "to the first, standard error 0." in said
    assert "network.width = 128" in said
    assert "network.depth" not in said


def test_runs_without_cells_are_paired_by_fold(tmp_path, capsys):
    for name, scores in (("a", (2.0, 3.0)), ("b", (1.5, 2.7))):
        for fold, score in enumerate(scores):
            write_run(tmp_path / name / f"fold{fold}", score, task="landmarks", size=1)
    assert main(["runs", str(tmp_path / "a"), str(tmp_path / "b"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)[1]["difference"]["score"]
    assert found == {"difference": pytest.approx(-0.4), "standard_error": pytest.approx(0.1), "over": "2 folds"}


def test_the_curves_are_a_picture(pair, tmp_path):
    assert main(["runs", *pair, "--picture", str(tmp_path / "curves.png")]) == 0
    picture = cv2.imread(str(tmp_path / "curves.png"))
    assert picture.shape == (400, 1000, 3)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 10


@pytest.mark.parametrize("damage", ["nothing there", "no task", "no yaml", "another task"])
def test_what_is_no_run_is_a_wrong_call(pair, tmp_path, capsys, damage):
    other = tmp_path / "other"
    other.mkdir()
    if damage == "no task":
        (other / "config.yaml").write_text("a: 1")
    elif damage == "no yaml":
        (other / "config.yaml").write_text("a: [")
    elif damage == "another task":
        write_run(other / "fold0", 1.0, task="axial")
    assert main(["runs", pair[0], str(other)]) == 2
    assert "other" in (said := capsys.readouterr().err) or "axial and canal" in said
