"""The one pass over a training set's DICOM: every series is decoded once, and what any network learns from is kept.

Of each study that means its stacks around the spine (:mod:`pipeline.stacks`), from which all windows of the classifiers
are cut, and examples of the point networks, which see whole slices and therefore have copies of their own, at their own
resolution. A study is decoded again only where its files, labels or rows of the series table have changed, where other
examples are asked for, or where nothing of it could be read so far.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import SimpleITK as sitk
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from tqdm import tqdm

from pipeline.competition import Competition, CompetitionError, StudyRef
from pipeline.console import say
from pipeline.files import check_space, file_states, write_atomically
from pipeline.labels import CELL_INDEX, CELLS, Cell, condition_from_title, level_from_title
from pipeline.landmarks.examples import ExampleSettings, Targets, axial_examples, sagittal_examples
from pipeline.landmarks.labelled import find_mislabelled, labelled_points
from pipeline.names import stem
from pipeline.owned import claim
from pipeline.parallel import in_processes
from pipeline.stacks import StudyStacks, keep_stack, write_stacks
from pipeline.stacks.coding import pack, unpack
from pipeline.volumes import read_study

Kind = Literal["sagittal", "axial"]
_FORMAT = 7
"""Counts up when something else is kept, so that old caches are not mistaken for new ones."""
_STEP = 512
"""Steps of an example's grey from air to the brightest tissue: twice as fine as bf16 there, and below any noise."""
TYPICAL_STACK_BYTES = 4_800_000
"""What is kept of the stacks of a usual study: 17 + 17 sagittal slices at 0.6 mm and 35 axial ones at 0.4 mm are 10 MB,
of which packing leaves 0.36 to 0.51."""


@dataclass(frozen=True)
class ExamplesOf:
    """Examples of one point network."""

    kind: Kind
    settings: ExampleSettings

    @property
    def typical_bytes(self) -> int:
        """Of a usual study, packed: 34 sagittal slices; seven axial windows at each of five levels.

        Measured: 0.62 to 0.66 bytes a pixel of sagittal slices (384 and 256 px), 0.81 to 0.88 of axial windows.
        """
        sagittal = self.kind == "sagittal"
        size, count = (self.settings.size_px, 34) if sagittal else (self.settings.axial_size_px, 35)
        return round((0.66 if sagittal else 0.9) * count * size**2)


@dataclass(frozen=True)
class StudyFiles:
    """Where the training cache has a study.

    Attributes:
        competition: number of its folder.
        ref: the study.
        labelled: whether it has labelled points.
        stacks: file of :func:`pipeline.stacks.read_stacks`; missing where nothing could be read.
        examples: files of :func:`read_images`, in the order they were asked for.
    """

    competition: int
    ref: StudyRef
    labelled: bool
    stacks: Path
    examples: tuple[Path, ...]


def prepare(
    competitions: Sequence[Competition],
    folder: Path,
    examples: Sequence[ExamplesOf] = (),
    predicted: pd.DataFrame | None = None,
    workers: int = 0,
    cluster: str | None = None,
) -> list[StudyFiles]:
    """Fill the training cache with every study that has points; what is there from an earlier run is kept.

    Args:
        competitions: the folders.
        folder: the cache.
        examples: of which point networks.
        predicted: label_coordinates table of predicted points with patient mm, for studies without labels.
        workers: processes, 0 for one a core.
        cluster: the address of a Dask scheduler whose workers do it; data and cache then lie on storage they share.

    Raises:
        OSError: the disk is too small for what is missing.
        RefusedError: a folder of the cache holds something else.
        WorkError: the cluster cannot be used.
    """
    folder = folder.absolute()  # the workers of a cluster may run elsewhere
    found: list[StudyFiles] = []
    jobs: list[tuple[Any, ...]] = []
    guesses = by_study(predicted)
    for number, competition in enumerate(competitions):
        place = hashlib.sha256(os.fsencode(competition.images.resolve())).hexdigest()[:8]
        homes = [folder / f"{name}-{_key(content)}" / place for name, content in _kept(examples)]
        for home in homes:
            claim(home, "cache")
        labels = by_study(competition.coordinates)
        for study in competition.studies:
            points = labels.get(study.study_id, guesses.get(study.study_id))
            if points is None:
                continue
            name = f"{stem(study.study_id)}.{_fingerprint(study, points)}.safetensors"
            stacks, *paths = (home / name for home in homes)
            labelled = study.study_id in labels
            found.append(StudyFiles(number, study, labelled, stacks, tuple(paths)))
            missing = [(one, path) for one, path in zip(examples, paths, strict=True) if labelled and not path.exists()]
            if missing or not stacks.exists():
                jobs.append((study, points, labelled, stacks, missing))
    needed = sum(
        (not stacks.exists()) * TYPICAL_STACK_BYTES + sum(one.typical_bytes for one, _ in missing)
        for _, _, _, stacks, missing in jobs
    )
    if jobs:
        check_space(folder, needed, f"the training cache of {len(jobs)} studies (--cache may be on another disk)")
    if jobs and cluster is not None:
        from pipeline.cluster import on_cluster

        written = on_cluster(_write_study, jobs, cluster, lost=lambda *_: None)
    else:
        written = in_processes(_write_study, jobs, workers if len(jobs) > 4 else 1, lost=lambda *_: None)
    for _ in tqdm(written, total=len(jobs), desc="training cache", unit="study", disable=not jobs):
        pass
    if unread := [files.ref.study_id for files in found if not files.stacks.exists()]:
        say(f"nothing could be read of {len(unread)} labelled studies, for example {min(unread)}")
    return found


def build_examples(
    competitions: Sequence[Competition], kind: Kind, folder: Path, settings: ExampleSettings, workers: int = 0
) -> pd.DataFrame:
    """The examples of every labelled study, written where they are not there yet.

    Args:
        competitions: labelled folders; a study counts once per folder.
        kind: of the network.
        folder: the cache.
        settings: distances and weights; other settings go to other files.
        workers: processes, 0 for one a core.

    Returns:
        One row an example: ``competition, study_id, file, index``.

    Raises:
        CompetitionError: a folder has no labels.
    """
    for competition in competitions:
        if competition.coordinates is None:
            raise CompetitionError(f"{competition.root}: no label coordinates; landmarks cannot be learnt from it")
    rows: list[tuple[int, str, str, int]] = []
    doubted: Counter[str] = Counter()
    for files in prepare(competitions, folder, [ExamplesOf(kind, settings)], workers=workers):
        (path,) = files.examples
        if path.exists():
            with _opened(path) as (_, about):
                pass
            rows.extend((files.competition, files.ref.study_id, str(path), i) for i in range(about["count"]))
            doubted.update(about["doubted"])
    if doubted:
        counts = ", ".join(f"{count} {reason}" for reason, count in doubted.items())
        say(f"{kind} labels that cannot be right, left out: {counts}; `python -m pipeline check` lists them")
    return pd.DataFrame(rows, columns=["competition", "study_id", "file", "index"])


def read_targets(path: Path) -> dict[str, NDArray[Any]]:
    """By name ``pixel_mm`` (N,) and the arrays of the targets of a study's examples.

    Raises:
        ValueError: the file is damaged.
        OSError: it cannot be read.
    """
    with _opened(path) as (file, _):
        return {name: file.get_tensor(name) for name in ("pixel_mm", *(field.name for field in fields(Targets)))}


def read_images(path: Path, numbers: Sequence[int]) -> NDArray[np.float16]:
    """Some of the images of a study's examples, (len(numbers), size, size); no other is unpacked, 1 ms for 256 px.

    Raises: as :func:`read_targets`.
    """
    images = []
    with _opened(path) as (file, about):
        ends, mirrored = file.get_tensor("ends"), about["mirrored"]
        packed = [file.get_slice("lower"), file.get_slice("upper")]
        for number in numbers:
            kept, other_way_round = divmod(number, 2) if mirrored else (number, 0)
            places = zip(ends[kept - 1] if kept else (0, 0), ends[kept], strict=True)
            parts = [part[int(first) : int(last)] for part, (first, last) in zip(packed, places, strict=True)]
            image = unpack(parts[0], parts[1], (1, *about["shape"][1:]))[0]
            images.append(image[:, ::-1] if other_way_round else image)
    return (np.stack(images).astype(np.float32) / _STEP - 1).astype(np.float16)


def store_examples(
    path: Path,
    images: NDArray[np.floating[Any]],
    pixel_mm: NDArray[np.float64],
    targets: Targets,
    mirrored: bool = False,
    doubted: Sequence[str] = (),
) -> None:
    """Write the examples of a study for :func:`read_images`, each packed by itself, whole or not at all.

    Args:
        path: the file.
        images: (N, size, size) about 0..1, within -1 to 127.
        pixel_mm: (N,).
        targets: of the N images.
        mirrored: whether every second image is the one before it in the mirror, and need not be kept.
        doubted: the reasons for which labels of the study were left out.

    Raises:
        OSError: it cannot be written.
    """
    numbers = np.rint((images[::2] if mirrored else images).astype(np.float32) * _STEP + _STEP).astype(np.uint16)
    packed = [pack(number[None]) for number in numbers]
    lower, upper = (np.frombuffer(b"".join(parts[k] for parts in packed), np.uint8) for k in range(2))
    ends = np.array([[len(part) for part in parts] for parts in packed], np.int64).reshape(-1, 2).cumsum(axis=0)
    tensors = {"lower": lower, "upper": upper, "ends": ends, "pixel_mm": pixel_mm}
    tensors |= {field.name: getattr(targets, field.name) for field in fields(Targets)}
    about = {"count": len(images), "shape": numbers.shape, "mirrored": mirrored, "doubted": list(doubted)}
    metadata = {"content": json.dumps(about)}
    ready = {name: np.ascontiguousarray(values) for name, values in tensors.items()}
    write_atomically(path, lambda partial: save_file(ready, partial, metadata), sync=False)


def landmarks_of(points: pd.DataFrame) -> NDArray[np.float64]:
    """(25, 3) LPS mm of a study's points, NaN where there is none; titles or values of conditions and levels."""
    result = np.full((len(CELLS), 3), np.nan)
    for row in points.itertuples(index=False):
        cell = Cell(condition_from_title(str(row.condition)), level_from_title(str(row.level)))
        result[CELL_INDEX[cell]] = (row.x_mm, row.y_mm, row.z_mm)
    return result


def by_study(table: pd.DataFrame | None) -> dict[str, pd.DataFrame]:
    """The rows of a table by their ``study_id``; {} for no table."""
    return {} if table is None else {str(name): rows for name, rows in table.groupby("study_id", sort=False)}


def _kept(examples: Sequence[ExamplesOf]) -> list[tuple[str, Any]]:
    """Name and settings of every folder of the cache."""
    return [("stacks", None), *((one.kind, asdict(one.settings)) for one in examples)]


def _key(content: Any) -> str:
    return hashlib.sha256(json.dumps([_FORMAT, content], sort_keys=True).encode()).hexdigest()[:12]


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """A file of examples and what it says about them."""
    try:
        with safe_open(path, "np") as file:
            yield file, json.loads(file.metadata()["content"])
    except (SafetensorError, ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{path}: a damaged cache ({error}); remove the file and run again") from error


def _fingerprint(study: StudyRef, points: pd.DataFrame) -> str:
    """Of the points of a study, of what the series table says about it, and of the state of its files."""
    content = hashlib.sha256(pd.util.hash_pandas_object(points, index=False).to_numpy().tobytes())
    series = [(one.series_id, one.description, file_states(one.path)) for one in study.series]
    content.update(repr(series).encode(errors="surrogateescape"))
    return content.hexdigest()[:12]


def _write_study(
    study: StudyRef, rows: pd.DataFrame, labelled: bool, stacks: Path, missing: Sequence[tuple[ExamplesOf, Path]]
) -> None:
    """Write what is missing of one study, or nothing where no image of it can be read yet."""
    # Studies run in parallel: threads inside SimpleITK only wait for each other.
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    volumes = read_study(study)
    if not volumes.volumes:
        return
    points = labelled_points(volumes, rows) if labelled else rows
    doubts = find_mislabelled(volumes, points) if labelled else np.full(len(points), "")
    good = points[doubts == ""]
    if not stacks.exists():
        places = landmarks_of(good)
        kept = (keep_stack(volume.thickened, places) for volume in volumes.volumes)
        marked = good if labelled else good.head(0)
        write_stacks(stacks, StudyStacks(study.study_id, tuple(one for one in kept if one is not None), marked))
    for one, path in missing:
        make = axial_examples if one.kind == "axial" else sagittal_examples
        store_examples(path, *make(volumes, good, one.settings), one.kind == "axial", doubts[doubts != ""].tolist())
