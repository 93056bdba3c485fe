"""Reading the competition's CSV tables: every cell is checked here, so the rest of the package can trust them.

An error names file, row and column. Rows count as a text editor shows lines: the header is row 1. Readers return the
good rows together with the list of errors, so that training can refuse a bad table (``strict``) while a submission,
which must never stop, leaves the bad rows out and counts them.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import pandas as pd

from pipeline.labels import (
    CELL_COLUMNS,
    GRADE_NAMES,
    Cell,
    Condition,
    SeriesKind,
    condition_from_title,
    level_from_title,
)
from pipeline.names import guarded, unguarded

T = TypeVar("T")

SERIES_COLUMNS = ("study_id", "series_id", "series_description")
COORDINATE_COLUMNS = ("study_id", "series_id", "instance_number", "condition", "level", "x", "y")
PATIENT_COLUMNS = ("x_mm", "y_mm", "z_mm")
ID_COLUMNS = ("study_id", "series_id")
MOST_MESSAGE = 1000
"""Characters; a message repeats what stands in a table, and that may be of any length."""


class TableError(ValueError):
    """A table that cannot be used as it is. ``file``, ``row`` (header = 1) and ``column`` say where."""

    def __init__(self, file: Path | str, row: int | None, column: str | None, message: str) -> None:
        message = message if len(message) <= MOST_MESSAGE else f"{message[:MOST_MESSAGE]}…"
        self.file, self.row, self.column, self.message = str(file), row, column, message
        where = [str(file)]
        if row is not None:
            where.append(f"row {row}")
        if column is not None:
            where.append(f"column {column!r}")
        super().__init__(f"{', '.join(where)}: {message}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.file, self.row, self.column, self.message)


@dataclass(frozen=True)
class Table(Generic[T]):
    """What a reader found: the good part of the content and an error for every bad part."""

    content: T
    errors: tuple[TableError, ...] = ()

    def strict(self) -> T:
        """The content, or the first error raised."""
        if self.errors:
            raise self.errors[0]
        return self.content


def guarded_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with every text in it guarded against spreadsheets; :func:`read_written` takes it off the ids."""
    result = frame.copy()
    for name in frame.columns:
        if not pd.api.types.is_numeric_dtype(frame[name]):
            result[name] = [guarded(cell) if isinstance(cell, str) else cell for cell in frame[name]]
    return result


def read_text_table(path: Path, columns: Sequence[str], content: bytes | None = None) -> pd.DataFrame:
    """A CSV file as text cells, indexed by row number (first data row = 2); rows without any content left out.

    Args:
        path: the file.
        columns: that it must have.
        content: of the file, where it has been read already.

    Raises:
        TableError: the file is missing, is not CSV in UTF-8, or lacks or repeats one of ``columns``.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header would lose their end
            frame = pd.read_csv(
                path if content is None else io.BytesIO(content),
                dtype=str,
                keep_default_na=False,
                skip_blank_lines=False,
                encoding="utf-8-sig",
                index_col=False,
            )
    except pd.errors.ParserWarning as error:
        raise TableError(path, None, None, "has rows with more cells than its first line has names") from error
    except OSError as error:
        raise TableError(path, None, None, f"cannot be read: {error.strerror or error}") from error
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
        raise TableError(path, None, None, f"is not a CSV table: {str(error).strip()}") from error
    frame.columns = pd.Index([str(name).strip() for name in frame.columns])
    for column in columns:
        count = list(frame.columns).count(column)
        if count != 1:
            found = "is missing" if count == 0 else f"stands there {count} times"
            raise TableError(path, 1, column, f"the column {found}; the table has {', '.join(map(str, frame.columns))}")
    frame.index = pd.RangeIndex(2, len(frame) + 2)
    frame = frame.fillna("").apply(lambda values: values.str.strip())
    for column in set(ID_COLUMNS) & set(frame.columns):
        frame[column] = frame[column].map(unguarded)
    return frame[(frame != "").any(axis=1)]


def read_written(path: Path, texts: Sequence[str], numbers: Sequence[str], of: str) -> pd.DataFrame:
    """A table that this program wrote: numbers as numbers (NaN where a cell is empty), ids as text, also "NA".

    Args:
        path: the file.
        texts, numbers: columns that it must have; there may be others.
        of: the command that writes such a table, for messages.

    Raises:
        TableError: the file is missing, is no such table, or a number is none or infinite.
    """
    try:
        frame = pd.read_csv(path, dtype=dict.fromkeys(texts, str))
        ids = pd.read_csv(path, usecols=lambda name: name in ID_COLUMNS, dtype=str, keep_default_na=False)
    except OSError as error:
        raise TableError(path, None, None, f"cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise TableError(path, None, None, f"is not a CSV table: {str(error).strip()}") from error
    for column in ids.columns:
        frame[column] = ids[column].map(unguarded)
    if missing := [name for name in (*texts, *numbers) if name not in frame.columns]:
        raise TableError(path, 1, None, f"no column {', '.join(missing)}; expected a table of `{of}`")
    for column in numbers:
        if (len(frame) and not pd.api.types.is_numeric_dtype(frame[column])) or np.isinf(
            frame[column].to_numpy(dtype=float)
        ).any():
            raise TableError(path, None, column, f"is not of finite numbers; expected a table of `{of}`")
    return frame


def read_series_table(path: Path) -> Table[pd.DataFrame]:
    """``*_series_descriptions.csv``: columns study_id, series_id (str), kind (:class:`SeriesKind`; UNKNOWN if new)."""
    frame = read_text_table(path, SERIES_COLUMNS)
    errors: list[TableError] = []
    kinds = {kind.value.lower(): kind for kind in SeriesKind}
    frame = _drop(frame, frame["study_id"] == "", path, "study_id", "is empty; expected a study id", errors)
    frame = _drop(frame, frame["series_id"] == "", path, "series_id", "is empty; expected a series id", errors)
    repeated = frame.duplicated(["study_id", "series_id"])
    frame = _drop(frame, repeated, path, "series_id", "the series is listed a second time", errors)
    found = [kinds.get(text.lower(), SeriesKind.UNKNOWN) for text in frame["series_description"]]
    column = pd.Series(found, index=frame.index, dtype=object)  # pandas 3 would make words of them, if pyarrow is there
    return Table(frame[list(SERIES_COLUMNS)].assign(kind=column).reset_index(drop=True), tuple(errors))


def read_labels(path: Path) -> Table[pd.DataFrame]:
    """``train.csv``: index study_id (str), the 25 cell columns with 0, 1, 2 or NaN where there is no grade."""
    frame = read_text_table(path, ("study_id", *CELL_COLUMNS))
    errors: list[TableError] = []
    frame = _drop(frame, frame["study_id"] == "", path, "study_id", "is empty; expected a study id", errors)
    frame = _drop(frame, frame.duplicated("study_id"), path, "study_id", "the study is listed a second time", errors)
    grades: dict[str, float] = {name: float(grade) for grade, name in enumerate(GRADE_NAMES)}
    grades |= {"": np.nan, "nan": np.nan}
    columns: dict[str, list[float]] = {}
    expected = ", ".join(GRADE_NAMES) + " or nothing"
    for column in CELL_COLUMNS:
        columns[column] = _parse(frame[column], lambda text: grades[text], path, column, expected, errors)
    index = pd.Index(frame["study_id"].astype(str), name="study_id")
    return Table(pd.DataFrame(columns, index=index, dtype=np.float64), tuple(errors))


def with_readings(labels: pd.DataFrame, tables: Sequence[Path]) -> pd.DataFrame:
    """Grades with those of canal readings where a study has none of its own.

    Args:
        labels: as :func:`read_labels` gives them.
        tables: with the columns study_id, level (``L1/L2``), grade (0, 1, 2) and, if not all are to be used, usable
            (1 or 0). Studies that ``labels`` do not have are passed over.

    Raises:
        TableError: a column is missing, or a usable row has no such level or grade.
    """
    result = labels.copy()
    graded = {column: set(labels.index[labels[column].notna()]) for column in CELL_COLUMNS}
    for path in tables:
        frame = read_text_table(path, ("study_id", "level", "grade"))
        if "usable" in frame.columns:
            frame = frame[frame["usable"] == "1"]
        errors: list[TableError] = []
        levels = _parse(frame["level"], level_from_title, path, "level", "a level such as L4/L5", errors)
        grades = _parse(frame["grade"], ("0", "1", "2").index, path, "grade", "0, 1 or 2", errors)
        if errors:
            raise errors[0]
        for study_id, level, grade in zip(frame["study_id"], levels, grades, strict=True):
            column = Cell(Condition.CANAL, level).column
            if study_id in result.index and study_id not in graded[column]:
                result.at[study_id, column] = float(grade)
    return result


def read_coordinates(path: Path) -> Table[pd.DataFrame]:
    """``train_label_coordinates.csv`` with condition and level in the package's own terms.

    Columns: study_id, series_id (str), instance_number (int), condition (value of ``Condition``), level (``l1_l2``),
    x, y (float, pixels of the file: column, row), and x_mm, y_mm, z_mm (patient LPS) if the file has them.
    """
    frame = read_text_table(path, COORDINATE_COLUMNS)
    errors: list[TableError] = []
    for column in ("study_id", "series_id"):
        frame = _drop(frame, frame[column] == "", path, column, "is empty; expected an id", errors)
    result = frame[["study_id", "series_id"]].copy()
    parsers: dict[str, tuple[Callable[[str], Any], str]] = {
        "instance_number": (_whole, "a whole number"),
        "condition": (lambda text: condition_from_title(text).value, "a condition such as Spinal Canal Stenosis"),
        "level": (level_from_title, "a level such as L4/L5"),
        "x": (_finite, "a finite number of pixels"),
        "y": (_finite, "a finite number of pixels"),
    }
    parsers |= {name: (_finite_or_nan, "a number of mm") for name in PATIENT_COLUMNS if name in frame.columns}
    bad_rows: set[int] = set()
    for column, (parse, expected) in parsers.items():
        before = len(errors)
        result[column] = _parse(frame[column], parse, path, column, expected, errors)
        bad_rows |= {error.row for error in errors[before:] if error.row is not None}
    result = result.drop(index=sorted(bad_rows)).reset_index(drop=True)
    return Table(result.astype({"instance_number": np.int64, "x": np.float64, "y": np.float64}), tuple(errors))


def read_row_ids(path: Path) -> tuple[str, ...]:
    """The row ids of a ``sample_submission.csv`` in file order.

    Raises:
        TableError: the file cannot be read or has no column ``row_id``.
    """
    return tuple(read_text_table(path, ("row_id",))["row_id"])


def _parse(
    values: pd.Series, parse: Callable[[str], Any], path: Path, column: str, expected: str, errors: list[TableError]
) -> list[Any]:
    parsed: dict[str, Any] = {}
    bad: set[str] = set()
    for text in values.unique():
        try:
            parsed[text] = parse(text)
        except (ValueError, KeyError, OverflowError):
            parsed[text] = np.nan
            bad.add(text)
    if bad:
        for row, text in values[values.isin(bad)].items():
            errors.append(TableError(path, int(str(row)), column, f"found {text!r}, expected {expected}"))
    return [parsed[text] for text in values]


def _drop(
    frame: pd.DataFrame, bad: pd.Series, path: Path, column: str, message: str, errors: list[TableError]
) -> pd.DataFrame:
    for row, text in frame.loc[bad, column].items():
        errors.append(TableError(path, int(str(row)), column, f"{text!r}: {message}" if text else message))
    return frame[~bad]


def _finite(text: str) -> float:
    value = float(text)
    if not np.isfinite(value):
        raise ValueError(text)
    return value


def _finite_or_nan(text: str) -> float:
    return np.nan if text == "" else _finite(text)


def _whole(text: str) -> int:
    value = float(text)
    if value != int(value) or abs(value) >= 2**63:  # an infinite one raises by itself
        raise ValueError(text)
    return int(value)
