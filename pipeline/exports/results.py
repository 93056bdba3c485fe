"""``results.json``: all that a program wants to know of a run's grades; its schema lies beside this module."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from pipeline import __version__
from pipeline.files import write_atomically
from pipeline.labels import CELLS, GRADES, row_id
from pipeline.problem import Problem
from pipeline.run.result import Graded
from pipeline.submission import ROW_ORDER

RESULTS_FILE: Final = "results.json"
FORMAT: Final = "lumbar-grading-results/1"
SCHEMA: Final = Path(__file__).with_name("results.schema.json")
NOTICE: Final = "Research software. Not a medical device; nothing in this file may guide the care of a patient."


def write_results(folder: Path, studies: Iterable[Graded], weights: Mapping[str, Any] | None) -> list[Problem]:
    """Write the file, one study after the other, so that memory does not grow with their number.

    Args:
        folder: for the file.
        studies: in the order of the table.
        weights: as :func:`pipeline.run.report.describe_weights` gives them.

    Raises:
        OSError: it cannot be written.
    """
    head = {
        "format": FORMAT,
        "notice": NOTICE,
        "program": {"name": "lumbar-grading", "version": __version__},
        "weights": None if weights is None else {name: weights[name] for name in ("set", "description")},
    }

    def write(partial: Path) -> None:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            file.write(f'{json.dumps(head)[:-1]}, "studies": [')
            for number, study in enumerate(studies):
                file.write(f"{',' if number else ''}\n{json.dumps(study_content(study))}")
            file.write("\n]}\n")

    write_atomically(folder / RESULTS_FILE, write)
    return []


def study_content(study: Graded) -> dict[str, Any]:
    """What the file says of one study."""
    result, numbers, points = study.result, study.numbers(), study.points()
    cells = []
    for index in ROW_ORDER:
        cell, reason, plain, weighted = CELLS[index], result.reason[index], numbers[index, :3], numbers[index, 3:]
        cells.append(
            {
                "row_id": row_id(result.study_id, cell),
                "condition": cell.condition.value,
                "side": None if cell.condition.side is None else cell.condition.side.value,
                "level": cell.level,
                "grade": GRADES[int(plain.argmax())],
                "plain": _by_grade(plain),
                "weighted": _by_grade(weighted),
                "source": result.source[index].value,
                "reason": None if reason is None else reason.value,
                "networks": list(result.members[index]),
                "series": list(result.series[index]),
                "point": None
                if points is None or not points.found[index]
                else {
                    "series_id": points.series_id[index],
                    "instance_number": int(points.instance_number[index]),
                    "x": round(float(points.x[index]), 3),
                    "y": round(float(points.y[index]), 3),
                    "patient_mm": [round(value, 3) for value in points.points_mm[index].tolist()],
                    "confidence": round(float(points.confidence[index]), 4),
                },
            }
        )
    problems = [
        {"series_id": one.series_id, "file": one.file, "what": one.what, "detail": one.detail}
        for one in result.problems
    ]
    return {"study_id": result.study_id, "cells": cells, "problems": problems}


def _by_grade(values: np.ndarray) -> dict[str, float]:
    return {grade: round(float(value), 6) for grade, value in zip(GRADES, values, strict=True)}
