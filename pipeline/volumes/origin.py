"""What a file says of where it comes from, and which files of a folder belong together.

A folder should hold one series of one patient. In the wild it holds a second contrast, a repeat, a localiser, a
technologist's screen saves, or another patient. What the headers say of that is used here, before anything is placed.
The patient's id is compared with others and nothing else: it is never shown, logged or stored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydicom.dataset import Dataset

from pipeline.volumes.values import integer_of, text_of

if TYPE_CHECKING:
    from pipeline.volumes.headers import Frame

_PATIENT, _STUDY, _SERIES, _NUMBER = 0x00100020, 0x0020000D, 0x0020000E, 0x00200011
_MODALITY, _CLASS, _BURNED = 0x00080060, 0x00080016, 0x00280301
_ACQUISITION, _TEMPORAL = 0x00200012, 0x00200100
ORIGIN_TAGS = (_PATIENT, _STUDY, _SERIES, _NUMBER, _MODALITY, _CLASS, _BURNED, _ACQUISITION, _TEMPORAL)
"""The elements that :func:`read_origin` looks at."""

_STORAGE = "1.2.840.10008.5.1.4.1.1."
_MR_CLASSES = {f"{_STORAGE}{end}" for end in ("4", "4.1", "4.3", "4.4")}
_CAPTURE = f"{_STORAGE}7"
_MAPS = {
    "ADC",
    "EADC",
    "FA",
    "TRACEW",
    "DIFFUSION",
    "PHASE MAP",
    "SUBTRACTION",
    "SUB",
    "T1 MAP",
    "T2 MAP",
    "T2_STAR MAP",
}
_MAPS |= {"PROJECTION IMAGE", "MIP", "MINIP", "VELOCITY", "FIELD MAP", "B0 MAP", "PROTON_DENSITY MAP"}
_SCOUT = re.compile(
    r"(?<![a-z])(loc|locali[sz]\w*|scout\w*|survey\w*|pilot|topogram|smartbrain|(3|three)[ -]?pl\w*)(?![a-z])",
    re.IGNORECASE,
)
_WATER_FIRST = ("W", "WATER"), ("IN_PHASE", "IP", "IN"), ("OPP_PHASE", "OUT_PHASE", "OP", "OPP"), ("F", "FAT")
_DIXON = {name: contrast[0] for contrast in _WATER_FIRST for name in contrast}
_ORDER_T2, _ORDER_T1 = ("W", "IN_PHASE", "OPP_PHASE", "F"), ("IN_PHASE", "OPP_PHASE", "F", "W")


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
        acquisition: AcquisitionNumber and TemporalPositionIdentifier.
    """

    patient: str = field(default="", repr=False)
    study: str = ""
    series: str = ""
    modality: str = ""
    sop_class: str = ""
    image_type: tuple[str, ...] = ()
    burned_in: bool = False
    acquisition: tuple[int | None, int | None] = (None, None)

    @property
    def is_copy(self) -> bool:
        """Whether it is made of another image: a reformat, a screen save, or an original that went through a tool."""
        return "SECONDARY" in self.image_type or "DERIVED" in self.image_type or self.burned_in

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
        acquisition=(integer_of(dataset, _ACQUISITION), integer_of(dataset, _TEMPORAL)),
    )


def names_scout(description: str) -> bool:
    """Whether the name of a series is that of a localiser.

    >>> [names_scout(name) for name in ("Localizer", "3-plane loc", "SURVEY_MST", "T2 sag", "local shim T2")]
    [True, True, True, False, False]
    """
    return bool(_SCOUT.search(description.replace("_", " ")))


def why_unusable(frame: Frame, told: bool) -> tuple[str, str] | None:
    """What makes an image none to grade, as code and sentence; None for one that may be graded.

    Args:
        frame: with its header.
        told: the series table says what the series is, so that its name does not matter.
    """
    origin = frame.origin
    if origin.modality not in ("", "MR"):
        return "other-modality", f"Modality (0008,0060) is {origin.modality!r}, expected MR; not used"
    if origin.sop_class.startswith(_CAPTURE):
        return "secondary-capture", "a secondary capture (SOP class), not an image of the scanner; not used"
    if origin.sop_class.startswith(_STORAGE) and origin.sop_class not in _MR_CLASSES:
        return "other-modality", f"SOP class {origin.sop_class} holds no MR image; not used"
    if "LOCALIZER" in origin.image_type or (not told and names_scout(frame.acquisition.description)):
        return "localiser", "a localiser (by ImageType or the series' name); not used"
    if maps := sorted(_MAPS & set(origin.image_type)):
        return "derived-map", f"ImageType (0008,0008) says {', '.join(maps)}: no image of the anatomy itself; not used"
    return None


def split_by_origin(frames: Sequence[Frame]) -> list[list[Frame]]:
    """The frames of a folder by patient, examination and series, in the order in which they came.

    An id that every file has for itself (some anonymisers write such) tells nothing, and a file without one belongs to
    the others if these have but one.
    """
    keys = [
        _told_apart(frames, lambda frame: frame.origin.patient),
        _told_apart(frames, lambda frame: frame.origin.study),
        _told_apart(frames, lambda frame: frame.origin.series),
    ]
    parts: dict[Hashable, list[Frame]] = {}
    for frame, *key in zip(frames, *keys, strict=True):
        parts.setdefault(tuple(key), []).append(frame)
    return list(parts.values())


def _told_apart(frames: Sequence[Frame], text_of_frame: Callable[[Frame], str]) -> list[str]:
    values = [text_of_frame(frame) for frame in frames]
    known = set(values) - {""}
    files = {frame.file for frame in frames}
    if len(known) == 1 or len(known) == len(files) > 2:
        return [""] * len(values)
    return values


def contrast_key(frame: Frame) -> Hashable:
    """What tells apart the images that a scanner makes of one slice: echo, type, repetition."""
    origin = frame.origin
    return origin.image_type, origin.burned_in, frame.acquisition.echo_ms, origin.acquisition


def preference(frame: Frame, is_t1: bool) -> tuple[float, ...]:
    """A key to sort the contrasts of one slice by, the one to be graded first.

    Originals before copies. Of Dixon's images in phase before the others on T1, where fat shows the foramen; water on
    T2, which is what STIR shows, and STIR is graded as T2. Of several echoes the first on T1 and the last on T2.
    """
    origin, echo = frame.origin, frame.acquisition.echo_ms or 0.0
    order = _ORDER_T1 if is_t1 else _ORDER_T2
    return (
        float(origin.burned_in) + float("SECONDARY" in origin.image_type),
        float(order.index(origin.dixon)) if origin.dixon else 0.0,
        float("DERIVED" in origin.image_type),
        echo if is_t1 else -echo,
        -float("NORM" in origin.image_type),
    )


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
