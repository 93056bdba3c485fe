"""One study of the competition's layout, written again in every other layout that people have."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian


def images(study: Path) -> list[Path]:
    """The files of a study of the competition's layout."""
    return sorted(study.glob("*/*.dcm"))


def flat(study: Path, out: Path) -> Path:
    """All files in one folder, named by nothing but a number, without an ending."""
    out.mkdir(parents=True)
    for number, path in enumerate(images(study)):
        shutil.copyfile(path, out / f"IM{number}")
    return out


def ima(study: Path, out: Path) -> Path:
    """As flat, with the ending of an old export."""
    out.mkdir(parents=True)
    for number, path in enumerate(images(study)):
        shutil.copyfile(path, out / f"1.{number}.IMA")
    return out


def one_study(study: Path, out: Path) -> Path:
    """The folder of the study alone."""
    return Path(shutil.copytree(study, out))


def series_in_one(study: Path, out: Path) -> Path:
    """A folder of the study, in which the series are not apart."""
    flat(study, out / "visit")
    return out


def nested(study: Path, out: Path) -> Path:
    """Deeper than the competition's, with what systems leave beside."""
    shutil.copytree(study, out / "hospital" / "2024" / "spine")
    for name in ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "lost+found", ".Trash-1000"):
        shutil.copytree(study, out / name / study.name)
    return out


def medium(study: Path, out: Path) -> Path:
    """A medium: an index, and files of eight capital letters."""
    records = []
    for number, path in enumerate(images(study)):
        parts = ["DICOM", "PA000000", "ST000000", f"SE{number % 3:06}", f"IM{number:06}"]
        place = out.joinpath(*parts)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
        record = Dataset()
        record.DirectoryRecordType, record.ReferencedFileID = "IMAGE", parts
        records.append(record)
    write_index(out / "DICOMDIR", records)
    return out


def write_index(path: Path, records: list[Dataset]) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.1.3.10", "1.2.3"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    index = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    index.DirectoryRecordSequence = records
    index.save_as(path, enforce_file_format=True)


def index_itself(study: Path, out: Path) -> Path:
    """The index of a medium."""
    return medium(study, out) / "DICOMDIR"


def zipped(study: Path, out: Path) -> Path:
    """A zip of the study's folder, with what a Mac puts into it."""
    out.mkdir(parents=True)
    with zipfile.ZipFile(out / "study.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in images(study):
            archive.write(path, path.relative_to(study.parent))
            archive.writestr(f"__MACOSX/{path.relative_to(study.parent)}", b"Mac OS X")
    return out / "study.zip"


LAYOUTS: tuple[Callable[[Path, Path], Path], ...] = (
    flat, ima, one_study, series_in_one, nested, medium, index_itself, zipped,
)  # fmt: skip


def with_patient(study: Path, uid: str, patient: str = "PAT-0042", name: str = "Doe^Jane") -> None:
    """Give every file of a study the ids that a scanner gives: the examination's, and one of each series."""
    for number, folder in enumerate(sorted(study.iterdir()), start=1):
        for path in folder.iterdir():
            data = pydicom.dcmread(path)
            data.StudyInstanceUID, data.SeriesInstanceUID, data.SeriesNumber = uid, f"{uid}.{number}", number
            data.PatientID, data.PatientName, data.SOPInstanceUID = patient, name, f"{uid}.{number}.{path.stem}"
            data.save_as(path)
