"""The networks of one set of weights as the run uses them: loaded once a process, run on a device that may fail.

All networks compute in float32, on a GPU too: that half precision gives the same grades there was never measured.

Stages two and four are imported when the weights have a network for them, so a run without weights needs no torch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from pipeline.config import ConfigError, from_dict
from pipeline.device import GpuFallback, limit_torch_threads, release_memory
from pipeline.labels import CELLS, GRADES, LEVELS, Family
from pipeline.problem import Problem
from pipeline.weights.manifest import LANDMARK_TASKS, Manifest, Member, WeightsError
from pipeline.weights.runtime import Chosen, RuntimeFailedError

if TYPE_CHECKING:
    from pipeline.cubes import Cubes, CubeSettings, StudyCubes
    from pipeline.landmarks.landmarks import Landmarks
    from pipeline.landmarks.predict import LandmarkPredictor
    from pipeline.volumes import StudyVolumes

T = TypeVar("T")

MOST_PIXELS = 2**28
"""Of all cubes of one study: a gigabyte, ten times what the largest preset's networks look at."""


class Grader(Protocol):
    """A network of stage four on a device."""

    def predict(self, cubes: StudyCubes) -> np.ndarray:
        """(25, 3) log probabilities; NaN rows where it has no input."""


class Networks:
    """The members of a manifest whose files were verified.

    What it says of them counts to the end of the run: the manifest is not read again. It can be sent to another
    process, which then loads the networks anew.

    Args:
        manifest: of the weights.
        members: those that can be used.
        runtime: what computes them on a CPU; PyTorch what this one cannot.
    """

    def __init__(self, manifest: Manifest, members: tuple[Member, ...], runtime: Chosen = "torch") -> None:
        self.manifest, self.members, self.runtime = manifest, members, runtime
        self._by_torch: set[str] = set()
        self._notices: list[tuple[str, str]] = []
        self._gpus = GpuFallback(self._free, lambda text: self._notices.append(("gpu-failed", text)))
        self._grader, self._finder = functools.cache(self.load_grader), functools.cache(self.load_finder)

    def __reduce__(self) -> tuple[type[Networks], tuple[Manifest, tuple[Member, ...], Chosen]]:
        return type(self), (self.manifest, self.members, self.runtime)

    @classmethod
    def open(cls, manifest: Manifest) -> tuple[Networks, list[Problem]]:
        """Compare every checksum; a member or file that cannot be used is left out and becomes a problem."""
        from pipeline.ensemble.combine import FITTED, fitted

        usable: list[Member] = []
        problems: list[Problem] = []

        def refuse(name: str, error: ValueError) -> None:
            problems.append(Problem("", None, name, "weights-refused", str(error)))

        windows: dict[tuple[str, CubeSettings], int] = {}
        for member in manifest.members:
            try:
                member.read(manifest.folder)
                if member.task not in LANDMARK_TASKS:
                    windows[member.task, _cube_settings(member)] = _cube_pixels(member)
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

    def cube_settings(self, name: str) -> CubeSettings:
        """How the cubes of a grader are cut."""
        return self._cube_settings[name]

    @functools.cached_property
    def _cube_settings(self) -> dict[str, CubeSettings]:
        return {member.name: _cube_settings(member) for member in self.members if member.task not in LANDMARK_TASKS}

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
        from pipeline.landmarks.sagittal import SLICES_A_BATCH

        limit_torch_threads(threads)

        def find(where: str, parts: int) -> Landmarks:
            finder = self._finder(tuple(names), where, self._runtime(names, where))
            return finder.predict(volumes, max(SLICES_A_BATCH // parts, 1))

        points = self._run(names, "landmarks", device, find)
        return points, tuple(Problem(volumes.study_id, None, None, "landmarks", note) for note in points.notes)

    def cut(self, volumes: StudyVolumes, points: Landmarks, names: Sequence[str]) -> Cubes:
        """Stage three: the cubes that the graders ``names`` look at."""
        from pipeline.cubes import cut_cubes

        families: dict[CubeSettings, set[Family]] = {}
        for name in names:
            families.setdefault(self.cube_settings(name), set()).update(_pictured(self.named(name)))
        return {settings: cut_cubes(volumes, points, settings, wanted) for settings, wanted in families.items()}

    def grade(self, name: str, cubes: Cubes, device: str, threads: int) -> np.ndarray:
        """Stage four: (25, 3) log probabilities of one grader; NaN rows where it has no cube or another family."""
        from pipeline.severity.predict import over_numberings

        limit_torch_threads(threads)
        own = cubes[self.cube_settings(name)]
        answer = self._run(
            [name],
            name,
            device,
            lambda where, parts: predict_in_parts(self._grader(name, where, self._runtime([name], where)), own, parts),
        )
        return over_numberings(answer, own.numbering)

    def notices(self) -> tuple[tuple[str, str], ...]:
        """What was computed elsewhere than it should have been, as a problem's ``what`` and ``detail``; each said once.

        ``runtime-failed``: networks that PyTorch computes because the runtime could not; ``gpu-failed``: what the CPU
        computes because the GPU could not.
        """
        said, self._notices = tuple(self._notices), []
        return said

    def _run(self, names: Sequence[str], work: str, device: str, do: Callable[[str, int], T]) -> T:
        """``do(device, parts)`` with networks ``names``: where the runtime fails, by PyTorch, from now on."""
        try:
            return self._gpus.run(work, device, do)
        except RuntimeFailedError as error:
            self._by_torch.update(names)
            self._notices.append(("runtime-failed", f"{', '.join(names)}: {error}; PyTorch computes it"))
            return self._gpus.run(work, device, do)

    def _runtime(self, names: Sequence[str], device: str) -> Chosen:
        return self.runtime if device == "cpu" and self._by_torch.isdisjoint(names) else "torch"

    def load_grader(self, name: str, device: str, runtime: Chosen = "torch") -> Grader:
        """The network of a grader on a device, read from its file.

        Raises:
            WeightsError: the file is not what the manifest records, or settings or tensors make no classifier.
            RuntimeFailedError: the runtime cannot compute it.
        """
        from pipeline.severity.predict import load_member

        return load_member(self.manifest.folder, self.named(name), device, runtime)

    def load_finder(self, names: tuple[str, ...], device: str, runtime: Chosen = "torch") -> LandmarkPredictor:
        """The point networks of these names on a device, read from their files.

        Raises:
            WeightsError, RuntimeFailedError: likewise.
        """
        from pipeline.landmarks.load import make_predictor

        return make_predictor(self.manifest.folder, [self.named(name) for name in names], device, runtime)

    def _free(self) -> None:
        self._grader.cache_clear()
        self._finder.cache_clear()
        release_memory()

    def combine(self, predictions: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Blend the members' log probabilities, calibrate, and let the study's cells correct and complete each other.

        Returns:
            (25, 3) probabilities, NaN in rows that nothing reaches, and (25,) bool: the row comes from context alone.
        """
        from pipeline.ensemble.combine import combine

        return combine(self.manifest, predictions)


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
    settings = _cube_settings(member)
    return settings.series * sum(
        view.slices * view.pixels**2 * sum(cell.condition.family is family for cell in CELLS)
        for family in _pictured(member)
        for view in settings.of(family)
    )


def _pictured(member: Member) -> tuple[Family, ...]:
    """The families whose cells a grader is shown.

    Raises:
        WeightsError: its settings are no such settings.
    """
    severity = member.config.get("severity")
    if not isinstance(severity, Mapping) or severity.get("item", "cell") == "cell":
        return (Family(member.task),)
    from pipeline.severity.settings import SeveritySettings

    try:
        return from_dict(SeveritySettings, severity, "severity.").pictured(Family(member.task))
    except ValueError as error:
        raise WeightsError(f"member {member.name}: {error}") from error


def predict_in_parts(grader: Grader, cubes: StudyCubes, parts: int) -> np.ndarray:
    """Grade a study's cells in ``parts`` batches; (25, 3), as :meth:`Grader.predict` of the whole would give.

    The cells of a level stay together: what both sides say of the canal is one answer. A grader that sees all levels
    at once takes the study whole.
    """
    if parts == 1 or getattr(grader, "sees_all_levels", False):
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
