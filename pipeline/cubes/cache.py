"""Where the windows of all training cells lie, and the prepared stacks they are cut from while training.

The training cache (:mod:`pipeline.landmarks.prepare`) keeps stacks as the scanner wrote them. A classifier's training
unpacks the slices that its windows need once, normalised and at the resolution of its recipe as grading does it, into
a :class:`~pipeline.stacks.scratch.Scratch` that ends with the process. Windows are cut from that at every step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
import SimpleITK as sitk
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline.competition import Competition
from pipeline.console import say
from pipeline.cubes.cut import Place, place_cell, prepared
from pipeline.cubes.settings import CubeSettings, ViewSettings
from pipeline.labels import CELL_INDEX, CELLS, Cell, Condition, Family, SeriesKind, family_cells
from pipeline.landmarks.landmarks import Landmarks
from pipeline.landmarks.prepare import StudyFiles, by_study, prepare
from pipeline.parallel import in_processes
from pipeline.stacks import StudyStacks, read_stacks
from pipeline.stacks.scratch import Scratch, write_at
from pipeline.stacks.store import describe_stacks
from pipeline.volumes import Volume

Source = Literal["true", "predicted"]
SOURCES: tuple[Source, ...] = get_args(Source)


class Places(NamedTuple):
    """Where windows lie, by leading axes of any shape.

    Attributes:
        first: (...) int64, where the cell's stack begins in the prepared pixels; -1 without a window.
        extent: (..., 2) int64, rows and columns of its slices.
        slices: (..., S) int16, in the stack; -1 where there is none.
        matrix: (..., S, 2, 3) float32: (col, row) = matrix @ (mm to the window's right, mm down, 1).
    """

    first: NDArray[np.int64]
    extent: NDArray[np.int64]
    slices: NDArray[np.int16]
    matrix: NDArray[np.float32]

    @classmethod
    def none(cls, shape: tuple[int, ...], slices: int) -> Places:
        """No windows anywhere."""
        return cls(
            np.full(shape, -1, np.int64),
            np.zeros((*shape, 2), np.int64),
            np.full((*shape, slices), -1, np.int16),
            np.zeros((*shape, slices, 2, 3), np.float32),
        )

    def put(self, index: int | NDArray[Any], other: Places) -> None:
        """Take over those of ``other`` at an index of the leading axes."""
        self.first[index], self.extent[index] = other.first, other.extent
        self.slices[index], self.matrix[index] = other.slices, other.matrix

    def at(self, *index: NDArray[np.int64]) -> Places:
        """Those of some cells."""
        return Places(self.first[index], self.extent[index], self.slices[index], self.matrix[index])


@dataclass(frozen=True, eq=False)
class WindowCache:
    """The windows of one family.

    Attributes:
        family: the condition family.
        study_ids: the studies, in the order of the first axis of every array.
        cells: positions in ``CELLS``, in the order of the second axis.
        views: the views of the networks.
        margin_slices: slices that are known on both ends beyond those of the views.
        pixels: by kind: the prepared slices one after the other, float16, 1-D.
        places: by (kind, source): (studies, cells) windows.
    """

    family: Family
    study_ids: tuple[str, ...]
    cells: tuple[int, ...]
    views: tuple[ViewSettings, ...]
    margin_slices: int
    pixels: Mapping[SeriesKind, Scratch]
    places: Mapping[tuple[SeriesKind, Source], Places]

    def shown(self, source: Source) -> NDArray[np.bool_]:
        """(studies, cells) whether any view shows the cell at the points of ``source``."""
        found = [places.first >= 0 for (_, which), places in self.places.items() if which == source]
        nothing = np.zeros((len(self.study_ids), len(self.cells)), dtype=bool)
        return np.logical_or.reduce([nothing, *found])

    def side_px(self, view: ViewSettings, margin_mm: float) -> int:
        """Side of a square of a stack's pixels, along its rows, that holds any window of a view with a margin."""
        half = view.size_mm / 2 + margin_mm
        reaches = [
            np.abs(places.matrix[..., :2]).sum(-1).max(initial=0)
            for (kind, _), places in self.places.items()
            if kind is view.kind
        ]
        return 2 * (int(np.ceil(half * max(reaches, default=0))) + 2)


def build_cache(
    competitions: Sequence[Competition],
    family: Family,
    settings: CubeSettings,
    margin_slices: int,
    root: Path,
    predicted: pd.DataFrame | None = None,
    jobs: int = 0,
    cells: Sequence[int] = (),
) -> WindowCache:
    """Place the windows of every study that has a grade of the family, and prepare the slices they show.

    Args:
        competitions: folders with ``train.csv``; a study in two of them is taken from the first.
        family: whose windows.
        settings: views of the networks.
        margin_slices: to know on both ends.
        root: the training cache, which is filled where it must be.
        predicted: label_coordinates tables of predicted points with patient mm, concatenated; None for none.
        jobs: processes, each a study at a time; 0 for one a core.
        cells: positions in ``CELLS``, whose windows are cut like those of the family; its own for none.

    Raises:
        ValueError: no study has a grade of the family, there are neither labelled nor predicted points, or the cache is
            damaged.
        RefusedError: a folder of the cache holds something else.
        OSError: the disk is too small.
    """
    cells = tuple(cells) or family_cells(family)
    graded = [_graded(competition, cells) for competition in competitions]
    if not any(graded):
        raise ValueError(f"no study of {', '.join(str(c.root) for c in competitions)} has a grade of {family}")
    if predicted is None and all(competition.coordinates is None for competition in competitions):
        raise ValueError(f"{family}: no labelled points (train_label_coordinates.csv) and no table of predicted points")
    studies: dict[str, StudyFiles] = {}
    for files in prepare(competitions, root, predicted=predicted, workers=jobs):
        if files.ref.study_id in graded[files.competition]:
            studies.setdefault(files.ref.study_id, files)
    views = tuple(view.widened(0, margin_slices) for view in settings.of(family))
    sources: tuple[Source, ...] = SOURCES if predicted is not None else SOURCES[:1]
    places = {
        (view.kind, source): Places.none((len(studies), len(cells)), view.slices)
        for view in views
        for source in sources
    }
    found = [files for files in studies.values() if files.stacks.exists()]
    pixels: dict[SeriesKind, Scratch] = {}
    starts: dict[SeriesKind, NDArray[np.int64]] = {}
    for view in views:
        sizes = [_most_pixels(files.stacks, view) for files in found]
        starts[view.kind] = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
        what = f"unpacked {view.kind} slices of {len(found)} studies (--cache may be on another disk)"
        pixels[view.kind] = Scratch(root, (int(starts[view.kind][-1]),), np.float16, what)
    guesses, wide = by_study(predicted), _with_views(settings, family, views)
    tasks = [
        (files.stacks, guesses.get(files.ref.study_id), cells, wide.of(family), wide,
         {view.kind: (pixels[view.kind].path, int(starts[view.kind][n])) for view in views})
        for n, files in enumerate(found)
    ]  # fmt: skip
    order = {study_id: n for n, study_id in enumerate(studies)}
    runs = in_processes(_place_study, tasks, jobs if len(tasks) > 8 else 1)
    for files, mine in tqdm(zip(found, runs, strict=True), total=len(found), desc=f"{family} windows", unit="study"):
        for key, windows in mine.items():
            places[key].put(order[files.ref.study_id], windows)
    if lost := sorted(set(studies) - {files.ref.study_id for files in found}):
        say(f"{family}: nothing could be read of {len(lost)} graded studies, for example {lost[0]}")
    return WindowCache(family, tuple(studies), cells, settings.of(family), margin_slices, pixels, places)


def _graded(competition: Competition, cells: Sequence[int]) -> set[str]:
    """The studies of a folder with a grade of some of these cells."""
    labels = competition.labels
    if labels is None:
        return set()
    return set(labels.index[labels[[CELLS[cell].column for cell in cells]].notna().any(axis=1)])


def _with_views(settings: CubeSettings, family: Family, views: tuple[ViewSettings, ...]) -> CubeSettings:
    return CubeSettings(**{family.value: views}, max_tilt_degrees=settings.max_tilt_degrees, series=1)  # type: ignore[arg-type]


def _most_pixels(path: Path, view: ViewSettings) -> int:
    """At most so many pixels are prepared of a study's stacks of a kind."""
    return sum(math.prod(shape) for kind, shape in describe_stacks(path) if kind is view.kind)


def _place_study(
    path: Path,
    guesses: pd.DataFrame | None,
    cells: Sequence[int],
    views: Sequence[ViewSettings],
    settings: CubeSettings,
    targets: Mapping[SeriesKind, tuple[str, int]],
) -> dict[tuple[SeriesKind, Source], Places]:
    """Write the slices that a study's windows show into the prepared pixels; returns where its windows lie."""
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    study = read_stacks(path, list(targets))
    landmarks: dict[Source, Landmarks] = {"true": _true_landmarks(study)}
    if guesses is not None:
        landmarks["predicted"] = Landmarks.from_frame(study.study_id, guesses.drop_duplicates(["condition", "level"]))
    unplaced = {stack.volume.series_id for stack in study.stacks if not stack.volume.is_placed}
    result = {}
    for view in views:
        kept = [stack for stack in study.stacks if stack.volume.kind is view.kind]
        volumes = [prepared(stack.volume, view.spacing_mm, stack.limits) for stack in kept]
        chosen = {
            source: [place_cell(CELLS[cell], view, volumes, points, settings, unplaced) for cell in cells]
            for source, points in landmarks.items()
        }
        used: dict[Volume, list[int]] = {}
        for place, *_ in filter(None, (found for every in chosen.values() for found in every)):
            used.setdefault(place.volume, []).extend(index for index in place.slices if index is not None)
        target, first = targets[view.kind]
        begin: dict[Volume, int] = {}
        rank: dict[Volume, dict[int, int]] = {}
        for volume in volumes:
            slices = sorted(set(used.get(volume, ())))
            begin[volume] = first
            rank[volume] = {index: n for n, index in enumerate(slices)}
            if slices:
                write_at(target, first, volume.pixels[slices].astype(np.float16))
            first += len(slices) * volume.pixels[0].size
        for source, every in chosen.items():
            places = Places.none((len(every),), view.slices)
            for row, found in enumerate(every):
                if found:
                    volume = found[0].volume
                    places.first[row], places.extent[row] = begin[volume], volume.shape[1:]
                    places.slices[row] = [-1 if i is None else rank[volume][i] for i in found[0].slices]
                    places.matrix[row] = _matrices(found[0])
            result[view.kind, source] = places
    return result


def _matrices(place: Place) -> NDArray[np.float32]:
    """(S, 2, 3) from mm in the windows to column and row of their slices."""
    frame, result = place.frame, np.zeros((len(place.slices), 2, 3), np.float32)
    for n, index in enumerate(place.slices):
        if index is not None:
            inverse = place.volume.affines.inverse.matrix[index]
            steps = np.stack([frame.right, frame.down], 1)
            result[n, :, :2] = inverse[:2, :3] @ steps
            result[n, :, 2] = inverse[:2, :3] @ frame.centre_mm + inverse[:2, 3]
    return result


def _true_landmarks(study: StudyStacks) -> Landmarks:
    """The labelled points of a study as landmarks, with the slices on which they were marked."""
    result = Landmarks.empty(study.study_id)
    series: list[str | None] = list(result.series_id)
    for row in study.points.itertuples(index=False):
        index = CELL_INDEX[Cell(Condition(str(row.condition)), str(row.level))]
        result.points_mm[index] = (row.x_mm, row.y_mm, row.z_mm)
        result.instance_number[index], series[index] = row.instance_number, str(row.series_id)
    return replace(result, series_id=tuple(series))
