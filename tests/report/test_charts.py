"""The charts of a report, as the SVG that stands in its pages."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from pipeline.report import charts

ODD = "</svg><script>alert(1)</script>\"'& https://example.org/a.json"
KINDS = {
    "bars": lambda name: charts.bars({name: 1.234567, "b": 2}, "a", "s"),
    "stacked": lambda name: charts.stacked({name: [3, 2, 0], "b": [1, 1, 1]}, "a", "studies"),
    "lines": lambda name: charts.lines({name: ([1, 2], [0.5, 0.25]), "b": ([1], [0.125])}, "a", "epoch", "loss"),
    "shares": lambda name: charts.lines({name: ([0.1], [0.2]), "b": ([0.3], [0.4])}, "a", "p", "share", shares=True),
    "histograms": lambda name: charts.histograms({name: [0.1, 0.2, 1.6], "b": [1.0]}, "a", "mm", 0.5),
}


def said(svg):
    """What the marks of a chart say, in their order; axes and legends are none."""
    groups = [one for one in ElementTree.fromstring(svg).iter() if "role-mark" in one.get("class", "")]
    return [one.get("aria-label") for group in groups for one in group.iter() if one.get("aria-label")]


def test_every_mark_says_its_numbers():
    assert {kind: said(draw("one").svg) for kind, draw in KINDS.items()} == {
        "bars": ["one: 1.235 s", "b: 2 s"],
        "stacked": [
            *("one, Normal/Mild: 3 studies", "one, Moderate: 2 studies", "one, Severe: 0 studies"),
            *(f"b, {grade}: 1 studies" for grade in ("Normal/Mild", "Moderate", "Severe")),
        ],
        "lines": ["one, epoch 1: loss 0.5", "one, epoch 2: loss 0.25", "b, epoch 1: loss 0.125"],
        "shares": ["one, p 0.1: share 0.2", "b, p 0.3: share 0.4"],
        "histograms": [
            "one, 0 to 0.5 mm: 2 of 3 points",
            "one, 1.5 to 2 mm: 1 of 3 points",
            "b, 1 to 1.5 mm: 1 of 1 points",
        ],
    }


def test_a_confusion_matrix_has_true_grades_downwards_and_prints_counts_and_shares():
    svg = charts.confusion(np.array([[6, 3, 1], [0, 1, 0], [0, 0, 0]]), "a").svg
    words = said(svg)
    assert words[1] == "true Normal/Mild, called Moderate: 3 (30% of the true)"
    assert words[3] == "true Moderate, called Normal/Mild: 0 (0% of the true)"
    printed = re.findall(r"translate\(([\d.]+),([\d.]+)\)[^>]*>(\d+ \(\d+%\))<", svg)
    right, down = ({one[2]: float(one[axis]) for one in printed} for axis in (0, 1))
    assert down["6 (60%)"] == down["3 (30%)"] == down["1 (10%)"] < down["1 (100%)"]
    assert right["6 (60%)"] < right["3 (30%)"] == right["1 (100%)"] < right["1 (10%)"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_from_a_file_is_a_text_in_the_chart(kind):
    svg = KINDS[kind](ODD).svg
    assert "<script" not in svg
    assert svg.count("</svg>") == 1
    assert said(svg)[0].startswith(ODD)


@pytest.mark.parametrize("kind", KINDS)
def test_a_chart_has_the_same_bytes_whatever_was_drawn_before_and_no_ids_that_meet_those_of_another(kind):
    first = KINDS[kind]("one").svg
    for other in KINDS.values():
        other("two")
    assert KINDS[kind]("one").svg == first
    assert not re.search(r"\sid=|url\(|href", first)
    assert "currentColor" in first
    assert not re.search(r"#(000|888|ddd)\b", first), "a colour that is not the page's"


def test_what_is_no_number_is_no_point_and_nothing_is_a_chart_too():
    nan, inf = float("nan"), float("inf")
    curves = {"a": ([1, 2, 3], [0.5, nan, 0.25]), "b": ([1], [inf])}
    assert said(charts.lines(curves, "a", "epoch", "loss").svg) == ["a, epoch 1: loss 0.5", "a, epoch 3: loss 0.25"]
    for empty in (charts.bars({}, "a", "s"), charts.stacked({}, "a", "s"), charts.lines({}, "a", "epoch", "loss")):
        assert said(empty.svg) == []
