"""The result of stage two: the 25 level points of one study, and the table they are written as."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import pandas as pd

from pipeline.labels import CELL_INDEX, CELLS, Cell, condition_from_title, level_from_title, level_title
from pipeline.tables import COORDINATE_COLUMNS, PATIENT_COLUMNS

COLUMNS: Final = (*COORDINATE_COLUMNS, *PATIENT_COLUMNS, "confidence", "before", "after", "higher", "lower")
"""The columns of ``label_coordinates.csv``: the competition's own, then patient millimetres, the confidence, the belief
that the point belongs on the slice before or after (empty where nothing is said about it), and the belief that it is
really the level above or below the one it is called."""

ABSENT: Final = -1
"""The instance number of a point that was not found."""


def certain_numbering() -> np.ndarray:
    """(25, 3) every point is the level it is called."""
    return np.tile([0.0, 1.0, 0.0], (len(CELLS), 1))


@dataclass(frozen=True, eq=False)
class Landmarks:
    """The level points of one study, in the order of :data:`pipeline.labels.CELLS`.

    Attributes:
        study_id: the study.
        points_mm: (25, 3) patient LPS millimetres; NaN where a point was not found.
        confidence: (25,) between 0 and 1; 0 where a point was not found.
        series_id: 25 series ids, the series on which the point lies, None where not found.
        instance_number: (25,) the DICOM instance on which the point lies, -1 where not found.
        x: (25,) column in that file's own pixel grid, as in ``train_label_coordinates.csv``.
        y: (25,) row in that file's own pixel grid.
        notes: what was decided on the way (series fallen back to, a shift that was close), for the log.
        beside: (25, 2) the belief, between 0 and 1, that the point belongs on the slice before or after its own in the
            order of the stack (along its normal); NaN where nothing is said about it.
        numbering: (25, 3) the belief that the point is really the level above, the one it is called, the level below.
    """

    study_id: str
    points_mm: np.ndarray
    confidence: np.ndarray
    series_id: tuple[str | None, ...]
    instance_number: np.ndarray
    x: np.ndarray
    y: np.ndarray
    notes: tuple[str, ...] = field(default=())
    beside: np.ndarray = field(default_factory=lambda: np.full((len(CELLS), 2), np.nan))
    numbering: np.ndarray = field(default_factory=certain_numbering)

    def __post_init__(self) -> None:
        shapes = {
            "points_mm": (25, 3), "confidence": (25,), "instance_number": (25,), "x": (25,), "y": (25,),
            "beside": (25, 2), "numbering": (25, 3),
        }  # fmt: skip
        for name, shape in shapes.items():
            found = getattr(self, name).shape
            if found != shape:
                raise ValueError(f"landmarks of study {self.study_id}: {name} has shape {found}, expected {shape}")
        if len(self.series_id) != len(CELLS):
            raise ValueError(f"landmarks of study {self.study_id}: {len(self.series_id)} series ids, expected 25")

    @property
    def found(self) -> np.ndarray:
        """(25,) bool: which points were found."""
        return np.isfinite(self.points_mm).all(axis=1)

    def to_frame(self) -> pd.DataFrame:
        """One row a found point, with the columns of :data:`COLUMNS`."""
        rows = [
            (
                self.study_id,
                self.series_id[i],
                int(self.instance_number[i]),
                cell.condition.title,
                level_title(cell.level),
                float(self.x[i]),
                float(self.y[i]),
                *(float(value) for value in self.points_mm[i]),
                float(self.confidence[i]),
                *(float(value) for value in self.beside[i]),
                float(self.numbering[i, 0]),
                float(self.numbering[i, 2]),
            )
            for i, cell in enumerate(CELLS)
            if self.found[i]
        ]
        return pd.DataFrame(rows, columns=list(COLUMNS))

    @staticmethod
    def empty(study_id: str, notes: tuple[str, ...] = ()) -> Landmarks:
        """Landmarks of a study in which nothing was found."""
        n = len(CELLS)
        return Landmarks(
            study_id=study_id,
            points_mm=np.full((n, 3), np.nan),
            confidence=np.zeros(n),
            series_id=(None,) * n,
            instance_number=np.full(n, ABSENT),
            x=np.full(n, np.nan),
            y=np.full(n, np.nan),
            notes=notes,
        )

    @staticmethod
    def from_frame(study_id: str, frame: pd.DataFrame) -> Landmarks:
        """The inverse of :meth:`to_frame`; rows of other studies are ignored.

        Raises:
            ValueError: if a condition or level is not of the competition, or a cell has two rows.
        """
        result = Landmarks.empty(study_id)
        series: list[str | None] = [None] * len(CELLS)
        for row in frame[frame["study_id"].astype(str) == study_id].itertuples(index=False):
            cell = Cell(condition_from_title(str(row.condition)), level_from_title(str(row.level)))
            i = CELL_INDEX[cell]
            if series[i] is not None:
                raise ValueError(f"landmarks of study {study_id}: two rows for {cell.column}; keep one of them")
            series[i] = str(row.series_id)
            result.points_mm[i] = (row.x_mm, row.y_mm, row.z_mm)
            result.confidence[i] = getattr(row, "confidence", 1.0)
            result.instance_number[i] = row.instance_number
            result.x[i], result.y[i] = row.x, row.y
            result.beside[i] = (getattr(row, "before", np.nan), getattr(row, "after", np.nan))
            higher, lower = getattr(row, "higher", 0.0), getattr(row, "lower", 0.0)
            result.numbering[i] = (higher, 1 - higher - lower, lower)
        return replace(result, series_id=tuple(series))
