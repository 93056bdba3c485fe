"""Property tests over headers: whatever a header says, reading ends in finite, sorted volumes or in problems."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from pipeline.volumes import Affine, read_series
from pipeline.volumes.elements import BadFileError
from pipeline.volumes.geometry import clean_orientation, plane_of, reorient, to_canonical
from pipeline.volumes.headers import parse_file
from pipeline.volumes.limits import ReadLimits
from tests.volumes.oracle import SAGITTAL, assert_linear, at, positions, reference, turned, write_series

FEW = settings(max_examples=40, deadline=None)

US_TAGS = (0x00280002, 0x00280010, 0x00280011, 0x00280100, 0x00280101, 0x00280103)
TEXT_TAGS = (0x00280008, 0x00200013, 0x00200032, 0x00200037, 0x00280030, 0x00281052, 0x00281053, 0x0008103E, 0x00180081)
NUMBER = st.one_of(st.floats(), st.integers(-(10**12), 10**12)).map(str)
TEXT = st.one_of(
    st.lists(NUMBER, max_size=7).map(lambda parts: "\\".join(parts).encode()),
    st.binary(max_size=24),
)
HEADERS = st.dictionaries(
    st.sampled_from(US_TAGS), st.integers(0, 65535).map(lambda value: value.to_bytes(2, "little")), max_size=3
).flatmap(lambda numbers: st.dictionaries(st.sampled_from(TEXT_TAGS), TEXT, max_size=4).map(lambda t: numbers | t))
VR = (
    dict.fromkeys(US_TAGS, "US")
    | dict.fromkeys(TEXT_TAGS, "DS")
    | {0x0008103E: "LO", 0x00200013: "IS", 0x00280008: "IS"}
)
DIRECTION = st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda v: np.linalg.norm(v) > 0.1)


def axes_from(first, second):
    """(2, 3) orthonormal directions, or None if the two vectors are nearly parallel."""
    right = np.array(first) / np.linalg.norm(first)
    down = np.array(second) - right * (right @ np.array(second))
    return None if np.linalg.norm(down) < 0.05 else np.stack([right, down / np.linalg.norm(down)])


@FEW
@given(HEADERS)
@example({0x00200013: b"inf"})
@example({0x00280008: b"1e400\\nan"})
def test_any_header_values_end_in_volumes_or_problems(header):
    def change(data):
        if data.InstanceNumber == 2:
            for tag, raw in header.items():
                raw += b" " * (len(raw) % 2)
                data[tag] = RawDataElement(Tag(tag), VR[tag], len(raw), raw, 0, False, True)
            data["PixelData"].VR = "OW"
            # Written byte by byte; pydicom would otherwise read what it writes, and say that no IS is 'inf'.
            data.set_original_encoding(False, True, "iso8859")

    with tempfile.TemporaryDirectory() as folder:
        reading = read_series(reference(write_series(Path(folder) / "1", change=change)))
    assert "internal-error" not in {problem.what for problem in reading.problems}
    slices = sum(len(volume.pixels) for volume in reading.volumes)
    assert slices >= 3
    assert slices >= 4 or any(problem.file == "2.dcm" for problem in reading.problems)
    for volume in reading.volumes:
        assert np.isfinite(volume.affines.matrix).all()
        assert np.isfinite(volume.pixels).all()
        assert np.all(volume.slice_steps_mm >= 0)
        assert abs(np.linalg.det(volume.affines.matrix)).min() > 0


@FEW
@given(st.binary(max_size=400), st.booleans())
def test_any_bytes_are_a_bad_file(content, with_magic):
    data = bytes(128) + b"DICM" + content if with_magic else content
    with contextlib.suppress(BadFileError):
        frames = parse_file("x.dcm", data, ReadLimits())
        assert all(frame.source.format.rows > 0 for frame in frames)


@settings(max_examples=100, deadline=None)
@given(DIRECTION, DIRECTION, st.integers(1, 5), st.integers(1, 5))
def test_canonical_change_moves_pixels_and_affine_together(first, second, rows, cols):
    axes = axes_from(first, second)
    if axes is None:
        return
    cleaned = clean_orientation(axes.ravel())
    assert cleaned is not None
    plane = plane_of(np.cross(*axes))
    change = to_canonical(axes, rows, cols, plane)
    source = Affine.of_plane(axes[0], axes[1], [1, 2, 3], (0.7, 0.3))
    image = np.arange(rows * cols).reshape(rows, cols)
    turned_image = reorient(image, change)
    affine = source @ change
    for (row, col), value in np.ndenumerate(turned_image):
        x, y = value % cols, value // cols
        assert np.allclose(affine @ (col, row, 0), source @ (x, y, 0))


@settings(max_examples=15, deadline=None)
@given(DIRECTION, st.floats(0, 360), st.lists(st.floats(-60, 60), min_size=2, max_size=5, unique_by=lambda s: round(s)))
def test_any_oblique_stack_returns_the_oracle(about, degrees, steps):
    axes = turned(SAGITTAL, np.array(about), degrees)
    with tempfile.TemporaryDirectory() as folder:
        places = positions(axes, (1, 2, 3), steps)
        reading = read_series(reference(write_series(Path(folder) / "1", axes, places)))
    (volume,) = reading.volumes
    assert np.all(volume.slice_steps_mm > 0)
    assert_linear(volume)
    points = volume.centres_mm
    index = volume.nearest_slice(points)
    assert index.tolist() == list(range(len(points)))
    col, row, offset = volume.to_pixel(points, index)
    assert np.allclose(at(volume, index, col, row), points)
    assert np.allclose(offset, 0, atol=1e-9)
