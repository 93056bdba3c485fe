"""Out-of-fold predictions: a row a cell with its log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.files import write_atomically
from pipeline.labels import CELL_COLUMNS, CELLS, GRADES
from pipeline.tables import TableError, guarded_frame, read_written

_LOG_P = tuple(f"log_p_{grade}" for grade in GRADES)
_COLUMNS = ("study_id", "column", "fold", "grade", "predicted_point", *_LOG_P)


@dataclass(frozen=True, eq=False)
class OofTable:
    """Predictions for cells by networks that did not see their study.

    Attributes:
        study_id: (N,) str.
        cell: (N,) position in ``CELLS``.
        fold: (N,) the fold that was held out.
        grade: (N,) 0, 1, 2 or -1 for no grade.
        predicted_point: (N,) bool, False where the labelled point had to serve.
        log_p: (N, 3) log-probabilities.
    """

    study_id: NDArray[np.str_]
    cell: NDArray[np.int64]
    fold: NDArray[np.int64]
    grade: NDArray[np.int64]
    predicted_point: NDArray[np.bool_]
    log_p: NDArray[np.float64]

    @staticmethod
    def concatenate(tables: Sequence[OofTable]) -> OofTable:
        """The rows of several tables."""
        names = ("study_id", "cell", "fold", "grade", "predicted_point", "log_p")
        return OofTable(*(np.concatenate([getattr(table, name) for table in tables]) for name in names))

    def array(self, study_ids: Sequence[str]) -> NDArray[np.float64]:
        """(studies, 25, 3) log-probabilities, NaN where the table has no row."""
        result = np.full((len(study_ids), len(CELLS), len(GRADES)), np.nan)
        rows, studies = self._places(study_ids)
        result[studies, self.cell[rows]] = self.log_p[rows]
        return result

    def grades(self, study_ids: Sequence[str]) -> NDArray[np.float64]:
        """(studies, 25) grades, NaN where the table has no row or the row no grade."""
        result = np.full((len(study_ids), len(CELLS)), np.nan)
        rows, studies = self._places(study_ids)
        result[studies, self.cell[rows]] = np.where(self.grade[rows] >= 0, self.grade[rows], np.nan)
        return result

    def as_submission(self) -> pd.DataFrame:
        """Probabilities in the form of :func:`pipeline.submission.read_submission`: by row id, a column a grade."""
        row_ids = [f"{study}_{CELL_COLUMNS[cell]}" for study, cell in zip(self.study_id, self.cell, strict=True)]
        return pd.DataFrame(np.exp(self.log_p), pd.Index(row_ids, name="row_id"), list(GRADES))

    def _places(self, study_ids: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The rows of these studies, and each one's position among them."""
        studies = pd.Index(study_ids).get_indexer(pd.Index(self.study_id.astype(str)))
        rows = np.flatnonzero(studies >= 0)
        return rows, studies[rows]


def write_oof(table: OofTable, folder: Path) -> None:
    """Write ``oof.csv``: the log-probabilities, a row a cell."""
    frame = pd.DataFrame(
        {
            "study_id": table.study_id,
            "column": [CELL_COLUMNS[cell] for cell in table.cell],
            "fold": table.fold,
            "grade": table.grade,
            "predicted_point": table.predicted_point.astype(int),
            **{name: table.log_p[:, k] for k, name in enumerate(_LOG_P)},
        }
    )
    rows = guarded_frame(frame)
    write_atomically(folder / "oof.csv", lambda partial: rows.to_csv(partial, index=False, float_format="%.6g"))


def read_oof(path: Path) -> OofTable:
    """The inverse of :func:`write_oof`.

    Raises:
        TableError: a column or a value is not as written.
    """
    frame = read_written(path, _COLUMNS[:2], _COLUMNS[2:], "train severity")
    cells = frame["column"].map({column: index for index, column in enumerate(CELL_COLUMNS)})
    if cells.isna().any():
        raise TableError(path, None, "column", f"unknown cell {frame['column'][cells.isna()].iloc[0]!r}")
    log_p = frame[list(_LOG_P)].to_numpy(dtype=float)
    if not np.isfinite(log_p).all() or not np.allclose(np.exp(np.minimum(log_p, 1)).sum(1), 1, atol=1e-3):
        raise TableError(path, None, None, "log-probabilities that do not add up to probability 1")
    for column in ("fold", "grade"):
        if not frame[column].between(-1, 1000).all():
            raise TableError(path, None, column, "is not a whole number from -1 to 1000 in every row")
    return OofTable(
        study_id=frame["study_id"].to_numpy(dtype=str),
        cell=np.asarray(cells, dtype=np.int64),
        fold=frame["fold"].to_numpy(dtype=np.int64),
        grade=frame["grade"].to_numpy(dtype=np.int64),
        predicted_point=frame["predicted_point"].to_numpy(dtype=bool),
        log_p=log_p,
    )
