"""Exports of other layouts through the way in: a mutated zip, a medium with its index, folders of files, NIfTI.

An error other than the one refusal, an error that the reader did not foresee, a file that is read twice or from outside
the export, and an input that was changed count as failures.
"""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import SimpleITK as sitk

from pipeline.competition import CompetitionError
from pipeline.intake import open_data
from pipeline.volumes import ReadLimits, read_study
from tests.fuzz.mutate import mutate
from tests.intake import layouts
from tests.volumes.oracle import AXIAL, SAGITTAL, positions, write_series

LIMITS = ReadLimits(study_seconds=5.0)
LAYOUTS = ("flat", "nested", "medium", "zipped", "nifti")
Corpus = dict[str, dict[str, bytes]]


def prepare(folder: Path) -> Corpus:
    """The files of each layout by their names."""
    study = folder / "1"
    for name, axes in (("11", SAGITTAL), ("12", AXIAL)):
        write_series(study / name, axes, positions(axes, (5.0, -7.0, 11.0), 4.0 * np.arange(8)))
    layouts.with_patient(study, "1.2.3")
    for name in LAYOUTS[:-1]:
        getattr(layouts, name)(study, folder / name)
    (folder / "nifti").mkdir()
    image = sitk.GetImageFromArray(np.arange(3 * 8 * 9, dtype=np.int16).reshape(3, 8, 9))
    for name in ("t2_sag.nii.gz", "t1_sag.nii"):
        sitk.WriteImage(image, str(folder / "nifti" / name))
    return {name: _contents(folder / name) for name in LAYOUTS}


def _contents(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def change(corpus: Corpus, random: Random) -> tuple[str, dict[str, bytes]]:
    """A layout of which some files are mutated, are not there, or stand under another's name."""
    layout = random.choice(LAYOUTS)
    files = dict(corpus[layout])
    for _ in range(random.choice((1, 1, 2, 4))):
        name, other = random.choice(sorted(files)), random.choice(sorted(files))
        how = random.random()
        if name == "DICOMDIR" or how < 0.7:
            files[name] = mutate(files[name], files[other], random)
        elif how < 0.8 and len(files) > 1:
            del files[name]
        else:
            files[name] = files[other]
    if layout == "zipped" and random.random() < 0.5:  # the archive sound, what is in it not
        files = {"study.zip": _archive(corpus["flat"], random)}
    return layout, files


def _archive(files: dict[str, bytes], random: Random) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for name, content in files.items():
            shown = random.choice((name, f"../{name}", f"/{name}", f"a\\{name}", f"{name}\n", "same"))
            archive.writestr(zipfile.ZipInfo(shown), mutate(content, content, random))
    return packed.getvalue()


def begin(corpus: Corpus, folder: Path) -> Callable[[int, int], tuple[str, list[str], str | None]]:
    def run(seed: int, number: int) -> tuple[str, list[str], str | None]:
        layout, files = change(corpus, Random(seed * 1_000_003 + number))
        return layout, *read(lay_out(folder / "export", files))

    return run


def lay_out(folder: Path, files: dict[str, bytes]) -> Path:
    """What a user would name: the zip, or the folder."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder / "study.zip" if "study.zip" in files else folder


def read(path: Path) -> tuple[list[str], str | None]:
    """Read every study of an export: codes of its problems, and what was wrong, if anything."""
    folder = path if path.is_dir() else path.parent
    before = _contents(folder)
    try:
        competition = open_data(path)
    except CompetitionError as error:
        return ["refused"], None if len(str(error)) < 3000 else f"a message of {len(str(error))} characters"
    codes = [problem.what for problem in competition.problems]
    named = [file for study in competition.studies for series in study.series for _, file in series.files or ()]
    if len(named) != len(set(named)):
        return codes, "a file belongs to two series"
    for study in competition.studies:
        reading = read_study(study, LIMITS)
        codes += [problem.what for problem in reading.problems]
        for problem in reading.problems:
            if problem.what == "internal-error":
                return codes, f"unforeseen {problem.detail}"
        for volume in reading.volumes:
            if not (np.isfinite(volume.affines.matrix).all() and np.isfinite(volume.pixels).all()):
                return codes, "a volume that is not finite"
    return codes, None if _contents(folder) == before else "the export was changed"


def keep(corpus: Corpus, seed: int, number: int, path: Path) -> None:
    lay_out(path.with_suffix(".kept"), change(corpus, Random(seed * 1_000_003 + number))[1])
