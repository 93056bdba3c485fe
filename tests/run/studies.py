"""Tiny competition folders, and networks that behave as a test wants: they grade, fail, hang or take the process down.

The networks are :class:`pipeline.run.task.StudyNetworks`, as those of real weights are; what they do to a study is
written into the study's id, so that it also holds in worker processes.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.cubes import Cube, CubeSettings, StudyCubes
from pipeline.labels import CELLS, NEEDED, Family, SeriesKind
from pipeline.landmarks.landmarks import Landmarks
from pipeline.weights.manifest import Manifest, Member
from tests.volumes.oracle import AXIAL, SAGITTAL, write_series

SERIES = ((SeriesKind.SAGITTAL_T1, SAGITTAL), (SeriesKind.SAGITTAL_T2, SAGITTAL), (SeriesKind.AXIAL_T2, AXIAL))


def write_studies(root: Path, names: list[str], split: str = "test") -> Path:
    """A competition folder in which every study has the three series of four tiny slices."""
    rows = []
    for study in names:
        for number, (kind, axes) in enumerate(SERIES):
            write_series(root / f"{split}_images" / study / f"{study}-{number}", axes)
            rows.append((study, f"{study}-{number}", kind.value))
    table = pd.DataFrame(rows, columns=["study_id", "series_id", "series_description"])
    table.to_csv(root / f"{split}_series_descriptions.csv", index=False)
    return root


def members(copies: int = 1, families: tuple[Family, ...] = tuple(Family)) -> tuple[Member, ...]:
    """A point network and ``copies`` graders of each family; the first copies are worth most per second."""
    graders = [
        Member(name=f"{family.value}-{copy}", task=family.value, file="x", sha256="", score=0.4 + 0.1 * copy)
        for family in families
        for copy in range(copies)
    ]
    return (Member(name="points", task="landmarks", file="x", sha256=""), *graders)


_THREE = np.zeros(3)
CUBE = Cube(np.zeros((1, 1, 1), np.float32), np.ones(1, bool), _THREE, _THREE, _THREE, 1.0, 0.0, "", _THREE)


@dataclass(frozen=True)
class _Points:
    found: np.ndarray

    def to_frame(self) -> pd.DataFrame:
        points = Landmarks.empty("s")
        points.points_mm[self.found], points.x[self.found], points.y[self.found] = 1.0, 1.0, 1.0
        return replace(points, series_id=tuple("series" if one else None for one in self.found)).to_frame()


@dataclass(frozen=True)
class FakeNetworks:
    """Grades every found cell (0.2, 0.3, 0.5), sharper with each further network.

    Study ids that contain a word are special: ``dies`` (the process is killed), ``later`` (it is killed by every
    family's second network), ``hangs``, ``wedged`` (no signal ends it), ``raises``, ``blind`` (no point is found),
    ``nothing`` (the networks give NaN), ``canalfails``, ``crowded`` (the process is killed beside another such one),
    ``across`` (every network grades the canal, too).
    """

    manifest: Manifest
    members: tuple[Member, ...]
    scratch: Path
    seconds: float = 0.0
    calls: list[str] = field(default_factory=list)

    @classmethod
    def make(
        cls, scratch: Path, copies: int = 1, seconds: float = 0.0, families: tuple[Family, ...] = tuple(Family)
    ) -> FakeNetworks:
        everyone = members(copies, families)
        return cls(Manifest(scratch, "fake", "nothing", everyone), everyone, scratch, seconds)

    def named(self, name: str) -> Member:
        return next(member for member in self.members if member.name == name)

    def family(self, name: str) -> Family:
        return Family(self.named(name).task)

    def find_landmarks(self, volumes, names, device, threads):
        study = volumes.study_id
        (self.scratch / f"{study}.{time.monotonic_ns()}.found").touch()
        if "dies" in study:
            os.kill(os.getpid(), signal.SIGKILL)
        if "crowded" in study:
            mine = self.scratch / f"{os.getpid()}.here"
            mine.touch()
            time.sleep(0.5)
            if any(_is_alive(int(path.stem)) for path in self.scratch.glob("*.here") if path != mine):
                time.sleep(0.5)  # the other one is to see it, too
                os.kill(os.getpid(), signal.SIGKILL)
            mine.unlink()
        if "hangs" in study:
            time.sleep(600)
        if "wedged" in study:  # as in compiled code, where no signal arrives
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
            time.sleep(600)
        if "raises" in study:
            raise RuntimeError("the network is not well")
        found = np.full(len(CELLS), "blind" not in study)
        return _Points(found), ()

    def cube_settings(self, name):
        return CubeSettings()

    def cut(self, volumes, points, names):
        found = {}
        for n in np.flatnonzero(points.found).tolist():
            kind = NEEDED[CELLS[n].condition.family][0]
            found[n, kind] = tuple(replace(CUBE, series_id=volume.series_id) for volume in volumes.of_kind(kind)[:1])
        return {CubeSettings(): StudyCubes(volumes.study_id, found)}

    def grade(self, name, cubes, device, threads):
        time.sleep(self.seconds)
        own = cubes[self.cube_settings(name)]
        if "later" in own.study_id and name.endswith("-1"):
            os.kill(os.getpid(), signal.SIGKILL)
        if "canalfails" in own.study_id and self.family(name) is Family.CANAL:
            raise RuntimeError("the canal network is not well")
        values = np.full((len(CELLS), 3), np.nan, np.float32)
        for index, _ in own.cubes:
            graded = {self.family(name)} | ({Family.CANAL} if "across" in own.study_id else set())
            if "nothing" not in own.study_id and CELLS[index].condition.family in graded:
                values[index] = np.log([0.2, 0.3, 0.5])
        (self.scratch / f"{own.study_id}.{name}.graded").touch()
        return values

    def notices(self):
        return ()

    def combine(self, predictions):
        stacked = np.stack(list(predictions.values()))
        counts = np.isfinite(stacked).all(-1).sum(0)
        logs = np.nansum(stacked, axis=0)
        logs[counts == 0] = np.nan
        values = np.exp(logs)
        return values / values.sum(-1, keepdims=True), np.zeros(len(CELLS), bool)

    def times_found(self, study: str) -> int:
        """How often the points of a study were looked for."""
        return len(list(self.scratch.glob(f"{study}.*.found")))


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
