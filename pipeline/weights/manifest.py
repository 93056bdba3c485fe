"""A set of weights and what is known of it: ``manifest.json`` beside the safetensors files.

The manifest names every member of the ensemble with its checksum, its settings, its measured score and cost, and
the studies it has seen. A file whose checksum differs is refused: a damaged or swapped network would still give
numbers. Studies are stored as truncated hashes, enough to tell whether a study was seen and no list of ids.

A set may have been downloaded, so nothing in it is trusted: names are plain names inside the folder, files are regular
and of a bounded size, and what is used is the very bytes whose checksum was compared.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.config import ConfigError, check_range, from_dict
from pipeline.files import read_bounded, write_atomically, write_text
from pipeline.labels import Family
from pipeline.owned import RefusedError, check_claim
from pipeline.untrusted import check_name, parse_json

MANIFEST_NAME = "manifest.json"
LANDMARK_TASKS = ("landmarks", "axial")
TASKS = (*LANDMARK_TASKS, *(family.value for family in Family))
PRIOR_SCORE = 0.79
"""Log loss of reweighted class frequencies on the competition's training set: what a member's score is compared to."""

MOST_MANIFEST_BYTES = 2**22
MOST_NETWORK_BYTES = 2**28
"""More than the largest network that is of use here, a ConvNeXt-large as bytes (200 MB)."""
MOST_FILE_BYTES = 2**26
MOST_FILES = 1000
LOCK_SECONDS = 120.0
"""Adding a network takes a second; a lock of a file system without locks stays when its holder is killed."""


class WeightsError(ValueError):
    """Weights that cannot be used: the manifest or a file it names is missing, damaged or not what was recorded."""


@dataclass(frozen=True)
class Member:
    """One trained network. ``task`` is landmarks, axial or a condition family.

    ``fold`` is the held-out fold (None: trained on all studies); ``file`` and ``seen`` are names inside the weights
    folder; ``score`` is the measured value of its task on held-out studies (log loss for a family);
    ``seconds_per_study`` was measured on one CPU thread.
    """

    name: str
    task: str
    file: str
    sha256: str
    fold: int | None = None
    config: dict[str, Any] = field(default_factory=dict, hash=False)
    seen: str | None = None
    score: float | None = None
    seconds_per_study: float = 1.0

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"unknown task {self.task!r:.100}, expected one of {', '.join(TASKS)}")
        for name in (self.name, self.file, self.seen):
            if name is not None:
                check_name(name)
        _check_checksum(self.file, self.sha256)
        check_range(self, "fold", least=0, most=1000)
        check_range(self, "score", least=0, most=1000)
        check_range(self, "seconds_per_study", least=1e-6, most=86_400)

    @property
    def recipe(self) -> str:
        """What all folds of one kind of network share: the name without the mark of its fold."""
        return self.name if self.fold is None else self.name.removesuffix(f"-fold{self.fold}")

    @property
    def value_per_second(self) -> float:
        """How far its log loss lies below the prior's, per second of one study; 0 where it was never measured."""
        return 0.0 if self.score is None else max(PRIOR_SCORE - self.score, 0.0) / self.seconds_per_study

    def read(self, folder: Path) -> bytes:
        """The content of the network's file in a weights folder, its checksum compared.

        Raises:
            WeightsError: the file is missing, another one than the manifest records, or none that may be read.
        """
        return _read_verified(folder / self.file, self.sha256, MOST_NETWORK_BYTES)


@dataclass(frozen=True)
class Manifest:
    """The members of one set of weights. ``files`` are further files of its folder (name to sha256)."""

    folder: Path
    set: str
    description: str
    members: tuple[Member, ...] = ()
    files: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for text, most in ((self.set, 100), (self.description, 2000)):
            if len(text) > most or not text.isprintable():
                raise ValueError(f"{text!r:.100}: expected one line of at most {most} printable characters")
        for name, checksum in self.files.items():
            check_name(name)
            _check_checksum(name, checksum)
        if max(len(self.members), len(self.files)) > MOST_FILES:
            raise ValueError(f"{len(self.members)} members, {len(self.files)} files; expected at most {MOST_FILES}")
        names = {member.file for member in self.members} | self.files.keys()
        if len({name.lower() for name in names}) < len(names):
            raise ValueError("names that differ in capitals alone, which some disks take for one file")
        members = [member.name for member in self.members]
        if twice := sorted({name for name in members if members.count(name) > 1}):
            raise ValueError(f"a member's name is there twice: {twice[0]}")

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read ``folder/manifest.json``. Checksums are compared when a file is read.

        Raises:
            WeightsError: there is none, or it is not a manifest.
        """
        path = folder / MANIFEST_NAME
        try:
            content = parse_json(read_bounded(path, MOST_MANIFEST_BYTES))
        except OSError as error:
            raise WeightsError(
                f"{path}: {error.strerror or error}; expected the manifest of a set of weights"
            ) from error
        except ValueError as error:
            raise WeightsError(f"{path}: {error}") from error
        if not isinstance(content, dict):
            raise WeightsError(f"{path}: expected an object with set, description, members and files")
        members = content.get("members")
        for member in members if isinstance(members, list) else ():
            if isinstance(member, dict):
                member.pop("family", None)  # older sets name it, and the task says the same
        try:
            return from_dict(cls, {**content, "folder": folder.absolute()})  # other machines are to find it, too
        except ConfigError as error:
            raise WeightsError(f"{path}: {error}") from error

    @classmethod
    def open(cls, folder: Path, name: str, description: str) -> Manifest:
        """The set of weights in a folder; a new one of this name where the folder is new or empty.

        Raises:
            RefusedError: the folder holds other things; it is left as it is.
            WeightsError: its manifest is none, or name or description are not what a manifest may hold.
        """
        if os.path.lexists(folder / MANIFEST_NAME):
            return cls.load(folder)
        check_claim(folder, "weights")
        try:
            manifest = cls(folder, name, description)
        except ValueError as error:
            raise WeightsError(f"{folder}: name and description of a set: {error}") from error
        manifest.save()
        return manifest

    def save(self) -> None:
        """Write the manifest into its folder."""
        content = {
            "set": self.set,
            "description": self.description,
            "members": [asdict(member) for member in self.members],
            "files": self.files,
        }
        text = json.dumps(content, indent=2, ensure_ascii=True) + "\n"
        write_text(self.folder / MANIFEST_NAME, text)

    def add_member(self, member: Member, network: bytes, seen: bytes = b"") -> Manifest:
        """Record a member (one of the same name is replaced), and write its network and the list of what it has seen.

        Read, changed and written under a lock, so trainings that end together do not lose each other's member.

        Raises:
            RefusedError: a file of such a name is there that the manifest does not name.
            OSError: a file cannot be written.
        """
        member = replace(member, sha256=hashlib.sha256(network).hexdigest())
        return self._add({member.file: network}, {} if member.seen is None else {member.seen: seen}, member)

    def add_file(self, name: str, content: bytes) -> Manifest:
        """Record and write a further file of the folder (prior, calibration, folds).

        Raises:
            RefusedError, OSError: as :meth:`add_member`.
        """
        return self._add({}, {name: content})

    def check_free(self, *names: str) -> None:
        """Say before any work whether files of these names may be written.

        Raises:
            RefusedError: one is there that the manifest does not name, so it is somebody else's.
        """
        known = self.files.keys() | {member.file for member in self.members}
        for name in names:
            if name not in known and os.path.lexists(self.folder / name):
                raise RefusedError(
                    f"{self.folder / name}: is not among the files of {MANIFEST_NAME} beside it, so it is not this "
                    "program's and is left as it is; move it, or give it another name"
                )

    def _add(self, networks: dict[str, bytes], files: dict[str, bytes], *members: Member) -> Manifest:
        with _lock(self.folder):
            there = os.path.lexists(self.folder / MANIFEST_NAME)
            current = Manifest.load(self.folder) if there else self
            current.check_free(*networks, *files)
            kept = tuple(other for other in current.members if other.name not in {member.name for member in members})
            sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
            changed = replace(current, members=(*kept, *members), files={**current.files, **sums})
            changed.save()  # first, so that whatever lies there after a kill is known to be ours
            for name, content in (networks | files).items():
                _write(self.folder / name, content)
        return changed

    def gather(self, folder: Path, without: Container[str] = ()) -> Manifest:
        """Copy everything the manifest names, but not the members ``without``, and a manifest, into another folder.

        Raises:
            WeightsError: a file is missing or not what the manifest records.
            OSError: a file cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        members = tuple(member for member in self.members if member.name not in without)
        gone = {member.seen for member in self.members if member.name in without}
        files = {name: checksum for name, checksum in self.files.items() if name not in gone}
        for member in members:
            _write(folder / member.file, member.read(self.folder))
        for name, checksum in files.items():
            _write(folder / name, _read_verified(self.folder / name, checksum, MOST_FILE_BYTES))
        gathered = replace(self, folder=folder, members=members, files=files)
        gathered.save()
        return gathered

    def file(self, name: str) -> bytes | None:
        """The content of a further file, its checksum compared; None where the set has no such file.

        Raises:
            WeightsError: the manifest records the file, but it is missing, another one, or none that may be read.
        """
        expected = self.files.get(name)
        return None if expected is None else _read_verified(self.folder / name, expected, MOST_FILE_BYTES)

    def seen(self, member: Member) -> frozenset[str]:
        """Hashes of the studies the member was trained on (``seen.study_hash``); empty where none are recorded.

        Raises:
            WeightsError: the list is not what the manifest records, or is no such list.
        """
        if member.seen is None:
            return frozenset()
        content = self.file(member.seen)
        if content is None:
            raise WeightsError(f"{self.folder / member.seen}: not among the files of the manifest")
        return hashes_in(self.folder / member.seen, content)

    def of_task(self, *tasks: str) -> tuple[Member, ...]:
        """The members of these tasks, in manifest order."""
        return tuple(member for member in self.members if member.task in tasks)


def _check_checksum(name: str, checksum: str) -> None:
    if checksum and not re.fullmatch("[0-9a-f]{64}", checksum):
        raise ValueError(f"{name}: the checksum is {checksum!r:.100}, expected 64 hexadecimal digits")


def _read_verified(path: Path, expected: str, most: int) -> bytes:
    """The content of a file, once its checksum is the expected one.

    Raises:
        WeightsError: it is not, or the file is not one that may be read.
    """
    try:
        content = read_bounded(path, most)
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror or error}; the manifest beside it names it") from error
    if (found := hashlib.sha256(content).hexdigest()) != expected:
        raise WeightsError(
            f"{path}: sha256 is {found[:16]}…, the manifest records {expected[:16]}…; "
            "the file is damaged or belongs to another set: fetch the weights again"
        )
    return content


def hashes_in(path: Path, content: bytes) -> frozenset[str]:
    """The hashes of a list of seen studies.

    Raises:
        WeightsError: it holds something else.
    """
    found = content.decode("ascii", "replace").split()
    if wrong := [line for line in found if not re.fullmatch("[0-9a-f]{16}", line)]:
        raise WeightsError(f"{path}: found {wrong[0]!r:.60}, expected 16 hexadecimal digits a line")
    return frozenset(found)


def _write(path: Path, content: bytes) -> None:
    write_atomically(path, lambda partial: partial.write_bytes(content))


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    from filelock import FileLock, Timeout

    try:
        with FileLock(folder / ".lock", timeout=LOCK_SECONDS):  # follows no link and writes nothing into the file
            yield
    except Timeout:
        raise WeightsError(
            f"{folder}: another process has been writing there for {LOCK_SECONDS:.0f} s; wait for it, or remove "
            f"{folder / '.lock'} where there is none"
        ) from None
