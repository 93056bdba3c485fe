"""Points drawn on slices, for eyes. Grey levels become 8 bit here and nowhere else: these pixels go to a screen."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from pipeline.labels import CELLS, LEVELS
from pipeline.landmarks.landmarks import Landmarks
from pipeline.pictures import grid
from pipeline.volumes import StudyVolumes, Volume, normalise

Colour = tuple[int, int, int]
LEVEL_COLOURS: tuple[Colour, ...] = ((255, 90, 90), (255, 190, 60), (110, 230, 90), (80, 190, 255), (220, 120, 255))
"""One colour a level, L1/L2 first, RGB."""
SIDE_PX = 320
"""Side of the picture of a slice."""


def slice_picture(
    volume: Volume, index: int, points: Sequence[tuple[np.ndarray, Colour]], caption: str = ""
) -> np.ndarray:
    """One slice with points on it.

    Args:
        volume: the stack.
        index: the slice.
        points: pairs of (N, 3) patient LPS mm and an RGB colour; projected on the slice's plane.
        caption: written in the corner.

    Returns:
        (SIDE_PX, SIDE_PX, 3) uint8 RGB; the slice keeps its aspect.
    """
    grey = np.clip(normalise(volume.pixels)[index], 0, 1)
    row_mm, column_mm = volume.spacing_mm
    height, width = grey.shape[0] * row_mm, grey.shape[1] * column_mm
    scale = SIDE_PX / max(height, width)  # screen pixels a mm
    shown = cv2.resize(
        grey, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=cv2.INTER_AREA
    )
    picture = np.zeros((SIDE_PX, SIDE_PX, 3), np.uint8)
    picture[: shown.shape[0], : shown.shape[1]] = (shown[..., None] * 255).astype(np.uint8)
    for place, colour in points:
        if not len(place):
            continue
        column, row, _ = volume.to_pixel(np.asarray(place, float), np.full(len(place), index))
        for x, y in zip((column + 0.5) * column_mm * scale, (row + 0.5) * row_mm * scale, strict=True):
            centre = (round(float(x)), round(float(y)))
            cv2.circle(picture, centre, 4, (0, 0, 0), -1, cv2.LINE_AA)
            cv2.circle(picture, centre, 3, colour, -1, cv2.LINE_AA)
    cv2.putText(picture, caption, (4, SIDE_PX - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 0), 1, cv2.LINE_AA)
    return picture


def study_picture(volumes: StudyVolumes, landmarks: Landmarks) -> np.ndarray:
    """Every slice of a study on which a point lies, with the points that lie on it, a colour a level, six in a row.

    Returns:
        (rows, cols, 3) uint8 RGB; a single black tile if no point was found.
    """
    tiles = []
    for volume in volumes.volumes:
        for index, instance in enumerate(volume.instance_numbers):
            here = [
                i
                for i in np.nonzero(landmarks.found)[0]
                if landmarks.series_id[i] == volume.series_id and landmarks.instance_number[i] == instance
            ]
            if here:
                points = [(landmarks.points_mm[[i]], LEVEL_COLOURS[LEVELS.index(CELLS[i].level)]) for i in here]
                caption = f"{volume.kind.value} #{instance}  x {volume.centres_mm[index][0]:.0f} mm"
                tiles.append(slice_picture(volume, index, points, caption))
    if not tiles:
        return np.zeros((SIDE_PX, SIDE_PX, 3), np.uint8)
    return grid(tiles, 6)
