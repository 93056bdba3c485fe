"""Studies behind a URL: the table that the same studies give from a disk, and no file outside of its folder."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from pipeline.commands import submit as submit_command
from pipeline.competition import CompetitionError, open_competition
from pipeline.remote import at_hand, is_url, open_remote, remote_states
from tests.run.studies import write_studies

fsspec = pytest.importorskip("fsspec", reason="needs the package fsspec (requirements-cluster.txt)")


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Three studies on the disk and in an object store, one of which a table alone names; no weights."""
    root = write_studies(tmp_path / "data", ["1", "2"])
    table = pd.read_csv(root / "test_series_descriptions.csv", dtype=str)
    absent = table.iloc[:1].assign(study_id="9", series_id="9-0")
    pd.concat([table, absent]).to_csv(root / "test_series_descriptions.csv", index=False)
    (root / "test_images" / "2" / "2-0" / "1.dcm").write_bytes(b"no image")
    store = fsspec.filesystem("memory")
    store.put(str(root), "/bucket", recursive=True)
    monkeypatch.setattr(submit_command, "DEFAULT_WEIGHTS", tmp_path / "no weights here")
    yield root
    store.rm("/bucket", recursive=True)


def run(data, out: Path) -> tuple[str, str, dict[str, object]]:
    call = ["--data", data, "--out", out / "s.csv", "--stages", out / "stages", "--workers", 1, "--quiet"]
    assert submit_command.main([str(one) for one in call]) == 0
    report = json.loads((out / "run.json").read_text())
    return (out / "s.csv").read_text(), (out / "stages" / "provenance.csv").read_text(), report


@pytest.mark.parametrize("place", ["memory://bucket", "memory://bucket/test_images", "file://{}"])
def test_the_results_are_those_of_the_same_studies_on_a_disk(data, tmp_path, place):
    here = run(data, tmp_path / "here")
    away = run(place.format(data), tmp_path / "away")
    assert away[0] == here[0]
    assert away[1] == here[1]
    assert away[2]["problems"] == here[2]["problems"]
    assert away[2]["reasons"] == here[2]["reasons"]


def test_a_study_is_copied_while_it_is_read_and_its_states_change_with_its_files(data, tmp_path):
    (study,) = [study for study in open_remote("memory://bucket").studies if study.study_id == "1"]
    (other,) = [study for study in open_competition(data).studies if study.study_id == "1"]
    with at_hand(study, tmp_path, []) as near:
        assert [(ref.series_id, ref.description) for ref in near.series] == [
            (ref.series_id, ref.description) for ref in other.series
        ]
        copies = sorted(path.relative_to(near.path) for path in near.path.rglob("*.dcm"))
        assert copies == sorted(path.relative_to(other.path) for path in other.path.rglob("*.dcm"))
    assert not near.path.exists()
    before = remote_states(study)
    fsspec.filesystem("memory").pipe("/bucket/test_images/1/1-0/1.dcm", b"other")
    assert remote_states(study) != before


def test_names_that_lead_out_of_the_study_are_not_followed(data, tmp_path):
    fsspec.filesystem("memory").store["/bucket/test_images/1/1-0/../../../../../escaped.dcm"] = next(
        iter(fsspec.filesystem("memory").store.values())
    )
    study = open_remote("memory://bucket").studies[0]
    with at_hand(study, tmp_path / "data", []) as near:
        assert len(list(near.path.rglob("*.dcm"))) == 12
    assert not list(tmp_path.rglob("escaped.dcm"))


def test_what_cannot_be_listed_says_why(data):
    with pytest.raises(CompetitionError, match=r"memory://nowhere cannot be listed"):
        open_remote("memory://nowhere")
    with pytest.raises(CompetitionError, match=r"nosuch://x: .*nosuch"):
        open_remote("nosuch://x")
    with pytest.raises(CompetitionError, match=r"has no train_images; found test_images"):
        open_remote("memory://bucket", split="train")
    assert is_url("s3://a/b")
    assert not is_url("C:\\data")


def test_what_a_store_says_in_errors_of_its_own_is_one_line(data, monkeypatch):
    """As botocore does of missing credentials and of a server that does not answer: they are no OSError."""
    study = open_remote("memory://bucket").studies[0]

    def refuse(*_, **__):
        raise RuntimeError("Unable to locate credentials")

    with monkeypatch.context() as patch:
        for name in ("ls", "find"):
            patch.setattr(type(fsspec.filesystem("memory")), name, refuse)
        with pytest.raises(CompetitionError, match=r"^memory://bucket cannot be listed: Unable to locate credentials$"):
            open_remote("memory://bucket")
        assert remote_states(study) == [("RuntimeError: Unable to locate credentials",)]
