"""What a problem says, whatever it quotes."""

from __future__ import annotations

from pipeline.problem import Problem


def test_what_a_problem_quotes_is_shown_escaped_and_cut_off():
    problem = Problem("1", None, "a\nb", "unreadable-file", "SeriesDescription is '\x1b[31m" + "x" * 10_000)
    assert str(problem).isprintable()
    assert len(str(problem)) < 2100


def test_a_problem_says_where_as_far_as_that_is_known():
    assert (
        str(Problem("1", "2", "3.dcm", "truncated", "a byte is missing")) == "1/2/3.dcm: truncated: a byte is missing"
    )
    assert str(Problem("", None, None, "no-workers", "none starts")) == "no-workers: none starts"
