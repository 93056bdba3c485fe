"""The page of training runs, from a folder as training leaves it."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest

from pipeline.__main__ import main as pipeline_main
from pipeline.ensemble.calibration import calibration_error
from pipeline.labels import FAMILY_COLUMNS, GRADES, LEVELS, Family, level_title
from pipeline.report.training import cross_fitted
from pipeline.scoring.oof import OofTable, write_oof
from tests.report.browser import chromium, opened
from tests.report.test_charts import said


def overconfident(folds=5, studies=60, seed=0):
    """Canal cells whose true probabilities are those said, before these were sharpened threefold."""
    rng = np.random.default_rng(seed)
    count = studies * len(LEVELS)
    logits = rng.normal([1.0, 0.0, -0.5], 1, (count, 3))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    grade = np.array([rng.choice(3, p=row) for row in p])
    weighted = p * [1, 2, 4]
    sharp = 3 * np.log(weighted / weighted.sum(1, keepdims=True))
    log_p = sharp - np.log(np.exp(sharp).sum(1, keepdims=True))
    study = np.repeat(np.arange(studies), len(LEVELS))
    cells = np.tile(FAMILY_COLUMNS[Family.CANAL], studies)
    return OofTable(study.astype(str), cells, study % folds, grade, np.ones(count, bool), log_p)


@pytest.fixture
def runs(tmp_path):
    """``train all``: the canal's classifier in two folds, and the errors of the points."""
    table = overconfident(folds=2)
    for fold in (0, 1):
        folder = tmp_path / "all" / "canal" / f"fold{fold}"
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(f"task: canal fold {fold}\nconfig: {{sampling: grade, width: {fold}}}\n")
        (folder / "history.csv").write_text("epoch,loss,score,seconds\n1,0.9,0.8,60\n2,0.7,,60\n3,0.5,0.6,60\n")
        mine = table.fold == fold
        write_oof(OofTable(*(getattr(table, name)[mine] for name in OofTable.__dataclass_fields__)), folder)
        counts = {level_title(level): dict(zip(GRADES, (70, 20, 10), strict=True)) for level in LEVELS}
        (folder / "review.json").write_text(json.dumps({"training": counts}))
    points = tmp_path / "all" / "points"
    points.mkdir()
    frame = pd.DataFrame(
        {"condition": "spinal_canal_stenosis", "in_plane_mm": [0.7, 1.2, np.nan], "slices": [0, 1, np.nan]}
    )
    frame.to_csv(points / "errors.csv", index=False)
    return tmp_path / "all"


def charts(page):
    """What the marks of each chart say, by its title."""
    figures = re.findall(r"<figcaption>(.*?)</figcaption>(<svg.*?</svg>)", page.read_text(), re.S)
    return {title: said(svg) for title, svg in figures}


def test_the_page_has_curves_figures_calibration_balance_errors_and_worst_cases(runs, tmp_path, capsys):
    assert pipeline_main(["report", str(runs), "--out", str(tmp_path / "pages")]) == 0
    assert "report: 1 trainings" in capsys.readouterr().out
    page = tmp_path / "pages" / "training.html"
    made = charts(page)
    scores = [f"fold {fold}, epoch {epoch}: score 0.{score}" for fold in (0, 1) for epoch, score in ((1, 8), (3, 6))]
    assert made["Score by epoch"] == scores, "the epochs that were evaluated"
    assert made["Loss by epoch"][4] == "fold 1, epoch 2: loss 0.7"
    counts = [int(text.partition(": ")[2].split()[0]) for text in made["Spinal Canal Stenosis: true and called"]]
    assert (len(counts), sum(counts)) == (9, 300)
    distances = made["Points: distance in the slice (1 not found)"]
    assert distances == [f"Spinal Canal Stenosis, {bin_} mm: 1 of 2 points" for bin_ in ("0.5 to 1", "1 to 1.5")]
    reliability = next(made[title] for title in made if title.endswith("(dashed: perfect)"))
    assert {text.partition(", probability")[0] for text in reliability} == {
        f"{grade}, {when}" for grade in ("Moderate", "Severe") for when in ("before", "after")
    }
    balance = made["Grades of training cells: found and drawn (grade)"]
    assert balance[2] == "L1/L2, Severe: 0.02 share of all cells"
    assert balance[5] == "L1/L2 drawn, Severe: 0.05333 share of all cells", "40 / 5 of 70 + 2 x 20 + 4 x 10"
    text = page.read_text()
    assert text.count("loss ") >= 24
    assert "Spinal Canal Stenosis</td><td>L4/L5" in text
    assert "canal</td><td>canal</td><td>0.6000" in text
    assert str(tmp_path) not in text


def test_calibration_is_measured_on_studies_that_it_was_not_fitted_on():
    table = overconfident()
    after = cross_fitted(table.log_p, table.grade, table.fold)
    assert calibration_error(after, table.grade).max() < 0.6 * calibration_error(table.log_p, table.grade).max()
    changed = table.grade.copy()
    held = table.fold == 3
    changed[held] = 2 - changed[held]
    assert cross_fitted(table.log_p, changed, table.fold)[held] == pytest.approx(after[held])
    assert cross_fitted(table.log_p, table.grade, np.zeros_like(table.fold)) == pytest.approx(table.log_p)


def test_trainings_of_one_task_are_compared_with_the_first(runs, tmp_path):
    other = tmp_path / "other"
    (runs / "canal").rename(other)
    for fold in (0, 1):
        folder = runs / "canal" / f"fold{fold}"
        folder.mkdir(parents=True)
        for name in ("config.yaml", "history.csv", "oof.csv"):
            (folder / name).write_text((other / f"fold{fold}" / name).read_text())
    assert pipeline_main(["report", str(runs), str(other), "--out", str(tmp_path / "pages")]) == 0
    text = (tmp_path / "pages" / "training.html").read_text()
    assert "spinal +0.0000 ± 0.0000 (300 cells)" in text or "spinal -0.0000 ± 0.0000 (300 cells)" in text


def test_a_folder_without_a_run_or_a_training_is_a_wrong_call(tmp_path, capsys):
    assert pipeline_main(["report", str(tmp_path)]) == 2
    assert "run.json" in capsys.readouterr().err
    assert pipeline_main(["report", str(tmp_path), str(tmp_path)]) == 2
    assert "holds no training" in capsys.readouterr().err


def test_the_page_opens_without_an_error_and_fits_a_phone(runs, tmp_path):
    assert pipeline_main(["report", str(runs), "--out", str(tmp_path / "pages")]) == 0
    with chromium() as browser, opened(browser, tmp_path / "pages" / "training.html", color_scheme="dark") as page:
        page.wait_for_selector("body[data-ready]")
        assert page.get_by_role("figure", name="Loss by epoch").is_visible()
        page.set_viewport_size({"width": 390, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
