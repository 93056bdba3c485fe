"""Cells to train and evaluate on: which cubes of the cache count, why others do not, and how they are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from pipeline.cubes.cache import CubeCache, Source
from pipeline.labels import CELLS, GRADE_WEIGHTS, GRADES, LEVELS, Cell, Family, SeriesKind, companion
from pipeline.severity.settings import Sampling, view_name
from pipeline.training.in_plane import InPlaneAugmentation
from pipeline.weights.recipe import InPlaneSettings


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


def cell_table(cache: CubeCache, labels: pd.DataFrame, also: Sequence[Family] = ()) -> CellTable:
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


class CubeItems(Dataset[dict[str, Any]]):
    """Cached cubes with their margin, a batch at a time; the window is cut from them on the training device.

    A batch is gathered from memory maps in one call for each view and kind of point, without loading processes; after
    :meth:`CubeCache.keep_on` it does not even leave the device, because a family's cubes are a few GB.

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
        return {name: values[0] for name, values in self.fetch(np.array([index])).items()}

    def fetch(self, indices: NDArray[np.int64]) -> dict[str, Tensor]:
        """Some items as a batch: ``level`` (B,), ``grade`` (B, families), and by view the pixels and what is present.

        All randomness comes from numpy's global generator, which the loop seeds.
        """
        table, cache = self.table, self.cache
        study, cell = table.study[indices], table.cell[indices]
        true, predicted = table.true[indices], table.predicted[indices]
        chance = np.random.random((3, len(indices)))  # noqa: NPY002
        use_predicted = predicted & (~true | (chance[0] < self.predicted_share))
        batch = {"level": torch.from_numpy(table.level[indices]), "grade": torch.from_numpy(table.grades[indices])}
        for view in cache.views:
            margin, name = cache.margin.slices, view_name(view.kind)
            present = np.zeros((len(indices), view.slices), dtype=bool)
            pixels: Tensor | None = None
            for source, rows in (("true", ~use_predicted), ("predicted", use_predicted)):
                if rows.any():
                    at = np.flatnonzero(rows)
                    present[at] = cache.present[view.kind, source][study[at], cell[at]]  # type: ignore[index]
                    part = self._gather(view.kind, source, study[at], cell[at])  # type: ignore[arg-type]
                    if len(at) == len(indices):
                        pixels = part
                    else:
                        pixels = part.new_zeros((len(indices), *part.shape[1:])) if pixels is None else pixels
                        pixels[torch.from_numpy(at)] = part
            shift = np.where(chance[2] < 0.5, 1, -1) * (chance[1] < self.jitter_slices) * bool(margin)
            middle = view.slices // 2 + shift
            middle = np.where(present[np.arange(len(indices)), middle], middle, view.slices // 2)
            half = view.slices // 2 - margin + self.beside
            slices = middle[:, None] + np.arange(-half, half + 1)
            assert pixels is not None  # every row is of one source or the other
            rows_of = torch.arange(len(indices), device=pixels.device)[:, None]
            pixels = pixels[rows_of, torch.from_numpy(slices).to(pixels.device)]
            if self.in_plane:
                pixels = torch.from_numpy(np.stack([self._changed(cube) for cube in pixels.float().numpy()]))
            batch[f"pixels_{name}"] = pixels
            batch[f"present_{name}"] = torch.from_numpy(np.take_along_axis(present, slices, 1))
        where = batch[f"pixels_{view_name(cache.views[0].kind)}"].device
        return {name: values.to(where) for name, values in batch.items()}

    def _gather(self, kind: SeriesKind, source: Source, study: NDArray[np.int64], cell: NDArray[np.int64]) -> Tensor:
        """(n, slices, rows, cols) cubes with their margins."""
        held = self.cache.held.get((kind, source))
        if held is not None:
            return held[torch.from_numpy(study).to(held.device), torch.from_numpy(cell).to(held.device)]
        return torch.from_numpy(np.asarray(self.cache.pixels[kind, source][study, cell]))

    def _changed(self, cube: NDArray[np.float32]) -> NDArray[np.float32]:
        generator = np.random.default_rng(np.random.randint(2**31))  # noqa: NPY002
        assert self.in_plane is not None
        return self.in_plane(cube, generator)[0]


def study_positions(cache: CubeCache, study_ids: Sequence[str]) -> NDArray[np.bool_]:
    """(studies,) which studies of the cache are among ``study_ids``."""
    wanted = set(study_ids)
    return np.array([study_id in wanted for study_id in cache.study_ids])
