"""Hostile input, case by case: ``python -m tests.benchmarks.hostile --weights weights/phantom``.

Phantom studies are linked under one id a case, and one file or folder of each is made hostile. ``submit.py`` then
grades them all in one run. Printed is a table: the case, what the reader said of it, rows by where they come from, rows
lost. Rows lost have to be 0 everywhere; exit status 1 if they are not, or if a case that has to be noticed was not.

What happens to the whole run (a full disk, signals, damaged weights) is tested in ``tests/run``.
"""

from __future__ import annotations

import argparse
import io
import os
import struct
import subprocess
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pydicom
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from pipeline.labels import CELLS, SeriesKind, row_id
from pipeline.submission import read_submission
from tests.commands.mounts import ROOT, multiply, phantom_studies
from tests.volumes.attacks import J2KS, JPEGS, compressed, j2k_of_precincts, jpeg_of_scans, rle_bomb, sides
from tests.volumes.test_hostile import ENDLESS

Case = Callable[[Path], None]
"""Gets the folder of a study's sagittal T1 series."""


def one_file(change: Callable[[bytes], bytes]) -> Case:
    """Other bytes in one file of the series."""

    def apply(series: Path) -> None:
        path = middle(series)
        content = change(path.read_bytes())
        path.unlink()  # the bytes are shared with other studies
        path.write_bytes(content)

    return apply


def one_header(change: Callable[[Dataset], None]) -> Case:
    """Other elements in one file of the series."""

    def apply(series: Path) -> None:
        path = middle(series)
        data = native(path.read_bytes())
        change(data)
        path.unlink()
        data.save_as(path)

    return apply


def instead_of_one_file(make: Callable[[Path], object]) -> Case:
    """Something else where one file of the series was."""

    def apply(series: Path) -> None:
        path = middle(series)
        path.unlink()
        make(path)

    return apply


def native(content: bytes) -> Dataset:
    """A file with its pixels decoded."""
    data = pydicom.dcmread(io.BytesIO(content))
    data.decompress(generate_instance_uid=False)
    return data


def written(data: Dataset) -> bytes:
    """The bytes of a file."""
    buffer = io.BytesIO()
    data.save_as(buffer)
    return buffer.getvalue()


def middle(series: Path) -> Path:
    """A file in the middle of a series."""
    files = sorted(series.iterdir(), key=lambda path: int(path.stem))
    return files[len(files) // 2]


def elements(**values: object) -> Callable[[Dataset], None]:
    """Set elements by keyword."""

    def change(data: Dataset) -> None:
        for keyword, value in values.items():
            setattr(data, keyword, value)

    return change


def pixel_data_at(content: bytes) -> int:
    """Where the pixel data element begins."""
    return content.index(b"\xe0\x7f\x10\x00O")


def deflated(content: bytes, inflated: Callable[[bytes], bytes] = lambda data: data) -> bytes:
    """The file in the deflated syntax, its data set changed on the way."""
    data = native(content)
    data.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    whole = written(data)
    length = 144 + struct.unpack_from("<I", whole, 140)[0]
    compressor = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = inflated(zlib.decompress(whole[length:], -zlib.MAX_WBITS))
    return whole[:length] + compressor.compress(body) + compressor.flush()


def four_gigabytes(content: bytes) -> bytes:
    """4 GB of pixel data declared, 88 bytes there."""
    whole = written(native(content))
    at = pixel_data_at(whole)
    return whole[: at + 8] + struct.pack("<I", 0xFFFFFFF0) + whole[at + 12 : at + 100]


def kilobyte_of_16_gigabytes(data: Dataset) -> None:
    """500 frames of 4000 x 4000 declared, 300 bytes there."""
    data.Rows = data.Columns = 4000
    data.NumberOfFrames = 500
    data.PixelData = bytes(300)


def endless(data: Dataset) -> None:
    """A stream from which a JPEG-LS decoder never returned."""
    data.Rows, data.Columns = 24, 32
    data.file_meta.TransferSyntaxUID = uid.JPEGLSLossless
    data.PixelData = encapsulate([ENDLESS])
    data["PixelData"].is_undefined_length = True


def nested(content: bytes) -> bytes:
    """Sequences in sequences, deeper than any stack."""
    sequence = struct.pack("<HH2sHI", 0x5200, 0x9230, b"SQ", 0, 0xFFFFFFFF)
    nest = sequence + (struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + sequence) * 20_000
    at = pixel_data_at(content)
    return content[:at] + nest + content[at:]


def remove_files(series: Path) -> None:
    for path in series.iterdir():
        path.unlink()


def remove_series(series: Path) -> None:
    remove_files(series)
    series.rmdir()


def series_is_a_file(series: Path) -> None:
    remove_series(series)
    series.write_text("not a folder")


def garbage_everywhere(series: Path) -> None:
    for path in series.parent.rglob("*.dcm"):
        path.unlink()
        path.write_bytes(os.urandom(2000))


def empty_study(series: Path) -> None:
    for other in list(series.parent.iterdir()):
        remove_series(other)


SERIES_IS_A_PATH = "series id that is a path"
CASES: dict[str, Case] = {
    "sound": lambda series: None,
    "zero-byte file": one_file(lambda content: b""),
    "text file named .dcm": one_file(lambda content: b"this is a text file\n" * 50),
    "truncated in the header": one_file(lambda content: content[:300]),
    "truncated in the pixels": one_file(lambda content: content[: len(content) * 2 // 3]),
    "random bytes in every file of the study": garbage_everywhere,
    "missing PixelData": one_header(lambda data: delattr(data, "PixelData")),
    "a header of 60,000 x 60,000": one_header(elements(Rows=60000, Columns=60000)),
    "16 GB declared in a 1 kB file": one_header(kilobyte_of_16_gigabytes),
    "an element of 4 GB": one_file(four_gigabytes),
    "100 million frames of one pixel": one_header(elements(Rows=1, Columns=1, NumberOfFrames=100_000_000)),
    "deflated syntax": one_file(deflated),
    "deflate bomb (256 MB)": one_file(lambda content: deflated(content, lambda body: body + bytes(2**28))),
    "damaged deflate": one_file(lambda content: deflated(content)[:-1000] + bytes(1000)),
    "20,000 nested sequences": one_file(nested),
    "JPEG-LS on which a decoder hangs": one_header(endless),
    "JPEG of 3,000 scans over 4096 x 4096": one_header(
        compressed(uid.JPEGBaseline8Bit, 4096, 8, jpeg_of_scans(3000, 4096))
    ),
    "JPEG 2000 in precincts of two pixels": one_header(
        compressed(uid.JPEG2000Lossless, 2048, 16, j2k_of_precincts(2048))
    ),
    "RLE of 100 MB for 64 x 64": one_header(compressed(uid.RLELossless, 64, 16, rle_bomb(100))),
    **{
        f"JPEG that declares {name}": one_header(compressed(uid.JPEGBaseline8Bit, 64, 8, stream))
        for name, stream in JPEGS.items()
    },
    **{
        f"JPEG 2000 that declares {name}": one_header(compressed(uid.JPEG2000, sides(name), 16, stream))
        for name, stream in J2KS.items()
    },
    "non-ASCII tags": one_header(elements(SpecificCharacterSet="ISO_IR 192", PatientName="Ж中ü" * 20)),
    "unknown character set": one_header(elements(SpecificCharacterSet="ISO_IR 999", PatientName="x")),
    "missing orientation": one_header(lambda data: delattr(data, "ImageOrientationPatient")),
    "symlink loop": instead_of_one_file(lambda path: path.symlink_to(path.name)),
    "symlink to the folder above": instead_of_one_file(lambda path: path.symlink_to("..")),
    "folder instead of a file": instead_of_one_file(lambda path: path.mkdir()),
    "named pipe instead of a file": instead_of_one_file(os.mkfifo),
    "sparse file of 1 TB": instead_of_one_file(lambda path: (path.touch(), os.truncate(path, 2**40))),
    "series folder absent": remove_series,
    "series folder empty": remove_files,
    "file instead of a series folder": series_is_a_file,
    "study folder empty": empty_study,
    SERIES_IS_A_PATH: lambda series: None,
}
if os.geteuid():  # for root nothing is unreadable
    CASES["unreadable permissions"] = lambda series: middle(series).chmod(0)
UNNOTICED = ("sound", "deflated syntax", "non-ASCII tags", "unknown character set")
"""Cases that are read as if nothing were wrong."""
OUTSIDE = "../../etc"
"""An id that is a path; it stands in the tables alone."""


def build(phantoms: Path, root: Path) -> dict[str, str]:
    """A competition with one study a case; the study ids by case."""
    ids = dict(zip(CASES, multiply(phantoms, root, len(CASES)), strict=True))
    table = pd.read_csv(root / "test_series_descriptions.csv", dtype=str)
    t1 = table[table["series_description"] == SeriesKind.SAGITTAL_T1.value].groupby("study_id")["series_id"].first()
    for case, study in ids.items():
        CASES[case](root / "test_images" / study / t1[study])
    kind = SeriesKind.SAGITTAL_T1.value
    rows = [(OUTSIDE, "1", kind), (ids[SERIES_IS_A_PATH], OUTSIDE, kind)]
    pd.concat([table, pd.DataFrame(rows, columns=table.columns)]).to_csv(
        root / "test_series_descriptions.csv", index=False
    )
    with (root / "sample_submission.csv").open("a") as sample:
        sample.writelines(f"{row_id(OUTSIDE, cell)},0.3,0.3,0.4\n" for cell in CELLS)
    return {**ids, "study id that is a path": OUTSIDE}


def report(ids: dict[str, str], out: Path) -> tuple[list[str], bool]:
    """The lines of the table, and whether all is well."""
    rows = Counter(_study_of(name, ids) for name in read_submission(out).index)
    provenance = pd.read_csv(out.parent / "stages" / "provenance.csv", dtype=str, keep_default_na=False)
    problems = pd.read_csv(out.parent / "stages" / "problems.csv", dtype=str, keep_default_na=False)
    problems = problems[problems["what"] != "landmarks"]
    lines = ["| case | outcome | from networks / context / class frequencies | rows lost |"]
    lines.append("| --- | --- | --- | --- |")
    good = True
    for case, study in ids.items():
        said = Counter(problems.loc[problems["study_id"] == study, "what"])
        sources = Counter(provenance.loc[provenance["study_id"] == study, "source"])
        lost = len(CELLS) - rows[study]
        noticed = bool(said) or case in UNNOTICED
        good &= lost == 0 and noticed
        outcome = ", ".join(f"{what} ({count})" if count > 1 else what for what, count in said.items()) or "read"
        counts = " / ".join(str(sources[source]) for source in ("model", "context", "prior"))
        lines.append(f"| {case} | {outcome if noticed else 'NOT NOTICED'} | {counts} | {lost} |")
    return lines, good


def _study_of(name: str, ids: dict[str, str]) -> str:
    return next((study for study in ids.values() if name.startswith(f"{study}_")), name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--phantoms", type=Path, metavar="DIR", help="a test split to take studies from (default: made)"
    )
    parser.add_argument("--weights", type=Path, metavar="DIR", help="default: weights/default")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root, out = Path(scratch) / "data", Path(scratch) / "out" / "submission.csv"
        ids = build(args.phantoms or phantom_studies(2), root)
        command = [sys.executable, "submit.py", "--data", str(root), "--out", str(out), "--quiet"]
        command += ["--stages", str(out.parent / "stages"), "--workers", str(args.workers)]
        command += ["--weights", str(args.weights)] if args.weights else []
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            print(done.stderr[-3000:], file=sys.stderr)
            return 1
        lines, good = report(ids, out)
    print("\n".join(lines))
    print(done.stdout.strip().splitlines()[-1])
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
