"""A study's cubes on the disk between two rounds of a run: arrays and plain values, no pickles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from pipeline.cubes import Cube, StudyCubes
from pipeline.files import write_atomically
from pipeline.labels import SeriesKind

_ARRAYS = ("centre_mm", "right", "down", "shares")


def save_cubes(path: Path, cubes: dict[str, StudyCubes]) -> None:
    """Write cubes, pixels as float16 (they are about 0 to 1, so that is 3 decimal digits), whole or not at all.

    Raises:
        OSError: they cannot be written.
    """
    arrays: dict[str, np.ndarray] = {}
    index: list[dict[str, Any]] = []
    for settings, study in cubes.items():
        for (cell, kind), views in study.cubes.items():
            for cube in views:
                number = len(index)
                arrays[f"pixels{number}"] = cube.pixels.astype(np.float16)
                arrays[f"present{number}"] = cube.present
                entry: dict[str, Any] = {name: getattr(cube, name).tolist() for name in _ARRAYS}
                entry |= {"spacing_mm": cube.spacing_mm, "offset_mm": cube.offset_mm, "series_id": cube.series_id}
                index.append({"settings": settings, "cell": cell, "kind": kind.value, "cube": entry})
    studies = {settings: (study.study_id, study.numbering.tolist()) for settings, study in cubes.items()}
    text = np.frombuffer(json.dumps({"studies": studies, "cubes": index}).encode(), np.uint8)

    def write(partial: Path) -> None:
        with partial.open("wb") as file:
            np.savez(file, index=text, **arrays)  # type: ignore[arg-type]  # the stubs take allow_pickle for one of them

    write_atomically(path, write, sync=False)


def load_cubes(path: Path) -> dict[str, StudyCubes] | None:
    """Read what :func:`save_cubes` wrote; None where there is nothing or it is cut short."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            content = json.loads(stored["index"].tobytes())
            found: dict[str, dict[tuple[int, SeriesKind], tuple[Cube, ...]]] = {key: {} for key in content["studies"]}
            for number, entry in enumerate(content["cubes"]):
                values = entry["cube"] | {name: np.array(entry["cube"][name], np.float64) for name in _ARRAYS}
                pixels = stored[f"pixels{number}"].astype(np.float32)
                cube = Cube(pixels=pixels, present=stored[f"present{number}"], **values)
                views = found[entry["settings"]]
                key = (entry["cell"], SeriesKind(entry["kind"]))
                views[key] = (*views.get(key, ()), cube)
        return {
            key: StudyCubes(study_id, found[key], np.array(numbering))
            for key, (study_id, numbering) in content["studies"].items()
        }
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
