"""Series folders to volumes. Whatever a folder holds, the answer is volumes and problems, never an exception.

Sorting is by position along the slice normal, by instance number only where the header gives no position; one series
may hold several stacks.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from pipeline.competition import SeriesRef
from pipeline.labels import SeriesKind
from pipeline.problem import Problem
from pipeline.volumes.affine import Affine
from pipeline.volumes.belonging import split_by_origin, why_unusable
from pipeline.volumes.choosing import choose_kinds
from pipeline.volumes.classify import Acquisition, contrast_of, told_plane
from pipeline.volumes.contents import read_contents
from pipeline.volumes.decode import decode, padded, stored_range
from pipeline.volumes.elements import BadFileError
from pipeline.volumes.geometry import (
    SAME_ORIENTATION_DEGREES,
    SAME_POSITION_MM,
    angle_degrees,
    canonical_axes,
    reorient,
)
from pipeline.volumes.headers import Frame, parse_file
from pipeline.volumes.limits import DEFAULT_LIMITS, Budget, ReadLimits
from pipeline.volumes.nifti import is_nifti, read_nifti
from pipeline.volumes.origin import Origin
from pipeline.volumes.placing import (
    ASSUMED,
    REPEATED_POSITIONS,
    PlacedFrame,
    group_stacks,
    location_signs,
    number_frames,
    place_frames,
)
from pipeline.volumes.stacking import same_place_mm, split_contrasts, spoiled_slices
from pipeline.volumes.volume import Plane, SeriesReading, Volume

Image = NDArray[np.float32]


def read_series(ref: SeriesRef, limits: ReadLimits = DEFAULT_LIMITS) -> SeriesReading:
    """Read one series folder. Never raises for bad data: what is skipped or assumed comes back as problems."""
    return SeriesReader(ref, Budget(limits)).read()


class SeriesReader:
    """One pass over one series folder; collects problems as it goes.

    Args:
        ref: the folder.
        budget: of the study.
        signs: which way SliceLocation counts in the study, where that is known: see :func:`place_frames`.

    Attributes:
        parts: the series that lie in the folder, and the stacks of each.
        signs: which way SliceLocation counts, by the slices of the folder that have a position.
    """

    def __init__(self, ref: SeriesRef, budget: Budget, signs: Mapping[Plane, int] | None = None) -> None:
        self._ref = ref
        self._budget = budget
        self._limits = budget.limits
        self._known_signs = signs
        self._problems: list[Problem] = []
        self.series_id = ref.series_id
        self.parts: list[tuple[Origin, list[Volume]]] = []
        self.signs: dict[Plane, int] = {}
        self._acquisitions: set[Acquisition] = set()

    @property
    def is_unnamed(self) -> bool:
        """Whether neither the table nor any header tells T1 from T2."""
        return self._ref.description is None and all(contrast_of(one) is None for one in self._acquisitions)

    def read(self) -> SeriesReading:
        volumes: list[Volume] = []
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # decoders warn about headers; what matters is checked and reported
                volumes.extend(self._read())
        except Exception as error:  # one series must never end a run; the fuzz target counts this as a crash
            self._problem("internal-error", f"{type(error).__name__}: {error}")
        if not volumes:
            self._problem("no-volume", f"no readable image in {self._ref.path}")
        for flag in sorted({flag for volume in volumes for flag in volume.flags} & ASSUMED.keys()):
            self._problem(flag, ASSUMED[flag])
        volumes.sort(key=_anatomical_order)
        return SeriesReading(tuple(volumes), tuple(self._problems))

    def _read(self) -> Iterator[Volume]:
        if self._ref.files and is_nifti(self._ref.files[0][1]):
            yield from self._read_nifti()
            return
        told = self._ref.description
        stacks: list[list[PlacedFrame]] = []
        sources: list[int] = []
        parts = split_by_origin(self._usable(self._frames()))
        for number, (_, part) in enumerate(parts):
            placed, lost = place_frames(number_frames(part), told_plane(told), self._known_signs)
            self.signs |= location_signs(placed)
            self._acquisitions |= {one.frame.acquisition for one in placed}
            for frame in lost:
                self._problem("no-position", "no ImagePositionPatient, and the other slices are on no line", frame.file)
            found = [piece for group in group_stacks(placed) for piece in split_contrasts(group)]
            stacks += found
            sources += [number] * len(found)
        self.parts = [(origin, []) for origin, _ in parts]
        for stack, source, kind in zip(stacks, sources, self._kinds(stacks, sources), strict=True):
            for volume in self._volumes(stack, kind):
                self.parts[source][1].append(volume)
                yield volume

    def _read_nifti(self) -> Iterator[Volume]:
        """The one stack of a file that has no header to ask; None of its ids is known."""
        try:
            volume, acquisition = read_nifti(self._ref, self._budget)
        except BadFileError as error:
            self._problem(error.what, str(error), self._ref.files[0][0])
            return
        self._acquisitions.add(acquisition)
        self.parts = [(Origin(), [volume])]
        yield volume

    def _usable(self, frames: list[Frame]) -> list[Frame]:
        """The frames that may be graded; the others are named, one problem a reason."""
        told = self._ref.description is not None
        refused: dict[tuple[str, str], list[str]] = {}
        usable = []
        for frame in frames:
            why = why_unusable(frame, told)
            if why is None:
                usable.append(frame)
            else:
                refused.setdefault(why, []).append(frame.file)
        for (what, sentence), files in refused.items():
            self._problem(what, f"{sentence} ({len(files)} of {len(frames)} images)", files[0])
        return usable

    def _kinds(self, stacks: list[list[PlacedFrame]], sources: list[int]) -> list[SeriesKind]:
        """What each stack shows; UNKNOWN, with a problem, where it is not of the series or a better image is there."""
        choice = choose_kinds(stacks, sources, self._ref.description)
        for what, sentence, file in choice.problems:
            self._problem(what, sentence, file)
        return choice.kinds

    def _problem(self, what: str, detail: str, file: str | None = None) -> None:
        self._problems.append(Problem(self._ref.study_id, self._ref.series_id, file, what, detail))

    def _frames(self) -> list[Frame]:
        frames: list[Frame] = []
        pixels = 0
        for name, content in read_contents(self._ref, self._budget, self._problem):
            try:
                found = parse_file(name, content, self._limits, self._budget.deadline)
            except BadFileError as error:
                self._problem(error.what, str(error), name)
                continue
            pixels += sum(frame.source.format.rows * frame.source.format.cols for frame in found)
            if pixels > self._limits.series_pixels or len(frames) + len(found) > self._limits.series_slices:
                most = f"{self._limits.series_pixels} pixels or {self._limits.series_slices} slices"
                self._problem("too-large", f"the series passes {most}; the rest is left", name)
                break
            frames.extend(found)
        return frames

    def _volumes(self, stack: list[PlacedFrame], kind: SeriesKind) -> Iterator[Volume]:
        """The stack, and further ones made of slices at positions that it already holds."""
        normal = stack[0].affine.normal
        ordered = sorted(stack, key=lambda one: (float(one.centre_mm @ normal), one.frame.instance_number))
        places = [float(one.centre_mm @ normal) for one in ordered]
        pixels = np.empty((len(ordered), *stack[0].shape), dtype=np.float32)
        layers: list[list[int]] = []
        read = [index for index, one in enumerate(ordered) if self._read_pixels(one, pixels[index])]
        spoiled = {read[number] for number in spoiled_slices(pixels if len(read) == len(ordered) else pixels[read])}
        same_mm = same_place_mm(np.array(places), ordered[0])
        for index in read:
            one = ordered[index]
            if index in spoiled:
                self._problem("spoiled-slice", "far brighter all over than the other slices; not used", one.frame.file)
                continue
            for layer in layers:
                last = layer[-1]
                if places[index] - places[last] > same_mm:
                    layer.append(index)
                    break
                shift = np.abs(ordered[last].affine.matrix - one.affine.matrix).max()
                if shift <= SAME_POSITION_MM and np.array_equal(pixels[index], pixels[last]):
                    self._problem("duplicate-slice", f"the same image as {ordered[last].frame.file}", one.frame.file)
                    break
            else:
                layers.append([index])
        for layer in layers:
            whole = len(layer) == len(ordered)
            members = [ordered[index] for index in layer]
            yield self._volume(members, pixels if whole else pixels[layer], kind, repeated=len(layers) > 1)

    def _read_pixels(self, placed: PlacedFrame, out: Image) -> bool:
        """Put the scaled pixels into ``out`` (rows, cols), canonical; False, with a problem, if they cannot be had."""
        frame = placed.frame
        pixel_format = frame.source.format
        if self._budget.out_of_time:
            self._problem("out-of-time", f"the study's {self._limits.study_seconds:g} s are over", frame.file)
            return False
        if not self._budget.take_pixels(pixel_format.rows * pixel_format.cols):
            self._problem("too-large", f"the study passes the limit of {self._limits.study_pixels} pixels", frame.file)
            return False
        try:
            stored = decode(frame.source, frame.index, self._budget.frame_seconds)
        except BadFileError as error:
            self._problem(error.what, str(error), frame.file)
            return False
        out[...] = reorient(stored, placed.change)
        if pixel_format.inverted:
            np.subtract(sum(stored_range(pixel_format)), out, out=out)
        if frame.slope != 1.0 or frame.intercept != 0.0:
            out *= np.float32(frame.slope)
            out += np.float32(frame.intercept)
        padding = padded(stored, pixel_format)
        if padding is not None and not padding.all():  # outside the image is as dark as its darkest place
            outside = np.asarray(reorient(padding, placed.change), dtype=bool)
            out[outside] = out[~outside].min()
        return True

    def _volume(self, placed: list[PlacedFrame], pixels: Image, kind: SeriesKind, repeated: bool) -> Volume:
        plane = placed[0].plane
        flags = {flag for one in placed for flag in one.flags}
        affines = Affine.stack([one.affine for one in placed])
        if any(angle_degrees(affines[0], affine) > SAME_ORIENTATION_DEGREES for affine in affines):
            flags.add("motion")
        if repeated:
            flags.add(REPEATED_POSITIONS)
        return Volume(
            pixels=pixels,
            affines=affines,
            source_affines=Affine.stack([one.source_affine for one in placed]),
            instance_numbers=np.array([one.frame.instance_number for one in placed], dtype=np.int64),
            plane=plane,
            kind=kind,
            study_id=self._ref.study_id,
            series_id=self._ref.series_id,
            flags=tuple(sorted(flags)),
        )


def _anatomical_order(volume: Volume) -> tuple[str, float]:
    return volume.plane, float(volume.centres_mm.mean(axis=0) @ canonical_axes(volume.plane)[2])
