"""Cells to train and evaluate on: which cubes of the cache count, why others do not, and how they are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch.utils.data import Dataset

from pipeline.cubes.cache import CubeCache, Source
from pipeline.labels import CELLS, GRADE_WEIGHTS, GRADES, LEVELS
from pipeline.severity.settings import Sampling, view_name
from pipeline.training.in_plane import InPlaneAugmentation, InPlaneSettings


@dataclass(frozen=True, eq=False)
class CellTable:
    """Cells of a cache, one row each: where its cubes are, its level and grade.

    Attributes:
        study: (N,) position of the study in the cache.
        cell: (N,) position of the cell in the cache.
        level: (N,) 0 for L1/L2 to 4 for L5/S1.
        grade: (N,) 0, 1, 2 or -1 for no grade.
        true: (N,) bool, has a cube at its labelled point.
        predicted: (N,) bool, has a cube at its predicted point.
    """

    study: NDArray[np.int64]
    cell: NDArray[np.int64]
    level: NDArray[np.int64]
    grade: NDArray[np.int64]
    true: NDArray[np.bool_]
    predicted: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.study)

    def rows(self, chosen: NDArray[np.bool_]) -> CellTable:
        """The rows where ``chosen`` (N,) holds."""
        return CellTable(
            study=self.study[chosen],
            cell=self.cell[chosen],
            level=self.level[chosen],
            grade=self.grade[chosen],
            true=self.true[chosen],
            predicted=self.predicted[chosen],
        )


def cell_table(cache: CubeCache, labels: pd.DataFrame) -> CellTable:
    """Every cell of every study of a cache.

    Args:
        labels: as :attr:`pipeline.competition.Competition.labels`, all studies of the cache.
    """
    columns = [CELLS[index].column for index in cache.cells]
    grades = labels.loc[list(cache.study_ids), columns].to_numpy(dtype=float)
    study, cell = (axis.ravel() for axis in np.indices(grades.shape))
    level = np.array([LEVELS.index(CELLS[index].level) for index in cache.cells])
    shown: dict[Source, NDArray[np.bool_]] = {"true": cache.shown("true"), "predicted": cache.shown("predicted")}
    return CellTable(
        study=study,
        cell=cell,
        level=level[cell],
        grade=np.where(np.isfinite(grades), grades, -1).astype(np.int64).ravel(),
        true=shown["true"].ravel(),
        predicted=shown["predicted"].ravel(),
    )


def dropped_rows(table: CellTable) -> dict[str, int]:
    """How many cells cannot be trained on, by reason."""
    shown = table.true | table.predicted
    return {
        "no grade": int((table.grade < 0).sum()),
        "no point, or no series that shows it": int(((table.grade >= 0) & ~shown).sum()),
    }


def draw_weights(table: CellTable, sampling: Sampling) -> NDArray[np.float64] | None:
    """How often to draw each cell, (N,); None for equally often.

    ``grade`` draws by the metric's weights, so that the loss needs none. ``condition_level`` gives every combination
    of condition, level and grade the same share; the calibration puts the frequencies right again.
    """
    if sampling == "uniform":
        return None
    if sampling == "grade":
        return np.asarray(GRADE_WEIGHTS, dtype=np.float64)[table.grade]
    group = table.cell * len(GRADES) + table.grade  # a cell of the cache is a condition at a level
    counts = np.bincount(group)
    return np.asarray(1.0 / counts[group])


class CubeItems(Dataset[dict[str, Any]]):
    """Cached cubes with their margin; the window is cut from them on the training device.

    Args:
        cache: the cubes.
        table: the cells, in order.
        predicted_share: how often a cell that has both is taken at its predicted point; 1 wherever there is one.
        jitter_slices: probability that the middle is moved by one slice, either way, where there is one.
        in_plane: changes of every cube with its margin, float32, all its slices alike; None leaves it as cached.
        beside: slices of the margin that are kept on both ends, for inference.
    """

    def __init__(
        self,
        cache: CubeCache,
        table: CellTable,
        predicted_share: float = 1.0,
        jitter_slices: float = 0.0,
        in_plane: InPlaneSettings | None = None,
        beside: int = 0,
    ) -> None:
        self.cache, self.table = cache, table
        self.predicted_share, self.jitter_slices = predicted_share, jitter_slices
        self.in_plane = InPlaneAugmentation(in_plane) if in_plane else None
        if beside > cache.margin.slices:
            raise ValueError(f"the cache has a margin of {cache.margin.slices} slices, {beside} are asked for")
        self.beside = beside

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> dict[str, Any]:
        table, cache = self.table, self.cache
        study, cell = int(table.study[index]), int(table.cell[index])
        # The loop seeds numpy's global generator before each item.
        both = table.true[index] and table.predicted[index]
        use_predicted = np.random.random() < self.predicted_share if both else bool(table.predicted[index])  # noqa: NPY002
        source: Source = "predicted" if use_predicted else "true"
        item: dict[str, Any] = {"level": int(table.level[index]), "grade": int(table.grade[index])}
        for view in cache.views:
            present = cache.present[view.kind, source][study, cell]
            first = cache.margin.slices + self._slice_shift(present, cache.margin.slices)
            last = first + view.slices - 2 * cache.margin.slices
            chosen = slice(first - self.beside, last + self.beside)
            # Copied: torch warns of memory that it may not write to, such as a file's.
            pixels = np.array(cache.pixels[view.kind, source][study, cell, chosen])
            if self.in_plane:
                generator = np.random.default_rng(np.random.randint(2**31))  # noqa: NPY002
                pixels, _ = self.in_plane(pixels.astype(np.float32), generator)
            item[f"pixels_{view_name(view.kind)}"] = pixels
            item[f"present_{view_name(view.kind)}"] = np.array(present[chosen])
        return item

    def _slice_shift(self, present: NDArray[np.bool_], most: int) -> int:
        if not self.jitter_slices or not most or np.random.random() >= self.jitter_slices:  # noqa: NPY002
            return 0
        shift = 1 if np.random.random() < 0.5 else -1  # noqa: NPY002
        return shift if present[len(present) // 2 + shift] else 0


def study_positions(cache: CubeCache, study_ids: Sequence[str]) -> NDArray[np.bool_]:
    """(studies,) which studies of the cache are among ``study_ids``."""
    wanted = set(study_ids)
    return np.array([study_id in wanted for study_id in cache.study_ids])
