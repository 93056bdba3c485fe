"""Pictures of the first studies of a run: the slices on which points were found, with the points on them.

The notebook runs this as ``python -m pipeline.commands.pictures`` in a process of its own: decoders that crash on an
odd file then cost a picture and not the submission.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.competition import open_competition
from pipeline.console import CallError, run_command, run_program, say
from pipeline.landmarks.landmarks import Landmarks
from pipeline.landmarks.overlay import slice_picture, study_picture
from pipeline.names import stem
from pipeline.owned import claim
from pipeline.pictures import save_png
from pipeline.tables import read_written
from pipeline.volumes import StudyVolumes, read_study

POINTS_FILE = "label_coordinates.csv"


def draw(data: Path, stages: Path, out: Path, count: int) -> list[Path]:
    """Write a PNG each for the first ``count`` studies that have images, those with points first.

    Args:
        data: competition or images folder.
        stages: what ``submit.py --stages`` wrote; a study without points in it shows its middle slices.
        out: folder for ``<number>_<study>.png``; new, empty or of earlier pictures.

    Raises:
        CompetitionError, TableError: ``data`` is no folder of studies.
        CallError: ``stages`` holds no table of points.
        RefusedError: ``out`` holds other things.
        OSError: a picture cannot be written.
    """
    competition = open_competition(data, strict=False)
    table = _points(stages / POINTS_FILE)
    marked = set(table["study_id"])
    studies = sorted(competition.studies, key=lambda study: study.study_id not in marked)
    claim(out, "pictures")
    written: list[Path] = []
    for study in studies:
        if len(written) >= count:
            break
        volumes = read_study(study)
        if not volumes.volumes:
            continue
        picture = _middle_slices(volumes)
        if study.study_id in marked:
            picture = study_picture(volumes, Landmarks.from_frame(study.study_id, table))
        # The id may come from a table; a number makes the name safe and keeps the order.
        path = out / f"{len(written) + 1}_{stem(study.study_id)}.png"
        save_png(path, picture)
        written.append(path)
    return written


def main(argv: Sequence[str]) -> int:
    """Draw and print where; returns the exit status."""
    summary = "Draw the first studies of a run with the points that were found on them."
    return run_command("pictures", summary, add_arguments, run, argv)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument("data", type=Path, metavar="DATA", help="competition folder or images folder")
    parser.add_argument("--stages", type=Path, required=True, metavar="DIR", help="what submit.py --stages wrote")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the PNG files")
    parser.add_argument("--count", type=int, default=3, metavar="N", help="number of studies (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Draw and print where; 1 where there was nothing to draw."""
    written = draw(args.data, args.stages, args.out, args.count)
    say(f"{len(written)} pictures in {args.out}")
    return 0 if written else 1


def _points(path: Path) -> pd.DataFrame:
    """The table of points."""
    if not path.is_file():
        raise CallError(f"no {path.name} in {path.parent}; expected what submit.py --stages wrote there")
    numbers = ("instance_number", "x", "y", "x_mm", "y_mm", "z_mm")
    return read_written(path, ("study_id", "series_id", "condition", "level"), numbers, "submit.py --stages")


def _middle_slices(volumes: StudyVolumes) -> np.ndarray:
    """(rows, cols, 3) uint8 RGB: the middle slice of each of one or more stacks, for a study without points."""
    tiles = [
        slice_picture(volume, len(volume.pixels) // 2, [], f"{volume.kind.value}: no points")
        for volume in volumes.volumes
    ]
    return np.hstack(tiles)


if __name__ == "__main__":
    sys.exit(run_program("pictures", lambda: main(sys.argv[1:])))
