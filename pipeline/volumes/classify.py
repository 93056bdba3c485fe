"""What a series shows, when no table says so: the plane from geometry, T1 or T2 from its name, else from TE and TR."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from pipeline.labels import SeriesKind
from pipeline.volumes.volume import Plane


class Contrast(StrEnum):
    """The weighting of an image; STIR counts as T2, as in the competition's descriptions."""

    T1 = "T1"
    T2 = "T2"


@dataclass(frozen=True)
class Acquisition:
    """What the headers say about how a series was acquired; times in ms, None where absent."""

    description: str = ""
    echo_ms: float | None = None
    repetition_ms: float | None = None
    inversion_ms: float | None = None


_START = r"(?:(?<![a-z])|(?<=sag)|(?<=tra)|(?<=cor)|(?<=ax)|(?<=fs))"  # "SAGT1" is a weighting, "SAT1" is not
_T1 = re.compile(_START + r"t1(?![0-9])", re.IGNORECASE)  # T10 to T12 are vertebrae
_T2 = re.compile(_START + r"t2(?![0-9])|stir|tirm|myelo", re.IGNORECASE)
_NO_ANATOMY = re.compile(r"(?<![a-z])(e?adc|dwi|diff|diffusion|trace|dti|perfusion|mip)(?![a-z])", re.IGNORECASE)
"""Maps and projections: T2 in the name of such a series is no weighting of its images."""
_VERTEBRAE = re.compile(r"(?<![a-z0-9])[ctls]\d{1,2}\s*[-/]\s*[ctls]\d{1,2}(?!\d)", re.IGNORECASE)
"""A stretch of the spine, as in "T1-L5 SAG": no weighting."""

_KINDS = {
    (Plane.SAGITTAL, Contrast.T1): SeriesKind.SAGITTAL_T1,
    (Plane.SAGITTAL, Contrast.T2): SeriesKind.SAGITTAL_T2,
    (Plane.AXIAL, Contrast.T2): SeriesKind.AXIAL_T2,
}
_TOLD = {
    SeriesKind.SAGITTAL_T1: (Plane.SAGITTAL, Contrast.T1),
    SeriesKind.SAGITTAL_T2: (Plane.SAGITTAL, Contrast.T2),
    SeriesKind.AXIAL_T2: (Plane.AXIAL, Contrast.T2),
}


def told_plane(description: SeriesKind | None) -> Plane | None:
    """The plane that the series table claims, or None."""
    return _TOLD[description][0] if description in _TOLD else None


def contrast_of(acquisition: Acquisition) -> Contrast | None:
    """The weighting from the series' name; from echo, repetition and inversion time where the name does not tell.

    The borders are the usual ones for spin echo at 1.5 and 3 T: T1 has TE under 30 ms and TR from 150 ms (less is a
    gradient echo, as scouts are) to 1200 ms, or to 3000 ms with an inversion at 600 to 1200 ms (T1 FLAIR); T2 has TE
    over 60 ms and TR over 1500 ms; STIR inverts fat at 100 to 300 ms. Long TR with short TE (proton density) is
    neither.
    """
    description = _VERTEBRAE.sub(" ", acquisition.description)
    if _NO_ANATOMY.search(description):
        return None
    t1, t2 = bool(_T1.search(description)), bool(_T2.search(description))
    if t1 != t2:
        return Contrast.T1 if t1 else Contrast.T2
    echo, repetition, inversion = acquisition.echo_ms, acquisition.repetition_ms, acquisition.inversion_ms
    if echo is None or repetition is None or echo <= 0 or repetition <= 0:
        return None
    if inversion is not None and 100 <= inversion <= 300 and repetition > 1500:
        return Contrast.T2
    flair = repetition < 3000 and inversion is not None and 600 <= inversion <= 1200
    if echo < 30 and (150 <= repetition < 1200 or flair):
        return Contrast.T1
    if echo > 60 and repetition > 1500:
        return Contrast.T2
    return None


def told_contrast(description: SeriesKind | None) -> Contrast | None:
    """The weighting that the series table claims, or None."""
    return _TOLD[description][1] if description in _TOLD else None


def kind_of(description: SeriesKind | None, plane: Plane, acquisition: Acquisition) -> SeriesKind:
    """What a stack shows.

    The table's word on the weighting counts before the headers'. The plane comes from the geometry, because no later
    stage can use a plane that the pixels do not have; a table that names another one describes other slices. Axial T1
    and coronal stacks are :attr:`SeriesKind.UNKNOWN`: no stage uses them.
    """
    if told_plane(description) not in (None, plane):
        return SeriesKind.UNKNOWN
    contrast = told_contrast(description) or contrast_of(acquisition)
    return SeriesKind.UNKNOWN if contrast is None else _KINDS.get((plane, contrast), SeriesKind.UNKNOWN)
