"""The stacks of a study as pictures for a viewer, and the points on them; what leaves here is 8 bit and for eyes only.

A stack becomes one WebP of tiles, so that scrolling never waits. Places are given in pixels of the stack: (0, 0) is the
centre of the first pixel, x runs to the right, y down.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.labels import CELL_INDEX, CELLS, Cell, Condition, SeriesKind, level_title
from pipeline.report.record import StudyRecord
from pipeline.volumes import StudyVolumes, Volume
from pipeline.volumes.grey import grey_limits

QUALITY = 72
"""Of lossy WebP; the pictures of a usual study then have about a megabyte."""
MOST_PIXELS = 18e6
"""Of all slices of a study; larger ones are shrunk to this, so that a page stays below 3 MB."""
MOST_SIDE = 16_383
"""Of a WebP."""
SHORT = {
    Condition.CANAL: "",
    Condition.LEFT_FORAMINAL: " L",
    Condition.RIGHT_FORAMINAL: " R",
    Condition.LEFT_SUBARTICULAR: " L",
    Condition.RIGHT_SUBARTICULAR: " R",
}
_LETTERS = (("R", "L"), ("A", "P"), ("F", "H"))
"""Where -x, +x, -y, +y, -z and +z lead in LPS, as DICOM PS3.3 C.7.6.1.1.1 names them."""


def viewers(volumes: StudyVolumes, study: StudyRecord) -> list[dict[str, Any]]:
    """What the page's script needs for one viewer a kind of series: pictures, slices, points."""
    kinds = [kind for kind in SeriesKind if kind is not SeriesKind.UNKNOWN and volumes.of_kind(kind)]
    shown = [volume for kind in kinds for volume in volumes.of_kind(kind)]
    shrink = min(1.0, math.sqrt(MOST_PIXELS / max(sum(volume.pixels.size for volume in shown), 1)))
    middle = _midline(study)
    found = []
    for kind in kinds:
        stacks = [_stack(volume, shrink, study, middle) for volume in volumes.of_kind(kind)]
        found.append({"kind": kind.value, "stacks": stacks, "start": _start(stacks)})
    return found


def letters(direction: Sequence[float] | NDArray[np.float64]) -> str:
    """The patient's side that a direction (3,), LPS, leads to: one letter, two where it is oblique.

    >>> letters([1, 0, 0]), letters([0, -0.8, -0.6])
    ('L', 'AF')
    """
    order = np.argsort(-np.abs(np.asarray(direction, dtype=float)), kind="stable")
    return "".join(_LETTERS[axis][int(direction[axis] > 0)] for axis in order if abs(direction[axis]) > 0.4)


def webp(image: NDArray[np.uint8], quality: int = QUALITY) -> str:
    """(rows, cols), (rows, cols, 3) or (rows, cols, 4) as the text of an address that holds the picture itself."""
    content = io.BytesIO()
    Image.fromarray(image).save(content, "WEBP", quality=quality, method=2)
    return f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"


def _stack(volume: Volume, shrink: float, study: StudyRecord, middle: float | None) -> dict[str, Any]:
    slices, rows, cols = volume.shape
    low, high = grey_limits(volume.pixels)
    floor, ceiling = min(low, float(np.nanmin(volume.pixels))), low + 1.6 * max(high - low, 1e-6)
    height, width = max(1, round(rows * shrink)), max(1, round(cols * shrink))
    height, width = min(height, MOST_SIDE), min(width, MOST_SIDE)
    across = max(1, min(math.ceil(math.sqrt(slices * height / width)), MOST_SIDE // width))
    sheet = np.zeros((-(-slices // across) * height, across * width), np.uint8)
    for number, pixels in enumerate(volume.pixels):
        grey = np.clip((np.nan_to_num(pixels, nan=floor) - floor) / (ceiling - floor), 0, 1) * 255
        tile = grey if shrink == 1 else cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)
        top, left = number // across * height, number % across * width
        sheet[top : top + height, left : left + width] = np.round(tile)
    row_mm, col_mm = volume.spacing_mm
    points = _points(volume, study)
    return {
        "series": volume.series_id,
        "plane": volume.plane.value,
        "rows": rows,
        "cols": cols,
        "row_mm": row_mm,
        "col_mm": col_mm,
        "across": across,
        "tile": [width, height],
        "image": webp(sheet[: min(len(sheet), MOST_SIDE)]),
        "range": [floor, ceiling],
        "window": [low, high],
        "slices": [
            {
                "instance": int(volume.instance_numbers[number]),
                "letters": _edges(volume, number),
                "affine": _affine(volume, number),
                "place": _place(volume, number, middle),
                "points": points[number],
            }
            for number in range(slices)
        ],
    }


def _edges(volume: Volume, number: int) -> list[str]:
    """The letters of the left, right, upper and lower edge; with a question mark where the sides are assumed."""
    affine, sure = volume.affines[number], volume.knows_sides
    edges = [letters(way) for way in (-affine.right, affine.right, -affine.down, affine.down)]
    return [edge if sure or not {"L", "R"} & set(edge) else f"{edge}?" for edge in edges]


def _affine(volume: Volume, number: int) -> list[list[float]] | None:
    """Three rows that lead from column, row, offset, 1 to mm; None where the slice's place is assumed."""
    return np.round(volume.affines.matrix[number, :3], 4).tolist() if volume.is_placed else None


def _place(volume: Volume, number: int, middle: float | None) -> str:
    """Where a sagittal slice lies beside the canal."""
    if volume.plane.value != "sagittal" or middle is None or not volume.knows_sides:
        return ""
    offset = float(volume.centres_mm[number][0]) - middle
    if abs(offset) < 1:
        return "midline"
    return f"{abs(offset):.0f} mm {'left' if offset > 0 else 'right'} of the canal"


def _midline(study: StudyRecord) -> float | None:
    """The x of the canal in mm LPS."""
    found = [
        study.landmarks.points_mm[index][0]
        for index, cell in enumerate(CELLS)
        if cell.condition is Condition.CANAL and study.landmarks.found[index]
    ]
    return float(np.mean(found)) if found else None


def _points(volume: Volume, study: StudyRecord) -> list[list[dict[str, Any]]]:
    """For each slice the points that were found on this very slice, and those that a reader marked there."""
    found: list[list[dict[str, Any]]] = [[] for _ in volume.pixels]
    index_of = {int(instance): number for number, instance in enumerate(volume.instance_numbers)}
    landmarks = study.landmarks

    def add(cell: int, place_mm: NDArray[np.float64], number: int, by: str, name: str) -> None:
        col, row, _ = volume.to_pixel(place_mm[None], np.array([number]))
        condition, level = CELLS[cell].condition, level_title(CELLS[cell].level)
        label = f"{level}{SHORT[condition]}" if by == "network" else ""
        place = {"x": round(float(col[0]), 3), "y": round(float(row[0]), 3)}
        found[number].append({"cell": cell, **place, "label": label, "level": level, "name": name, "by": by})

    for cell, known in enumerate(CELLS):
        number = index_of.get(int(landmarks.instance_number[cell]))
        if number is not None and landmarks.series_id[cell] == volume.series_id:
            name = f"{known.title}, confidence {landmarks.confidence[cell]:.2f}"
            add(cell, landmarks.points_mm[cell], number, "network", name)
    marked = [] if study.marked is None else study.marked.to_dict("records")
    for point in marked:
        number = index_of.get(int(point["instance_number"]))
        if number is not None and point["series_id"] == volume.series_id:
            cell = CELL_INDEX[Cell(Condition(point["condition"]), point["level"])]
            name = f"marked by a reader: {CELLS[cell].title}"
            place = volume.from_source_pixel(int(point["instance_number"]), float(point["x"]), float(point["y"]))
            add(cell, place, number, "reader", name)
    return found


def _start(stacks: list[dict[str, Any]]) -> int:
    """The slice to open on: that with most points, of several the one in the middle."""
    counts = [len(one["points"]) for stack in stacks for one in stack["slices"]]
    most = [number for number, count in enumerate(counts) if count == max(counts)]
    return most[len(most) // 2]
