"""The networks of one set of weights as the run uses them: loaded once a process, run on a device that may fail.

All networks compute in float32, on a GPU too: that half precision gives the same grades there was never measured.

This is where stages two to four are called. Each is imported when the weights have a network for it, so a run
without weights needs no torch.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from pipeline.competition import Problem
from pipeline.config import ConfigError, from_dict
from pipeline.device import limit_torch_threads
from pipeline.labels import CELLS, GRADES, LEVELS, Family
from pipeline.weights.manifest import LANDMARK_TASKS, Manifest, Member, WeightsError

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.cubes import CubeSettings, StudyCubes
    from pipeline.landmarks.landmarks import Landmarks
    from pipeline.landmarks.predict import LandmarkPredictor
    from pipeline.volumes import StudyVolumes

Cubes = dict[str, "StudyCubes"]
"""A study's cubes by the ``repr`` of the settings they were cut with: networks may look through different windows."""

MOST_PIXELS = 2**28
"""Of all cubes of one study: a gigabyte, ten times what the largest preset's networks look at."""

_broken: set[str] = set()
"""GPUs of this process that failed for another reason than memory: after that, nothing on them works."""


class Grader(Protocol):
    """A network of stage four on a device."""

    def predict(self, cubes: StudyCubes) -> np.ndarray:
        """(25, 3) log probabilities; NaN rows where it has no input."""


@dataclass(frozen=True)
class Networks:
    """The members of a manifest whose files were verified; picklable, it holds paths and no tensors.

    What it says of them counts to the end of the run: the manifest is not read again.
    """

    manifest: Manifest
    members: tuple[Member, ...]

    @classmethod
    def open(cls, manifest: Manifest) -> tuple[Networks, list[Problem]]:
        """Compare every checksum; a member or file that cannot be used is left out and becomes a problem."""
        from pipeline.ensemble.combine import FITTED, fitted

        usable: list[Member] = []
        problems: list[Problem] = []

        def refuse(name: str, error: ValueError) -> None:
            problems.append(Problem("", None, name, "weights-refused", str(error)))

        windows: dict[tuple[str, str], int] = {}
        for member in manifest.members:
            try:
                member.read(manifest.folder)
                if member.task not in LANDMARK_TASKS:
                    windows[member.task, repr(_cube_settings(member))] = _cube_pixels(member)
                    if (pixels := sum(windows.values())) > MOST_PIXELS:
                        windows.popitem()
                        raise WeightsError(
                            f"member {member.name}: {pixels:,} pixels of a study, at most {MOST_PIXELS:,}"
                        )
                usable.append(member)
            except WeightsError as error:
                refuse(member.file, error)
        files: dict[str, str] = {}
        for name, checksum in manifest.files.items():
            try:
                manifest.file(name)
                files[name] = checksum
            except WeightsError as error:
                refuse(name, error)
        try:
            fitted(replace(manifest, files=files))
        except WeightsError as error:  # an even average is an answer too
            refuse(FITTED[0], error)
            files = {name: checksum for name, checksum in files.items() if name not in FITTED}
        return cls(replace(manifest, files=files), tuple(usable)), problems

    def named(self, name: str) -> Member:
        """The member of that name."""
        return next(member for member in self.members if member.name == name)

    def family(self, name: str) -> Family:
        """The condition family a grader grades."""
        return Family(self.named(name).task)

    def find_landmarks(
        self, volumes: StudyVolumes, names: Sequence[str], device: str, threads: int
    ) -> tuple[Landmarks, tuple[Problem, ...]]:
        """Stage two: the 25 points of a study by the networks ``names``.

        Where the axial network cannot be used, geometry alone places its points; the sagittal one is needed.

        Raises:
            WeightsError: the sagittal network cannot be loaded, or its answer is not finite.
        """
        try:
            return self._find(volumes, names, device, threads)
        except WeightsError as error:
            sagittal = [name for name in names if self.named(name).task == LANDMARK_TASKS[0]]
            if len(sagittal) == len(names):
                raise
            refused = Problem(volumes.study_id, None, None, "network-failed", str(error))
        points, notes = self._find(volumes, sagittal, device, threads)
        return points, (refused, *notes)

    def _find(
        self, volumes: StudyVolumes, names: Sequence[str], device: str, threads: int
    ) -> tuple[Landmarks, tuple[Problem, ...]]:
        """Out of memory on the GPU, half as many slices are looked at at a time, once more there, then on the CPU."""
        limit_torch_threads(threads)
        points: Landmarks | None = None
        for parts in (1, 2):
            if device == "cpu" or device in _broken or points is not None:
                break
            try:
                finder = self._finder(names, device)
                finder.batch //= parts  # for good: what did not fit once will not fit the next time
                points = finder.predict(volumes)
            except RuntimeError as error:
                _after_failure(error, device)
        if points is None:
            points = self._finder(names, "cpu").predict(volumes)
        notes = tuple(Problem(volumes.study_id, None, None, "landmarks", note) for note in points.notes)
        return points, notes

    def cut(self, volumes: StudyVolumes, points: Landmarks, names: Sequence[str]) -> Cubes:
        """Stage three: the cubes that the graders ``names`` look at."""
        from pipeline.cubes import cut_cubes

        wanted: dict[str, tuple[CubeSettings, set[Family]]] = {}
        for name in names:
            settings = _cube_settings(self.named(name))
            wanted.setdefault(repr(settings), (settings, set()))[1].add(self.family(name))
        return {key: cut_cubes(volumes, points, settings, families) for key, (settings, families) in wanted.items()}

    def grade(self, name: str, cubes: Cubes, device: str, threads: int) -> np.ndarray:
        """Stage four: (25, 3) log probabilities of one grader; NaN rows where it has no cube or another family.

        Out of memory on the GPU, the study's cells are graded in two halves, once more on the GPU, then on the CPU.
        """
        from pipeline.severity.predict import over_numberings

        limit_torch_threads(threads)
        own = cubes[repr(_cube_settings(self.named(name)))]
        return over_numberings(self._grade(self.named(name), own, device), own.numbering)

    def _grade(self, member: Member, own: StudyCubes, device: str) -> np.ndarray:
        """(25, 3) log probabilities of the cells as they are called."""
        folder = self.manifest.folder
        attempts = [(device, 1), (device, 2)] if device != "cpu" and device not in _broken else []
        for where, parts in attempts:
            try:
                return predict_in_parts(_grader(folder, member, where), own, parts)
            except RuntimeError as error:
                _after_failure(error, where)
                if where in _broken:
                    break
        return predict_in_parts(_grader(folder, member, "cpu"), own, 2 if attempts else 1)

    def _finder(self, names: Sequence[str], device: str) -> LandmarkPredictor:
        return _finder(self.manifest.folder, tuple(map(self.named, names)), device)

    def combine(self, predictions: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Blend the members' log probabilities, calibrate, and let the study's own cells fill what is missing.

        Returns:
            (25, 3) probabilities, NaN in rows that nothing reaches, and (25,) bool: the row comes from context alone.
        """
        from pipeline.ensemble.combine import combine

        return combine(self.manifest, predictions)

    def load_cubes(self, path: Path, names: Sequence[str]) -> Cubes | None:
        """What :meth:`keep_cubes` wrote, if it is there and holds all that the graders ``names`` look at."""
        from pipeline.cubes.kept import load_cubes

        cubes = load_cubes(path)
        if cubes is None or any(repr(_cube_settings(self.named(name))) not in cubes for name in names):
            return None
        return cubes

    def keep_cubes(self, path: Path, cubes: Cubes) -> None:
        """Keep a study's cubes for later rounds.

        Raises:
            OSError: they cannot be written.
        """
        from pipeline.cubes.kept import save_cubes

        save_cubes(path, cubes)


def _cube_settings(member: Member) -> CubeSettings:
    """How the cubes of a grader are cut.

    Raises:
        WeightsError: its settings are no such settings.
    """
    from pipeline.cubes import CubeSettings

    try:
        return from_dict(CubeSettings, member.config.get("cubes", {}), "cubes.")
    except ConfigError as error:
        raise WeightsError(f"member {member.name}: {error}") from error


def _cube_pixels(member: Member) -> int:
    """Of the cubes that one study's cells of the grader's family may have."""
    settings, family = _cube_settings(member), Family(member.task)
    windows = sum(view.slices * view.pixels**2 for view in settings.of(family))
    return windows * settings.series * sum(cell.condition.family is family for cell in CELLS)


def predict_in_parts(grader: Grader, cubes: StudyCubes, parts: int) -> np.ndarray:
    """Grade a study's cells in ``parts`` batches; (25, 3), as :meth:`Grader.predict` of the whole would give.

    The cells of a level stay together: what both sides say of the canal is one answer.
    """
    if parts == 1:
        return grader.predict(cubes)
    from pipeline.cubes import StudyCubes

    result = np.full((len(CELLS), len(GRADES)), np.nan, np.float32)
    for number in range(parts):
        chosen = {key: value for key, value in cubes.cubes.items() if key[0] % len(LEVELS) % parts == number}
        if chosen:
            answer = grader.predict(StudyCubes(cubes.study_id, chosen))
            known = np.isfinite(answer).all(1)
            result[known] = answer[known]
    return result


def _after_failure(error: RuntimeError, device: str) -> None:
    """Free memory where there was too little; remember a GPU that failed otherwise."""
    import torch

    text = str(error).lower()
    short = isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "alloc" in text
    if not short:
        _broken.add(device)
        return
    _grader.cache_clear()
    _finder.cache_clear()
    torch.cuda.empty_cache()


@functools.lru_cache(maxsize=64)
def _finder(folder: Path, members: tuple[Member, ...], device: str) -> LandmarkPredictor:
    from pipeline.landmarks.load import make_predictor

    return make_predictor(folder, members, device)


@functools.lru_cache(maxsize=256)
def _grader(folder: Path, member: Member, device: str) -> Grader:
    from pipeline.severity.predict import load_member

    return load_member(folder, member, device)
