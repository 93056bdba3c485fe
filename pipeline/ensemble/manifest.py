"""A set of weights and what is known of it: ``manifest.json`` beside the safetensors files.

The manifest names every member of the ensemble with its checksum, its settings, its measured score and cost, and
the studies it has seen. A file whose checksum differs is refused: a damaged or swapped network would still give
numbers. Studies are stored as truncated hashes, enough to tell whether a study was seen and no list of ids.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.config import ConfigError, from_dict
from pipeline.files import write_text
from pipeline.labels import Family

MANIFEST_NAME = "manifest.json"
LANDMARK_TASKS = ("landmarks", "axial")
TASKS = (*LANDMARK_TASKS, *(family.value for family in Family))
PRIOR_SCORE = 0.79
"""Log loss of reweighted class frequencies on the competition's training set: what a member's score is compared to."""


class WeightsError(ValueError):
    """Weights that cannot be used: the manifest or a file it names is missing, damaged or not what was recorded."""


@dataclass(frozen=True)
class Member:
    """One trained network. ``task`` is landmarks, axial or a condition family.

    ``fold`` is the held-out fold (None: trained on all studies); ``file`` and ``seen`` are names inside the weights
    folder or, as ``../default/axial-fold0.safetensors``, inside the one of another set beside it; ``score`` is the
    measured value of its task on held-out studies (log loss for a family); ``seconds_per_study`` was measured on one
    CPU thread.
    """

    name: str
    task: str
    file: str
    sha256: str
    family: str | None = None
    fold: int | None = None
    config: dict[str, Any] = field(default_factory=dict)
    seen: str | None = None
    score: float | None = None
    seconds_per_study: float = 1.0

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"member {self.name!r}: unknown task {self.task!r}, expected one of {', '.join(TASKS)}")
        for name in (self.file, self.seen):
            if name is not None:
                _check_name(name)
        if self.seconds_per_study <= 0:
            raise ValueError(f"member {self.name!r}: seconds_per_study is {self.seconds_per_study}, expected above 0")

    @property
    def value_per_second(self) -> float:
        """How far its log loss lies below the prior's, per second of one study; 0 where it was never measured."""
        return 0.0 if self.score is None else max(PRIOR_SCORE - self.score, 0.0) / self.seconds_per_study


@dataclass(frozen=True)
class Manifest:
    """The members of one set of weights. ``files`` are further files (name to sha256), named as a member's are."""

    folder: Path
    set: str
    description: str
    members: tuple[Member, ...] = ()
    files: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read ``folder/manifest.json``. Checksums are compared by :meth:`verify` and :meth:`file`, when used.

        Raises:
            WeightsError: there is none, or it is not a manifest.
        """
        path = folder / MANIFEST_NAME
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise WeightsError(
                f"{path}: {error.strerror or error}; expected the manifest of a set of weights"
            ) from error
        except ValueError as error:
            raise WeightsError(f"{path}: is not JSON: {error}") from error
        if not isinstance(content, dict):
            raise WeightsError(f"{path}: expected an object with set, description, members and files")
        try:
            manifest = from_dict(cls, {**content, "folder": folder})
        except ConfigError as error:
            raise WeightsError(f"{path}: {error}") from error
        names = [member.name for member in manifest.members]
        if len(set(names)) != len(names):
            raise WeightsError(f"{path}: a member's name is there twice: {', '.join(sorted(names))}")
        return manifest

    def save(self) -> None:
        """Write the manifest into its folder."""
        content = {
            "set": self.set,
            "description": self.description,
            "members": [asdict(member) for member in self.members],
            "files": self.files,
        }
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        write_text(self.folder / MANIFEST_NAME, text)

    def add_member(self, member: Member) -> Manifest:
        """Record a member (one of the same name is replaced) and its files' checksums; the manifest is saved.

        Read, changed and written under a lock, so trainings that end together do not lose each other's member.
        """
        with _lock(self.folder):
            current = Manifest.load(self.folder) if (self.folder / MANIFEST_NAME).is_file() else self
            files = dict(current.files)
            if member.seen is not None:
                files[member.seen] = sha256_of(self.folder / member.seen)
            member = replace(member, sha256=sha256_of(self.folder / member.file))
            kept = tuple(other for other in current.members if other.name != member.name)
            changed = replace(current, members=(*kept, member), files=files)
            changed.save()
        return changed

    def add_file(self, name: str) -> Manifest:
        """Record a further file of the folder (prior, calibration, folds) with its checksum; the manifest is saved."""
        _check_name(name)
        with _lock(self.folder):
            current = Manifest.load(self.folder) if (self.folder / MANIFEST_NAME).is_file() else self
            changed = replace(current, files={**current.files, name: sha256_of(self.folder / name)})
            changed.save()
        return changed

    def share(self, names: Iterable[str], other: Manifest) -> Manifest:
        """Record members of another set whose folder lies beside this one, without a copy; the manifest is saved.

        To be done again when the other set's network changes: the checksum recorded here is of the file as it is now.

        Raises:
            WeightsError: the folders are not side by side, or the other set has no such member, or not the file that
                its manifest records.
        """
        if self.folder.resolve().parent != other.folder.resolve().parent:
            raise WeightsError(f"{other.folder}: is not beside {self.folder}, so it cannot share its networks")
        known = {member.name: member for member in other.members}
        changed = self
        for name in names:
            if name not in known:
                raise WeightsError(f"{other.folder}: has no member {name!r}, only {', '.join(known)}")
            member = known[name]
            other.verify(member)
            other.seen(member)
            seen = None if member.seen is None else _beside(other, member.seen)
            changed = changed.add_member(replace(member, file=_beside(other, member.file), seen=seen))
        return changed

    def gather(self, folder: Path) -> Manifest:
        """Copy everything the manifest names into one folder, with a manifest that names no other.

        Raises:
            WeightsError: a file is missing or not what the manifest records.
            OSError: a file cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for name, checksum in self._checksums().items():
            target = folder / _own_name(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self._verified(name, checksum), target)
        members = tuple(
            replace(m, file=_own_name(m.file), seen=None if m.seen is None else _own_name(m.seen)) for m in self.members
        )
        files = {_own_name(name): checksum for name, checksum in self.files.items()}
        gathered = replace(self, folder=folder, members=members, files=files)
        gathered.save()
        return gathered

    def verify(self, member: Member) -> Path:
        """The path of a member's network, its checksum compared.

        Raises:
            WeightsError: the file is missing or another one than the manifest records.
        """
        return self._verified(member.file, member.sha256)

    def file(self, name: str) -> Path | None:
        """The path of a further file, its checksum compared; None where the set has no such file.

        Raises:
            WeightsError: the manifest records the file, but it is missing or another one.
        """
        expected = self.files.get(name)
        return None if expected is None else self._verified(name, expected)

    def seen(self, member: Member) -> frozenset[str]:
        """Hashes (see :func:`study_hash`) of the studies the member was trained on; empty where none are recorded."""
        if member.seen is None:
            return frozenset()
        path = self.file(member.seen)
        if path is None:
            raise WeightsError(f"{self.folder / member.seen}: not among the files of the manifest")
        return frozenset(path.read_text(encoding="utf-8").split())

    def of_task(self, *tasks: str) -> tuple[Member, ...]:
        """The members of these tasks, in manifest order."""
        return tuple(member for member in self.members if member.task in tasks)

    def severity_rounds(self) -> tuple[tuple[Member, ...], ...]:
        """Graders in the order they should run: each round holds the next best value per second of every family."""
        ranked = [
            sorted(self.of_task(family.value), key=lambda member: (-member.value_per_second, member.name))
            for family in Family
        ]
        longest = max(map(len, ranked), default=0)
        return tuple(tuple(order[i] for order in ranked if i < len(order)) for i in range(longest))

    def _checksums(self) -> dict[str, str]:
        return {**{member.file: member.sha256 for member in self.members}, **self.files}

    def _verified(self, name: str, expected: str) -> Path:
        path = self.folder / name
        try:
            found = sha256_of(path)
        except OSError as error:
            raise WeightsError(
                f"{path}: {error.strerror or error}; the manifest of set {self.set!r} names it"
            ) from error
        if found != expected:
            raise WeightsError(
                f"{path}: sha256 is {found[:16]}…, the manifest records {expected[:16]}…; "
                "the file is damaged or belongs to another set: fetch the weights again"
            )
        return path


def study_hash(study_id: str) -> str:
    """16 hexadecimal digits that stand for a study in a list of seen studies."""
    return hashlib.sha256(study_id.encode()).hexdigest()[:16]


def seen_studies(study_ids: Iterable[str], start_from: str = "", held_out: Iterable[str] = ()) -> list[str]:
    """The hashes of the studies that a network has seen when its training ends, sorted.

    Args:
        study_ids: what the run trains on.
        start_from: weights that it goes on from; what they have seen, the new ones have seen too.
        held_out: studies that must not be among those.

    Raises:
        WeightsError: the weights have no list, or have seen a held-out study.
    """
    hashes = {study_hash(study_id) for study_id in study_ids}
    if start_from:
        before = _seen_by(Path(start_from))
        if leaked := [study_id for study_id in held_out if study_hash(study_id) in before]:
            raise WeightsError(
                f"{start_from} was trained on {len(leaked)} of the held-out studies, the first is {leaked[0]}; "
                "start from weights of the same held-out fold"
            )
        hashes |= before
    return sorted(hashes)


def write_seen(path: Path, hashes: Iterable[str]) -> None:
    """Write a list of :func:`seen_studies`, a hash a line."""
    write_text(path, "".join(f"{line}\n" for line in hashes))


def _seen_by(weights: Path) -> set[str]:
    """The list beside a member's file (``NAME.seen.txt``) or in a run's folder (``seen.txt``)."""
    for path in (weights.with_name(f"{weights.stem}.seen.txt"), weights.with_name("seen.txt")):
        if path.is_file():
            return set(path.read_text(encoding="utf-8").split())
    raise WeightsError(
        f"{weights}: neither {weights.stem}.seen.txt nor seen.txt lies beside it, so nobody knows which studies these "
        "weights have seen; start from a run's or a weights folder"
    )


def sha256_of(path: Path) -> str:
    """The checksum of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_name(name: str) -> None:
    parts = PurePosixPath(name).parts
    # Another set is named as ../SET/FILE and in no other way, so that a name never leads out of the folder of all sets.
    inside = parts[1:] if parts[:1] == ("..",) and len(parts) > 2 else parts
    if not inside or name.startswith("/") or ".." in inside or "\\" in name:
        raise ValueError(f"{name!r} is not the name of a file inside the weights folder or, as ../SET/FILE, beside it")


def _beside(other: Manifest, name: str) -> str:
    """A file of another set, as the manifest of a set beside it names it."""
    return name if name.startswith("../") else f"../{other.folder.resolve().name}/{name}"


def _own_name(name: str) -> str:
    """The name under which a file of another set is copied into a folder of its own: ``default-axial.safetensors``."""
    return name.removeprefix("../").replace("/", "-") if name.startswith("../") else name


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
