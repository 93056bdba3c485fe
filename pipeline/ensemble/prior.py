"""The answer where no model can give one: class frequencies reweighted 1/2/4, per condition and level.

The metric weighs a cell by its true grade, so its optimum without any image is p_k ∝ w_k · frequency_k.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.files import write_atomically
from pipeline.labels import CELL_COLUMNS, CELLS, GRADE_WEIGHTS, GRADES, Cell, Condition
from pipeline.tables import TableError, read_text_table
from pipeline.weights.manifest import Manifest

PRIOR_FILE = Path(__file__).parent / "prior.csv"
"""The table that comes with the package, from the competition's training labels (see README for the command)."""
COLUMNS = ("condition", "level", *GRADES, "graded")
PRIOR_NAME = "prior.csv"
"""Of a set of weights."""


def make_prior(labels: pd.DataFrame) -> pd.DataFrame:
    """Reweighted class frequencies from grades.

    Args:
        labels: columns ``CELL_COLUMNS`` with 0, 1, 2 or NaN, a row a study.

    Returns:
        condition, level, normal_mild, moderate, severe (sum 1) and ``graded``, the number of studies behind the row.

    Raises:
        ValueError: a condition and level has no grade at all.
    """
    rows = []
    for cell in CELLS:
        grades = labels[cell.column].dropna().astype(int)
        if grades.empty:
            raise ValueError(f"no study has a grade for {cell.column}; its frequency is unknown")
        counts = np.bincount(grades, minlength=len(GRADES)).astype(np.float64)
        counts[counts == 0] = 0.5  # never seen is not impossible, and the logarithm of 0 would be unbounded
        weighted = counts * np.asarray(GRADE_WEIGHTS)
        rows.append((cell.condition.value, cell.level, *(weighted / weighted.sum()), len(grades)))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def write_prior(prior: pd.DataFrame, path: Path) -> None:
    """Write the table of :func:`make_prior`."""
    write_atomically(path, lambda file: prior.to_csv(file, index=False, float_format="%.6f"))


def own_prior(manifest: Manifest | None) -> np.ndarray:
    """(25, 3) probabilities of a set of weights; the package's where there is no set or it has none of its own.

    Raises:
        WeightsError: the file is not what the manifest records.
        TableError: see :func:`read_prior`.
    """
    content = None if manifest is None else manifest.file(PRIOR_NAME)
    return read_prior() if manifest is None or content is None else read_prior(manifest.folder / PRIOR_NAME, content)


def read_prior(path: Path = PRIOR_FILE, content: bytes | None = None) -> np.ndarray:
    """(25, 3) probabilities in the order of ``CELLS``.

    Args:
        path: the table.
        content: of the table, where it has been read already.

    Raises:
        TableError: a row is missing, unknown, repeated or is no distribution.
    """
    frame = read_text_table(path, ("condition", "level", *GRADES), content)
    result = np.full((len(CELLS), len(GRADES)), np.nan)
    for row, values in frame.iterrows():
        number = int(str(row))
        try:
            index = CELLS.index(Cell(Condition(values["condition"]), values["level"]))
        except ValueError:
            found = f"{values['condition']!r} at {values['level']!r}"
            raise TableError(path, number, "condition", f"found {found}, expected one of {CELL_COLUMNS}") from None
        if np.isfinite(result[index]).all():
            raise TableError(path, number, "condition", f"{CELL_COLUMNS[index]} is there a second time")
        try:
            given = np.array([float(values[grade]) for grade in GRADES])
        except ValueError as error:
            raise TableError(path, number, None, f"a probability is not a number: {error}") from error
        if not ((given > 0) & (given <= 1e6)).all():  # nor NaN
            raise TableError(path, number, None, f"found {given.tolist()}, expected three probabilities above 0")
        result[index] = given / given.sum()
    missing = [column for column, known in zip(CELL_COLUMNS, np.isfinite(result).all(1), strict=True) if not known]
    if missing:
        raise TableError(path, None, None, f"no row for {', '.join(missing)}")
    return result
