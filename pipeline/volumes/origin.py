"""What a file says of where it comes from: patient, examination, series, and the kind of image it is.

The patient's id is compared with others and nothing else: it is never shown, logged or stored.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from pydicom.dataset import Dataset

from pipeline.volumes.values import integer_of, text_of

_PATIENT, _STUDY, _SERIES, _NUMBER = 0x00100020, 0x0020000D, 0x0020000E, 0x00200011
_MODALITY, _CLASS, _BURNED = 0x00080060, 0x00080016, 0x00280301
_ACQUISITION, _TEMPORAL, _ECHO = 0x00200012, 0x00200100, 0x00180086
ORIGIN_TAGS = (_PATIENT, _STUDY, _SERIES, _NUMBER, _MODALITY, _CLASS, _BURNED, _ACQUISITION, _TEMPORAL, _ECHO)
"""The elements that :func:`read_origin` looks at."""

_SCOUT = re.compile(
    r"(?<![a-z])(loc|locali[sz]\w*|scout\w*|survey\w*|pilot|topogram|smartbrain|(3|three)[ -]?pl\w*)(?![a-z])",
    re.IGNORECASE,
)
_WATER_FIRST = ("W", "WATER"), ("IN_PHASE", "IP", "IN"), ("OPP_PHASE", "OUT_PHASE", "OP", "OPP"), ("F", "FAT")
_DIXON = {name: contrast[0] for contrast in _WATER_FIRST for name in contrast}


@dataclass(frozen=True)
class Origin:
    """Where an image comes from; "" and None where the header does not say.

    Attributes:
        patient: PatientID.
        study: StudyInstanceUID.
        series: SeriesInstanceUID, and SeriesNumber where there is one.
        modality: MR, CT, OT ...
        sop_class: the UID of the kind of object.
        image_type: ImageType or, in a multi-frame file, FrameType, in capitals.
        burned_in: BurnedInAnnotation is YES.
        echo: EchoNumbers.
        acquisition: AcquisitionNumber and TemporalPositionIdentifier.
    """

    patient: str = field(default="", repr=False)
    study: str = ""
    series: str = ""
    modality: str = ""
    sop_class: str = ""
    image_type: tuple[str, ...] = ()
    burned_in: bool = False
    echo: int | None = None
    acquisition: tuple[int | None, int | None] = (None, None)

    @property
    def dixon(self) -> str | None:
        """``W``, ``IN_PHASE``, ``OPP_PHASE`` or ``F`` of a Dixon acquisition."""
        found = [_DIXON[word] for word in self.image_type[2:] if word in _DIXON]
        return found[0] if found else None


def read_origin(dataset: Dataset, image_type: str) -> Origin:
    """The origin of a file, or of a frame of it whose own type is ``image_type`` (values between backslashes)."""
    return Origin(
        patient=text_of(dataset, _PATIENT),
        study=text_of(dataset, _STUDY),
        series=" ".join((text_of(dataset, _SERIES), text_of(dataset, _NUMBER))).strip(),
        modality=text_of(dataset, _MODALITY).upper(),
        sop_class=text_of(dataset, _CLASS),
        image_type=tuple(word.strip().upper() for word in image_type.split("\\")) if image_type else (),
        burned_in=text_of(dataset, _BURNED).upper() == "YES",
        echo=integer_of(dataset, _ECHO),
        acquisition=(integer_of(dataset, _ACQUISITION), integer_of(dataset, _TEMPORAL)),
    )


def names_scout(description: str) -> bool:
    """Whether the name of a series is that of a localiser.

    >>> [names_scout(name) for name in ("Localizer", "3-plane loc", "SURVEY_MST", "T2 sag", "local shim T2")]
    [True, True, True, False, False]
    """
    return bool(_SCOUT.search(description.replace("_", " ")))


def same_study(origins: Sequence[Origin]) -> tuple[list[bool], str | None]:
    """Which series of a folder may be graded as one study.

    Args:
        origins: one a series.

    Returns:
        For each whether it is kept, and a sentence where not all are: those of the patient, and of the examination, to
        whom two thirds of the series belong; none where nobody has so many.
    """
    kept = [True] * len(origins)
    for what, ids in (
        ("patients (PatientID)", [origin.patient for origin in origins]),
        ("examinations (StudyInstanceUID)", [origin.study for origin in origins]),
    ):
        known = [value for value, keep in zip(ids, kept, strict=True) if value and keep]
        if len(set(known)) > 1:
            most = max(set(known), key=known.count)
            if 3 * known.count(most) < 2 * len(known):
                return [False] * len(origins), (
                    f"the folder mixes {len(set(known))} {what}, none with two thirds of its series; none is graded: "
                    "put each examination into a study folder of its own"
                )
            kept = [keep and value in ("", most) for value, keep in zip(ids, kept, strict=True)]
            if not all(kept):
                sentence = f"of another of the {len(set(known))} {what} in this study folder; not used"
    return kept, None if all(kept) else sentence
