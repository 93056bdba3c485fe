"""A study's cubes on the disk between two rounds of a run: arrays and plain values with a checksum, no pickles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from pipeline.cubes import Cube, StudyCubes
from pipeline.files import DamagedError, read_sealed, write_sealed
from pipeline.labels import SeriesKind

MOST_BYTES = 2**30
"""Of a study's cubes; some 10 MB are usual."""
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
    arrays["index"] = np.frombuffer(json.dumps({"studies": studies, "cubes": index}).encode(), np.uint8)
    write_sealed(path, path.name, save({name: np.ascontiguousarray(values) for name, values in arrays.items()}))


def load_cubes(path: Path) -> dict[str, StudyCubes] | None:
    """Read what :func:`save_cubes` wrote there; None where there is nothing, or something else."""
    try:
        body = read_sealed(path, path.name, MOST_BYTES)
        if body is None:
            return None
        stored = load(body)
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
    except (DamagedError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
