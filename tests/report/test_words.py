"""Grades in words: what was not seen on an image is never told as a finding."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.labels import CELL_INDEX, CELLS, Cell, Condition, level_title
from pipeline.landmarks.landmarks import Landmarks
from pipeline.report.record import StudyRecord
from pipeline.report.words import sentences, worst
from pipeline.run.report import PROVENANCE_COLUMNS


def study(grades, sources=None):
    """A study of these (probabilities by cell), every other cell normal at 0.9 and graded on an image."""
    plain = np.tile([0.9, 0.07, 0.03], (len(CELLS), 1))
    for cell, row in grades.items():
        plain[CELL_INDEX[cell]] = row
    source = {CELL_INDEX[cell]: name for cell, name in (sources or {}).items()}
    empty = dict.fromkeys(PROVENANCE_COLUMNS, "")
    provenance = tuple({**empty, "source": source.get(index, "model")} for index in range(len(CELLS)))
    nothing = np.full(len(CELLS), np.nan)
    return StudyRecord("7", plain, plain, provenance, Landmarks.empty("7"), (), nothing)


CANAL, LEFT, RECESS = (
    Cell(condition, "l4_l5") for condition in (Condition.CANAL, Condition.LEFT_FORAMINAL, Condition.RIGHT_SUBARTICULAR)
)


def test_the_worst_findings_come_first_with_their_probabilities():
    found = study({LEFT: [0.2, 0.57, 0.23], CANAL: [0.1, 0.29, 0.61]})
    said = {sentence.level: sentence for sentence in sentences(found)}
    assert said["L4/L5"].text == (
        "severe canal stenosis (0.61), moderate left foraminal narrowing (0.57); "
        "otherwise normal or mild (at least 0.90)."
    )
    assert said["L4/L5"].grade == 2
    assert said["L1/L2"].text == "no moderate or severe finding (normal/mild at least 0.90)."
    assert list(said) == ["L1/L2", "L2/L3", "L3/L4", "L4/L5", "L5/S1"]


@pytest.mark.parametrize(("source", "words"), [("prior", "not assessed"), ("context", "not seen")])
def test_what_no_network_saw_is_no_finding(source, words):
    found = study({RECESS: [0.1, 0.1, 0.8]}, {RECESS: source})
    text = sentences(found)[3].text
    assert "severe" not in text.replace("moderate or severe", "")
    assert "right subarticular stenosis: " in text
    assert words in text
    assert sentences(found)[3].grade == 0
    assert worst(found).grade == 0


def test_a_study_that_nobody_saw_has_no_worst_cell():
    found = study({}, dict.fromkeys(CELLS, "prior"))
    assert worst(found) is None
    assert {sentence.text for sentence in sentences(found)} == {"not graded on any image."}
    assert {sentence.grade for sentence in sentences(found)} == {-1}


def test_the_worst_cell_is_the_likeliest_of_the_most_severe():
    other = Cell(Condition.LEFT_SUBARTICULAR, "l5_s1")
    found = worst(study({CANAL: [0.05, 0.15, 0.8], other: [0.3, 0.1, 0.6], LEFT: [0.0, 1.0, 0.0]}))
    assert (found.grade, found.probability, found.what) == (2, 0.8, f"{level_title('l4_l5')} canal stenosis")
