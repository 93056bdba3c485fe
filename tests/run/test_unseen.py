"""What evaluation and the fit of the ensemble see is what ``submit.py`` grades, failures included."""

import signal
from dataclasses import replace

import numpy as np
import pytest

from pipeline.commands import submit
from pipeline.competition import open_competition
from pipeline.ensemble.networks import Networks
from pipeline.run import session, unseen
from pipeline.run.work import WorkFolder
from pipeline.weights.seen import seen_list, seen_studies
from tests.run.studies import FakeNetworks, members, write_studies

STUDIES = ["1", "2-raises", "3-canalfails", "4-blind"]


@pytest.fixture
def networks(tmp_path, monkeypatch):
    """Networks of every family that have seen study 5."""
    manifest = FakeNetworks.make(tmp_path).manifest
    for member in members():
        manifest = manifest.add_member(
            replace(member, seen=f"{member.name}.seen.txt"), b"tensors", seen_list(seen_studies(["5"]))
        )
    fake = FakeNetworks(manifest, manifest.members, tmp_path)
    monkeypatch.setattr(Networks, "open", classmethod(lambda cls, manifest: (fake, [])))
    return fake


def test_answers_are_those_of_a_run(tmp_path, networks, monkeypatch):
    root = write_studies(tmp_path / "data", [*STUDIES, "5"])
    studies = open_competition(root).studies
    answers = unseen.predict_unseen(networks.manifest, studies)
    monkeypatch.setattr(session, "open_networks", lambda *_: networks)
    kept = {}
    monkeypatch.setattr(WorkFolder, "save", lambda self, study, result, _: kept.update({study.study_id: result}))
    assert submit.main(["--data", str(root), "--out", str(tmp_path / "s.csv"), "--workers", "1", "--quiet"]) == 0
    for number, study in enumerate(studies):
        for name, values in answers.items():
            graded = kept[study.study_id].predictions.get(name) if study.study_id != "5" else None
            expected = np.full((25, 3), np.nan) if graded is None else graded
            np.testing.assert_array_equal(values[number], expected)
    assert np.isfinite(answers["canal-0"][0]).all(1).sum() == 5


def test_what_failed_is_counted_and_named(tmp_path, networks, capsys):
    studies = open_competition(write_studies(tmp_path / "data", STUDIES)).studies
    unseen.predict_unseen(networks.manifest, studies)
    said = capsys.readouterr().err
    assert "2 times a study or a network failed" in said
    assert "2-raises: study-failed: RuntimeError" in said
    assert "3-canalfails: network-failed: canal-0: RuntimeError" in said


def test_a_study_of_two_folders_is_graded_once(tmp_path, networks):
    studies = [open_competition(write_studies(tmp_path / name, ["1"])).studies[0] for name in ("a", "b")]
    answers = unseen.predict_unseen(networks.manifest, studies)
    assert networks.times_found("1") == 1
    np.testing.assert_array_equal(answers["canal-0"][0], answers["canal-0"][1])


def test_an_interrupted_evaluation_is_no_result(tmp_path, networks, monkeypatch):
    studies = open_competition(write_studies(tmp_path / "data", ["1"])).studies

    def interrupted(*_):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(FakeNetworks, "grade", interrupted)
    with pytest.raises(KeyboardInterrupt):
        unseen.predict_unseen(networks.manifest, studies)
