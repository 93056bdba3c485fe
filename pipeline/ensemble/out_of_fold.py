"""What an ensemble is fitted on: out-of-fold predictions of several recipes, and the grades."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from pipeline.ensemble.combine import blend, pattern_of
from pipeline.labels import CELL_COLUMNS, CELLS, GRADES
from pipeline.scoring.oof import OofTable

_LEAST = 1e-12
"""Of a probability in a table of submissions, which may say 0."""


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """Predictions, grades and folds; every array's first axis is the study.

    Attributes:
        predictions: (studies, 25, 3) log-probabilities by recipe, NaN rows where it has none.
        grades: (studies, 25) 0, 1, 2 or NaN.
        folds: (studies,) the fold of each study.
    """

    predictions: Mapping[str, np.ndarray]
    grades: np.ndarray
    folds: np.ndarray

    def rows(self, chosen: np.ndarray) -> OutOfFold:
        """The studies where ``chosen`` (studies,) holds."""
        predictions = {name: values[chosen] for name, values in self.predictions.items()}
        return OutOfFold(predictions, self.grades[chosen], self.folds[chosen])

    @cached_property
    def patterns(self) -> np.ndarray:
        """(studies,) the recipes that answer in each study, see :func:`pattern_of`."""
        answers = {name: np.isfinite(values).all(-1).any(1) for name, values in self.predictions.items()}
        return np.array(
            [pattern_of(n for n in answers if answers[n][row]) for row in range(len(self.grades))], dtype=str
        )

    @cached_property
    def named_patterns(self) -> list[str]:
        """The patterns in which something answers."""
        return [str(name) for name in np.unique(self.patterns) if name]


def even_blend(tables: Mapping[str, OofTable]) -> OofTable:
    """The even average, of logits, of what several recipes say; a row for each cell that any of them has."""
    every = OofTable.concatenate(list(tables.values()))
    study_ids, study = np.unique(every.study_id.astype(str), return_inverse=True)
    _, first = np.unique(study * len(CELLS) + every.cell, return_index=True)
    blended = blend({name: table.array(list(study_ids)) for name, table in tables.items()})
    rows = OofTable(*(getattr(every, name)[first] for name in OofTable.__dataclass_fields__))
    return replace(rows, log_p=blended[study[first], rows.cell])


def graded(log_p: np.ndarray, grades: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows (N, 3) and grades (N,) int of the cells that have both, from log-probabilities (..., 3) and grades (...)."""
    known = np.isfinite(log_p).all(-1) & np.isfinite(grades)
    return log_p[known], grades[known].astype(np.int64)


def gather(tables: Mapping[str, OofTable], labels: Sequence[pd.DataFrame]) -> OutOfFold:
    """Tables of ``train severity`` and grades by study.

    Args:
        tables: by recipe.
        labels: as ``Competition.labels``; a study in two of them is taken from the first.

    Raises:
        ValueError: a study has no grades, or two recipes put it into different folds.
    """
    grades = pd.concat(list(labels))
    folds: dict[str, int] = {}
    for name, table in tables.items():
        for study_id, fold in zip(map(str, table.study_id), table.fold.tolist(), strict=True):
            if folds.setdefault(study_id, fold) != fold:
                raise ValueError(f"study {study_id}: fold {fold} in {name}, {folds[study_id]} elsewhere; use one split")
    study_ids = sorted(folds)
    predictions = {name: table.array(study_ids) for name, table in tables.items()}
    return OutOfFold(predictions, _grades(grades, study_ids, "--data"), np.array([folds[name] for name in study_ids]))


def gather_submissions(tables: Mapping[str, pd.DataFrame], labels: pd.DataFrame, folds: pd.Series) -> OutOfFold:
    """Tables in the form of a submission, grades and folds by study.

    Args:
        tables: by recipe, as :func:`pipeline.submission.read_submission` gives them; rows may be missing, and rows of
            studies without a fold are left out.
        labels: index study_id, columns ``CELL_COLUMNS``.
        folds: index study_id.

    Raises:
        ValueError: a study with a fold has no grades, or a table has no row of any study with a fold.
    """
    study_ids = sorted(map(str, folds.index))
    names = [f"{study_id}_{column}" for study_id in study_ids for column in CELL_COLUMNS]
    predictions = {}
    for name, table in tables.items():
        p = table.reindex(names)[list(GRADES)].to_numpy(dtype=float)
        if not np.isfinite(p).any():
            raise ValueError(f"{name}: no row is of a study that has a fold, such as {names[0] if names else 'none'}")
        p = np.maximum(p / p.sum(1, keepdims=True), _LEAST)
        predictions[name] = np.log(p).reshape(len(study_ids), len(CELLS), len(GRADES))
    return OutOfFold(predictions, _grades(labels, study_ids, "--truth"), folds.loc[study_ids].to_numpy())


def _grades(labels: pd.DataFrame, study_ids: Sequence[str], option: str) -> np.ndarray:
    """(studies, 25) grades.

    Raises:
        ValueError: a study has none.
    """
    labels = labels[~labels.index.duplicated()]
    if missing := [study_id for study_id in study_ids if study_id not in labels.index]:
        raise ValueError(
            f"{len(missing)} studies of the tables have no grades, the first is {missing[0]}; see {option}"
        )
    return labels.loc[list(study_ids), list(CELL_COLUMNS)].to_numpy(dtype=float)
