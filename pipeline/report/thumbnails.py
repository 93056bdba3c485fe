"""Small pictures of single cells, cut around their point on the slice that shows it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pipeline.competition import Competition
from pipeline.labels import CELLS
from pipeline.report.slices import webp
from pipeline.volumes import StudyVolumes, read_study, sample_patch
from pipeline.volumes.grey import grey_limits

SIDE_PX, SPACING_MM = 128, 0.6


class Thumbnails:
    """Cuts pictures of cells.

    Args:
        competition: where the images are.
        points: rows of ``study_id, series_id, instance_number, condition, level, x, y``, as a reader marked them.
    """

    def __init__(self, competition: Competition, points: pd.DataFrame) -> None:
        self._studies = {study.study_id: study for study in competition.studies}
        self._points = {str(name): rows for name, rows in points.groupby("study_id")}

    def of(self, cells: Sequence[tuple[str, int]]) -> dict[tuple[str, int], str]:
        """Addresses of pictures by study and position in ``CELLS``; none of a cell without a point or image."""
        pictures = {}
        for study_id in dict.fromkeys(study for study, _ in cells):
            if study_id not in self._studies or study_id not in self._points:
                continue
            volumes = read_study(self._studies[study_id])
            for other, cell in cells:
                if other == study_id and (picture := self._cut(volumes, cell)):
                    pictures[study_id, cell] = picture
        return pictures

    def _cut(self, volumes: StudyVolumes, cell: int) -> str:
        points = self._points[volumes.study_id]
        own = points[(points["condition"] == CELLS[cell].condition.value) & (points["level"] == CELLS[cell].level)]
        for row in own.to_dict("records"):
            for volume in volumes.volumes:
                at = np.flatnonzero(volume.instance_numbers == row["instance_number"])
                if volume.series_id == row["series_id"] and len(at):
                    index, affine = int(at[0]), volume.affines[int(at[0])]
                    centre = volume.from_source_pixel(int(row["instance_number"]), float(row["x"]), float(row["y"]))
                    size = (SIDE_PX, SIDE_PX)
                    patch = sample_patch(volume, index, centre, affine.right, affine.down, size, SPACING_MM)
                    low, high = grey_limits(volume.pixels)
                    grey = np.clip((np.nan_to_num(patch, nan=low) - low) / max(high - low, 1e-6), 0, 1)
                    return webp(np.round(grey * 255).astype(np.uint8))
        return ""
