"""The fuzz target itself: a short run finds nothing, and what it is there to find would be counted."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random

import pytest
from hypothesis import settings

from tests.fuzz import dicom as target
from tests.fuzz import harness, intake, properties, work
from tests.fuzz.mutate import mutate
from tests.volumes.oracle import write_series


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = write_series(tmp_path_factory.mktemp("corpus") / "1")
    return {"plain": [(folder / f"{number}.dcm").read_bytes() for number in (1, 2)]}


def test_mutated_files_become_problems_or_volumes(corpus, tmp_path):
    codes = set()
    for number in range(150):
        _, content, neighbour = target.make_file(corpus, 7, number)
        found, wrong = target.read_one(tmp_path, content, neighbour)
        assert wrong is None, f"file {number}: {wrong}"
        codes.update(found)
    assert {"not-dicom", "truncated", "bad-header"} <= codes


def test_mutated_exports_become_studies_problems_or_one_refusal(tmp_path):
    made = intake.prepare(tmp_path / "made")
    run = intake.begin(made, tmp_path)
    kinds, codes = set(), set()
    for number in range(40):
        kind, found, wrong = run(7, number)
        assert wrong is None, f"case {number}: {wrong}"
        kinds.add(kind)
        codes.update(found)
    assert kinds == set(intake.LAYOUTS)
    assert {"layout", "unreadable-file", "truncated"} <= codes


def test_the_same_seed_makes_the_same_file(corpus):
    assert target.make_file(corpus, 1, 5) == target.make_file(corpus, 1, 5)
    assert target.make_file(corpus, 1, 5)[1] != target.make_file(corpus, 2, 5)[1]


def test_most_mutations_change_the_file(corpus):
    random, content = Random(0), corpus["plain"][0]
    assert sum(mutate(content, content, random) != content for _ in range(100)) > 80


def test_an_unforeseen_error_counts_as_a_failure(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.volumes.reader.place_frames", lambda *_: 1 / 0)
    _, wrong = target.read_one(tmp_path, corpus["plain"][0], corpus["plain"][1])
    assert wrong is not None
    assert "ZeroDivisionError" in wrong


class _Pipe:
    """Messages of a child that then dies."""

    def __init__(self, *messages):
        self._messages = list(messages)

    def poll(self, seconds):
        return bool(self._messages) or self._dies

    _dies = True

    def recv(self):
        if not self._messages:
            raise EOFError
        return self._messages.pop(0)


def test_a_process_that_dies_is_a_failure_and_its_file_is_kept(corpus, tmp_path):
    outcome = harness.Outcome()
    pipe = _Pipe(("ready", 100.0), ("start", 3))
    assert harness._follow(pipe, 0, float("inf"), outcome, target, corpus, 0, tmp_path) == 4
    assert "file 3 ended the process" in outcome.failures[0]
    assert (tmp_path / "0-3.dcm").read_bytes() == target.make_file(corpus, 0, 3)[1]


def test_a_file_that_takes_too_long_is_a_failure(corpus, tmp_path):
    outcome = harness.Outcome()
    pipe = _Pipe(("ready", 100.0), ("start", 2))
    pipe._dies = False
    assert harness._follow(pipe, 0, float("inf"), outcome, target, corpus, 0, tmp_path) == 3
    assert "file 2 took more than 10 s" in outcome.failures[0]


def test_mutated_work_folders_do_no_harm(tmp_path):
    run = work.begin(None, tmp_path)
    codes = set()
    for number in range(40):
        _, found, wrong = run(7, number)
        assert wrong is None, f"case {number}: {wrong}"
        codes.update(found)
    assert {"taken over 3", "taken over 2", "taken over 0", "refused 2"} <= codes


@pytest.mark.parametrize(
    ("name", "instead", "found"),
    [
        ("file_states", lambda folder: 0, "the table is off by"),
        ("STALE", re.compile(".*"), "a stranger's file was changed"),
    ],
)
def test_a_stale_result_and_a_lost_file_count_as_failures(tmp_path, monkeypatch, name, instead, found):
    monkeypatch.setattr(f"pipeline.run.work.{name}", instead)
    run = work.begin(None, tmp_path)
    assert any(found in (run(7, number)[2] or "") for number in range(40))


def test_every_property_test_draws_the_same_examples_here_and_is_fuzzed_with_others():
    assert settings().derandomize
    assert settings().database is None
    tests = Path(__file__).parents[1]
    found = {
        ".".join(path.relative_to(tests.parent).with_suffix("").parts)
        for path in tests.rglob("test_*.py")
        if re.search("^@given", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert found == set(properties.MODULES) == {name.rpartition(".")[0] for name in properties.properties()}
