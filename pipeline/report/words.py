"""Grades in the words of a radiologist's report: a sentence a level."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.labels import CELL_INDEX, CELLS, CONDITIONS, GRADE_NAMES, LEVELS, Cell, Condition, level_title
from pipeline.report.record import StudyRecord

FINDINGS: dict[Condition, str] = {
    Condition.CANAL: "canal stenosis",
    Condition.LEFT_FORAMINAL: "left foraminal narrowing",
    Condition.RIGHT_FORAMINAL: "right foraminal narrowing",
    Condition.LEFT_SUBARTICULAR: "left subarticular stenosis",
    Condition.RIGHT_SUBARTICULAR: "right subarticular stenosis",
}
GRADE_WORDS = tuple(name.lower() for name in GRADE_NAMES)


@dataclass(frozen=True)
class Sentence:
    """What is said of a level, and its worst grade: 0, 1, 2, or -1 where no cell of it was graded on an image."""

    level: str
    text: str
    grade: int


def sentences(study: StudyRecord) -> list[Sentence]:
    """One sentence a level, the worst findings first; what no image showed is said to be so, and is no finding."""
    return [_sentence(study, level) for level in LEVELS]


def _sentence(study: StudyRecord, level: str) -> Sentence:
    cells = {condition: CELL_INDEX[Cell(condition, level)] for condition in CONDITIONS}
    seen = {condition: index for condition, index in cells.items() if study.from_images(index)}
    found = [(int(study.called[index]), condition, index) for condition, index in seen.items() if study.called[index]]
    found.sort(key=lambda entry: (-entry[0], -study.plain[entry[2], entry[0]]))
    parts = [
        f"{GRADE_WORDS[grade]} {FINDINGS[condition]} ({study.plain[index, grade]:.2f})"
        for grade, condition, index in found
    ]
    normal = [study.plain[index, 0] for index in seen.values() if not study.called[index]]
    if parts:
        text = ", ".join(parts)
        if normal:
            text += f"; otherwise normal or mild (at least {min(normal):.2f})"
    elif normal:
        text = f"no moderate or severe finding (normal/mild at least {min(normal):.2f})"
    else:
        text = "not graded on any image"
    for source, words in (("context", "estimated from the rest of the study, not seen"), ("prior", "not assessed")):
        other = [FINDINGS[c] for c, index in cells.items() if study.provenance[index]["source"] == source]
        if other and seen:
            text += f"; {', '.join(other)}: {words}"
    grade = max((int(study.called[index]) for index in seen.values()), default=-1)
    return Sentence(level_title(level), f"{text}.", grade)


@dataclass(frozen=True)
class Worst:
    """The worst cell of a study that was graded on an image: place in ``CELLS``, grade, its probability, in words."""

    cell: int
    grade: int
    probability: float
    what: str


def worst(study: StudyRecord) -> Worst | None:
    """The most severe call, of several the likeliest; None where no cell was graded on an image."""
    seen = [index for index in range(len(CELLS)) if study.from_images(index)]
    if not seen:
        return None
    called = study.called
    index = max(seen, key=lambda cell: (called[cell], -study.plain[cell, 0]))
    cell, grade = CELLS[index], int(called[index])
    what = f"{level_title(cell.level)} {FINDINGS[cell.condition]}" if grade else "nothing above mild"
    return Worst(index, grade, float(study.plain[index, grade]), what)
