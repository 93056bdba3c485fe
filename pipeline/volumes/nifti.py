"""A NIfTI file as a stack: what users have who have converted their series already.

The format keeps pixels and one affine, and loses what tells T1 from T2: that comes from the file's name, or from the
JSON file that converters write beside it (BIDS: ``SeriesDescription``, ``EchoTime`` and others). Slices have no
instance numbers; they are counted from 1 in the order of the file. One affine holds one orientation, so stacks angled
to the discs are one file each, as dcm2niix writes them.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import math
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.competition import SeriesRef
from pipeline.files import read_bounded
from pipeline.volumes.affine import Affine
from pipeline.volumes.classify import Acquisition, kind_of
from pipeline.volumes.elements import BadFileError
from pipeline.volumes.geometry import plane_of, reorient, to_canonical
from pipeline.volumes.limits import Budget
from pipeline.volumes.volume import Volume

ENDINGS = (".nii", ".nii.gz")
_HEADER = 348
_SIDECAR_BYTES = 2**20
_LARGEST_MM = 1e5
_AS_LARGE = 0.95
"""A third spacing of this share of the largest is the one between slices, as converters write them."""


def is_nifti(name: str) -> bool:
    """Whether a file's name says that it is NIfTI.

    >>> [is_nifti(name) for name in ("T2.nii.gz", "T2.NII", "nii.dcm")]
    [True, True, False]
    """
    return name.lower().endswith(ENDINGS)


def read_nifti(ref: SeriesRef, budget: Budget) -> tuple[Volume, Acquisition]:
    """The stack of a series that is one NIfTI file, and what is known of how it was acquired.

    Raises:
        BadFileError: it cannot be read, or holds no stack of slices within the limits.
    """
    import SimpleITK as sitk

    path = ref.path / ref.files[0][1]
    _check(path, budget)
    warns = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # it writes the file's name to the terminal
    try:
        image = sitk.ReadImage(str(path), sitk.sitkFloat32)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].rpartition("ITK ERROR: ")[2].replace(str(path), "the file")
        raise BadFileError("unreadable-file", f"SimpleITK cannot read it: {reason}") from error
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(warns)
    spacing, origin = np.array(image.GetSpacing()), np.array(image.GetOrigin())
    axes = np.array(image.GetDirection()).reshape(3, 3).T  # a row an axis of the file, LPS
    if not (np.abs([*spacing, *origin, *axes.ravel()]) < _LARGEST_MM).all():  # NaN fails the comparison, too
        raise BadFileError("bad-header", "its place in the patient is no number, or beyond any patient")
    between = 2 if spacing[2] >= _AS_LARGE * spacing.max() else int(spacing.argmax())
    across, below = (axis for axis in range(3) if axis != between)
    pixels = sitk.GetArrayFromImage(image).transpose([2 - between, 2 - below, 2 - across])
    rows, cols = pixels.shape[1:]
    plane = plane_of(np.cross(axes[across], axes[below]))
    change = to_canonical(axes[[across, below]], rows, cols, plane)
    sources = [
        Affine.of_plane(
            axes[across],
            axes[below],
            origin + number * spacing[between] * axes[between],
            (float(spacing[below]), float(spacing[across])),
        )
        for number in range(len(pixels))
    ]
    affines = [source @ change for source in sources]
    order = np.argsort([float(affine.origin_mm @ affines[0].normal) for affine in affines])
    acquisition = _acquisition(path)
    volume = Volume(
        pixels=np.stack([np.asarray(reorient(pixels[index], change), np.float32) for index in order]),
        affines=Affine.stack([affines[index] for index in order]),
        source_affines=Affine.stack([sources[index] for index in order]),
        instance_numbers=np.asarray(order, dtype=np.int64) + 1,
        plane=plane,
        kind=kind_of(None, plane, acquisition),
        study_id=ref.study_id,
        series_id=ref.series_id,
    )
    return volume, acquisition


def _check(path: Path, budget: Budget) -> None:
    """Compare what the header declares with the limits, before a library takes the memory for it, and with the file.

    SimpleITK fills what a damaged file lacks with anything and says nothing.

    Raises:
        BadFileError: it has no such header, holds no stack of slices, is too large, damaged or cut off.
    """
    try:
        if path.stat().st_size > budget.limits.file_bytes:
            raise BadFileError("too-large", f"the file passes the limit of {budget.limits.file_bytes} bytes")
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
            left = _declared_bytes(file.read(_HEADER), budget) - _HEADER
            while left > 0 and (chunk := file.read(min(left, 2**20))):
                left -= len(chunk)
            file.read(1)  # at its end a packed file's checksum is compared
    except (OSError, EOFError, zlib.error) as error:
        raise BadFileError("unreadable-file", f"{getattr(error, 'strerror', None) or error}") from error
    if left > 0:
        raise BadFileError("unreadable-file", f"the file is cut off, {left} bytes are missing")


def _declared_bytes(header: bytes, budget: Budget) -> int:
    """How long the unpacked file is by its header, whose pixels are taken from the budget.

    Raises:
        BadFileError: as :func:`_check`.
    """
    order = next((sign for sign in "<>" if header[:4] == struct.pack(f"{sign}i", _HEADER)), None)
    if order is None or header[344:] != b"n+1\0":
        raise BadFileError("unreadable-file", "no header of NIfTI-1, which begins with 348 and ends with n+1")
    dimensions = struct.unpack_from(f"{order}8h", header, 40)
    sizes, further = dimensions[1:4], dimensions[4 : 1 + max(dimensions[0], 0)]
    if dimensions[0] < 3 or min(sizes) < 1 or any(size > 1 for size in further):
        shape = " x ".join(map(str, dimensions[1 : 1 + max(dimensions[0], 0)]))
        raise BadFileError("unsupported-pixels", f"the file holds {shape} values; expected one stack of slices")
    pixels, bits = math.prod(sizes), struct.unpack_from(f"{order}h", header, 72)[0]
    if pixels > budget.limits.series_pixels or not budget.take_pixels(pixels):
        raise BadFileError("too-large", f"{pixels} pixels declared, more than the limits leave")
    if struct.unpack_from(f"{order}2h", header, 252) == (0, 0):
        raise BadFileError("missing-orientation", "neither qform nor sform: the header does not say where left is")
    steps = np.reshape(struct.unpack_from(f"{order}12f", header, 280), (3, 4))[:, :3]
    spacing = np.abs(struct.unpack_from(f"{order}3f", header, 80))
    has_steps = struct.unpack_from(f"{order}h", header, 254)[0] > 0
    if has_steps and not np.allclose(np.linalg.norm(steps, axis=0), spacing, rtol=0.01):
        raise BadFileError(
            "bad-header", f"sform and pixdim disagree on the spacing, {spacing.tolist()} mm in the latter"
        )
    offset = struct.unpack_from(f"{order}f", header, 108)[0]
    if not 8 <= bits <= 64 or not _HEADER <= offset < 2**24:
        raise BadFileError("bad-header", f"{bits} bits a pixel from byte {offset:g} on; expected 8 to 64 from 352 on")
    return int(offset) + pixels * bits // 8


def named_files(ref: SeriesRef) -> list[str]:
    """All that the reading of a series of named files depends on: them, and the JSON beside a NIfTI file."""
    names = [name for _, name in ref.files]
    return [*names, *(f"{_stem(name)}.json" for name in names if is_nifti(name))]


def _stem(name: str) -> str:
    return name[: -len(next(end for end in reversed(ENDINGS) if name.lower().endswith(end)))]


def _acquisition(path: Path) -> Acquisition:
    """What the file's name says and, where there is one, the JSON file beside it (times in seconds)."""
    stem = _stem(path.name)
    said: Mapping[str, Any] = {}
    with contextlib.suppress(OSError, ValueError, RecursionError):
        content = json.loads(read_bounded(path.with_name(f"{stem}.json"), _SIDECAR_BYTES))
        said = content if isinstance(content, dict) else {}
    texts = (said.get(name) for name in ("SeriesDescription", "ProtocolName"))
    echo, repetition, inversion = (_ms(said.get(f"{name}Time")) for name in ("Echo", "Repetition", "Inversion"))
    description = " ".join((stem, *(text for text in texts if isinstance(text, str))))
    return Acquisition(description, echo, repetition, inversion)


def _ms(seconds: object) -> float | None:
    return 1000.0 * seconds if isinstance(seconds, int | float) and 0 < seconds < 1000 else None
