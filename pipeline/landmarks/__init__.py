"""Stage two: where each of the 25 cells of a study lies in the patient.

Order of the data: ``canvas`` (slices on square canvases that keep their geometry) -> ``model`` (heat maps, points,
visibilities) -> ``decode`` (five levels, jointly) -> ``sagittal`` and ``axial`` (points in the patient) -> ``predict``
(a study's :class:`Landmarks`). ``labelled`` (the points that a reader marked), ``examples``, ``task`` and ``train``
train the networks, ``prepare`` fills the training cache of all stages in one pass over the DICOM, ``store`` and
``load`` keep them in a weights folder, ``errors`` measures them and ``overlay`` draws them. Nothing is imported here
that loads torch."""

from pipeline.landmarks.landmarks import COLUMNS, Landmarks

__all__ = ["COLUMNS", "Landmarks"]
