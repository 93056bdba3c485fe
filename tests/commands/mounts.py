"""Phantom studies, a wheelhouse that needs no index, and Kaggle's two ways of mounting both."""

from __future__ import annotations

import functools
import os
import re
import shutil
import tempfile
import zipfile
from pathlib import Path

import pandas as pd

from pipeline.commands import ROOT
from pipeline.commands.kaggle import DEFAULT_NAME, build
from pipeline.commands.kaggle_metadata import COMPETITION
from pipeline.labels import CELLS, row_id
from pipeline.weights.manifest import Manifest

LAYOUTS = {
    "old": (COMPETITION, "lumbar-{}"),
    "new": (f"competitions/{COMPETITION}", "datasets/someone/lumbar-{}"),
}
"""Where the competition and a dataset appear below ``/kaggle/input``."""
OPTIONAL = {
    name: "".join(re.findall(r">=([\d.]+)", line))
    for line in (ROOT / "requirements-decoders.txt").read_text().splitlines()
    for name in [line.split(">=")[0]]
    if ">=" in line
}
"""The optional packages and the lowest version of each."""


@functools.cache
def phantom_studies(count: int) -> Path:
    """A small phantom competition, made once a test run."""
    from pipeline.phantom import make_phantom

    folder = Path(tempfile.mkdtemp(prefix="phantom-"))
    return make_phantom(folder, count, seed=11, split="test", size="small")


def multiply(source: Path, target: Path, count: int, thin: int = 1) -> list[str]:
    """A competition of ``count`` studies from the few of ``source``, under new ids; files are linked, not copied.

    Args:
        thin: keep every ``thin``-th slice.

    Returns:
        The ids.
    """
    originals = sorted((source / "test_images").iterdir())
    table = pd.read_csv(source / "test_series_descriptions.csv", dtype=str)
    ids, rows = [], []
    for number in range(count):
        original = originals[number % len(originals)]
        study = str(700_000_000 + number)
        for series in original.iterdir():
            place = target / "test_images" / study / series.name
            place.mkdir(parents=True)
            for file in sorted(series.iterdir(), key=lambda path: int(path.stem))[::thin]:
                os.link(file, place / file.name)
        own = table[table["study_id"] == original.name]
        rows.append(own.assign(study_id=study))
        ids.append(study)
    pd.concat(rows).to_csv(target / "test_series_descriptions.csv", index=False)
    write_sample(target, ids)
    return ids


def write_sample(folder: Path, ids: list[str]) -> None:
    """``sample_submission.csv`` as the competition ships it: every row, thirds."""
    names = [row_id(study, cell) for study in ids for cell in CELLS]
    third = 1 / 3
    frame = pd.DataFrame({"row_id": sorted(names), "normal_mild": third, "moderate": third, "severe": third})
    frame.to_csv(folder / "sample_submission.csv", index=False)


def write_wheels(folder: Path, extra_need: str | None = None) -> Path:
    """Wheels that carry the names of the optional packages and one harmless module each.

    Args:
        extra_need: a distribution that one of them claims to need.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, version in OPTIONAL.items():
        stem = name.replace("-", "_")
        info = f"{stem}-{version}.dist-info"
        needs = ["numpy>=1.24", 'pytest; extra == "tests"'] + ([extra_need] if extra_need else [])
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        metadata += "".join(f"Requires-Dist: {need}\n" for need in needs)
        with zipfile.ZipFile(folder / f"{stem}-{version}-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"from_wheelhouse_{stem}.py", "installed = True\n")
            wheel.writestr(f"{info}/METADATA", metadata)
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
    return folder


def some_weights(folder: Path) -> Path:
    """The weights of the repository, or an empty set where a clone came without them."""
    trained = ROOT / "weights" / "phantom"
    if (trained / "manifest.json").is_file():
        return trained
    folder.mkdir(parents=True, exist_ok=True)
    Manifest(folder, "none", "no network").save()
    return folder


def built(folder: Path, python_version: str | None, weights: Path) -> Path:
    """What ``python -m pipeline kaggle`` builds."""
    build(folder, "someone", DEFAULT_NAME, weights, python_version)
    return folder


def mount(root: Path, layout: str, build_folder: Path, competition: Path) -> Path:
    """The tree below ``/kaggle/input`` in one of :data:`LAYOUTS`, with a foreign dataset beside ours."""
    place, dataset = LAYOUTS[layout]
    _link(competition, root / place)
    for name in ("code", "weights", "wheels"):
        if (build_folder / name).is_dir():
            _link(build_folder / name, root / dataset.format(name))
    foreign = root / dataset.format("others") / "some" / "train_images" / "1"
    foreign.mkdir(parents=True)
    (foreign.parents[1] / "manifest.json").write_text('{"files": []}')
    return root


def _link(source: Path, target: Path) -> None:
    """The same files at another place, so that a search never meets the name of the folder they were built in."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copytree(source, target, copy_function=os.link)
    except (OSError, shutil.Error):  # another disk
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
