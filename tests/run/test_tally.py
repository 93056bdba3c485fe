"""What a run counts: every study once, however often it comes; a log that does not grow without end."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from pipeline.problem import Problem
from pipeline.run.result import Reason, StudyResult
from pipeline.run.tally import LOG_HEADER, Log, Tally, log_parts

ODD = Problem("7", "1", None, "odd", "a detail")


def result_of(networks, problems=(), seconds=1.0):
    values = {name: np.zeros((25, 3)) for name in networks}
    result = StudyResult.fallen_back("7", Reason.NOT_SHOWN, tuple(problems))
    return replace(result, predictions=values, seconds={"read": seconds}, device="cpu")


def test_a_study_that_comes_again_adds_what_is_new(tmp_path):
    tally = Tally({"5": 0, "7": 1})
    with Log(tmp_path / "s.log") as log:
        tally.add(result_of(["a"], [ODD], 1.0), log)
        tally.add(result_of(["a", "b"], [ODD, replace(ODD, what="odder")], 1.5), log)
        tally.note(Problem("", None, "x", "general", ""), log)
    assert dict(tally.rows) == {"a": 25, "b": 25}
    assert dict(tally.problems) == {"odd": 1, "odder": 1, "general": 1}
    assert dict(tally.devices) == {"cpu": 1}
    assert tally.seconds == {"read": pytest.approx(1.5)}
    assert tally.studies_with_problems == 1
    assert len((tmp_path / "s.log").read_text().splitlines()) == 4


def test_a_result_costs_the_same_whatever_the_number_of_studies(tmp_path):
    tally = Tally(dict.fromkeys(map(str, range(200_000)), 0))
    with Log(tmp_path / "s.log") as log:
        tally.add(result_of(["a"]), log)
        tracemalloc.start()
        tally.add(result_of(["a"], [ODD], 2.0), log)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert tally.seconds == {"read": pytest.approx(2.0)}
    assert most < 100_000, "something was made anew for all studies"


def test_a_long_log_goes_on_in_further_files_and_a_strangers_is_left_alone(tmp_path):
    (tmp_path / "s.log.2").write_text("mine")
    for lines in (100, 10):
        with Log(tmp_path / "s.log", most=500) as log:
            for number in range(lines):
                log.write(f"line {number} of some length\n")
        parts = [tmp_path / "s.log", *log_parts(tmp_path / "s.log")]
        read = [line for part in parts for line in part.read_text().splitlines()]
        assert sorted(line for line in read if line != LOG_HEADER) == sorted(
            f"line {number} of some length" for number in range(lines)
        )
        assert all(part.stat().st_size < 600 for part in parts)
        assert (len(parts) > 4) == (lines == 100)
    assert (tmp_path / "s.log.2").read_text() == "mine"
