"""A report of a run whose networks or workers are not what they were."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.console import CallError
from pipeline.report.build import _lost, _networks
from pipeline.report.record import read_truth
from pipeline.report.study import Job
from pipeline.weights.manifest import Manifest
from tests.report.test_words import study

WEIGHTS = Path(__file__).parents[2] / "weights" / "phantom"


def run_with(folder, change=()):
    """A run of the committed phantom set; the checksums of the networks in ``change`` are of other files."""
    members = [
        {"name": member.name, "sha256": "0" * 64 if member.name in change else member.sha256}
        for member in Manifest.load(WEIGHTS).members
    ]
    return SimpleNamespace(facts={"weights": {"folder": str(folder), "members": members}})


def test_only_networks_of_the_same_checksum_are_shown():
    notes: list[str] = []
    networks = _networks(run_with(WEIGHTS, ["canal-fold0"]), None, notes)
    assert "canal-fold0" not in {member.name for member in networks.members}
    assert "subarticular-fold0" in {member.name for member in networks.members}
    assert "1 of 5 networks" in notes[0]
    assert _networks(run_with(WEIGHTS), None, []) is not None


def test_weights_that_are_gone_are_named_and_can_be_named_anew(tmp_path):
    notes: list[str] = []
    assert _networks(run_with(tmp_path / "gone"), None, notes) is None
    assert "--weights" in notes[0]
    assert len(_networks(run_with(tmp_path / "gone"), WEIGHTS, []).members) == 5


def test_a_study_that_killed_its_worker_has_a_page_without_pictures(tmp_path):
    page = tmp_path / "studies" / "0001_7.html"
    why = _lost(Job(study({}), None, page, None, True, ("a note of the run",)))
    text = page.read_text()
    assert f"No pictures: {why}." in text
    assert "a note of the run" in text


def test_a_truth_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CallError, match=r"no train\.csv there"):
        read_truth(tmp_path)
