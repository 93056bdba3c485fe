"""What a worker is told: the study and its networks, and what is the same for all studies of a run."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.competition import StudyRef
from pipeline.labels import Family
from pipeline.run.work import WorkFolder
from pipeline.volumes import ReadLimits

if TYPE_CHECKING:
    from pipeline.ensemble.networks import Networks


@dataclass(frozen=True)
class StudyTask:
    """What to do with one study.

    Attributes:
        study: its folders.
        landmarks: names of the networks that may find its points, () for none.
        graders: names of the networks to run now.
        later: names of the networks that later rounds will run, so their cubes are kept.
        guarded: families of which every network was left out because it has seen the study.
        seconds: after which the study falls back.
        costs: of the graders, in seconds on one idle CPU thread.
        base_cost: of all that comes before them.
        deadline: of the run, in seconds of :func:`time.monotonic`; work stops between two networks. None: no end.
        slowness: a network that would not be done before the deadline at this many times its cost is left out.
    """

    study: StudyRef
    landmarks: tuple[str, ...] = ()
    graders: tuple[str, ...] = ()
    later: tuple[str, ...] = ()
    guarded: frozenset[Family] = frozenset()
    seconds: float = 600.0
    costs: tuple[float, ...] = ()
    base_cost: float = 1.0
    deadline: float | None = None
    slowness: float = 0.0

    @property
    def expected(self) -> float:
        """Seconds the whole task takes on one idle CPU thread."""
        return self.base_cost + sum(self.costs)

    @property
    def expected_first(self) -> float:
        """Seconds until its quickest network has an answer, likewise."""
        return self.base_cost + min(self.costs, default=0.0)


@dataclass(frozen=True)
class Workbench:
    """What a worker needs beside the task: the same for every study of a run, and small enough to send along.

    Attributes:
        work: where results are kept.
        run: names this run among those that used the work folder.
        networks: the weights, None where there are none.
        limits: for reading.
        device: auto, cpu or cuda.
        threads: of each library in this worker.
        keep_gib: cubes are kept for later rounds while the disk has this much space left.
        main_process: its id; any other process is a worker and may be ended.
        hang_seconds: a worker that is this much over its seconds hangs in compiled code and is ended.
    """

    work: WorkFolder
    run: str
    networks: Networks | None
    limits: ReadLimits = field(default_factory=ReadLimits)
    device: str = "auto"
    threads: int = 1
    keep_gib: float = 0.0
    main_process: int = field(default_factory=os.getpid)
    hang_seconds: float = 60.0
