"""Which images of a folder belong together, by what their headers say.

A folder should hold one series of one patient. In the wild it holds a second contrast, a repeat, a localiser, a
technologist's screen saves, or another patient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from pipeline.volumes.headers import Frame
from pipeline.volumes.origin import Origin, names_scout

_STORAGE = "1.2.840.10008.5.1.4.1.1."
_MR_CLASSES = {f"{_STORAGE}{end}" for end in ("4", "4.1", "4.3", "4.4")}
_CAPTURE = f"{_STORAGE}7"
_MAPS = frozenset(
    ("ADC", "EADC", "FA", "TRACEW", "DIFFUSION", "SUBTRACTION", "SUB", "PROJECTION IMAGE", "MIP", "MINIP", "VELOCITY")
) | {f"{what} MAP" for what in ("PHASE", "FIELD", "B0", "T1", "T2", "T2_STAR", "PROTON_DENSITY")}
_NO_MAGNITUDE = {"P", "PHASE", "R", "REAL", "I", "IMAGINARY"}
_ORDER_T2, _ORDER_T1 = ("W", "IN_PHASE", "OPP_PHASE", "F"), ("IN_PHASE", "OPP_PHASE", "F", "W")

_OF_EACH_FILE = "another in every file"

ContrastKey = tuple[tuple[str, ...], bool, tuple[float | None, ...], tuple[int | None, int | None]]
"""ImageType, burnt-in text, times, and acquisition: what tells apart the images of one slice."""


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


def split_by_origin(frames: Sequence[Frame]) -> list[tuple[Origin, list[Frame]]]:
    """The frames of a folder by patient, examination and series, in the order in which they came.

    An id that every file has for itself (some anonymisers write such) tells no files apart; such series belong
    together, and not to those with one id. A file without an id belongs to the others if these have but one.
    """
    patients = _believed(frames, lambda origin: origin.patient)
    studies = _believed(frames, lambda origin: origin.study)
    series = _believed(frames, lambda origin: origin.series)
    parts: dict[tuple[str, ...], list[Frame]] = {}
    for frame, *key in zip(frames, patients, studies, series, strict=True):
        parts.setdefault(tuple(key), []).append(frame)
    return [
        (replace(members[0].origin, patient=patient, study=study, series=one), members)
        for (patient, study, one), members in parts.items()
    ]


def _believed(frames: Sequence[Frame], id_of: Callable[[Origin], str]) -> list[str]:
    values = [id_of(frame.origin) for frame in frames]
    known = set(values) - {""}
    if len(known) == 1:
        return [next(iter(known))] * len(values)
    return [_OF_EACH_FILE] * len(values) if len(known) == len({frame.file for frame in frames}) > 2 else values


def contrast_key(frame: Frame) -> ContrastKey:
    """What tells apart the images that a scanner makes of one slice: echo, type, repetition."""
    origin = frame.origin
    times = (frame.acquisition.echo_ms, origin.echo, frame.acquisition.inversion_ms)
    return origin.image_type, origin.burned_in, times, origin.acquisition


def preference(frame: Frame, is_t1: bool) -> tuple[float, ...]:
    """A key to sort the contrasts of one slice by, the one to be graded first.

    Originals before copies. Of Dixon's images in phase before the others on T1, where fat shows the foramen; water on
    T2, which is what STIR shows, and STIR is graded as T2. Of several echoes the first on T1 and the last on T2.
    """
    origin = frame.origin
    echo = frame.acquisition.echo_ms or float(origin.echo or 0)
    order = _ORDER_T1 if is_t1 else _ORDER_T2
    return (
        float(origin.burned_in) + float("SECONDARY" in origin.image_type),
        float(bool(_NO_MAGNITUDE & set(origin.image_type[2:]))),
        float(order.index(origin.dixon)) if origin.dixon else 0.0,
        float("DERIVED" in origin.image_type),
        echo if is_t1 else -echo,
        -float("NORM" in origin.image_type),
    )
