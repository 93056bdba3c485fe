"""Evidence for classifiers on small made-up tables: figures worked out by hand, or by scipy."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from pipeline.labels import CELL_INDEX, CELLS, Cell, Condition
from pipeline.scoring.evidence import (
    GRADINGS,
    agreement,
    correlation_lines,
    expected_grade,
    grading_correlations,
    read_gradings,
    term_figures,
)
from pipeline.tables import TableError

UNIFORM = np.full((25, 3), 1 / 3)


def nothing(studies):
    return np.full((studies, 25, 3), np.nan)


def answers(p):
    return np.log(np.asarray(p, dtype=float))


def test_the_expected_grade_is_of_frequencies_not_of_weighted_posteriors():
    # 0.5, 0.3, 0.2 after the metric's weights 1, 2, 4
    weighted = np.array([0.5, 0.6, 0.8]) / 1.9
    assert expected_grade(np.log(weighted)) == pytest.approx(0.3 + 2 * 0.2)
    assert np.isnan(expected_grade(np.full((2, 3), np.nan))).all()


def test_terms_are_those_of_the_cells_with_prediction_and_grade():
    canal, left = CELL_INDEX[Cell(Condition.CANAL, "l4_l5")], CELL_INDEX[Cell(Condition.LEFT_FORAMINAL, "l1_l2")]
    log_p, grades = nothing(2), np.full((2, 25), np.nan)
    log_p[0, canal], grades[0, canal] = answers([0.1, 0.2, 0.7]), 2
    log_p[1, canal], grades[1, canal] = answers([0.6, 0.3, 0.1]), 0
    log_p[1, canal + 1 if canal < 4 else canal - 1] = answers([0.2, 0.2, 0.6])  # no grade
    grades[0, left] = 1  # no prediction
    figures = term_figures(log_p, grades, UNIFORM)
    assert list(figures) == ["canal"]
    term = figures["canal"]
    assert term["cells"] == 2
    assert term["score"] == pytest.approx((4 * -np.log(0.7) + -np.log(0.6)) / 5)
    assert term["prior"] == pytest.approx(np.log(3))
    assert term["any_severe"] == pytest.approx((4 * -np.log(0.7) + -np.log(0.9)) / 5)
    by_level = {row["level"]: row for row in term["levels"]}
    assert by_level["L4/L5"]["confusion"] == [[1, 0, 0], [0, 0, 0], [0, 0, 1]]
    assert by_level["L1/L2"]["cells"] == 0


def test_rank_correlations_are_scipys():
    generator = np.random.default_rng(0)
    severity = generator.random((40, 5))
    gradings = np.stack(
        [(severity + generator.random((40, 5)) > 1).astype(float), generator.integers(1, 6, (40, 5))], -1
    )
    severity[3, 2] = gradings[5, 1, 0] = np.nan
    found = grading_correlations(severity, gradings, ("herniation", "pfirrmann"), resamples=50)
    for number, name in enumerate(("herniation", "pfirrmann")):
        expected = spearmanr(severity.ravel(), gradings[..., number].ravel(), nan_policy="omit").statistic
        assert found[name]["all levels"]["rank_correlation"] == pytest.approx(expected)
        row = found[name]["L3/L4"]
        expected = spearmanr(severity[:, 2], gradings[:, 2, number], nan_policy="omit").statistic
        assert row["rank_correlation"] == pytest.approx(expected)
        assert row["pairs"] == 39
        assert row["low"] < row["rank_correlation"] < row["high"]
    assert found["herniation"]["all levels"]["low"] > 0.3
    assert found["pfirrmann"]["all levels"]["high"] < 0.2, "made up without regard to severity"
    assert found == grading_correlations(severity, gradings, ("herniation", "pfirrmann"), resamples=50)


def test_knowing_the_level_alone_counts_over_all_levels_but_not_within_them():
    generator = np.random.default_rng(1)
    level = np.arange(5)[None]
    severity, grading = (level + generator.random((60, 5)) for _ in range(2))
    rows = grading_correlations(severity, grading[..., None], ("one",), resamples=100)["one"]
    assert rows["all levels"]["rank_correlation"] > 0.9
    assert rows["within levels"]["low"] < 0 < rows["within levels"]["high"]


def test_what_is_constant_or_rare_has_no_correlation():
    severity = np.random.default_rng(0).random((20, 5))
    gradings = np.zeros((20, 5, 1))
    gradings[:, 1, 0] = np.nan
    gradings[:5, 1, 0] = np.arange(5)
    gradings[:4, 2, 0] = 1
    rows = grading_correlations(severity, gradings, ("one",), resamples=5)["one"]
    assert rows["L1/L2"]["rank_correlation"] is None, "constant"
    assert rows["L2/L3"] == {"pairs": 5, "rank_correlation": None, "low": None, "high": None}
    assert rows["L3/L4"]["rank_correlation"] is None, "four levels with the finding decide nothing"
    assert "undefined" in "\n".join(correlation_lines("title", rows))


def test_agreement_of_the_same_and_of_opposites():
    generator = np.random.default_rng(0)
    p = generator.dirichlet([1, 1, 1], (30, 10))
    own, other = nothing(30), nothing(30)
    columns = [index for index, cell in enumerate(CELLS) if "subarticular" in cell.condition.value]
    own[:, columns] = other[:, columns] = np.log(p)
    rows = agreement(own, other, resamples=20)
    assert list(rows) == ["subarticular"]
    assert rows["subarticular"]["L4/L5"]["pairs"] == 60, "left and right"
    for name in ("L1/L2", "all levels", "within levels"):
        assert rows["subarticular"][name]["rank_correlation"] == pytest.approx(1)
        assert rows["subarticular"][name]["mean_difference"] == 0
    grades = expected_grade(own[:, columns])
    other[:, columns] = np.log(
        np.stack([grades / 2 + 1e-6, np.zeros_like(grades) + 1e-6, 4 * (1 - grades / 2) + 1e-6], -1)
    )
    turned = agreement(own, other, resamples=20)["subarticular"]["all levels"]
    assert turned["rank_correlation"] == pytest.approx(-1, abs=1e-3)
    assert turned["mean_difference"] == pytest.approx(np.abs(grades - (2 - grades)).mean(), abs=1e-3)


def write_gradings(path, rows):
    columns = ["study_id", "level", *GRADINGS]
    pd.DataFrame(rows, columns=columns).to_csv(path, index=False)
    return path


def test_gradings_are_read_by_study_and_level(tmp_path):
    path = write_gradings(tmp_path / "g.csv", [("7", "L5/S1", 0, 1, "", 4), ("7", "T12/L1", 1, 1, 1, 1)])
    table = read_gradings(path)
    assert table.index.tolist() == [("7", "l5_s1")]
    assert table.loc[("7", "l5_s1"), "pfirrman_grade"] == 4
    assert np.isnan(table.loc[("7", "l5_s1"), "disc_narrowing"])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("7", "L5/S1", 0, 1, 1, "bad")], r"row 2, column 'pfirrman_grade': found 'bad', expected a number"),
        ([("7", "L5/S1", 0, 1, 1, 3)] * 2, r"row 3, column 'level': listed a second time for this study"),
    ],
)
def test_bad_gradings_say_where(tmp_path, rows, message):
    with pytest.raises(TableError, match=message):
        read_gradings(write_gradings(tmp_path / "g.csv", rows))
