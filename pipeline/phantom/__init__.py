"""A synthetic competition: parametric lumbar spines imaged as T1, T2 and STIR series with exact ground truth.

The competition's images may not be redistributed, so every test, the embedded sample and a part of the training runs
on phantoms. The anatomy is analytic (no voxel model), so a slice of any orientation is drawn straight from it and the
25 landmark coordinates and the measurements behind the 25 grades are known exactly.

Order of the data: ``grades`` (how narrow is each cell) -> ``sampling`` of an ``anatomy`` (the shapes that follow) ->
``acquisition`` (where the slices lie) -> ``rendering`` (what they show: ``soft_tissue``, ``bones``, ``canal`` on a
``canvas``, signals from ``contrast``) -> ``artefacts`` -> ``dicom_writer`` and ``competition_writer``. ``defects``
damages a finished study on purpose.
"""

from pipeline.phantom.competition_writer import make_phantom

__all__ = ["make_phantom"]
