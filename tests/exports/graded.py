"""A study with a result as the run has it, its points on pixels of its own files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.competition import open_competition
from pipeline.labels import CELLS, Family, SeriesKind
from pipeline.landmarks.landmarks import Landmarks
from pipeline.problem import Problem
from pipeline.run.result import Graded, Reason, Source, StudyResult
from pipeline.tables import guarded_frame
from pipeline.volumes import Volume, read_study

KIND = {
    Family.CANAL: SeriesKind.SAGITTAL_T2,
    Family.FORAMINAL: SeriesKind.SAGITTAL_T1,
    Family.SUBARTICULAR: SeriesKind.AXIAL_T2,
}


def graded(root: Path, without: int = 2) -> Graded:
    """The only study of a folder; its first ``without`` cells were not found and have the prior."""
    (study,) = open_competition(root).studies
    volumes = read_study(study)
    points = Landmarks.empty(study.study_id)
    series: list[str | None] = [None] * len(CELLS)
    for index, cell in enumerate(CELLS):
        if index < without:
            continue
        volume, *_ = volumes.of_kind(KIND[cell.condition.family])
        slice_, col, row = index % len(volume.pixels), 2 + index % 9, 1 + index % 7
        points.points_mm[index] = volume.affines[slice_] @ (col, row, 0)
        points.x[index], points.y[index] = file_pixel(volume, slice_, points.points_mm[index])
        points.instance_number[index], points.confidence[index] = volume.instance_numbers[slice_], 0.5
        series[index] = volume.series_id
    points = Landmarks(
        study.study_id, points.points_mm, points.confidence, tuple(series), points.instance_number, points.x, points.y
    )
    seen = [index >= without for index in range(len(CELLS))]
    result = StudyResult(
        study_id=study.study_id,
        probabilities=np.tile([0.6, 0.3, 0.1], (25, 1)),
        source=tuple(Source.MODEL if one else Source.PRIOR for one in seen),
        reason=tuple(None if one else Reason.LEVEL_NOT_FOUND for one in seen),
        members=tuple(("net",) if one else () for one in seen),
        series=tuple((str(name),) if name else () for name in series),
        landmarks=guarded_frame(points.to_frame()).to_csv(index=False),
        problems=(Problem(study.study_id, None, "x.dcm", "empty-file", "0 bytes"),),
    )
    weighted = np.array([[0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.02, 0.08, 0.9]])[np.arange(25) % 3]
    return Graded(study, result, weighted)


def file_pixel(volume: Volume, slice_: int, point_mm: np.ndarray) -> tuple[float, float]:
    """Column and row in the file's own grid."""
    x, y, _ = volume.source_affines[slice_].inverse @ point_mm
    return float(x), float(y)
