"""Series folders to volumes. Whatever a folder holds, the answer is volumes and problems, never an exception.

Sorting is by position along the slice normal, never by name or InstanceNumber; one series may hold several stacks.
"""

from __future__ import annotations

import os
import stat
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.competition import Problem, SeriesRef, StudyRef
from pipeline.volumes.classify import kind_of, told_plane
from pipeline.volumes.decode import decode, stored_range
from pipeline.volumes.geometry import (
    SAME_ORIENTATION_DEGREES,
    SAME_POSITION_MM,
    angle_degrees,
    canonical_axes,
    group_orientations,
    reorient,
)
from pipeline.volumes.headers import BadFileError, Frame, parse_file
from pipeline.volumes.limits import DEFAULT_LIMITS, Budget, ReadLimits
from pipeline.volumes.placing import ASSUMED, PlacedFrame, number_frames, place_frames
from pipeline.volumes.volume import Plane, SeriesReading, StudyVolumes, Volume

Image = NDArray[np.float32]


def read_study(ref: StudyRef, limits: ReadLimits = DEFAULT_LIMITS) -> StudyVolumes:
    """Read every series of a study, within the limits of the study as a whole. Never raises for bad data."""
    budget = Budget(limits)
    readings = [_SeriesReader(series, budget).read() for series in ref.series]
    return StudyVolumes(
        study_id=ref.study_id,
        volumes=tuple(volume for reading in readings for volume in reading.volumes),
        problems=tuple(problem for reading in readings for problem in reading.problems),
    )


def read_series(ref: SeriesRef, limits: ReadLimits = DEFAULT_LIMITS) -> SeriesReading:
    """Read one series folder. Never raises for bad data: what is skipped or assumed comes back as problems."""
    return _SeriesReader(ref, Budget(limits)).read()


class _SeriesReader:
    """One pass over one series folder; collects problems as it goes."""

    def __init__(self, ref: SeriesRef, budget: Budget) -> None:
        self._ref = ref
        self._budget = budget
        self._limits = budget.limits
        self._problems: list[Problem] = []

    def read(self) -> SeriesReading:
        volumes: list[Volume] = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # decoders warn about headers; what matters is checked and reported here
            frames = number_frames(self._frames())
            placed, lost = place_frames(frames, told_plane(self._ref.description))
            for frame in lost:
                self._problem("no-position", "no ImagePositionPatient, and the other slices are on no line", frame.file)
            for stack in _stacks(placed):
                volumes.extend(self._volumes(stack))
        if not volumes:
            self._problem("no-volume", f"no readable image in {self._ref.path}")
        for flag in sorted({flag for volume in volumes for flag in volume.flags} & ASSUMED.keys()):
            self._problem(flag, ASSUMED[flag])
        volumes.sort(key=_anatomical_order)
        return SeriesReading(tuple(volumes), tuple(self._problems))

    def _problem(self, what: str, detail: str, file: str | None = None) -> None:
        self._problems.append(Problem(self._ref.study_id, self._ref.series_id, file, what, detail))

    def _frames(self) -> list[Frame]:
        frames: list[Frame] = []
        pixels = 0
        for name, content in self._contents():
            try:
                found = parse_file(name, content, self._limits)
            except BadFileError as error:
                self._problem(error.what, str(error), name)
                continue
            pixels += sum(frame.source.format.rows * frame.source.format.cols for frame in found)
            if pixels > self._limits.series_pixels:
                self._problem(
                    "too-large", f"the series passes {self._limits.series_pixels} pixels; the rest is left", name
                )
                break
            frames.extend(found)
        return frames

    def _contents(self) -> Iterator[tuple[str, bytes]]:
        """Name and bytes of each regular file of the folder, within the limits."""
        left = self._limits.series_bytes
        for name in self._names():
            if self._budget.out_of_time:
                self._problem("out-of-time", f"the study's {self._limits.study_seconds:g} s are over", name)
                return
            path = self._ref.path / name
            try:
                size = _regular_size(path)
                if size > min(left, self._limits.file_bytes):
                    limit = min(left, self._limits.file_bytes)
                    self._problem("too-large", f"the file has {size} bytes; the limit leaves {limit}", name)
                    continue
                with path.open("rb") as file:
                    content = file.read(size)
            except OSError as error:
                self._problem("unreadable-file", f"{error.strerror or error}", name)
                continue
            left -= len(content)
            yield name, content

    def _names(self) -> list[str]:
        if any(sign in self._ref.series_id for sign in "/\\\0") or self._ref.series_id in ("", ".", ".."):
            self._problem("bad-id", f"series id {self._ref.series_id!r} is not a folder name")
            return []
        try:
            with os.scandir(self._ref.path) as entries:
                names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
        except OSError as error:
            self._problem("unreadable-series", f"{self._ref.path}: {error.strerror or error}")
            return []
        if len(names) > self._limits.series_files:
            limit = self._limits.series_files
            self._problem("too-many-files", f"{len(names)} files; only the first {limit} by name were read")
        return names[: self._limits.series_files]

    def _volumes(self, stack: list[PlacedFrame]) -> Iterator[Volume]:
        """The stack, and further ones made of slices at positions that it already holds."""
        normal = stack[0].affine[:3, 2]
        rows, cols = stack[0].shape
        layers: list[list[tuple[PlacedFrame, Image]]] = []
        for placed in sorted(stack, key=lambda one: (float(one.centre_mm @ normal), one.frame.instance_number)):
            image = self._image(placed)
            if image is None:
                continue
            place = float(placed.centre_mm @ normal)
            for layer in layers:
                last, other = layer[-1]
                if place - float(last.centre_mm @ normal) > SAME_POSITION_MM:
                    layer.append((placed, image))
                    break
                if np.array_equal(image, other) and np.abs(last.affine - placed.affine).max() <= SAME_POSITION_MM:
                    self._problem("duplicate-slice", f"the same image as {last.frame.file}", placed.frame.file)
                    break
            else:
                layers.append([(placed, image)])
        for layer in layers:
            yield self._volume(layer, (rows, cols), repeated=len(layers) > 1)

    def _image(self, placed: PlacedFrame) -> Image | None:
        """(rows, cols) scaled pixels in canonical orientation; None, with a problem, if they cannot be had."""
        frame = placed.frame
        pixel_format = frame.source.format
        if self._budget.out_of_time:
            self._problem("out-of-time", f"the study's {self._limits.study_seconds:g} s are over", frame.file)
            return None
        if not self._budget.take_pixels(pixel_format.rows * pixel_format.cols):
            self._problem("too-large", f"the study passes the limit of {self._limits.study_pixels} pixels", frame.file)
            return None
        try:
            stored = decode(frame.source, frame.index)
        except BadFileError as error:
            self._problem(error.what, str(error), frame.file)
            return None
        image = reorient(stored, placed.change).astype(np.float32, order="C")
        if pixel_format.inverted:
            low, high = stored_range(pixel_format)
            image = (low + high) - image
        if frame.slope != 1.0 or frame.intercept != 0.0:
            image = image * np.float32(frame.slope) + np.float32(frame.intercept)
        return image

    def _volume(self, layer: list[tuple[PlacedFrame, Image]], shape: tuple[int, int], repeated: bool) -> Volume:
        pixels = np.empty((len(layer), *shape), dtype=np.float32)
        for index, (_, image) in enumerate(layer):
            pixels[index] = image
        placed = [one for one, _ in layer]
        plane = placed[0].plane
        flags = {flag for one in placed for flag in one.flags}
        affines = np.stack([one.affine for one in placed])
        if any(angle_degrees(affines[0], affine) > SAME_ORIENTATION_DEGREES for affine in affines):
            flags.add("motion")
        if repeated:
            flags.add("repeated-positions")
        return Volume(
            pixels=pixels,
            affines=affines,
            source_affines=np.stack([one.source_affine for one in placed]),
            instance_numbers=np.array([one.frame.instance_number for one in placed], dtype=np.int64),
            plane=plane,
            kind=kind_of(self._ref.description, plane, placed[0].frame.acquisition),
            study_id=self._ref.study_id,
            series_id=self._ref.series_id,
            flags=tuple(sorted(flags)),
        )


def _regular_size(path: Path) -> int:
    """Size in bytes; a folder, a pipe or a device would block or never end, so they are refused before opening."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise OSError(f"it is {kind}; expected a DICOM file")
    return status.st_size


def _stacks(placed: list[PlacedFrame]) -> list[list[PlacedFrame]]:
    """Split a series by plane, size and spacing, then by orientation."""
    alike: defaultdict[tuple[Plane, tuple[int, int], tuple[float, ...]], list[PlacedFrame]] = defaultdict(list)
    for one in placed:
        spacing = tuple(np.round(np.linalg.norm(one.affine[:3, :2], axis=0), 4).tolist())
        alike[one.plane, one.shape, spacing].append(one)
    stacks = []
    for members in alike.values():
        centres = np.stack([one.centre_mm for one in members])
        for group in group_orientations([one.affine for one in members], centres):
            stacks.append([members[index] for index in group])
    return stacks


def _anatomical_order(volume: Volume) -> tuple[str, float]:
    return volume.plane, float(volume.centres_mm.mean(axis=0) @ canonical_axes(volume.plane)[2])
