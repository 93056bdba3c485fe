"""Points that a reader marked, in the patient, and those that cannot be right: nothing is learnt from them.

A point outside its image, a left side on the patient's right, levels out of order along the spine, or a right side
that is numbered otherwise than the left are slips of the pen that a network would learn as a rare truth. Which point of
a contradiction is the wrong one is not known, so the fewest points that resolve it are left out, and both sides where
sides contradict each other. Evaluation keeps every point, and gives its figures without them beside those with all.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.labels import LEVELS, Condition
from pipeline.volumes import StudyVolumes

OUTSIDE = "outside the image"
SIDES = "left and right exchanged"
ORDER = "levels out of order"
APART = "left and right a level apart"
APART_SHARE = 0.6
"""Of a level's height; between the sides of one level it is at most 0.4 in 1,551 of 1,590 RSNA studies and 0.8 or more
in the other 39: nothing lies between, so these are no scolioses."""
LEAST_LEVELS = 3
"""With fewer levels on both sides nothing can be said about their numbering."""
SIDE_PAIRS = (
    (Condition.LEFT_FORAMINAL, Condition.RIGHT_FORAMINAL),
    (Condition.LEFT_SUBARTICULAR, Condition.RIGHT_SUBARTICULAR),
)


def find_mislabelled(volumes: StudyVolumes, points: pd.DataFrame) -> NDArray[np.str_]:
    """Why each labelled point cannot be right; an empty text where nothing speaks against it.

    Args:
        volumes: the study.
        points: of :func:`pipeline.landmarks.labelled.labelled_points`.

    Returns:
        (N,) text: :data:`OUTSIDE`, :data:`SIDES`, :data:`ORDER`, :data:`APART` or nothing.
    """
    places = points[["x_mm", "y_mm", "z_mm"]].to_numpy(dtype=float)
    conditions, levels = points["condition"].to_numpy(dtype=str), points["level"].to_numpy(dtype=str)
    reasons = np.full(len(points), "", dtype=f"U{max(map(len, (OUTSIDE, SIDES, ORDER, APART)))}")
    for n, (series_id, number) in enumerate(zip(points["series_id"], points["instance_number"], strict=True)):
        if not _inside(volumes, str(series_id), int(number), places[n]):
            reasons[n] = OUTSIDE
    for left, right in SIDE_PAIRS:
        for level in LEVELS:
            here = (levels == level) & (reasons == "")
            lefts, rights = (np.flatnonzero(here & (conditions == side.value)) for side in (left, right))
            # Left of the patient is larger x
            if len(lefts) and len(rights) and places[lefts, 0].max() <= places[rights, 0].min():
                reasons[[*lefts, *rights]] = SIDES
    for condition in Condition:
        rows = np.flatnonzero((conditions == condition.value) & (reasons == ""))
        rows = rows[np.argsort([LEVELS.index(level) for level in levels[rows]], kind="stable")]
        reasons[rows[_out_of_order(places[rows, 2])]] = ORDER
    for pair in SIDE_PAIRS:
        heights = np.full((2, len(LEVELS)), np.nan)
        rows = np.flatnonzero(np.isin(conditions, [side.value for side in pair]) & (reasons == ""))
        for row in rows:
            side = [condition.value for condition in pair].index(conditions[row])
            heights[side, LEVELS.index(levels[row])] = places[row, 2]
        if _numbered_apart(heights):
            reasons[rows] = APART
    return reasons


def labelled_points(volumes: StudyVolumes, coordinates: pd.DataFrame) -> pd.DataFrame:
    """The study's rows of the coordinate table with their patient LPS mm.

    Args:
        volumes: the study.
        coordinates: as :attr:`pipeline.competition.Competition.coordinates`.

    Returns:
        ``series_id, instance_number, condition, level, x_mm, y_mm, z_mm``; rows whose slice was not read are left out.
    """
    rows = []
    own = coordinates[coordinates["study_id"] == volumes.study_id]
    columns = (own[name] for name in ("series_id", "instance_number", "condition", "level", "x", "y"))
    for series_id, number, condition, level, x, y in zip(*columns, strict=True):
        for volume in volumes.volumes:
            if volume.series_id == str(series_id) and int(number) in volume.instance_numbers:
                point = volume.from_source_pixel(int(number), float(x), float(y))
                rows.append((str(series_id), int(number), str(condition), level, *point))
                break
    names = ["series_id", "instance_number", "condition", "level", "x_mm", "y_mm", "z_mm"]
    return pd.DataFrame(rows, columns=names)


def _numbered_apart(heights: NDArray[np.float64]) -> bool:
    """Whether the sides (2, 5), heights in mm, NaN where there is no point, are numbered a level apart."""
    between = heights[0] - heights[1]
    steps = np.abs(np.diff(heights, axis=1))
    if np.isfinite(between).sum() < LEAST_LEVELS or not np.isfinite(steps).any():
        return False
    return bool(abs(np.nanmedian(between)) > APART_SHARE * np.nanmedian(steps))


def _inside(volumes: StudyVolumes, series_id: str, number: int, point_mm: NDArray[np.float64]) -> bool:
    for volume in volumes.volumes:
        if volume.series_id == series_id and number in volume.instance_numbers:
            return volume.shows(point_mm, int(np.flatnonzero(volume.instance_numbers == number)[0]))
    return False


def _out_of_order(z: NDArray[np.float64]) -> list[int]:
    """The fewest positions of (N,) heights without which each lies below the one before."""
    for left_out in range(len(z)):
        for dropped in combinations(range(len(z)), left_out):
            if (np.diff(np.delete(z, dropped)) < 0).all():
                return list(dropped)
    return []
