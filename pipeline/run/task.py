"""What a worker is told: the study and its networks, and what is the same for all studies of a run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

from pipeline.competition import StudyRef
from pipeline.labels import Family
from pipeline.problem import Problem
from pipeline.run.work import WorkFolder
from pipeline.volumes.limits import ReadLimits

if TYPE_CHECKING:
    import numpy as np

    from pipeline.cubes import Cubes, CubeSettings
    from pipeline.landmarks.landmarks import Landmarks
    from pipeline.volumes import StudyVolumes
    from pipeline.weights.manifest import Manifest, Member


class StudyNetworks(Protocol):
    """What a run asks of its networks; :class:`pipeline.ensemble.networks.Networks` is what answers.

    It is sent to worker processes once each, before it has loaded anything.
    """

    @property
    def manifest(self) -> Manifest:
        """Of the weights, without files that cannot be used; of its members, :attr:`members` are those that can."""

    @property
    def members(self) -> tuple[Member, ...]:
        """The networks that can be used."""

    def family(self, name: str) -> Family:
        """The condition family a grader grades."""

    def cube_settings(self, name: str) -> CubeSettings:
        """How the cubes of a grader are cut."""

    def find_landmarks(
        self, volumes: StudyVolumes, names: Sequence[str], device: str, threads: int
    ) -> tuple[Landmarks, tuple[Problem, ...]]:
        """Stage two: the 25 points of a study, and notes on how they were found."""

    def cut(self, volumes: StudyVolumes, points: Landmarks, names: Sequence[str]) -> Cubes:
        """Stage three: the cubes that the graders ``names`` look at."""

    def grade(self, name: str, cubes: Cubes, device: str, threads: int) -> np.ndarray:
        """Stage four: (25, 3) log-probabilities of one grader; NaN rows where it has no cube or another family."""

    def notices(self) -> tuple[tuple[str, str], ...]:
        """``what`` and ``detail`` of what this process computes otherwise than it was asked to, each once."""

    def combine(self, predictions: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """(25, 3) probabilities of the study, NaN in rows that nothing reaches; (25,) bool: from context alone."""


class Grader(NamedTuple):
    """A network to be run on a study, and what that takes in seconds on one idle CPU thread."""

    name: str
    seconds: float


@dataclass(frozen=True, slots=True)
class StudyTask:
    """What to do with one study.

    Attributes:
        study: its folders.
        landmarks: names of the networks that may find its points, () for none.
        graders: the networks to run now.
        later: names of the networks that later rounds will run, so their cubes are kept.
        guarded: families of which every network was left out because it has seen the study.
        seconds: after which the study falls back.
        base_cost: of all that comes before the graders, in seconds as theirs.
        deadline: of the run, in seconds of :func:`time.monotonic`; work stops between two networks. None: no end.
        slowness: a network that would not be done before the deadline at this many times its cost is left out.
    """

    study: StudyRef
    landmarks: tuple[str, ...] = ()
    graders: tuple[Grader, ...] = ()
    later: tuple[str, ...] = ()
    guarded: frozenset[Family] = frozenset()
    seconds: float = 600.0
    base_cost: float = 1.0
    deadline: float | None = None
    slowness: float = 0.0

    @property
    def names(self) -> tuple[str, ...]:
        """Of the networks to run now."""
        return tuple(grader.name for grader in self.graders)

    @property
    def expected(self) -> float:
        """Seconds the whole task takes on one idle CPU thread."""
        return self.base_cost + sum(grader.seconds for grader in self.graders)

    @property
    def expected_first(self) -> float:
        """Seconds until its quickest network has an answer, likewise."""
        return self.base_cost + min((grader.seconds for grader in self.graders), default=0.0)


@dataclass(frozen=True)
class Workbench:
    """What a worker needs beside the task: the same for every study of a run, and small enough to send along.

    Attributes:
        work: where results are kept.
        run: names this run among those that used the work folder.
        networks: the weights, None where there are none.
        limits: for reading.
        device: auto, cpu, cuda or mps.
        threads: of each library in this worker.
        keep_gib: cubes are kept for later rounds while the disk has this much space left.
        main_process: its id; any other process is a worker and may be ended.
        hang_seconds: a worker that is this much over its seconds hangs in compiled code and is ended.
    """

    work: WorkFolder
    run: str
    networks: StudyNetworks | None
    limits: ReadLimits = field(default_factory=ReadLimits)
    device: str = "auto"
    threads: int = 1
    keep_gib: float = 0.0
    main_process: int = field(default_factory=os.getpid)
    hang_seconds: float = 60.0
