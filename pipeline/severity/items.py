"""Cells to train and evaluate on: which windows of the cache count, why others do not, and how they are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from pipeline.cubes.cache import Places, Source, WindowCache
from pipeline.labels import CELLS, GRADE_WEIGHTS, GRADES, LEVELS, Cell, Family, companion
from pipeline.severity.settings import Sampling, view_name
from pipeline.training.in_plane import InPlaneAugmentation
from pipeline.weights.recipe import InPlaneSettings


@dataclass(frozen=True, eq=False)
class CellTable:
    """Cells of a cache, one row each: where its windows are, its level and grade; an item's cells after one another.

    Attributes:
        study: (N,) position of the study in the cache.
        cell: (N,) position of the cell in the cache.
        level: (N,) 0 for L1/L2 to 4 for L5/S1.
        grade: (N,) 0, 1, 2 or -1 for no grade.
        true: (N,) bool, has a window at its labelled point.
        predicted: (N,) bool, has a window at its predicted point.
        also: (N, K) the grades of the K further families at the cell's level and side, likewise.
    """

    study: NDArray[np.int64]
    cell: NDArray[np.int64]
    level: NDArray[np.int64]
    grade: NDArray[np.int64]
    true: NDArray[np.bool_]
    predicted: NDArray[np.bool_]
    also: NDArray[np.int64]

    @property
    def grades(self) -> NDArray[np.int64]:
        """(N, 1 + K) the cell's own grade and those of the further families."""
        return np.concatenate([self.grade[:, None], self.also], 1)

    def __len__(self) -> int:
        return len(self.study)

    def rows(self, chosen: NDArray[np.bool_]) -> CellTable:
        """The rows where ``chosen`` (N,) holds."""
        return CellTable(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))

    def items(self, chosen: NDArray[np.bool_], cells: int) -> CellTable:
        """The items of so many cells of which ``chosen`` (N,) holds for some; without the grades of the others."""
        if cells == 1:
            return self.rows(chosen)
        whole = chosen.reshape(-1, cells).any(1).repeat(cells)
        return replace(self, grade=np.where(chosen, self.grade, -1)).rows(whole)


def cell_table(cache: WindowCache, labels: pd.DataFrame, also: Sequence[Family] = ()) -> CellTable:
    """Every cell of every study of a cache.

    Args:
        labels: as :attr:`pipeline.competition.Competition.labels`, all studies of the cache.
        also: the further families whose grades go with each cell.
    """

    def graded(cells: Sequence[Cell]) -> NDArray[np.int64]:
        values = labels.loc[list(cache.study_ids), [cell.column for cell in cells]].to_numpy(dtype=float)
        return np.where(np.isfinite(values), values, -1).astype(np.int64)

    cells = [CELLS[index] for index in cache.cells]
    grades = graded(cells)
    further = [graded([companion(cell, family) for cell in cells]).ravel() for family in also]
    study, cell = (axis.ravel() for axis in np.indices(grades.shape))
    level = np.array([LEVELS.index(CELLS[index].level) for index in cache.cells])
    shown: dict[Source, NDArray[np.bool_]] = {"true": cache.shown("true"), "predicted": cache.shown("predicted")}
    return CellTable(
        study=study,
        cell=cell,
        level=level[cell],
        grade=grades.ravel(),
        true=shown["true"].ravel(),
        predicted=shown["predicted"].ravel(),
        also=np.stack(further, 1) if further else np.zeros((grades.size, 0), dtype=np.int64),
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


class WindowItems(Dataset[dict[str, Any]]):
    """The surroundings of training items, a batch at a time; windows are cut from them on the training device.

    A batch is copied from prepared stacks that are mapped into memory, without loading processes: some 0.3 ms a cell.
    All batches of a set have one shape, whatever the resolution of the stacks and whichever slices are missing.

    Args:
        cache: the windows.
        table: the cells, in order.
        margin_mm: around every window.
        predicted_share: how often a cell that has both is taken at its predicted point; 1 wherever there is one.
        jitter_slices: probability that the middle is moved by one slice, either way, where there is one.
        in_plane: changes of every cell's surroundings, float32, all slices alike; None leaves them as they are.
        beside: slices of the margin that are kept on both ends, for inference.
        cells: of an item.
    """

    def __init__(
        self,
        cache: WindowCache,
        table: CellTable,
        margin_mm: float,
        predicted_share: float = 1.0,
        jitter_slices: float = 0.0,
        in_plane: InPlaneSettings | None = None,
        beside: int = 0,
        cells: int = 1,
    ) -> None:
        self.cache, self.table, self.cells = cache, table, cells
        self.predicted_share, self.jitter_slices = predicted_share, jitter_slices
        self.in_plane = InPlaneAugmentation(in_plane) if in_plane else None
        if beside > cache.margin_slices:
            raise ValueError(f"the cache has a margin of {cache.margin_slices} slices, {beside} are asked for")
        self.beside = beside
        self.sides = [cache.side_px(view, margin_mm) for view in cache.views]

    def __len__(self) -> int:
        return len(self.table) // self.cells

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: values[0] for name, values in self.fetch(np.array([index])).items()}

    def fetch(self, indices: NDArray[np.int64]) -> dict[str, Tensor]:
        """Some items as a batch.

        All randomness comes from numpy's global generator, which the loop seeds.

        Returns:
            ``level`` (B,), ``grade`` (B, families), and by view ``around_<view>`` (B, S, side, side) float16, what is
            around the window, ``place_<view>`` (B, S, 2, 3) that gives (col, row) there of (mm right, mm down, 1) from
            its middle, and ``present_<view>`` (B, S). Of items of several cells all are (B, cells, ...), and ``grade``
            (B, cells).
        """
        if self.cells == 1:
            return self._rows(indices)
        flat = self._rows((indices[:, None] * self.cells + np.arange(self.cells)).ravel())
        flat["grade"] = flat["grade"][:, 0]
        return {name: values.unflatten(0, (-1, self.cells)) for name, values in flat.items()}

    def _rows(self, indices: NDArray[np.int64]) -> dict[str, Tensor]:
        table, cache, count = self.table, self.cache, len(indices)
        study, cell = table.study[indices], table.cell[indices]
        true, predicted = table.true[indices], table.predicted[indices]
        chance = np.random.random((3, count))  # noqa: NPY002
        use_predicted = predicted & (~true | (chance[0] < self.predicted_share))
        batch = {"level": torch.from_numpy(table.level[indices]), "grade": torch.from_numpy(table.grades[indices])}
        for view, side in zip(cache.views, self.sides, strict=True):
            places = Places.none((count,), view.slices + 2 * cache.margin_slices)
            for source, rows in (("true", ~use_predicted), ("predicted", use_predicted)):
                if rows.any():
                    places.put(rows, cache.places[view.kind, source].at(study[rows], cell[rows]))  # type: ignore[index]
            at, middle = np.arange(count), places.slices.shape[1] // 2
            shift = np.where(chance[2] < 0.5, 1, -1) * (chance[1] < self.jitter_slices) * bool(cache.margin_slices)
            centre = np.where(places.slices[at, middle + shift] >= 0, middle + shift, middle)
            half = view.slices // 2 + self.beside
            chosen = centre[:, None] + np.arange(-half, half + 1)
            slices, matrix = places.slices[at[:, None], chosen], places.matrix[at[:, None], chosen]
            around = np.zeros((count, slices.shape[1], side, side), np.float16)
            for n in np.flatnonzero(places.first >= 0).tolist():
                corner = _copy(self.cache.pixels[view.kind].values, places, n, slices[n], matrix[n], around[n])
                matrix[n, :, :, 2] -= corner
            if self.in_plane:
                around = np.stack([self._changed(cube) for cube in around.astype(np.float32)]).astype(np.float16)
            name = view_name(view.kind)
            batch[f"around_{name}"] = torch.from_numpy(around)
            batch[f"place_{name}"] = torch.from_numpy(matrix)
            batch[f"present_{name}"] = torch.from_numpy(slices >= 0)
        return batch

    def _changed(self, cube: NDArray[np.float32]) -> NDArray[np.float32]:
        generator = np.random.default_rng(np.random.randint(2**31))  # noqa: NPY002
        assert self.in_plane is not None
        return self.in_plane(cube, generator)[0]


def _copy(
    pixels: NDArray[np.float16],
    places: Places,
    n: int,
    slices: NDArray[np.int16],
    matrix: NDArray[np.float32],
    target: NDArray[np.float16],
) -> NDArray[np.int64]:
    """Copy the squares around one window from its slices (S,) into ``target`` (S, side, side).

    Returns (2,) column and row of the squares' first pixel.
    """
    rows, cols = places.extent[n]
    first, side = places.first[n], target.shape[-1]
    there = np.flatnonzero(slices >= 0)
    if not len(there):
        return np.zeros(2, np.int64)
    corner = np.rint(matrix[there, :, 2].mean(0)).astype(np.int64) - side // 2
    col, row = np.clip(corner, 0, (cols, rows))
    last_col, last_row = np.clip(corner + side, 0, (cols, rows))
    for k in there:
        begin = first + int(slices[k]) * rows * cols
        image = pixels[begin : begin + rows * cols].reshape(rows, cols)
        target[k, row - corner[1] : last_row - corner[1], col - corner[0] : last_col - corner[0]] = image[
            row:last_row, col:last_col
        ]
    return corner


def study_positions(cache: WindowCache, study_ids: Sequence[str]) -> NDArray[np.bool_]:
    """(studies,) which studies of the cache are among ``study_ids``."""
    wanted = set(study_ids)
    return np.array([study_id in wanted for study_id in cache.study_ids])
