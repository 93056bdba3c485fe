"""The competition's table: 25 rows a study, three probabilities a row; written whole or not at all.

Every write goes to a file beside the target that then takes its name (``replace``), so whoever reads
``submission.csv``, also after a kill or on a full disk, finds a complete one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd

from pipeline.files import write_atomically
from pipeline.labels import CELLS, GRADES, row_id
from pipeline.tables import TableError, guarded_frame, read_text_table

ROW_ORDER: tuple[int, ...] = tuple(sorted(range(len(CELLS)), key=lambda index: CELLS[index].column))
"""Cells in the order of row ids inside a study, as ``sample_submission.csv`` sorts them."""
WIDE_COLUMNS: tuple[str, ...] = tuple(f"{cell.column}_{grade}" for cell in CELLS for grade in GRADES)
"""The 75 columns of the wide table, e.g. ``left_subarticular_stenosis_l4_l5_severe``."""
BLOCK = 1024
"""Studies that are written at a time."""


class Numbers(Protocol):
    """(studies, 25, 3): an array, or one that lies on a disk and is read a slice at a time."""

    def __len__(self) -> int: ...
    def __getitem__(self, places: slice, /) -> np.ndarray: ...


def write_submission(path: Path, study_ids: Sequence[str], probabilities: Numbers) -> None:
    """Write ``row_id,normal_mild,moderate,severe``, studies in the order given, rows by row id inside a study.

    Args:
        probabilities: (studies, 25, 3), each row non-negative with a positive sum; written with a sum of 1.

    Raises:
        ValueError: a row is not a distribution (a fault of the caller: nothing is written).
        OSError: the file cannot be written; one that was there before is left as it was.
    """

    def write(partial: Path) -> None:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            file.write("row_id," + ",".join(GRADES) + "\n")
            for ids, rows in _in_blocks(study_ids, probabilities):
                for study_id, numbers in zip(ids, rows[:, ROW_ORDER].tolist(), strict=True):
                    form, name = _ROWS, study_id
                    if any(sign in study_id for sign in ',"\n\r'):
                        form, name = _QUOTED_ROWS, study_id.replace('"', '""')
                    file.write(form % tuple(value for row in numbers for value in (name, *row)))

    write_atomically(path, write)


def write_wide(path: Path, study_ids: Sequence[str], probabilities: Numbers) -> None:
    """Write the same numbers as one row a study: ``study_id`` and :data:`WIDE_COLUMNS`.

    Raises:
        ValueError, OSError: as :func:`write_submission`.
    """

    def write(partial: Path) -> None:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            file.write(",".join(("study_id", *WIDE_COLUMNS)) + "\n")
            for ids, rows in _in_blocks(study_ids, probabilities):
                frame = pd.DataFrame(rows.reshape(len(ids), -1), columns=list(WIDE_COLUMNS))
                frame.insert(0, "study_id", list(ids))
                guarded_frame(frame).to_csv(file, index=False, header=False, float_format="%.8g", lineterminator="\n")

    write_atomically(path, write)


def _in_blocks(study_ids: Sequence[str], probabilities: Numbers) -> Iterator[tuple[Sequence[str], np.ndarray]]:
    """Studies and their :func:`checked` numbers, some thousand at a time: a copy of a million's would be gigabytes.

    Raises:
        ValueError: as there.
    """
    if len(study_ids) != len(probabilities):
        checked(study_ids, probabilities[:])
    for start in range(0, len(study_ids), BLOCK):
        ids = study_ids[start : start + BLOCK]
        yield ids, checked(ids, probabilities[start : start + BLOCK])


def checked(study_ids: Sequence[str], probabilities: np.ndarray) -> np.ndarray:
    """``probabilities`` (studies, 25, 3) with rows that sum to 1.

    Raises:
        ValueError: the shape is wrong, or a row is not finite, is negative or sums to 0; the message names the row.
    """
    expected = (len(study_ids), len(CELLS), len(GRADES))
    if probabilities.shape != expected:
        raise ValueError(f"probabilities have shape {probabilities.shape}, expected {expected}")
    values = probabilities.astype(np.float64)
    bad = ~np.isfinite(values).all(-1) | (values < 0).any(-1) | (values.sum(-1) <= 0)
    if bad.any():
        study, cell = np.argwhere(bad)[0]
        name = row_id(study_ids[study], CELLS[cell])
        raise ValueError(f"{name}: {values[study, cell].tolist()} is no distribution ({int(bad.sum())} such rows)")
    return values / values.sum(-1, keepdims=True)


def read_submission(path: Path) -> pd.DataFrame:
    """A submission, validated as the competition does: index row_id, columns ``GRADES``, rows as they stand.

    Raises:
        TableError: a missing, extra or repeated column, a row id twice, or a value that is not a finite number of
            0 or more, or a row of zeros.
    """
    frame = read_text_table(path, ("row_id", *GRADES))
    extra = [column for column in frame.columns if column not in ("row_id", *GRADES)]
    if extra:
        raise TableError(path, 1, str(extra[0]), f"unexpected column; expected row_id, {', '.join(GRADES)}")
    repeated = frame.duplicated("row_id")
    if repeated.any():
        row, name = next(iter(frame.loc[repeated, "row_id"].items()))
        raise TableError(path, int(str(row)), "row_id", f"{name!r} is there a second time ({repeated.sum()} repeated)")
    columns: dict[str, np.ndarray] = {}
    for grade in GRADES:
        values = pd.to_numeric(frame[grade], errors="coerce").to_numpy(dtype=np.float64)
        bad = ~np.isfinite(values) | (values < 0)
        if bad.any():
            at = int(np.flatnonzero(bad)[0])
            message = f"found {frame[grade].iloc[at]!r}, expected a finite number of 0 or more ({bad.sum()} such)"
            raise TableError(path, int(frame.index[at]), grade, message)
        columns[grade] = values
    result = pd.DataFrame(columns, index=pd.Index(frame["row_id"].astype(str), name="row_id"))
    empty = result.sum(axis=1).to_numpy() <= 0
    if empty.any():
        at = int(np.flatnonzero(empty)[0])
        raise TableError(path, int(frame.index[at]), None, "the three probabilities are all 0")
    return result


def probabilities_of(submission: pd.DataFrame, study_ids: Sequence[str], path: Path | str) -> np.ndarray:
    """(studies, 25, 3) from a table of :func:`read_submission`, as they stand; other studies are left out.

    Raises:
        TableError: a row of one of the studies is missing.
    """
    names = [row_id(study_id, cell) for study_id in study_ids for cell in CELLS]
    positions = submission.index.get_indexer(pd.Index(names))
    if (positions < 0).any():
        missing = [name for name, position in zip(names, positions, strict=True) if position < 0]
        raise TableError(path, None, "row_id", f"{len(missing)} rows are missing, the first is {missing[0]!r}")
    return submission[list(GRADES)].to_numpy()[positions].reshape(len(study_ids), len(CELLS), len(GRADES))


def _rows(quote: str) -> str:
    return "".join(f"{quote}%s_{CELLS[index].column}{quote},%.8g,%.8g,%.8g\n" for index in ROW_ORDER)


_ROWS, _QUOTED_ROWS = _rows(""), _rows('"')
"""The lines of a study; by one formatting of all, for there may be 25 million of them."""
