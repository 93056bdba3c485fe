"""Folds of studies: the same grades in each, the same split for the same studies, whatever their order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.competition import Competition, CompetitionError
from pipeline.files import write_atomically
from pipeline.labels import CELL_COLUMNS, FAMILY_COLUMNS, FOLDS, Family
from pipeline.tables import TableError, guarded_frame, read_text_table


def studies_in_fold(competition: Competition, fold: int) -> set[str]:
    """The studies of a labelled folder that fold ``fold`` of :func:`make_folds` holds out.

    Raises:
        CompetitionError: the folder has no labels, or too few, to make folds of.
    """
    if competition.labels is None:
        raise CompetitionError(f"{competition.root}: no train.csv; folds cannot be made without labels")
    folds = make_folds(competition.labels)
    return set(folds.index[folds == fold])


def make_folds(labels: pd.DataFrame, n: int = FOLDS) -> pd.Series:
    """Assign each study to one of ``n`` folds, stratified by the worst grade of each condition family.

    Studies with the same pattern (canal, foraminal, subarticular) are spread evenly, and so are all of them. The
    result depends on the set of studies, not on the order of rows.

    Args:
        labels: index study_id, columns ``CELL_COLUMNS`` with 0, 1, 2 or NaN.

    Returns:
        Folds 0..n-1, index study_id (sorted), name ``fold``.

    Raises:
        CompetitionError: fewer than two folds, fewer studies than folds, or a study twice.
    """
    if n < 2 or len(labels) < n:
        raise CompetitionError(
            f"cannot make {n} folds of {len(labels)} studies; expected 2 or more, and a study for each"
        )
    if labels.index.has_duplicates:
        raise CompetitionError(f"study {labels.index[labels.index.duplicated()][0]} is listed more than once")
    ordered = labels.sort_index()
    patterns = []
    for family in Family:
        columns = [CELL_COLUMNS[index] for index in FAMILY_COLUMNS[family]]
        patterns.append(ordered[columns].max(axis=1).fillna(-1).to_numpy())
    generator = np.random.default_rng(0)
    shuffled = generator.permutation(len(ordered))
    order = shuffled[np.lexsort([pattern[shuffled] for pattern in patterns])]
    folds = np.empty(len(ordered), dtype=np.int64)
    folds[order] = np.arange(len(ordered)) % n
    return pd.Series(folds, index=pd.Index(ordered.index.astype(str), name="study_id"), name="fold")


def write_folds(folds: pd.Series, path: Path) -> None:
    """Write ``study_id,fold`` lines."""
    table = guarded_frame(folds.rename("fold").rename_axis("study_id").reset_index())
    write_atomically(path, lambda partial: table.to_csv(partial, index=False))


def read_folds(path: Path, content: bytes | None = None) -> pd.Series:
    """The inverse of :func:`write_folds`; ``content`` is that of the file where it has been read already.

    Raises:
        TableError: a fold that is not a whole number of 0 or more, or a study twice.
    """
    frame = read_text_table(path, ("study_id", "fold"), content)
    for row, text in frame["fold"].items():
        if not (text.isascii() and text.isdecimal() and len(text) <= 6):
            raise TableError(path, int(str(row)), "fold", f"found {text!r}, expected 0, 1, 2, ...")
    for row, study_id in frame.loc[frame.duplicated("study_id"), "study_id"].items():
        raise TableError(path, int(str(row)), "study_id", f"{study_id!r} is listed a second time")
    index = pd.Index(frame["study_id"].astype(str), name="study_id")
    return pd.Series(frame["fold"].astype(np.int64).to_numpy(), index=index, name="fold")
