"""The grades of a study as a DICOM Structured Report: Comprehensive 3D SR, TID 1500, a measurement group a cell.

A group holds the finding (stenosis), its sites (the disc's level; the canal, foramen or recess, with its side), the
likeliest grade, the three plain probabilities, and the image and the patient's millimetres they were found at. Only
what networks saw on images is reported: context and class frequencies are no findings.

Codes are those of DICOM PS3.16 as :mod:`pydicom.sr.codedict` lists them. For what that has no code for (the foramen
and the recess, the joint grade of normal and mild, the probability of a grade) the scheme is our own, ``99LUMBAR``,
as PS3.16 8.2 has it for private codes.

As every object of an archive it carries the patient's name and number, those of the images; that of anonymised images
has none. Where the images' own UIDs are none, the document refers to legal ones made from them, so it is valid but
leads to no image; the study then has a problem that says so.
"""

from __future__ import annotations

import io
import re
import uuid
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.sr.codedict import Code, codes

from pipeline import __version__
from pipeline.competition import StudyRef
from pipeline.exports.naming import file_stem
from pipeline.files import write_atomically
from pipeline.labels import CELLS, GRADES, Family, Side
from pipeline.landmarks.landmarks import Landmarks
from pipeline.problem import Problem
from pipeline.run.result import Graded, Source
from pipeline.volumes.contents import read_contents
from pipeline.volumes.limits import Budget, ReadLimits
from pipeline.volumes.nifti import is_nifti

if TYPE_CHECKING:
    from highdicom.sr import AlgorithmIdentification, Comprehensive3DSR, MeasurementsAndQualitativeEvaluations

_SCHEME = "99LUMBAR"
_DISCS = {
    "l1_l2": codes.SCT.L1L2Disc,
    "l2_l3": codes.SCT.L2L3Disc,
    "l3_l4": codes.SCT.L3L4Disc,
    "l4_l5": codes.SCT.L4L5Disc,
    "l5_s1": codes.SCT.L5S1Disc,
}
"""CID 7604."""
_SITES = {
    Family.CANAL: Code("61853006", "SCT", "Spinal canal structure"),
    Family.FORAMINAL: Code("FORAMEN", _SCHEME, "Lumbar neural foramen"),
    Family.SUBARTICULAR: Code("RECESS", _SCHEME, "Lumbar subarticular recess"),
}
_SIDES = {Side.LEFT: codes.SCT.Left, Side.RIGHT: codes.SCT.Right, None: None}
_GRADES = (Code("NORMAL-MILD", _SCHEME, "Normal or mild"), codes.SCT.Moderate, codes.SCT.Severe)
_PROBABILITIES = tuple(
    Code(f"P-{grade.upper().replace('_', '-')}", _SCHEME, f"Probability of {text}")
    for grade, text in zip(GRADES, ("normal or mild", "moderate", "severe"), strict=True)
)
_STENOSIS, _SEVERITY = Code("415582006", "SCT", "Stenosis"), Code("246112005", "SCT", "Severity")
_MADE = "2.25."
_MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
_DEVICE = "2.25.208436581062348795212306458031120345801"
_PATIENT_AND_STUDY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)
_WANTED = [
    *_PATIENT_AND_STUDY,
    *("SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"),
    *("InstanceNumber", "NumberOfFrames", "FrameOfReferenceUID"),
]
_UID = re.compile(r"[012](\.(0|[1-9][0-9]*))+")
_SERIES_NUMBER = 9016
"""Of the report's series: beyond those of scanners."""


class NoReportError(ValueError):
    """The study has nothing to report on."""


def write_reports(folder: Path, studies: Iterable[Graded], weights: Mapping[str, Any] | None) -> list[Problem]:
    """Write ``<study>.dcm`` for every study with a grade from its images; a study that gives none is a problem.

    Raises:
        OSError: a file cannot be written.
    """
    problems = []
    for study in studies:
        study_id = study.result.study_id
        try:
            report, replaced = structured_report(study, weights)
        except Exception as error:  # whatever highdicom finds wrong with a header: the study has its rows all the same
            detail = str(error) if isinstance(error, NoReportError) else f"{type(error).__name__}: {error}"
            problems.append(Problem(study_id, None, None, "no-structured-report", detail))
            continue

        def save(partial: Path, report: Comprehensive3DSR = report) -> None:
            report.save_as(partial, enforce_file_format=True)

        write_atomically(folder / f"{file_stem(study_id)}.dcm", save)
        if replaced:
            detail = "the images' UIDs are none by DICOM; the structured report refers to others made from them"
            problems.append(Problem(study_id, None, None, "uids-replaced", detail))
    return problems


def structured_report(study: Graded, weights: Mapping[str, Any] | None) -> tuple[Comprehensive3DSR, bool]:
    """The report of a study, and whether UIDs of its images had to be replaced.

    Raises:
        NoReportError: there is none.
    """
    import highdicom as hd

    points = study.points()
    seen = [index for index in range(len(CELLS)) if study.result.source[index] is Source.MODEL]
    if points is None or not seen:
        raise NoReportError("no grade of it is from its images")
    images, replaced = _images(study.study, points)
    if not images:
        raise NoReportError("no image that its points lie on has a DICOM header to refer to")
    numbers = study.numbers()
    model = "no weights" if weights is None else str(weights["set"])
    algorithm = hd.sr.AlgorithmIdentification("lumbar-grading", __version__, parameters=[f"weights {model}"])
    groups = [_group(index, numbers[index, :3], points, images, algorithm) for index in seen]
    device = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=_DEVICE, name="lumbar-grading", manufacturer_name="lumbar-grading", model_name=model[:64]
    )
    content = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(
            observer_device_context=hd.sr.ObserverContext(codes.DCM.Device, device)
        ),
        procedure_reported=Code("LUMBAR-MRI", _SCHEME, "Grading of lumbar spine MRI"),
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    evidence = list({image.SOPInstanceUID: image for image in images.values()}.values())
    key = f"{evidence[0].StudyInstanceUID} {__version__} {model} {np.round(numbers, 6).tolist()}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about values of the images' headers, copied as they are
        report = hd.sr.Comprehensive3DSR(
            evidence=evidence,
            content=content[0],
            series_instance_uid=_uid(f"series {evidence[0].StudyInstanceUID}"),
            series_number=_SERIES_NUMBER,
            sop_instance_uid=_uid(key),
            instance_number=1,
            manufacturer="lumbar-grading",
            manufacturer_model_name=f"lumbar-grading {model}"[:64],
            software_versions=__version__,
            device_serial_number="none",
            series_description="Stenosis grades, research only, no medical device",
            is_complete=True,
            is_final=False,
            is_verified=False,
        )
    scheme = Dataset()
    scheme.CodingSchemeDesignator, scheme.CodingSchemeName = _SCHEME, "lumbar-grading"
    scheme.CodingSchemeResponsibleOrganization = "lumbar-grading, structured_report.py lists all its codes"
    report.CodingSchemeIdentificationSequence = [scheme]
    return report, replaced


def _group(
    index: int, plain: np.ndarray, points: Landmarks, images: Mapping[int, Dataset], algorithm: AlgorithmIdentification
) -> MeasurementsAndQualitativeEvaluations:
    """The measurement group of one cell; ``plain`` (3,) are its probabilities."""
    import highdicom as hd

    cell, image = CELLS[index], images.get(index)
    place: dict[str, Any] = {}
    sources = []
    if image is not None:
        frames = [int(points.instance_number[index])] if int(image.get("NumberOfFrames") or 1) > 1 else None
        sources = [hd.sr.SourceImageForMeasurementGroup(image.SOPClassUID, image.SOPInstanceUID, frames)]
        if frame_of_reference := image.get("FrameOfReferenceUID"):
            at = np.asarray(points.points_mm[index], dtype=float)[None]
            place = {"referenced_coordinates": [hd.sr.CoordinatesForMeasurement3D("POINT", at, frame_of_reference)]}
    measurements = [
        hd.sr.Measurement(name, round(float(value), 4), codes.UCUM.NoUnits, **place)
        for name, value in zip(_PROBABILITIES, plain, strict=True)
    ]
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(_uid(f"{points.study_id} {cell.column}"), cell.title),
        finding_type=_STENOSIS,
        algorithm_id=algorithm,
        finding_sites=[
            hd.sr.FindingSite(_DISCS[cell.level]),
            hd.sr.FindingSite(_SITES[cell.condition.family], _SIDES[cell.condition.side]),
        ],
        measurements=measurements,
        qualitative_evaluations=[hd.sr.QualitativeEvaluation(_SEVERITY, _GRADES[int(plain.argmax())])],
        source_images=sources,
    )


def _images(study: StudyRef, points: Landmarks) -> tuple[dict[int, Dataset], bool]:
    """By cell the header of the image its point lies on, fit to be referred to; and whether UIDs were replaced."""
    replaced = False
    wanted = {
        (str(points.series_id[index]), int(points.instance_number[index])): index
        for index in np.flatnonzero(points.found)
    }
    images: dict[tuple[str, int], Dataset] = {}
    for ref in study.series:
        if ref.series_id not in {series for series, _ in wanted} or any(is_nifti(name) for _, name in ref.files):
            continue
        for _, content in read_contents(ref, Budget(ReadLimits()), lambda *_, **__: None):
            header = pydicom.dcmread(
                io.BytesIO(content), stop_before_pixels=True, force=True, specific_tags=list(_WANTED)
            )
            frames = int(header.get("NumberOfFrames") or 1)
            for number in range(1, frames + 1) if frames > 1 else [int(header.get("InstanceNumber") or -1)]:
                if (ref.series_id, number) in wanted and header.get("StudyInstanceUID"):
                    replaced |= _make_referable(header, ref.series_id)
                    images.setdefault((ref.series_id, number), header)
    keys = [(str(points.series_id[index]), int(points.instance_number[index])) for index in range(len(CELLS))]
    return {index: images[key] for index, key in enumerate(keys) if points.found[index] and key in images}, replaced


def _make_referable(header: Dataset, series_id: str) -> bool:
    """Give a header all that a valid reference to it takes; returns whether its UIDs had to be replaced.

    What is missing becomes empty, or the class of MR images. A UID that is none (the competition's are plain numbers,
    and those of images repeat between series) becomes one that is made from it.
    """
    for keyword in _PATIENT_AND_STUDY:
        if keyword not in header:
            setattr(header, keyword, "")
    header.SOPClassUID = header.get("SOPClassUID") or _MR_IMAGE
    study, series, image = (str(header.get(f"{name}InstanceUID") or "") for name in ("Study", "Series", "SOP"))
    legal = all(map(is_legal_uid, (study, series, image)))
    if not legal:
        header.StudyInstanceUID = study if is_legal_uid(study) else _uid(f"study {study}")
        header.SeriesInstanceUID = _uid(f"series {study} {series or series_id}")
        header.SOPInstanceUID = _uid(f"image {study} {series or series_id} {image or header.get('InstanceNumber')}")
    return not legal


def is_legal_uid(text: str) -> bool:
    """Whether a text is a UID (PS3.5 9.1).

    >>> [is_legal_uid(text) for text in ("1.2.840.10008", "46012001", "4.1", "1.02", "2.25." + "1" * 60)]
    [True, False, False, False, False]
    """
    return len(text) <= 64 and _UID.fullmatch(text) is not None


def _uid(text: str) -> str:
    """A UID that is the same for the same text (a name-based UUID, PS3.5 B.2)."""
    return f"{_MADE}{uuid.uuid5(uuid.NAMESPACE_OID, f'lumbar-grading {text}').int}"
