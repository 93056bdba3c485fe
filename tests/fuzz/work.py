"""Work folders through ``submit.py``: kept results, marks, locks and files of strangers, and a run that goes on there.

The networks grade by the pixels and by their configuration, so that a stale result shows in the table. Counts as a
failure: an exception, a table that differs from the one of a run from nothing, and any change to a stranger's file.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import numpy as np

from pipeline.commands import submit
from pipeline.files import write_sealed
from pipeline.labels import CELLS
from pipeline.owned import MARK, is_owned
from pipeline.run import session
from pipeline.run.work import KIND, WorkFolder
from pipeline.submission import read_submission
from tests.fuzz.mutate import mutate
from tests.run.studies import FakeNetworks, write_studies

STUDIES = ["1", "2", "3"]
STRANGERS = ("notes.started", "x.partial", "thesis.result", "a.cubes", "run.slot", ".hidden", "deep/thesis.txt")


class Pixels(FakeNetworks):
    """Grades are the mean of the study's pixels and the configured ``shift``, so every input shows in every row."""

    def find_landmarks(self, volumes, names, device, threads):
        mean = np.mean([volume.pixels.mean() for volume in volumes.volumes]) if volumes.volumes else 0.0
        object.__setattr__(self, "_mean", float(mean))
        return super().find_landmarks(volumes, names, device, threads)

    def grade(self, name, cubes, device, threads):
        severe = 0.1 + 0.8 * ((self._mean + self.named(name).config.get("shift", 0.0)) * 0.37 % 1.0)
        values = np.full((len(CELLS), 3), np.nan, np.float32)
        for index, cell in enumerate(CELLS):
            if cell.condition.family is self.family(name):
                values[index] = np.log([(1 - severe) / 2, (1 - severe) / 2, severe])
        return values


@dataclass
class Scene:
    """A data folder, what an interrupted run left of it, and the table that any run has to come to."""

    folder: Path
    networks: Pixels
    kept: dict[str, bytes]
    table: np.ndarray
    forged: bool = False

    @classmethod
    def make(cls, folder: Path) -> Scene:
        write_studies(folder / "data", STUDIES)
        (folder / "scratch").mkdir()
        (folder / "outside").mkdir()
        (folder / "outside" / "thesis.txt").write_text("years of work")
        scene = cls(folder, Pixels.make(folder / "scratch"), {}, np.zeros(0))
        scene.leave_results()
        return scene

    @property
    def out(self) -> Path:
        return self.folder / "case" / "s.csv"

    @property
    def work(self) -> Path:
        return self.folder / "case" / "s.work"

    def submit(self, *options: str) -> tuple[int, str]:
        """Status and all that was printed."""
        said = io.StringIO()
        arguments = ["--data", str(self.folder / "data"), "--out", str(self.out), "--workers", "1", "--quiet", *options]
        networks = patch.object(session, "open_networks", lambda *_: self.networks)
        with networks, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            status = submit.main(arguments)
        return status, said.getvalue()

    def leave_results(self) -> None:
        """Run from nothing and remember what it would have left if it had been cut short."""
        self.clear()
        with patch.object(WorkFolder, "remove_results"):
            status, said = self.submit()
        if status != 0 or "75 from the images" not in said:
            raise RuntimeError(f"the run from nothing ended with {status}: {said}")
        self.table = read_submission(self.out).to_numpy()
        files = [path for path in self.work.rglob("*") if path.is_file()]
        self.kept = {path.relative_to(self.work).as_posix(): path.read_bytes() for path in files}

    def clear(self) -> None:
        shutil.rmtree(self.folder / "case", ignore_errors=True)
        for path in (self.folder / "scratch").iterdir():
            path.unlink()

    def lay_out(self) -> None:
        """The work folder as the interrupted run left it."""
        self.clear()
        self.work.mkdir(parents=True)
        for name, content in self.kept.items():
            (self.work / name).parent.mkdir(exist_ok=True)
            (self.work / name).write_bytes(content)

    def any_kept(self, random: Random) -> Path:
        return self.work / random.choice(sorted(self.kept))


def _is_small_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and path.stat().st_size < 2**20


def bytes_of_a_file(scene: Scene, random: Random) -> None:
    path = scene.any_kept(random)
    if _is_small_file(path):
        path.write_bytes(mutate(path.read_bytes(), random.choice(list(scene.kept.values())), random))


def forged_checksum(scene: Scene, random: Random) -> None:
    """Nobody can tell it from what the run wrote; it must only do no harm."""
    path = scene.any_kept(random)
    if path.suffix == ".result" and _is_small_file(path):
        seal, _, body = path.read_bytes().partition(b"\n")
        if len(words := seal.decode("latin-1").split(" ")) == 3:
            write_sealed(path, words[1], mutate(body, body, random))
            scene.forged = True


def other_results_content(scene: Scene, random: Random) -> None:
    path = scene.any_kept(random)
    if _is_small_file(path):
        path.write_bytes(random.choice(list(scene.kept.values())))


def no_file(scene: Scene, random: Random) -> None:
    """A link, a pipe, a device, a folder, nothing, or far too much in place of a file."""
    path = scene.any_kept(random)
    if path.is_dir():
        return
    path.unlink(missing_ok=True)
    kind = random.randrange(7)
    if kind == 0:
        path.symlink_to(scene.folder / "outside" / "thesis.txt")
    elif kind == 1:
        os.mkfifo(path)
    elif kind == 2:
        path.symlink_to(random.choice(["/dev/zero", "/dev/full", str(path), "nowhere"]))
    elif kind == 3:
        path.mkdir()
    elif kind == 4:
        path.touch()
        os.truncate(path, random.choice([2**24, 2**31, 2**40]))
    elif kind == 5:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("probabilities.npy", bytes(5_000_000))


def strangers_file(scene: Scene, random: Random) -> None:
    path = scene.work / random.choice(STRANGERS)
    path.parent.mkdir(exist_ok=True)
    path.write_text("years of work")


def leftovers(scene: Scene, random: Random) -> None:
    """What a killed worker leaves, also under names that only nearly are the run's."""
    study = random.choice([Path(name).stem for name in scene.kept if name.endswith(".result")] or ["0" * 24])
    name = random.choice(
        [f"{study}.started", f"{study}.{'a' * 24}.cubes", "run7.0.slot", f".{study}.result.0123456789ab.partial"]
    )
    (scene.work / name).write_bytes(random.choice([b"", b"x" * 100]))


def mark(scene: Scene, random: Random) -> None:
    """None, damaged, or of another kind: the folder is somebody else's then."""
    path = scene.work / MARK
    if _is_small_file(path):
        choices = [
            b"",
            b"{}",
            b'{"kind": "run", "format": 1}',
            b"[" * 5000,
            b'{"kind": ["work"], "format": 1}',
            b"\xff",
        ]
        path.write_bytes(random.choice([*choices, mutate(path.read_bytes(), b"{}", random)]))
        if random.random() < 0.3:
            path.unlink()


def folder_itself(scene: Scene, random: Random) -> None:
    """A link to somebody else's folder, a file or a pipe in its place."""
    shutil.rmtree(scene.work)
    kind = random.randrange(4)
    if kind == 0:
        scene.work.symlink_to(scene.folder / "outside")
    elif kind == 1:
        scene.work.write_text("years of work")
    elif kind == 2:
        os.mkfifo(scene.work)


def lock_file(scene: Scene, random: Random) -> None:
    path = random.choice([scene.out.with_name(".s.csv.lock"), scene.work / "run.lock"])
    if not os.path.lexists(path):
        kind = random.randrange(4)
        if kind == 0:
            path.write_text(random.choice(["", "years of work"]))
        elif kind == 1:
            path.symlink_to(scene.folder / "outside" / "thesis.txt")
        elif kind == 2:
            path.mkdir()
        else:
            os.mkfifo(path)


def other_pixels(scene: Scene, random: Random) -> None:
    """Replaced in place: same names, same sizes, often the same times."""
    path = random.choice(sorted((scene.folder / "data" / "test_images").rglob("*.dcm")))
    before, content = path.stat(), bytearray(path.read_bytes())
    at = len(content) - 2 * random.randrange(1, 100)
    content[at : at + 2] = random.randrange(1, 4000).to_bytes(2, "little")
    with path.open("r+b") as file:
        file.write(content)
    if random.random() < 0.7:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def other_configuration(scene: Scene, random: Random) -> None:
    members = list(scene.networks.members)
    number = random.randrange(len(members))
    members[number] = replace(members[number], config={"shift": random.random()})
    manifest = replace(scene.networks.manifest, members=tuple(members))
    scene.networks = replace(scene.networks, manifest=manifest, members=tuple(members))


CHANGES: tuple[Callable[[Scene, Random], None], ...] = (
    bytes_of_a_file,
    bytes_of_a_file,
    forged_checksum,
    other_results_content,
    no_file,
    strangers_file,
    leftovers,
    mark,
    folder_itself,
    lock_file,
    other_pixels,
    other_configuration,
)
INPUTS = {other_pixels, other_configuration}


def prepare(folder: Path) -> None:
    """Nothing to send along: whatever a result depends on is on the child's own disk."""


def begin(corpus: Any, folder: Path) -> Callable[[int, int], tuple[str, list[str], str | None]]:
    scene = Scene.make(folder)

    def run(seed: int, number: int) -> tuple[str, list[str], str | None]:
        random = Random(seed * 1_000_003 + number)
        scene.lay_out()
        scene.forged = False
        changes = [random.choice(CHANGES) for _ in range(random.choice((1, 1, 2, 4)))]
        for change in changes:
            if change in INPUTS or (scene.work.is_dir() and not scene.work.is_symlink()):
                change(scene, random)
        strangers = _strangers(scene)
        named = random.random() < 0.4
        status, said = scene.submit(*(["--work", str(scene.work)] if named else []))
        wrong = None
        if status not in ((0, 2) if named else (0,)):
            wrong = f"ended with {status}: {said}"
        elif _strangers(scene, strangers) != strangers:
            wrong = f"a stranger's file was changed: {sorted(strangers)}"
        table = read_submission(scene.out).to_numpy() if status == 0 and wrong is None else None
        taken = said.partition(" studies taken over")[0].rpartition(" ")[2] if "taken over" in said else "0"
        code = f"refused {status}" if status else f"taken over {taken}"
        if INPUTS & set(changes):
            scene.leave_results()
        if table is not None and wrong is None and not scene.forged and np.abs(table - scene.table).max() > 1e-6:
            wrong = f"the table is off by {np.abs(table - scene.table).max():.3f}, {taken} studies taken over"
        names = "+".join(change.__name__ for change in changes)
        return names, [code], None if wrong is None else f"{names}: {wrong}"

    return run


def keep(corpus: Any, seed: int, number: int, path: Path) -> None:
    path.with_suffix(".txt").write_text(f"case {number} of seed {seed}\n")


def _strangers(scene: Scene, like: dict[str, bytes] | None = None) -> dict[str, bytes]:
    """All that is not the run's own: outside of its folder, and in it what it did not write.

    Args:
        scene: the scene.
        like: look at these alone, as far as they are still there.
    """
    found = {}
    own_suffixes = (".cubes", ".slot", ".started", ".partial")
    for path in [*(scene.folder / "outside").rglob("*"), *(scene.folder / "case").rglob("*")]:
        if path.is_symlink():
            content = os.fsencode(path.readlink())
        elif path.is_file():
            content = path.read_bytes() if path.stat().st_size < 2**20 else b"large"
        else:
            content = b"neither"
        inside = path.is_relative_to(scene.work) and is_owned(scene.work, KIND)
        name = path.relative_to(scene.work).as_posix() if inside else ""
        own = (
            path in (scene.work, scene.out)
            or name in scene.kept
            or (
                path.parent == scene.work
                and inside
                and (path.suffix in own_suffixes or (path.is_dir() and len(path.name) == 2))
            )
        )
        own |= path.suffix == ".lock" and content == b""  # which is what a lock is
        if not own or path.name in STRANGERS:
            found[str(path)] = content
    return found if like is None else {name: content for name, content in found.items() if name in like}
