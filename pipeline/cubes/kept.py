"""A study's cubes on the disk between two rounds of a run: arrays and plain values with a checksum, no pickles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from pipeline.config import from_dict, to_dict
from pipeline.cubes import Cube, Cubes, CubeSettings, StudyCubes
from pipeline.files import DamagedError, read_sealed, write_sealed
from pipeline.labels import SeriesKind

MOST_BYTES = 2**30
"""Of a study's cubes; some 10 MB are usual."""
_ARRAYS = ("centre_mm", "right", "down", "shares")


def save_cubes(path: Path, cubes: Cubes) -> None:
    """Write cubes, pixels as float16 (they are about 0 to 1, so that is 3 decimal digits), whole or not at all.

    Raises:
        OSError: they cannot be written.
    """
    arrays: dict[str, np.ndarray] = {}
    index: list[dict[str, Any]] = []
    for window, study in enumerate(cubes.values()):
        for (cell, kind), views in study.cubes.items():
            for cube in views:
                number = len(index)
                arrays[f"pixels{number}"] = cube.pixels.astype(np.float16)
                arrays[f"present{number}"] = cube.present
                entry: dict[str, Any] = {name: getattr(cube, name).tolist() for name in _ARRAYS}
                entry |= {"spacing_mm": cube.spacing_mm, "offset_mm": cube.offset_mm, "series_id": cube.series_id}
                index.append({"window": window, "cell": cell, "kind": kind.value, "cube": entry})
    studies = [(to_dict(settings), study.study_id, study.numbering.tolist()) for settings, study in cubes.items()]
    arrays["index"] = np.frombuffer(json.dumps({"studies": studies, "cubes": index}).encode(), np.uint8)
    write_sealed(path, path.name, save({name: np.ascontiguousarray(values) for name, values in arrays.items()}))


def load_cubes(path: Path) -> Cubes | None:
    """Read what :func:`save_cubes` wrote there; None where there is nothing, or something else."""
    try:
        body = read_sealed(path, path.name, MOST_BYTES)
        if body is None:
            return None
        stored = load(body)
        content = json.loads(stored["index"].tobytes())
        found: list[dict[tuple[int, SeriesKind], tuple[Cube, ...]]] = [{} for _ in content["studies"]]
        for number, entry in enumerate(content["cubes"]):
            values = entry["cube"] | {name: np.array(entry["cube"][name], np.float64) for name in _ARRAYS}
            pixels = stored[f"pixels{number}"].astype(np.float32)
            cube = Cube(pixels=pixels, present=stored[f"present{number}"], **values)
            views = found[entry["window"]]
            key = (entry["cell"], SeriesKind(entry["kind"]))
            views[key] = (*views.get(key, ()), cube)
        return {
            from_dict(CubeSettings, settings): StudyCubes(study_id, views, np.array(numbering))
            for (settings, study_id, numbering), views in zip(content["studies"], found, strict=True)
        }
    except (DamagedError, SafetensorError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
