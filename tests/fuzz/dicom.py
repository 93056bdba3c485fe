"""DICOM files through the reader: each is put into a series folder beside a sound slice.

An error that the reader did not foresee, or a volume that is not sound, counts as a failure.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np

from pipeline.competition import SeriesRef
from pipeline.volumes import ReadLimits, read_series
from tests.fuzz.corpus import build_corpus
from tests.fuzz.mutate import mutate

LIMITS = ReadLimits(study_seconds=5.0)
prepare = build_corpus


def begin(corpus: dict[str, list[bytes]], folder: Path) -> Callable[[int, int], tuple[str, list[str], str | None]]:
    def run(seed: int, number: int) -> tuple[str, list[str], str | None]:
        kind, content, neighbour = make_file(corpus, seed, number)
        return kind, *read_one(folder, content, neighbour)

    return run


def keep(corpus: dict[str, list[bytes]], seed: int, number: int, path: Path) -> None:
    path.with_suffix(".dcm").write_bytes(make_file(corpus, seed, number)[1])


def make_file(corpus: dict[str, list[bytes]], seed: int, number: int) -> tuple[str, bytes, bytes]:
    """Kind, mutated content and a sound neighbour of file ``number``; the same for the same seed."""
    random = Random(seed * 1_000_003 + number)
    kind = random.choice(list(corpus))
    content = random.choice(corpus[kind])
    other = random.choice(corpus[random.choice(list(corpus))])
    return kind, mutate(content, other, random), corpus[kind][-1]


def read_one(folder: Path, content: bytes, neighbour: bytes) -> tuple[list[str], str | None]:
    """Read one mutated file beside its neighbour: problem codes, and what was wrong with the reader, if anything."""
    (folder / "1.dcm").write_bytes(content)
    (folder / "2.dcm").write_bytes(neighbour)
    reading = read_series(SeriesRef("fuzz", folder.name, folder, None), LIMITS)
    codes = [problem.what for problem in reading.problems]
    for problem in reading.problems:
        if problem.what == "internal-error":
            return codes, f"unforeseen {problem.detail}"
    for volume in reading.volumes:
        sound = np.isfinite(volume.affines.matrix).all() and np.isfinite(volume.pixels).all()
        if not sound or np.any(volume.slice_steps_mm < 0):
            return codes, "a volume that is not finite or not sorted"
    return codes, None
