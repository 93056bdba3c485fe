"""The files that are mutated: the oracle in every transfer syntax, a multi-frame file and a phantom study."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from pipeline.__main__ import main
from tests.volumes.oracle import AXIAL, SAGITTAL, positions, slice_dataset, write_series
from tests.volumes.syntaxes import LOSSLESS
from tests.volumes.test_multiframe import write_enhanced

SHAPE = (24, 32)


def build_corpus(folder: Path) -> dict[str, list[bytes]]:
    """Name of each kind of file to two slices of it, made in ``folder``."""
    corpus = {"phantom": _phantom(folder / "phantom")}
    for number, (syntax, rewrite) in enumerate(LOSSLESS.items()):
        axes = (SAGITTAL, AXIAL)[number % 2]
        places = positions(axes, (0.0, 0.0, 0.0), [0.0, 4.0], SHAPE)
        series = write_series(folder / f"syntax-{number}", axes, places, shape=SHAPE)
        for path in sorted(series.iterdir()):
            rewrite(path)
        corpus[uid.UID(syntax).keyword] = _contents(series)
    for file_format, syntax, options in (
        ("JPEG", uid.JPEGBaseline8Bit, {"quality": 90}),
        ("JPEG2000", uid.JPEG2000, {"no_jp2": True, "irreversible": True}),
    ):
        series = _lossy(folder / f"lossy-{file_format}", file_format, syntax, options)
        corpus[f"lossy {syntax.keyword}"] = _contents(series)
    places = positions(AXIAL, (0.0, 0.0, 0.0), [0.0, 4.0, 8.0], SHAPE)
    frames = [slice_dataset(AXIAL, place, 1, SHAPE) for place in places]
    write_enhanced(folder / "enhanced" / "1.dcm", frames)
    corpus["enhanced"] = _contents(folder / "enhanced")
    return corpus


def _contents(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.rglob("*.dcm"))]


def _lossy(folder: Path, file_format: str, syntax: str, options: dict[str, object]) -> Path:
    rows, cols = np.indices(SHAPE)
    stream = io.BytesIO()
    Image.fromarray((100 + rows + cols).astype(np.uint8)).save(stream, file_format, **options)

    def change(data: Dataset) -> None:
        data.file_meta.TransferSyntaxUID = syntax
        data.BitsAllocated, data.BitsStored, data.HighBit = 8, 8, 7
        data.PixelData = encapsulate([stream.getvalue()])
        data["PixelData"].is_undefined_length = True

    places = positions(SAGITTAL, (0.0, 0.0, 0.0), [0.0, 4.0], SHAPE)
    return write_series(folder, places=places, shape=SHAPE, change=change)


def _phantom(folder: Path) -> list[bytes]:
    """Every tenth file of one small phantom study."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        status = main(
            [
                "phantom",
                str(folder),
                "--studies",
                "1",
                "--seed",
                "0",
                "--size",
                "small",
                "--split",
                "test",
                "--workers",
                "1",
            ]
        )
    if status != 0:
        raise RuntimeError(f"python -m pipeline phantom {folder} ended with {status}; expected 0")
    return _contents(folder)[::10]
