"""Stage two: where each of the 25 cells of a study lies in the patient.

Order of the data: ``canvas`` (slices on square canvases that keep their geometry) -> ``model`` (heat maps, points,
visibilities) -> ``decode`` (five levels, jointly) -> ``sagittal`` and ``axial`` (points in the patient) -> ``predict``
(a study's :class:`Landmarks`). ``examples``, ``train`` and ``command`` train the networks, ``load`` keeps them in a
weights folder, ``evaluate`` measures them. Nothing is imported here that loads torch.
"""

from pipeline.landmarks.landmarks import COLUMNS, Landmarks

__all__ = ["COLUMNS", "Landmarks"]
