"""What a family's classifier is trained on: windows, cells, grades and folds of some competition folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.competition import Competition, CompetitionError
from pipeline.cubes.cache import WindowCache, build_cache
from pipeline.folds import make_folds, read_folds
from pipeline.labels import Family, condition_from_title, level_from_title
from pipeline.severity.items import CellTable, cell_table, study_positions
from pipeline.severity.settings import SeveritySettings
from pipeline.tables import TableError, read_written


@dataclass(frozen=True, eq=False)
class SeverityData:
    """What all folds of a family share.

    Attributes:
        cache: the windows.
        cells: every cell of every study of the cache.
        labels: grades of those studies, as ``Competition.labels``.
        folds: the fold of every study, index study_id.
    """

    cache: WindowCache
    cells: CellTable
    labels: pd.DataFrame
    folds: pd.Series

    def in_fold(self, fold: int) -> NDArray[np.bool_]:
        """(N,) which cells are of a study of that fold."""
        return study_positions(self.cache, list(self.folds.index[self.folds == fold]))[self.cells.study]


def load_data(
    competitions: Sequence[Competition],
    family: Family,
    settings: SeveritySettings,
    cache_root: Path,
    landmark_tables: Sequence[Path],
    split: Path | None,
    workers: int,
) -> SeverityData:
    """Windows, cells and folds of some competition folders; fills the cache where it must.

    Raises:
        CompetitionError: a folder has no grades.
        TableError: a table of points or of folds lacks something.
    """
    for competition in competitions:
        if competition.labels is None:
            raise CompetitionError(f"{competition.root}: no train.csv; a classifier cannot learn without grades")
    predicted = _read_points(landmark_tables) if landmark_tables else None
    cubes = settings.cubes(family)
    cells = settings.cells(family)
    cache = build_cache(competitions, family, cubes, settings.margin_slices, cache_root, predicted, workers, cells)
    labels = pd.concat([c.labels for c in competitions if c.labels is not None])
    labels = labels[~labels.index.duplicated()].loc[list(cache.study_ids)]
    folds = _folds(competitions, labels, split)
    return SeverityData(cache, cell_table(cache, labels, settings.answers(family)[1:]), labels, folds)


def _folds(competitions: Sequence[Competition], labels: pd.DataFrame, split: Path | None) -> pd.Series:
    if split is None:
        # Each folder on its own, as the localiser's training does it: its held-out studies are the same.
        made = [make_folds(c.labels) for c in competitions if c.labels is not None]
        folds = pd.concat(made)
        folds = folds[~folds.index.duplicated()]
    else:
        folds = read_folds(split)
    missing = labels.index.difference(folds.index)
    if len(missing):
        text = f"no fold for {len(missing)} studies, the first is {missing[0]}; write a line for each"
        raise TableError(split or "folds", None, None, text)
    return folds.loc[labels.index]


def _read_points(paths: Sequence[Path]) -> pd.DataFrame:
    """The rows of several tables of predicted points.

    Raises:
        TableError: a table lacks patient millimetres, or is none of points.
    """
    frames = []
    for path in paths:
        texts = ("study_id", "series_id", "condition", "level")
        numbers = ("instance_number", "x", "y", "x_mm", "y_mm", "z_mm")
        frame = read_written(path, texts, numbers, "evaluate landmarks")
        for column, parse in (("condition", condition_from_title), ("level", level_from_title)):
            for text in frame[column].unique():
                try:
                    parse(str(text))
                except ValueError as error:
                    raise TableError(path, None, column, str(error)) from error
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)
