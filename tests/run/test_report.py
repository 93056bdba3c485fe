"""What the last lines of a run say beside its figures."""

import pytest

from pipeline.run.report import RunReport


def report(**changes):
    given = {
        "studies": 2,
        "rows_by_source": {"model": 30, "prior": 20},
        "reasons": {},
        "problems": {},
        "studies_with_problems": 0,
        "weights": None,
        "seconds": 1.0,
        "written": "submission.csv",
        "ended_early": None,
        "resumed": 0,
        "score": None,
        "extra": {"images": "data", "device": "auto", "devices": {"cpu": 2}},
    }
    return RunReport(**given | changes)


def test_a_run_that_graded_most_rows_needs_no_warning():
    assert report().warnings() == []


@pytest.mark.parametrize("rows", [{"prior": 50}, {"model": 10, "context": 15, "prior": 25}])
def test_class_frequencies_in_half_of_the_rows_are_not_overlooked(rows):
    (line,) = report(rows_by_source=rows).warnings()
    assert line.startswith(f"submit: WARNING: {rows['prior']} of 50 rows are class frequencies")
    assert "is data the right folder?" in line


def test_what_the_studies_failed_with_is_said_rather_than_a_wrong_folder():
    extra = {"images": "data", "device": "cpu", "first_failure": "MemoryError at a.py:1: "}
    (line,) = report(rows_by_source={"prior": 50}, extra=extra).warnings()
    assert "(a study failed with MemoryError at a.py:1: )" in line
    assert "folder" not in line


def test_a_gpu_that_was_asked_for_and_not_there_is_said():
    (line,) = report(extra={"images": "data", "device": "cuda", "devices": {"cuda:0": 1, "cpu": 1}}).warnings()
    assert "1 studies ran on the CPU" in line
    assert report(extra={"images": "data", "device": "cuda", "devices": {"cuda:0": 2}}).warnings() == []


def test_a_gpu_that_failed_is_warned_of_whatever_device_was_asked_for():
    (line,) = report(problems={"gpu-failed": 2}).warnings()
    assert line.startswith("submit: WARNING: the GPU failed 2 times and the CPU computed instead")


def test_problems_of_no_study_name_no_studies():
    assert "; 2 problems: weights-refused 2;" in report(problems={"weights-refused": 2}).line()
    assert "; 2 problems in 1 studies: x 2;" in report(problems={"x": 2}, studies_with_problems=1).line()
