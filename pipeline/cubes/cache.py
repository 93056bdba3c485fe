"""The training cache: cubes of all studies as memory-mapped float16 arrays, so that an epoch reads no DICOM file.

Cubes are stored wider than the network wants them (a margin in plane, slices on both ends), so that jitter is a crop.
One array holds one kind of series and one source of points: the labelled ones (``true``) or predicted ones
(``predicted``). Plain ``.npy`` because zarr, npz and nii.gz are slower than reading the DICOM again.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline.competition import Competition, StudyRef
from pipeline.config import to_dict
from pipeline.console import say
from pipeline.cubes.cut import cut_cubes
from pipeline.cubes.settings import CubeSettings, ViewSettings
from pipeline.files import check_space, file_states, write_atomically
from pipeline.labels import CELL_INDEX, CELLS, Cell, Condition, Family, SeriesKind, family_cells
from pipeline.landmarks.labelled import find_mislabelled, labelled_points
from pipeline.landmarks.landmarks import Landmarks
from pipeline.owned import claim
from pipeline.parallel import in_processes
from pipeline.tables import guarded_frame
from pipeline.volumes import StudyVolumes, read_study

Source = Literal["true", "predicted"]
SOURCES: tuple[Source, ...] = get_args(Source)
_FORMAT = 4
"""Counts up when cubes are cut differently, so that old caches are not mistaken for new ones."""


@dataclass(frozen=True)
class Margin:
    """How much more a cached cube holds than the network sees.

    Attributes:
        mm: on every side of the window, for shifts, turns and scaling.
        slices: on both ends, for a shift along the stack.
    """

    mm: float = 9.0
    slices: int = 1


@dataclass(frozen=True, eq=False)
class CubeCache:
    """Cached cubes of one family.

    Attributes:
        family: the condition family.
        study_ids: the studies, in the order of the first axis of every array.
        cells: positions in ``CELLS``, in the order of the second axis.
        views: the views as they are cached, that is with the margin.
        margin: what was added to them.
        pixels: by (kind, source): (studies, cells, slices, rows, cols) float16, memory-mapped.
        present: by (kind, source): (studies, cells, slices) bool.
        held: those of ``pixels`` that are kept on a device, see :meth:`keep_on`.
    """

    family: Family
    study_ids: tuple[str, ...]
    cells: tuple[int, ...]
    views: tuple[ViewSettings, ...]
    margin: Margin
    pixels: Mapping[tuple[SeriesKind, Source], NDArray[np.float16]]
    present: Mapping[tuple[SeriesKind, Source], NDArray[np.bool_]]
    held: dict[tuple[SeriesKind, Source], torch.Tensor] = field(default_factory=dict)

    def keep_on(self, device: torch.device) -> bool:
        """Copy all cubes to a GPU where they take at most half of its free memory; returns whether they did.

        The memory maps stay the source of everything else; on a CPU nothing is copied.
        """
        needed = sum(values.nbytes for values in self.pixels.values())
        if device.type != "cuda" or self.held or needed > 0.5 * torch.cuda.mem_get_info(device)[0]:
            return bool(self.held)
        for key, values in self.pixels.items():
            target = torch.empty(values.shape, dtype=torch.float16, device=device)
            for first in range(0, len(values), 64):
                target[first : first + 64] = torch.from_numpy(np.array(values[first : first + 64])).to(device)
            self.held[key] = target
        return True

    def shown(self, source: Source) -> NDArray[np.bool_]:
        """(studies, cells) whether any view shows the cell at the points of ``source``."""
        half = {view.kind: view.slices // 2 for view in self.views}
        found = [values[:, :, half[kind]] for (kind, which), values in self.present.items() if which == source]
        if not found:
            return np.zeros((len(self.study_ids), len(self.cells)), dtype=bool)
        return np.asarray(np.logical_or.reduce(found))


def build_cache(
    competitions: Sequence[Competition],
    family: Family,
    settings: CubeSettings,
    margin: Margin,
    root: Path,
    predicted: pd.DataFrame | None = None,
    jobs: int = 2,
) -> CubeCache:
    """Cut the cubes of every study that has a grade of the family; what is cached already is not cut again.

    Other points or other descriptions of the series make another cache. A study whose files have changed since, or of
    which nothing could be read, is cut again by the next call.

    Args:
        competitions: folders with ``train.csv``; a study in two of them is taken from the first.
        family: whose cubes.
        settings: views of the networks, without margin.
        margin: to add.
        root: folder of all caches; this one becomes a folder in it, named after its content.
        predicted: label_coordinates tables of predicted points with patient mm, concatenated; None for none.
        jobs: processes, each a study at a time (processes scale, threads do not).

    Raises:
        ValueError: no study has a grade of the family, there are neither labelled nor predicted points, or the cache is
            damaged.
        RefusedError: the folder of these cubes holds something else.
    """
    cells = family_cells(family)
    work = list(_graded_studies(competitions, cells, predicted))
    if not work:
        raise ValueError(f"no study of {', '.join(str(c.root) for c in competitions)} has a grade of {family}")
    states = np.array([_state(job.study) for job in work], np.uint64)
    sources: list[Source] = [s for s in SOURCES if any(getattr(job, s) is not None for job in work)]
    if not sources:
        raise ValueError(f"{family}: no labelled points (train_label_coordinates.csv) and no table of predicted points")
    views = tuple(view.widened(margin.mm, margin.slices) for view in settings.of(family))
    wide = CubeSettings(**{**_fields(settings), family.value: views})
    pixels: dict[tuple[SeriesKind, Source], NDArray[np.float16]] = {}
    present: dict[tuple[SeriesKind, Source], NDArray[np.bool_]] = {}
    for source in sources:
        folder = root / f"{family}-{source}-{_fingerprint(work, family, wide, source)}"
        _fill(folder, work, states, family, wide, source, jobs)
        for view in views:
            pixels[view.kind, source] = _open(_file(folder, view.kind, "pixels"), "r")
            present[view.kind, source] = _open(_file(folder, view.kind, "present"))
    return CubeCache(family, tuple(job.study.study_id for job in work), cells, views, margin, pixels, present)


def _fill(
    folder: Path,
    work: Sequence[_Job],
    states: NDArray[np.uint64],
    family: Family,
    settings: CubeSettings,
    source: Source,
    jobs: int,
) -> None:
    """Cut the cubes that are not in the folder yet, or were cut from other states of the studies' files."""
    shapes = _shapes(settings, family)
    _allocate(folder, {kind: (len(work), *shape) for kind, shape in shapes.items()}, work, family)
    done = _open(folder / "done.npy", "r+")
    left = [int(n) for n in np.flatnonzero(done != states)]
    a_study = sum(math.prod(shape) for shape in shapes.values()) * np.dtype(np.float16).itemsize
    check_space(folder, a_study * len(left), f"{family} cubes of {len(left)} studies (--cache may be on another disk)")
    tasks = [(work[n], n, family, settings, folder, source) for n in left]
    runs = in_processes(_cut_study, tasks, jobs if len(left) > 8 else 1, lost=lambda _, n, *__: (n, False))
    unread = []
    for n, read in tqdm(runs, total=len(left), desc=f"cubes {family} {source}", unit="study", disable=not left):
        done[n] = states[n] if read else 0
        if not read:
            unread.append(work[n].study.study_id)
    done.flush()
    if unread:
        say(f"{family}: nothing could be read of {len(unread)} graded studies, for example {min(unread)}")


def _shapes(settings: CubeSettings, family: Family) -> dict[SeriesKind, tuple[int, int, int, int]]:
    """(cells, slices, rows, cols) of one study by kind of series."""
    count = len(family_cells(family))
    return {view.kind: (count, view.slices, view.pixels, view.pixels) for view in settings.of(family)}


@dataclass(frozen=True)
class _Job:
    """One study to cut, with its rows of the tables of points (None: the table does not exist)."""

    study: StudyRef
    true: pd.DataFrame | None
    predicted: pd.DataFrame | None


def _graded_studies(
    competitions: Sequence[Competition], cells: tuple[int, ...], predicted: pd.DataFrame | None
) -> Iterator[_Job]:
    columns = [CELLS[index].column for index in cells]
    guesses = _by_study(predicted)
    seen: set[str] = set()
    for competition in competitions:
        labels = competition.labels
        if labels is None:
            continue
        graded = set(labels.index[labels[columns].notna().any(axis=1)])
        points = _by_study(competition.coordinates)
        for study in competition.studies:
            if study.study_id in graded and study.study_id not in seen and study.series:
                seen.add(study.study_id)
                yield _Job(study, points.get(study.study_id), guesses.get(study.study_id))


def _by_study(table: pd.DataFrame | None) -> dict[str, pd.DataFrame]:
    return {} if table is None else {str(name): rows for name, rows in table.groupby("study_id", sort=False)}


def _fields(settings: CubeSettings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in settings.__dataclass_fields__}


def _fingerprint(work: Sequence[_Job], family: Family, settings: CubeSettings, source: Source) -> str:
    content = hashlib.sha256(json.dumps([_FORMAT, family, to_dict(settings)], default=str).encode())
    for job in work:
        series = [(one.series_id, one.description) for one in job.study.series]
        content.update(repr((str(job.study.path), series)).encode())
        table: pd.DataFrame | None = getattr(job, source)
        if table is not None:
            content.update(pd.util.hash_pandas_object(table, index=False).to_numpy().tobytes())
    return content.hexdigest()[:10]


def _state(study: StudyRef) -> int:
    """Of the study's files, never 0; what is cut again where it differs."""
    states = repr([file_states(series.path) for series in study.series])
    return int.from_bytes(hashlib.sha256(states.encode(errors="surrogateescape")).digest()[:8], "little") | 1


def _open(path: Path, mapped: Literal["r", "r+"] | None = None) -> Any:
    try:
        return np.load(path, mapped, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: a damaged cache ({error}); remove the folder {path.parent} and run again") from error


def _file(folder: Path, kind: SeriesKind, what: str) -> Path:
    return folder / f"{kind.name.lower()}_{what}.npy"


def _allocate(folder: Path, shapes: Mapping[SeriesKind, tuple[int, ...]], work: Sequence[_Job], family: Family) -> None:
    """Make the arrays and the index; ``done.npy`` comes last, so a half-made folder is made again."""
    if (folder / "done.npy").exists():
        return
    claim(folder, "cache")
    for kind, shape in shapes.items():
        for what, extent, dtype in (("pixels", shape, np.float16), ("present", shape[:3], np.bool_)):
            _file(folder, kind, what).unlink(missing_ok=True)  # half-made; or a link, and none is written through
            np.lib.format.open_memmap(_file(folder, kind, what), mode="w+", dtype=dtype, shape=extent)
    columns = [CELLS[cell].column for cell in family_cells(family)]
    rows = [(n, c, job.study.study_id, column) for n, job in enumerate(work) for c, column in enumerate(columns)]
    index = pd.DataFrame(rows, columns=["study", "cell", "study_id", "column"])
    index = guarded_frame(index)
    write_atomically(folder / "index.csv", lambda partial: index.to_csv(partial, index=False))
    np.lib.format.open_memmap(folder / "done.npy", mode="w+", dtype=np.uint64, shape=(len(work),)).flush()


def _cut_study(
    job: _Job, number: int, family: Family, settings: CubeSettings, folder: Path, source: Source
) -> tuple[int, bool]:
    """Write one study's cubes; returns its number, and False where no image can be read yet."""
    # Windows are small and studies run in parallel: threads inside SimpleITK only wait for each other.
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    rows: pd.DataFrame | None = getattr(job, source)
    if rows is None:
        return number, True
    shapes = _shapes(settings, family)
    study = _only_kinds(job.study, set(shapes))
    volumes = read_study(study)
    if study.series and not volumes.volumes:
        return number, False
    if source == "true":
        landmarks = _true_landmarks(volumes, rows)
    else:
        landmarks = Landmarks.from_frame(volumes.study_id, rows.drop_duplicates(["condition", "level"]))
    cubes = cut_cubes(volumes, landmarks, settings, (family,)).cubes
    for kind, shape in shapes.items():
        pixels = np.zeros(shape, dtype=np.float16)
        present = np.zeros(shape[:2], dtype=np.bool_)
        for place, cell in enumerate(family_cells(family)):
            for cube in cubes.get((cell, kind), ())[:1]:
                pixels[place], present[place] = np.clip(cube.pixels, -60000, 60000), cube.present
        _write_row(_file(folder, kind, "pixels"), number, pixels)
        _write_row(_file(folder, kind, "present"), number, present)
    return number, True


def _write_row(path: Path, number: int, values: NDArray[Any]) -> None:
    """Overwrite one row of the first axis. A mapping would be flushed as a whole, which takes a second a study."""
    with path.open("r+b") as file:
        version = np.lib.format.read_magic(file)
        (np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0)(file)
        file.seek(file.tell() + number * values.nbytes)
        file.write(np.ascontiguousarray(values).tobytes())


def _only_kinds(study: StudyRef, kinds: set[SeriesKind]) -> StudyRef:
    """The study without the series that are known to show something else."""
    series = tuple(one for one in study.series if one.description is None or one.description in kinds)
    return StudyRef(study.study_id, study.path, series)


def _true_landmarks(volumes: StudyVolumes, rows: pd.DataFrame) -> Landmarks:
    """The labelled points of a study as landmarks; points that cannot be right or were not read are absent."""
    result = Landmarks.empty(volumes.study_id)
    points = labelled_points(volumes, rows)
    for row in points[find_mislabelled(volumes, points) == ""].itertuples(index=False):
        index = CELL_INDEX[Cell(Condition(str(row.condition)), str(row.level))]
        result.points_mm[index] = (row.x_mm, row.y_mm, row.z_mm)
    return result
