"""What a run of ``submit.py`` left: ``run.json``, the tables of its stages, and the truth where somebody has it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.console import CallError
from pipeline.files import read_bounded
from pipeline.labels import CELL_COLUMNS, CELLS, GRADES, row_id
from pipeline.landmarks.landmarks import Landmarks
from pipeline.names import plain_id, unguarded
from pipeline.run.report import GRADES_TABLE, POINTS_TABLE, PROBLEM_COLUMNS, PROVENANCE_COLUMNS, STAGE_TABLES
from pipeline.submission import read_submission
from pipeline.tables import read_coordinates, read_labels, read_written

REPORT_FILE = "run.json"
MOST_BYTES = 64 * 2**20
FACTS = ("studies", "rows_by_source", "seconds", "images", "started", "workers", "command", "versions", "weights")
"""What every ``run.json`` of ``submit.py`` says, and the pages show."""


@dataclass(frozen=True, eq=False)
class Truth:
    """What is known of the studies: ``labels`` (study_id by ``CELL_COLUMNS``, NaN for none) and marked ``points``."""

    labels: pd.DataFrame
    points: pd.DataFrame | None

    def grades(self, study_id: str) -> np.ndarray:
        """(25,) 0, 1, 2 or NaN."""
        if study_id not in self.labels.index:
            return np.full(len(CELLS), np.nan)
        return self.labels.loc[study_id, list(CELL_COLUMNS)].to_numpy(dtype=float)

    def points_of(self, study_id: str) -> pd.DataFrame | None:
        """The marked points of a study; None where there are none."""
        return None if self.points is None else self.points[self.points["study_id"] == study_id]


@dataclass(frozen=True, eq=False)
class StudyRecord:
    """One study of a run. Arrays and tuples of 25 follow ``CELLS``.

    Attributes:
        study_id: the study.
        plain: (25, 3) probabilities without the metric's weights: how many in a hundred such rows have the grade.
        weighted: (25, 3) as submitted.
        provenance: 25 rows by :data:`~pipeline.run.report.PROVENANCE_COLUMNS`, empty text where there is nothing.
        landmarks: its points.
        problems: rows of ``problems.csv``.
        truth: (25,) grades, NaN where unknown.
        marked: the reader's points, None where there are none.
    """

    study_id: str
    plain: np.ndarray
    weighted: np.ndarray
    provenance: tuple[Mapping[str, str], ...]
    landmarks: Landmarks
    problems: tuple[Mapping[str, str], ...]
    truth: np.ndarray
    marked: pd.DataFrame | None = None

    @property
    def called(self) -> np.ndarray:
        """(25,) the likeliest grade of each cell by the plain probabilities."""
        return np.asarray(self.plain.argmax(1))

    def members(self, cell: int) -> tuple[str, ...]:
        """Names of the networks behind a cell."""
        return tuple(filter(None, self.provenance[cell]["members"].split(";")))

    def from_images(self, cell: int) -> bool:
        """Whether networks graded the cell on an image."""
        return self.provenance[cell]["source"] == "model"


@dataclass(frozen=True, eq=False)
class RunRecord:
    """A run: ``facts`` of ``run.json``, the ``submission`` as it was read, and the tables of ``submit.py --stages``."""

    folder: Path
    facts: Mapping[str, Any]
    submission: pd.DataFrame
    grades: pd.DataFrame
    provenance: pd.DataFrame
    problems: pd.DataFrame
    points: pd.DataFrame | None
    truth: Truth | None

    @cached_property
    def study_ids(self) -> list[str]:
        """The studies in the order of the tables."""
        return list(dict.fromkeys(self.provenance["study_id"]))

    @cached_property
    def _rows(self) -> dict[str, pd.DataFrame]:
        return {str(name): rows for name, rows in self.provenance.groupby("study_id", sort=False)}

    @cached_property
    def _problems(self) -> dict[str, pd.DataFrame]:
        return {str(name): rows for name, rows in self.problems.groupby("study_id", sort=False)}

    @cached_property
    def _points(self) -> dict[str, pd.DataFrame]:
        points = self.points
        return {} if points is None else {str(name): rows for name, rows in points.groupby("study_id", sort=False)}

    def study(self, study_id: str) -> StudyRecord:
        """One study.

        Raises:
            CallError: the tables lack rows of it.
        """
        names = [row_id(study_id, cell) for cell in CELLS]
        rows = self._rows[study_id]
        tables = (rows, self.grades, self.submission)
        missing = [name for name in names if any(name not in table.index for table in tables)]
        if missing:
            raise CallError(f"{self.folder}: the tables have no row {missing[0]}; expected those of one run")
        numbers = self.grades.loc[names]
        landmarks = Landmarks.empty(study_id)
        if study_id in self._points:
            landmarks = Landmarks.from_frame(study_id, self._points[study_id])
        provenance = rows.loc[names].to_dict("records")
        own = self._problems.get(study_id, self.problems[:0])
        return StudyRecord(
            study_id,
            numbers[[f"plain_{grade}" for grade in GRADES]].to_numpy(float),
            self.submission.loc[names, list(GRADES)].to_numpy(float),
            tuple({str(k): str(v) for k, v in row.items()} for row in provenance),
            landmarks,
            tuple({str(k): str(v) for k, v in row.items()} for row in own.to_dict("records")),
            np.full(len(CELLS), np.nan) if self.truth is None else self.truth.grades(study_id),
            None if self.truth is None else self.truth.points_of(study_id),
        )


def read_run(folder: Path, stages: Path | None = None, truth: Path | None = None) -> RunRecord:
    """Read the folder of a run.

    Args:
        folder: holds ``run.json``.
        stages: what ``submit.py --stages`` wrote; by default in ``folder``, its ``stages``, or where ``run.json`` says.
        truth: a competition folder with ``train.csv``, or such a table.

    Raises:
        CallError: a file is not there, or not of a run.
        TableError: a table is damaged.
    """
    path = folder / REPORT_FILE
    try:
        facts = json.loads(read_bounded(path, MOST_BYTES))
        missing = [name for name in FACTS if name not in facts]
        if missing or not facts["command"]["out"]:
            raise KeyError(*missing)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else f"is no report of submit.py ({error!r:.100})"
        raise CallError(f"{path}: {why}; expected the folder that submit.py wrote its table into") from error
    tables = stages or _find_stages(folder, facts)
    plain = [f"plain_{grade}" for grade in GRADES]
    points = tables / POINTS_TABLE
    numbers = ("instance_number", "x", "y", "x_mm", "y_mm", "z_mm")
    of = "submit.py --stages"
    return RunRecord(
        folder,
        facts,
        read_submission(folder / Path(str(facts["command"]["out"])).name),
        _by_row(read_written(tables / GRADES_TABLE, ("row_id", "source"), plain, of)),
        _by_row(read_written(tables / "provenance.csv", PROVENANCE_COLUMNS, (), of).fillna("")),
        read_written(tables / "problems.csv", PROBLEM_COLUMNS, (), of).fillna(""),
        read_written(points, ("study_id", "series_id", "condition", "level"), numbers, of)
        if points.is_file()
        else None,
        None if truth is None else read_truth(truth),
    )


def read_truth(path: Path) -> Truth:
    """The grades of a competition folder, or of a table like ``train.csv``, and the points beside it.

    Raises:
        CallError: there is none.
        TableError: the table is damaged.
    """
    table = path / "train.csv" if path.is_dir() else path
    if not table.is_file():
        raise CallError(f"--truth {path}: no {table.name} there; expected a folder with train.csv, or such a table")
    labels = read_labels(table).strict()
    labels.index = labels.index.map(lambda study_id: plain_id(str(study_id)))
    beside = table.with_name("train_label_coordinates.csv")
    points = read_coordinates(beside).strict() if beside.is_file() else None
    if points is not None:
        for column in ("study_id", "series_id"):
            points[column] = points[column].map(plain_id)
    return Truth(labels, points)


def _by_row(table: pd.DataFrame) -> pd.DataFrame:
    return table.set_index(table["row_id"].map(unguarded))


def _find_stages(folder: Path, facts: Mapping[str, Any]) -> Path:
    named = facts["command"].get("stages")
    places = [folder, folder / "stages", *([Path(named), folder.parent / named] if named else [])]
    for place in places:
        if all((place / name).is_file() for name in STAGE_TABLES[:3]):
            return place
    raise CallError(
        f"{folder}: no {', '.join(STAGE_TABLES[:3])} there or in {folder / 'stages'}; run submit.py with --stages "
        f"{folder / 'stages'}, or name their folder with --stages"
    )
