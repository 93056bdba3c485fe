"""The bench of missing series takes away what it says, and judges by its two promises; networks are not needed."""

import pandas as pd
import pytest

from pipeline.competition import open_competition
from pipeline.labels import CELL_COLUMNS, SeriesKind
from tests.benchmarks.missing_series import KINDS, Loss, lines, losses, main, prior_terms, without
from tests.run.studies import write_studies


@pytest.fixture
def data(tmp_path):
    names = [f"s{number}" for number in range(5)]
    root = write_studies(tmp_path / "data", names, split="train")
    labels = pd.DataFrame("Normal/Mild", index=pd.Index(names, name="study_id"), columns=list(CELL_COLUMNS))
    labels.to_csv(root / "train.csv")
    return root


@pytest.mark.parametrize("kind", KINDS)
def test_one_kind_is_gone_and_the_rest_reads_as_before(data, tmp_path, kind):
    left = open_competition(without(data, kind, tmp_path / "copy"), split="train")
    before = open_competition(data, split="train")
    assert [study.study_id for study in left.studies] == [study.study_id for study in before.studies]
    for study, whole in zip(left.studies, before.studies, strict=True):
        assert {one.description for one in study.series} == set(KINDS) - {kind}
        kept = [one for one in whole.series if one.description is not kind]
        assert [len(list(one.path.iterdir())) for one in study.series] == [4] * len(kept)
    assert left.labels.equals(before.labels)


def test_nothing_to_take_away_is_said(data, tmp_path):
    copy = without(data, SeriesKind.AXIAL_T2, tmp_path / "one")
    with pytest.raises(ValueError, match="no Axial T2 series"):
        without(copy, SeriesKind.AXIAL_T2, tmp_path / "two")


def test_a_condition_without_its_only_series_must_keep_to_the_prior_alone():
    whole = dict.fromkeys(("spinal", "foraminal", "subarticular", "any_severe"), 0.2)
    prior = dict.fromkeys(whole, 0.8)
    rows = {row.term: row for row in losses(SeriesKind.SAGITTAL_T1, whole | {"foraminal": 0.7}, whole, prior)}
    assert not rows["foraminal"].shown
    assert rows["spinal"].shown
    assert all(row.held for row in rows.values())


def test_what_is_missed_is_named():
    shown = Loss(SeriesKind.SAGITTAL_T2, "spinal", 0.31, 0.2, 0.8, shown=True)
    worse = Loss(SeriesKind.AXIAL_T2, "subarticular", 0.9, 0.2, 0.8, shown=False)
    assert not shown.held
    assert not worse.held
    text = lines([shown, worse])
    assert "MISSED: loses 0.1 or more" in text[1]
    assert "+0.110" in text[1]
    assert "MISSED: worse than the prior" in text[2]


def test_without_networks_every_term_is_the_priors(data, tmp_path):
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "manifest.json").write_text('{"set": "none", "description": "", "members": [], "files": {}}')
    out = tmp_path / "figures.json"
    assert main([str(data), "--weights", str(tmp_path / "none"), "--workers", "1", "--out", str(out)]) == 0
    figures = pd.read_json(out, typ="series")
    assert len(figures["losses"]) == 12
    (tmp_path / "s.csv").write_text("row_id,normal_mild,moderate,severe\n" + f"s0_{CELL_COLUMNS[0]},1,0,0\n")
    assert figures["whole"]["spinal"] == pytest.approx(prior_terms(data, tmp_path / "s.csv")["spinal"])


def test_only_series_that_are_there_are_taken_away(data, tmp_path):
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "manifest.json").write_text('{"set": "none", "description": "", "members": [], "files": {}}')
    copy, out = without(data, SeriesKind.SAGITTAL_T2, tmp_path / "copy"), tmp_path / "figures.json"
    assert main([str(copy), "--weights", str(tmp_path / "none"), "--workers", "1", "--out", str(out)]) == 0
    assert {row["without"] for row in pd.read_json(out, typ="series")["losses"]} == {"Sagittal T1", "Axial T2"}
