"""The files of a report: names from any id, text from any file, colours that can be read."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from pipeline.report.charts import COLOURS
from pipeline.report.site import page_name, write_page


def test_names_of_pages_are_plain_whatever_the_id_holds():
    assert page_name(3, "44036939") == "studies/0003_44036939.html"
    assert re.fullmatch(r"studies/0004_\w*\.html", page_name(4, "../../étude <b>\\xe9"))


def test_a_text_from_a_file_is_a_text_in_the_page(tmp_path):
    problem = {"series_id": "<script>alert(1)</script>", "file": "", "what": "x", "detail": "</script>"}
    nothing = {"viewers": [], "outlines": {}, "worst": None, "odd": "</script><script>alert(2)</script>"}
    empty = {name: [] for name in ("sentences", "levels", "grid", "cells", "viewers", "reasons", "notes")}
    flags = dict.fromkeys(("has_truth", "has_marks", "has_heat"), False)
    page = tmp_path / "a.html"
    write_page(page, "study.html", study_id="<i>7", problems=[problem], data=nothing, **empty, **flags)
    text = page.read_text()
    assert "alert(1)" in text
    assert "<script>alert" not in text
    assert "<i>7" not in text


PAIRS = [
    ("ink", "paper"), ("ink", "panel"), ("soft", "paper"), ("soft", "panel"), ("link", "paper"), ("warnink", "warn"),
    ("g0ink", "g0"), ("g1ink", "g1"), ("g2ink", "g2"), ("ink", "none"), ("ink", "heat"),
]  # fmt: skip


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(("text", "ground"), PAIRS)
def test_text_has_the_contrast_of_wcag_aa(theme, text, ground):
    colours = themes()[theme]
    assert contrast(colours[text], colours[ground]) >= 4.5


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("colour", COLOURS)
def test_lines_and_bars_stand_out_as_wcag_aa_asks_of_graphics(theme, colour):
    assert contrast(colour, themes()[theme]["panel"]) >= 3


def themes():
    """The colours of the style sheet by name: light, dark."""
    style = (files("pipeline.report") / "templates" / "style.css").read_text()
    blocks = re.findall(r":root \{(.*?)\}", style, re.S)
    return [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in blocks]


def contrast(*colours):
    high, low = sorted(map(luminance, colours), reverse=True)
    return (high + 0.05) / (low + 0.05)


def luminance(colour):
    """Of WCAG 2.2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
