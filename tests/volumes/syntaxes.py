"""The oracle's slices in every lossless transfer syntax, each written by a library other than the one under test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gdcm
import numpy as np
import pydicom
from pydicom import uid


def by_pydicom(syntax):
    def change(path):
        data = pydicom.dcmread(path)
        data.compress(syntax, generate_instance_uid=False)
        data.save_as(path)

    return change


def by_gdcm(kind, lossy=False):
    def change(path):
        reader = gdcm.ImageReader()
        reader.SetFileName(str(path))
        assert reader.Read()
        work = gdcm.ImageChangeTransferSyntax()
        work.SetTransferSyntax(gdcm.TransferSyntax(kind))
        if lossy:
            codec = gdcm.JPEGCodec()
            codec.SetLossless(False)
            work.SetUserCodec(codec)
        work.SetInput(reader.GetImage())
        assert work.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(f"{path}.tmp")
        writer.SetFile(reader.GetFile())
        writer.SetImage(work.GetOutput())
        assert writer.Write()
        # gdcm misplaces single-frame files that claim to be Enhanced, so only its pixels are taken
        encoded, data = pydicom.dcmread(f"{path}.tmp"), pydicom.dcmread(path)
        data.file_meta.TransferSyntaxUID = encoded.file_meta.TransferSyntaxUID
        data.PixelData = encoded.PixelData
        data["PixelData"].is_undefined_length = True
        data.save_as(path)
        Path(f"{path}.tmp").unlink()

    return change


def resaved(syntax):
    def change(path):
        data = pydicom.dcmread(path)
        data.file_meta.TransferSyntaxUID = syntax
        if syntax == uid.ExplicitVRBigEndian:
            data.PixelData = np.frombuffer(data.PixelData, "<u2").astype(">u2").tobytes()
        pydicom.dcmwrite(
            path,
            data,
            implicit_vr=syntax == uid.ImplicitVRLittleEndian,
            little_endian=syntax != uid.ExplicitVRBigEndian,
            force_encoding=True,
        )

    return change


LOSSLESS: dict[str, Callable[[Path], None]] = {
    uid.ImplicitVRLittleEndian: resaved(uid.ImplicitVRLittleEndian),
    uid.ExplicitVRLittleEndian: resaved(uid.ExplicitVRLittleEndian),
    uid.ExplicitVRBigEndian: resaved(uid.ExplicitVRBigEndian),
    uid.DeflatedExplicitVRLittleEndian: resaved(uid.DeflatedExplicitVRLittleEndian),
    uid.RLELossless: by_pydicom(uid.RLELossless),
    uid.JPEGLSLossless: by_pydicom(uid.JPEGLSLossless),
    uid.JPEGLossless: by_gdcm(gdcm.TransferSyntax.JPEGLosslessProcess14),
    uid.JPEGLosslessSV1: by_gdcm(gdcm.TransferSyntax.JPEGLosslessProcess14_1),
    uid.JPEG2000Lossless: by_gdcm(gdcm.TransferSyntax.JPEG2000Lossless),
}
"""Transfer syntax to a function that rewrites an uncompressed file in it."""
