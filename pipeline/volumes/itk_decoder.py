"""Decoding one compressed frame with the GDCM inside SimpleITK, a required package anyway.

It reads every JPEG there is (Baseline, Extended, Lossless, JPEG-LS, JPEG 2000), and turns GDCM's C++ exceptions into
Python's; python-gdcm lets them end the process on a damaged stream. GDCM misreads competition headers, so it is given
a minimal file of its own with nothing but the stream and its size.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, MRImageStorage

from pipeline.volumes.headers import PixelFormat


def decode_with_itk(stream: bytes, pixel_format: PixelFormat) -> NDArray[np.integer]:
    """(rows, cols) stored values of a compressed frame.

    Raises:
        RuntimeError: the stream is damaged.
        OSError: no temporary file could be written.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MRImageStorage, UID("1.2.3")
    meta.TransferSyntaxUID = pixel_format.transfer_syntax
    data = Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID = MRImageStorage, "1.2.3"
    data.Modality, data.PhotometricInterpretation, data.SamplesPerPixel = "MR", "MONOCHROME2", 1
    data.Rows, data.Columns = pixel_format.rows, pixel_format.cols
    data.BitsAllocated, data.BitsStored, data.HighBit = (
        pixel_format.allocated,
        pixel_format.stored,
        pixel_format.stored - 1,
    )
    data.PixelRepresentation = int(pixel_format.signed)
    data.PixelData = encapsulate([stream], has_bot=False)
    data["PixelData"].is_undefined_length = True
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frame.dcm"
        data.save_as(path, enforce_file_format=True)
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(path))
        pixels = sitk.GetArrayFromImage(reader.Execute())
    if pixels.ndim != 3 or len(pixels) != 1 or not np.issubdtype(pixels.dtype, np.integer):
        raise RuntimeError(f"decoded to {pixels.dtype} of shape {pixels.shape}")
    return np.asarray(pixels[0])
