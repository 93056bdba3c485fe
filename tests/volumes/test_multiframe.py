"""Enhanced multi-frame MR: place, scale and timing from the functional groups of each frame, or those all share."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from pipeline.labels import SeriesKind
from pipeline.volumes import read_series
from tests.volumes.oracle import (
    AXIAL,
    X,
    assert_linear,
    codes,
    positions,
    reference,
    slice_dataset,
    stored_values,
    turned,
)


def _item(**values):
    item = Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return item


def write_enhanced(path, slices, shared_geometry=False, change=None):
    """One multi-frame file from slices of the oracle, as a scanner writes it: nothing of geometry at the top level."""
    first = slices[0]
    frames = []
    for number, data in enumerate(slices, start=1):
        groups = _item(
            FrameContentSequence=Sequence([_item(InStackPositionNumber=number)]),
            PlanePositionSequence=Sequence([_item(ImagePositionPatient=data.ImagePositionPatient)]),
            PixelValueTransformationSequence=Sequence(
                [_item(RescaleSlope=data.RescaleSlope, RescaleIntercept=data.RescaleIntercept, RescaleType="US")]
            ),
            MREchoSequence=Sequence([_item(EffectiveEchoTime=105.0)]),
        )
        if not shared_geometry:
            groups.PlaneOrientationSequence = Sequence([_item(ImageOrientationPatient=data.ImageOrientationPatient)])
            groups.PixelMeasuresSequence = Sequence([_item(PixelSpacing=data.PixelSpacing, SliceThickness=4)])
        frames.append(groups)
    shared = _item(MRTimingAndRelatedParametersSequence=Sequence([_item(RepetitionTime=3500.0)]))
    if shared_geometry:
        shared.PlaneOrientationSequence = Sequence([_item(ImageOrientationPatient=first.ImageOrientationPatient)])
        shared.PixelMeasuresSequence = Sequence([_item(PixelSpacing=first.PixelSpacing, SliceThickness=4)])
    pixels = np.stack([stored_values(data) for data in slices])
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept"):
        first.pop(name)
    first.NumberOfFrames = len(slices)
    first.SharedFunctionalGroupsSequence = Sequence([shared])
    first.PerFrameFunctionalGroupsSequence = Sequence(frames)
    first.PixelData = pixels.astype("<u2").tobytes()
    if change is not None:
        change(first)
    path.parent.mkdir(parents=True, exist_ok=True)
    first.save_as(path, enforce_file_format=True)
    return path


def _slices():
    """Two oblique stacks, their frames shuffled."""
    slices = []
    for angle, height in ((-10, 30), (15, -20)):
        axes = turned(AXIAL, X, angle)
        slices += [(axes, place) for place in positions(axes, (0, 0, height), [4, 0, -4])]
    order = np.random.default_rng(0).permutation(len(slices))
    return [slice_dataset(*slices[index], instance=1) for index in order]


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.RLELossless, "jpeg-ls"])
def test_frames_become_stacks(tmp_path, syntax):
    path = write_enhanced(tmp_path / "1" / "enhanced.dcm", _slices())
    data = pydicom.dcmread(path)
    if syntax == "jpeg-ls":
        data.compress(uid.JPEGLSLossless, generate_instance_uid=False)
    elif syntax == uid.RLELossless:
        data.compress(syntax, generate_instance_uid=False)
    else:
        data.file_meta.TransferSyntaxUID = syntax
    pydicom.dcmwrite(
        path, data, implicit_vr=syntax == uid.ImplicitVRLittleEndian, force_encoding=True, little_endian=True
    )
    reading = read_series(reference(tmp_path / "1"))
    assert reading.problems == ()
    assert [volume.shape for volume in reading.volumes] == [(3, 12, 16)] * 2
    assert sorted(np.concatenate([volume.instance_numbers for volume in reading.volumes])) == [1, 2, 3, 4, 5, 6]
    for volume in reading.volumes:
        assert volume.kind is SeriesKind.AXIAL_T2  # TE 105 ms, TR 3500 ms in the functional groups
        assert_linear(volume)


def test_shared_orientation_and_spacing(tmp_path):
    axes = turned(AXIAL, X, 12)
    slices = [slice_dataset(axes, place, 1) for place in positions(axes, (0, 0, 0), [4, 0, -4])]
    write_enhanced(tmp_path / "1" / "1.dcm", slices, shared_geometry=True)
    reading = read_series(reference(tmp_path / "1"))
    assert reading.problems == ()
    assert_linear(reading.volumes[0])


def test_a_frame_that_is_missing_from_the_data_costs_only_itself(tmp_path):
    def cut(data):
        data.PixelData = data.PixelData[:-10]

    write_enhanced(tmp_path / "1" / "1.dcm", _slices(), change=cut)
    reading = read_series(reference(tmp_path / "1"))
    assert codes(reading) == ["truncated"]
    assert sum(len(volume.pixels) for volume in reading.volumes) == 5
    for volume in reading.volumes:
        assert_linear(volume)


def test_frames_without_functional_groups_are_stacked_in_order_and_flagged(tmp_path):
    slices = [slice_dataset(AXIAL, place, 1) for place in positions(AXIAL, (0, 0, 0), [0, -4, -8])]
    corner, orientation, spacing = (
        slices[0].ImagePositionPatient,
        slices[0].ImageOrientationPatient,
        slices[0].PixelSpacing,
    )

    def flatten(data):
        data.pop("PerFrameFunctionalGroupsSequence")
        data.pop("SharedFunctionalGroupsSequence")
        data.ImagePositionPatient, data.ImageOrientationPatient = corner, orientation
        data.PixelSpacing, data.SpacingBetweenSlices = spacing, 4

    write_enhanced(tmp_path / "1" / "1.dcm", slices, change=flatten)
    reading = read_series(reference(tmp_path / "1"))
    (volume,) = reading.volumes
    assert volume.flags == ("assumed-place", "assumed-sides", "missing-position")
    assert volume.instance_numbers.tolist() == [1, 2, 3]
    assert np.allclose(volume.slice_steps_mm, 4)


def test_too_few_functional_groups_leave_the_other_frames_to_the_line(tmp_path):
    slices = [slice_dataset(AXIAL, place, 1) for place in positions(AXIAL, (0, 0, 0), [0, -4, -8, -12])]

    def drop(data):
        data.PerFrameFunctionalGroupsSequence = data.PerFrameFunctionalGroupsSequence[:3]

    write_enhanced(tmp_path / "1" / "1.dcm", slices, shared_geometry=True, change=drop)
    (volume,) = read_series(reference(tmp_path / "1")).volumes
    assert volume.flags == ("missing-position",)
    assert np.allclose(volume.slice_steps_mm, 4)
