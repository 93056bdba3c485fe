"""Fitting on synthetic tables whose best ensemble is known: it is found, and what is not there is not kept."""

import json

import numpy as np
import pytest

from pipeline.commands.ensemble import fit_and_save
from pipeline.config import from_dict, to_dict
from pipeline.ensemble.calibration import normalised
from pipeline.ensemble.combine import EnsembleFit, combine
from pipeline.ensemble.context import ContextSettings
from pipeline.ensemble.fit import fit_ensemble
from pipeline.ensemble.out_of_fold import OutOfFold, gather_submissions
from pipeline.ensemble.prior import read_prior
from pipeline.ensemble.report import report_lines
from pipeline.ensemble.stack import Stack
from pipeline.folds import read_folds
from pipeline.labels import CELL_COLUMNS, FAMILY_COLUMNS, GRADE_NAMES, Family
from pipeline.scoring.metric import WEIGHTS
from pipeline.scoring.oof import OofTable, read_oof, write_oof
from pipeline.submission import read_submission
from pipeline.tables import read_labels
from pipeline.weights.manifest import Manifest, WeightsError

CANAL, FORAMINAL, SUBARTICULAR = FAMILY_COLUMNS.values()
THIRDS = np.full((25, 3), 1 / 3)
QUICK = ContextSettings(hidden=8, steps=20, members=1)


def data(count=200, seed=0):
    """A good and a useless recipe for the foramina."""
    generator = np.random.default_rng(seed)
    grades = generator.choice(3, (count, 25), p=[0.7, 0.2, 0.1]).astype(float)
    good, bad = np.full((count, 25, 3), np.nan), np.full((count, 25, 3), np.nan)
    for column in FORAMINAL:
        logits = generator.normal(size=(count, 3))
        bad[:, column] = normalised(logits)
        logits = logits * 0.5
        logits[np.arange(count), grades[:, column].astype(int)] += 2
        good[:, column] = normalised(logits)
    return OutOfFold({"good": good, "bad": bad}, grades, np.arange(count) % 5)


def foramen():
    """(25, 3) log-probabilities of a study in which one foramen is graded."""
    result = np.full((25, 3), np.nan)
    result[FORAMINAL[0]] = np.log([0.2, 0.3, 0.5])
    return result


def spoken(generator, count, columns):
    """(count, 25, 3) a recipe's log-probabilities of some cells."""
    result = np.full((count, 25, 3), np.nan)
    result[:, columns] = normalised(generator.normal([1.5, 0.0, -0.5], 1.5, (count, len(columns), 3)))
    return result


def drawn(generator, log_p):
    """Grades whose optimum under the metric is ``log_p``; none where it has none."""
    p = np.exp(log_p) / WEIGHTS
    p /= p.sum(-1, keepdims=True)
    grades = (generator.random(p.shape[:-1])[..., None] > p.cumsum(-1)).sum(-1).clip(max=2).astype(float)
    return np.where(np.isfinite(log_p).all(-1), grades, np.nan)


def test_known_weights_temperature_and_neighbours_are_found():
    """Grades are drawn from 0.75 of one recipe and 0.25 of the other, made less certain, and moved by a neighbour."""
    generator = np.random.default_rng(2)
    columns = [*FORAMINAL, *SUBARTICULAR]
    first, second = (spoken(generator, 900, columns) for _ in range(2))
    calibrated = normalised((0.75 * first + 0.25 * second) / 1.2)
    truth = calibrated.copy()
    stack = Stack(neighbours=(0.0, 0.8, 0.0, 0.0, 0.0, 0.0))
    truth[:, SUBARTICULAR] = stack.apply(calibrated, Family.SUBARTICULAR)
    made = OutOfFold({"a": first, "b": second}, drawn(generator, truth), np.arange(900) % 5)
    fitted = fit_ensemble(made, THIRDS, QUICK, with_context=False)
    fit, report = fitted.fit, fitted.report
    assert fit.average == "logits"
    assert fit.recipes["a"] == pytest.approx(0.75, abs=0.04)
    assert fit.by_family["subarticular"]["a"] == pytest.approx(0.75, abs=0.06)
    assert fit.calibration["foraminal"].temperature == pytest.approx(1.2, abs=0.1)
    assert fit.patterns.keys() == {"a+b"}
    assert fit.patterns["a+b"].calibration == {}, "one pattern is what all studies are"
    assert fit.patterns["a+b"].stack.keys() == {"subarticular"}, "nothing moves the foramina"
    assert fit.patterns["a+b"].stack["subarticular"].neighbours[1] == pytest.approx(0.8, abs=0.15)
    assert fit.top_severe == 1.0
    change, error = report["neighbours"]["change"]["subarticular"]
    assert change < -5 * error
    assert report["neighbours"]["kept"] == "subarticular where a+b answer"
    assert report["all parts"]["subarticular"] < report["even average"]["subarticular"] - 0.02
    assert "±" in "\n".join(report_lines(report))


def test_a_recipe_that_grades_two_families_counts_in_each_as_it_deserves():
    """The first is all there is to know of the foramina, the second of the recesses."""
    generator = np.random.default_rng(3)
    first, second = (spoken(generator, 400, [*FORAMINAL, *SUBARTICULAR]) for _ in range(2))
    truth = first.copy()
    truth[:, SUBARTICULAR] = second[:, SUBARTICULAR]
    made = OutOfFold({"a": first, "b": second}, drawn(generator, truth), np.arange(400) % 5)
    fit = fit_ensemble(made, THIRDS, QUICK, "logits", with_context=False).fit
    assert fit.recipes["a"] > 0.9
    assert fit.by_family["subarticular"]["a"] < 0.1


def test_a_pattern_of_series_gets_its_own_calibration_where_it_needs_one():
    """Where the good recipe is silent a poor one speaks alone, three times too sure; together it hardly counts."""
    generator = np.random.default_rng(4)
    good, poor = (spoken(generator, 800, FORAMINAL) for _ in range(2))
    truth = good.copy()
    good[400:], truth[400:] = np.nan, poor[400:] / 3
    made = OutOfFold({"good": good, "poor": poor}, drawn(generator, normalised(truth)), np.arange(800) % 5)
    fitted = fit_ensemble(made, THIRDS, QUICK, "logits", with_context=False)
    assert fitted.fit.recipes["good"] > 0.9
    special = fitted.fit.patterns["poor"].calibration["foraminal"]
    assert special.temperature == pytest.approx(3, rel=0.2)
    assert fitted.fit.patterns["good+poor"].calibration["foraminal"].temperature == pytest.approx(1, abs=0.15)
    change, error = fitted.report["calibrated by pattern"]["change"]["foraminal"]
    assert change < -5 * error


def test_the_top_canal_cell_is_raised_where_any_level_may_be_severe():
    """Five cells of equal chance: the highest says far too little of "any"."""
    generator = np.random.default_rng(5)
    canal = np.full((900, 25, 3), np.nan)
    canal[:, CANAL] = normalised(generator.normal([1.0, 0.0, 0.3], 0.3, (900, 5, 3)))
    made = OutOfFold({"canal": canal}, drawn(generator, canal), np.arange(900) % 5)
    fitted = fit_ensemble(made, THIRDS, QUICK, "logits", with_context=False)
    assert fitted.fit.top_severe > 1.2
    assert fitted.report["top severe"]["any_severe"] < fitted.report["neighbours"]["any_severe"]


def test_the_average_that_fits_better_is_taken():
    """One recipe is right, or both are; a mixture is what the mean of probabilities says."""
    generator = np.random.default_rng(6)
    first, second = (normalised(3 * spoken(generator, 900, FORAMINAL)) for _ in range(2))
    mixed = np.log((np.exp(first) + np.exp(second)) / 2)
    made = OutOfFold({"a": first, "b": second}, drawn(generator, mixed), np.arange(900) % 5)
    assert fit_ensemble(made, THIRDS, QUICK, with_context=False).fit.average == "probabilities"


def test_one_fold_cannot_be_cross_fitted():
    made = data(20)
    with pytest.raises(ValueError, match="two folds or more"):
        fit_ensemble(OutOfFold(made.predictions, made.grades, np.zeros(20, int)), THIRDS, QUICK)


def test_the_good_recipe_gets_the_weight():
    fitted = fit_ensemble(data(), THIRDS, QUICK, with_context=False)
    assert fitted.fit.recipes["good"] > 0.8
    report = fitted.report
    assert report["weighted"]["foraminal"] < report["even average"]["foraminal"]
    assert report["calibrated"]["foraminal"] < report["even average"]["foraminal"]
    assert "calibrated" in "\n".join(report_lines(report))


def test_fixed_weights_are_kept():
    fitted = fit_ensemble(data(), THIRDS, QUICK, with_context=False, fixed={"bad": 0.0})
    assert fitted.fit.recipes["bad"] == 0.0


def test_the_context_answers_only_for_cells_without_a_prediction():
    fitted = fit_ensemble(data(), THIRDS, QUICK, "logits")
    assert set(fitted.fit.trust.values()) == {0.0}
    assert fitted.report["context"]["foraminal"] == fitted.report["top severe"]["foraminal"]
    assert fitted.report["context"]["spinal"] != fitted.report["top severe"]["spinal"]


def test_a_fit_comes_back_from_its_file():
    fitted = fit_ensemble(data(200), THIRDS, QUICK, with_context=False).fit
    stack = Stack((0.1, 0.0, 0.0, 0.0, 0.0, 0.2), (0.0, 0.3, 0.0, 0.0, 0.0, -1.5))
    assert from_dict(EnsembleFit, json.loads(json.dumps(to_dict(fitted)))) == fitted
    content = {"patterns": {"a+b": {"stack": {"canal": to_dict(stack)}}}, "top_severe": 1.25}
    back = from_dict(EnsembleFit, content)
    assert back.patterns["a+b"].stack["canal"] == stack


def tables(folder, count=60):
    """A competition folder with grades only, and an out-of-fold table of it."""
    made = data(count)
    names = [f"{1000 + n}" for n in range(count)]
    lines = [",".join(["study_id", *CELL_COLUMNS])]
    lines += [",".join([n, *(GRADE_NAMES[int(g)] for g in row)]) for n, row in zip(names, made.grades, strict=True)]
    (folder / "data" / "train_images").mkdir(parents=True)
    (folder / "data" / "train.csv").write_text("\n".join(lines))
    study, cell = np.repeat(np.arange(count), len(FORAMINAL)), np.tile(FORAMINAL, count)
    table = OofTable(
        study_id=np.array(names)[study],
        cell=cell,
        fold=made.folds[study],
        grade=made.grades[study, cell].astype(np.int64),
        predicted_point=np.ones(len(study), dtype=bool),
        log_p=made.predictions["good"][study, cell],
    )
    (folder / "run").mkdir()
    write_oof(table, folder / "run")
    return table


def test_from_tables_to_the_files_that_the_run_reads(tmp_path, capsys):
    table = tables(tmp_path)
    back = read_oof(tmp_path / "run" / "oof.csv")
    np.testing.assert_allclose(back.log_p, table.log_p, atol=1e-5)
    weights = tmp_path / "weights"
    weights.mkdir()
    Manifest(weights, "test", "nothing").save()
    runs = {"foraminal": [tmp_path / "run" / "oof.csv"]}
    fit_and_save(weights, [tmp_path / "data"], runs, overrides=["steps=15", "members=1", "hidden=8"])
    assert "context" in capsys.readouterr().out
    manifest = Manifest.load(weights)
    p, from_context = combine(manifest, {"foraminal-fold0": foramen()})
    np.testing.assert_allclose(p.sum(1), 1)
    assert not from_context[FORAMINAL[0]]
    assert from_context.sum() == 24
    nothing, none = combine(manifest, {"foraminal-fold0": np.full((25, 3), np.nan)})
    assert np.isnan(nothing).all()
    assert not none.any()

    content = json.loads((weights / "ensemble.json").read_text())
    content["temperatur"] = 1
    manifest = manifest.add_file("ensemble.json", json.dumps(content).encode())
    with pytest.raises(WeightsError, match="temperatur"):
        combine(manifest, {"foraminal-fold0": foramen()})


@pytest.mark.real
def test_seven_published_tables_gain_more_than_four_thousandths(real_data):
    """A gold team's out-of-fold predictions of 1,607 studies, cross-fitted over its folds."""
    folder = real_data / "oof7"
    tables = {path.name.partition(".")[0]: read_submission(path) for path in sorted(folder.glob("*_*.csv.gz"))}
    labels, folds = read_labels(folder / "train.csv").strict(), read_folds(folder / "folds.csv")
    made = gather_submissions(tables, labels, folds)
    report = fit_ensemble(made, read_prior(), QUICK, with_context=False).report
    assert len(tables) == 7
    assert report["even average"]["score"] == pytest.approx(0.3866, abs=1e-4)
    for row in ("all parts", "other folds' choice"):
        change, error = report[row]["change"]["score"]
        assert change < -0.004, row
        assert change < -2 * error, row
    change, error = report["neighbours"]["change"]["subarticular"]
    assert change < -2 * error
