"""Stage one: a DICOM series becomes oriented stacks of slices with float pixels and one affine per slice.

Nothing after this package opens a DICOM file. Lengths are millimetres, points are patient LPS (+x left, +y posterior,
+z superior).
"""

from pipeline.volumes.affine import Affine
from pipeline.volumes.grey import normalise
from pipeline.volumes.limits import ReadLimits
from pipeline.volumes.reader import read_series
from pipeline.volumes.resample import resample_in_plane, sample_patch
from pipeline.volumes.study import read_study
from pipeline.volumes.volume import Plane, SeriesReading, StudyVolumes, Volume

__all__ = [
    "Affine",
    "Plane",
    "ReadLimits",
    "SeriesReading",
    "StudyVolumes",
    "Volume",
    "normalise",
    "read_series",
    "read_study",
    "resample_in_plane",
    "sample_patch",
]
