"""DICOM files with the tags, and the oddities, of the competition's own.

RLE Lossless, 12 bits stored in 16, no Modality and no SOPClassUID, a file meta that claims Enhanced MR for single
frames, SOPInstanceUIDs that repeat between series, and one FrameOfReferenceUID per series.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, RLELossless

from pipeline.labels import SeriesKind
from pipeline.phantom.acquisition import SeriesPlan, SlicePlane

_ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
_IMPLEMENTATION = "1.2.826.0.1.3680043.8.498.1"
_MOSTLY_NOISE = 0.9
"""Share of pixels that differ from their left neighbour above which looking for runs is not worth its time."""


def rle_encode(pixels: np.ndarray) -> bytes:
    """One frame as DICOM RLE (PS3.5 annex G): a 64-byte header and one PackBits segment per byte plane, high first.

    Args:
        pixels: (rows, cols) uint16 or int16.

    Vectorised over the frame: pydicom's own encoder works byte by byte and would take most of a study's time.
    """
    little = np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder("<"))).view(np.uint8)
    planes = little.reshape(pixels.shape[0], pixels.shape[1], 2)
    segments = [_pack_bits(np.ascontiguousarray(planes[..., byte])) for byte in (1, 0)]
    segments = [segment + b"\x00" * (len(segment) % 2) for segment in segments]
    offsets = [64, 64 + len(segments[0])]
    header = np.array([2, *offsets, *[0] * 13], dtype="<u4").tobytes()
    return header + b"".join(segments)


def _pack_bits(plane: np.ndarray) -> bytes:
    """PackBits of a byte plane (rows, cols), no run crossing a row: runs of three and more are replicated.

    Every byte of the plane knows how many bytes it writes (a replicated run writes two at its first byte and every
    128th after, a literal writes itself and a header at its first byte and every 128th), so the positions are a sum.
    """
    cols, flat = plane.shape[1], plane.ravel()
    count = flat.size
    first = np.ones(count, bool)
    first[1:] = flat[1:] != flat[:-1]
    first[::cols] = True
    starts = np.flatnonzero(first)
    if len(starts) > _MOSTLY_NOISE * count:
        return _pack_literals(plane)
    lengths = np.diff(np.append(starts, count))
    replicated = np.repeat(lengths >= 3, lengths)
    # A literal group ends where a run is replicated or a row ends; long groups and runs are cut every 128 bytes.
    edge = np.ones(count, bool)
    edge[1:] = replicated[1:] != replicated[:-1]
    edge |= replicated & first
    edge[::cols] = True
    heads = np.flatnonzero(edge)
    sizes = np.diff(np.append(heads, count))
    place = np.arange(count) - np.repeat(heads, sizes)
    left = np.repeat(sizes, sizes) - place
    header = place % 128 == 0
    size = np.where(replicated, 2 * header, 1 + header)
    at = np.cumsum(size) - size
    out = np.empty(int(size.sum()), np.uint8)
    heads = np.flatnonzero(header)
    amount = np.minimum(left[heads], 128)
    code = np.where(replicated[heads] & (amount > 1), 257 - amount, amount - 1)
    out[at[heads]] = code
    out[at[heads] + 1] = flat[heads]
    rest = np.flatnonzero(~header & ~replicated)
    out[at[rest]] = flat[rest]
    return out.tobytes()


def _pack_literals(plane: np.ndarray) -> bytes:
    """PackBits without replicated runs: every row cut into literals of at most 128 bytes, a header before each."""
    rows, cols = plane.shape
    starts = range(0, cols, 128)
    out = np.empty((rows, cols + len(starts)), np.uint8)
    for number, start in enumerate(starts):
        stop = min(start + 128, cols)
        out[:, start + number] = stop - start - 1
        out[:, start + number + 1 : stop + number + 1] = plane[:, start:stop]
    return out.tobytes()


def frame_of_reference(study_id: str, series_id: str) -> str:
    """A UID that differs between series, as in the competition, although they share one space."""
    digest = hashlib.sha256(f"{study_id}.{series_id}".encode()).digest()
    return f"1.2.826.0.1.3680043.8.498.{int.from_bytes(digest[:14], 'big')}"


def build_dataset(
    pixels: np.ndarray, plane: SlicePlane, plan: SeriesPlan, study_id: str, series_id: str, instance: int
) -> Dataset:
    """One instance ready to be saved with :func:`save_dataset`.

    Args:
        pixels: (rows, cols) uint16.
    """
    dataset = Dataset()
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = UID(_ENHANCED_MR)
    meta.MediaStorageSOPInstanceUID = UID(f"{study_id}.1.{instance}")
    meta.TransferSyntaxUID = RLELossless
    meta.ImplementationClassUID = UID(_IMPLEMENTATION)
    dataset.file_meta = meta
    dataset.SOPInstanceUID = f"{study_id}.1.{instance}"
    dataset.ContentDate = "20240503"
    dataset.ContentTime = "120000.000000"
    dataset.SeriesDescription = "T1" if plan.kind is SeriesKind.SAGITTAL_T1 else str(plan.weighting)
    dataset.PatientID = study_id
    dataset.SliceThickness = f"{plane.thickness:g}"
    dataset.SpacingBetweenSlices = f"{plan.spacing_between:g}"
    dataset.PatientPosition = "HFS"
    dataset.StudyInstanceUID = study_id
    dataset.SeriesInstanceUID = f"{study_id}.{series_id}"
    dataset.InstanceNumber = str(instance)
    dataset.ImagePositionPatient = [f"{value:.6f}" for value in plane.position]
    dataset.ImageOrientationPatient = [f"{value:.10f}" for value in (*plane.right, *plane.down)]
    dataset.FrameOfReferenceUID = frame_of_reference(study_id, series_id)
    dataset.SliceLocation = f"{float(plane.position @ plane.normal):.6f}"
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.PixelSpacing = [f"{plane.spacing:.10f}"] * 2
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    low, high = np.percentile(pixels[::4, ::4], (1, 99))
    dataset.WindowCenter, dataset.WindowWidth = f"{(low + high) / 2:.0f}", f"{max(high - low, 1):.0f}"
    dataset.RescaleIntercept, dataset.RescaleSlope = "0", "1"
    set_pixels(dataset, pixels)
    return dataset


def set_pixels(dataset: Dataset, pixels: np.ndarray) -> None:
    """Put 16-bit pixels (rows, cols) into a dataset, RLE encoded."""
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.PixelData = encapsulate([rle_encode(pixels)])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True


def save_dataset(dataset: Dataset, path: Path) -> None:
    """Write a dataset with preamble and meta, Explicit VR Little Endian."""
    dataset.save_as(path, enforce_file_format=True)
