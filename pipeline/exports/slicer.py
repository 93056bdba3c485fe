"""The points of a study for 3D Slicer: fiducials in patient millimetres (LPS), as Slicer itself saves them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.exports.naming import file_stem
from pipeline.files import write_text
from pipeline.labels import CELLS, GRADES
from pipeline.problem import Problem
from pipeline.run.result import Graded, Source

_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)


def write_markups(folder: Path, studies: Iterable[Graded], weights: Mapping[str, Any] | None) -> list[Problem]:
    """Write ``<study>.mrk.json`` for every study in which a point was found.

    Raises:
        OSError: one cannot be written.
    """
    del weights
    for study in studies:
        content = markups(study)
        if content is not None:
            write_text(folder / f"{file_stem(study.result.study_id)}.mrk.json", json.dumps(content, indent=1) + "\n")
    return []


def markups(study: Graded) -> dict[str, Any] | None:
    """The content of the file; None where no point was found."""
    points = study.points()
    if points is None or not points.found.any():
        return None
    numbers = study.numbers()
    controls: list[dict[str, Any]] = []
    for index, cell in enumerate(CELLS):
        if not points.found[index]:
            continue
        grade = GRADES[int(numbers[index, :3].argmax())] if study.result.source[index] is Source.MODEL else "not graded"
        controls.append(
            {
                "id": str(len(controls) + 1),
                "label": cell.title,
                "description": grade.replace("_", "/"),
                "associatedNodeID": "",
                "position": [round(value, 4) for value in points.points_mm[index].tolist()],
                "selected": True,
                "locked": False,
                "visibility": True,
                "positionStatus": "defined",
            }
        )
    one = {"type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm", "controlPoints": controls}
    return {"@schema": _SCHEMA, "markups": [one]}
