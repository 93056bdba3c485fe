"""The file of a study in the training cache: what is kept of its stacks, and its labelled points in the patient."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from pipeline.files import write_atomically
from pipeline.labels import SeriesKind
from pipeline.stacks.coding import pack, unpack
from pipeline.stacks.kept import KeptStack, from_levels, to_levels
from pipeline.volumes import Affine, Plane, Volume

POINT_COLUMNS = ("series_id", "instance_number", "condition", "level", "x_mm", "y_mm", "z_mm")
"""Of the labelled points, as :func:`pipeline.landmarks.labelled.labelled_points` gives them."""


@dataclass(frozen=True, eq=False)
class StudyStacks:
    """What the training cache has of a study.

    Attributes:
        study_id: the study.
        stacks: what is kept of its series.
        points: its labelled points that can be right, with the columns :data:`POINT_COLUMNS`.
    """

    study_id: str
    stacks: tuple[KeptStack, ...]
    points: pd.DataFrame


def write_stacks(path: Path, study: StudyStacks) -> None:
    """Write the file of a study, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    tensors: dict[str, NDArray[Any]] = {}
    index: list[dict[str, Any]] = []
    for n, stack in enumerate(study.stacks):
        volume = stack.volume
        numbers, scale = to_levels(volume.pixels)
        lower, upper = pack(numbers)
        tensors |= {
            f"lower{n}": np.frombuffer(lower, np.uint8),
            f"upper{n}": np.frombuffer(upper, np.uint8),
            f"scale{n}": scale,
            f"affines{n}": volume.affines.matrix,
            f"source{n}": volume.source_affines.matrix,
            f"instances{n}": volume.instance_numbers,
            f"limits{n}": np.array(stack.limits),
        }
        about = {"plane": volume.plane.value, "kind": volume.kind.value, "series_id": volume.series_id}
        index.append(about | {"shape": volume.shape, "flags": volume.flags})
    points = study.points[list(POINT_COLUMNS)]
    content = {"study_id": study.study_id, "stacks": index, "points": points.to_dict("split")["data"]}
    metadata = {"content": json.dumps(content)}
    ready = {name: np.ascontiguousarray(values) for name, values in tensors.items()}
    write_atomically(path, lambda partial: save_file(ready, partial, metadata), sync=False)


def read_stacks(path: Path, kinds: Sequence[SeriesKind] = tuple(SeriesKind)) -> StudyStacks:
    """Read the file of a study; it is mapped into memory, and only stacks of ``kinds`` are unpacked.

    Raises:
        ValueError: the file is damaged.
        OSError: it cannot be read.
    """
    with _opened(path) as (file, content):
        stacks = tuple(
            _stack(file, n, about, content["study_id"])
            for n, about in enumerate(content["stacks"])
            if SeriesKind(about["kind"]) in kinds
        )
        points = pd.DataFrame(content["points"], columns=list(POINT_COLUMNS))
    return StudyStacks(content["study_id"], stacks, points)


def describe_stacks(path: Path) -> list[tuple[SeriesKind, tuple[int, int, int]]]:
    """Kind and (slices, rows, cols) of each stack in the file of a study; raises what :func:`read_stacks` raises."""
    with _opened(path) as (_, content):
        return [(SeriesKind(about["kind"]), tuple(about["shape"])) for about in content["stacks"]]


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    try:
        with safe_open(path, "np") as file:
            yield file, json.loads(file.metadata()["content"])
    except (SafetensorError, ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{path}: a damaged cache ({error}); remove the file and run again") from error


def _stack(file: Any, n: int, about: dict[str, Any], study_id: str) -> KeptStack:
    lower, upper, scale = (file.get_tensor(f"{name}{n}") for name in ("lower", "upper", "scale"))
    low, high = file.get_tensor(f"limits{n}")
    volume = Volume(
        pixels=from_levels(unpack(lower, upper, tuple(about["shape"])), scale),
        affines=Affine(file.get_tensor(f"affines{n}")),
        source_affines=Affine(file.get_tensor(f"source{n}")),
        instance_numbers=file.get_tensor(f"instances{n}"),
        plane=Plane(about["plane"]),
        kind=SeriesKind(about["kind"]),
        study_id=study_id,
        series_id=about["series_id"],
        flags=tuple(about["flags"]),
    )
    return KeptStack(volume, (float(low), float(high)))
