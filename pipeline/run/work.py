"""The folder of a run's unfinished business: a result per study, so that a run can be resumed.

It lies beside the submission and goes away when the run is complete. A result counts only for the files, weights,
settings and code it was made with (its fingerprint), and only as it was written; anything else is ignored. The folder
carries the program's mark, one run at a time has it, and nothing but the run's own files is deleted from it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.competition import SeriesRef, StudyRef
from pipeline.device import usable_gpus
from pipeline.files import DamagedError, file_state, file_states, sealed_key
from pipeline.owned import BusyError, RefusedError, claim, delete_known, hold, remove
from pipeline.problem import Problem
from pipeline.remote import remote_states
from pipeline.run.result import StudyResult
from pipeline.versions import code_version
from pipeline.volumes.nifti import named_files

KIND = "work"
"""What the mark of a work folder says."""
_LOCK = "run.lock"
_PARTIAL = r"([0-9a-f]{2}/)?\.[0-9a-f]{24}\..*\.[0-9a-f]{12}\.partial"
RESULTS = re.compile(r"[0-9a-f]{2}/[0-9a-f]{24}\.result")
"""In 256 folders, for file systems are slow with a million files in one."""
_RESULTS_BEFORE = re.compile(r"[0-9a-f]{24}\.result")
"""As earlier versions of this program kept them, whose results count no more."""
STALE = re.compile(rf"[0-9a-f]{{24}}\.started|{_PARTIAL}")
"""What a run finds of one before it and cannot use."""
REMADE = re.compile(rf"[0-9a-f]{{24}}\.(started|[0-9a-f]{{24}}\.cubes)|run\d+\.\d+\.slot|{_PARTIAL}")
"""All that a run writes into its work folder beside results: cubes and marks of its workers."""
_NOTHING = re.compile("(?!)")


@contextlib.contextmanager
def work_folder(asked: Path | None, default: Path, problems: list[Problem]) -> Iterator[Path]:
    """A folder for this run alone: claimed, locked, and without what an interrupted run left half done.

    At the end it holds results alone; without any it goes.

    Args:
        asked: by the user, so it is this one or none.
        default: otherwise. Where it is somebody else's, it is left alone and the run has a temporary folder.
        problems: gets what kept the run from going on where an interrupted one was.

    Raises:
        RefusedError: ``asked`` is not empty and not a work folder.
        BusyError: another run works in ``asked``.
    """
    folder = asked or default
    with contextlib.ExitStack() as held:
        try:
            claim(folder, KIND)
            held.callback(remove, folder, KIND, _NOTHING)
            if why := held.enter_context(hold(folder / _LOCK, str(folder))):
                problems.append(
                    Problem("", None, folder.name, "not-locked", f"{why}; a second run would not be noticed")
                )
            held.callback(delete_known, folder, KIND, REMADE)
            delete_known(folder, KIND, STALE)
            if old := sum(_RESULTS_BEFORE.fullmatch(path.name) is not None for path in folder.iterdir()):
                delete_known(folder, KIND, _RESULTS_BEFORE)
                detail = f"{old} results of an earlier version of this program; their studies are graded again"
                problems.append(Problem("", None, folder.name, "kept-result-refused", detail))
        except (OSError, RefusedError, BusyError) as error:
            if asked is not None and not isinstance(error, OSError):
                raise
            detail = f"{error}; this run works in a temporary folder and could not go on where another was"
            problems.append(Problem("", None, None, "work-folder", detail))
            try:
                made = tempfile.TemporaryDirectory(prefix="submission-", ignore_cleanup_errors=True)
                folder = Path(held.enter_context(made))
            except OSError:
                folder = Path(os.devnull) / "none"  # nothing can be kept there, so results stay in memory
        yield folder


@dataclass(frozen=True)
class WorkFolder:
    """Results of studies by id. ``context`` is the fingerprint of all that is the same for every study of the run."""

    folder: Path
    context: str

    @classmethod
    def of(cls, folder: Path, context: Mapping[str, Any]) -> WorkFolder:
        """Of a folder that is there; ``context`` (weights, settings) is part of every fingerprint, as the code is."""
        return cls(folder, _digest({"code": code_version(), **context}))

    def fingerprint(self, study: StudyRef) -> str:
        """Changes with the context, and with the name, size or time of change of any file of the study.

        To be taken before the study is read: what is replaced in between must not pass for what was read.
        """
        series: list[object] = [(ref.series_id, str(ref.path), ref.description, _states(ref)) for ref in study.series]
        if study.remote is not None:
            series = [study.remote.kinds, remote_states(study)]
        return _digest({"context": self.context, "study": study.study_id, "series": series})

    def load(
        self, study: StudyRef, fingerprint: str | None = None, problems: list[Problem] | None = None
    ) -> StudyResult | None:
        """The study's result; None if there is none of this fingerprint (by default the present one).

        One that is damaged is deleted, and ``problems`` gets a line on it.
        """
        path = self._result(study)
        if not os.path.lexists(path):
            return None  # before every file of the study is looked at
        try:
            return StudyResult.load(path, study.study_id, fingerprint or self.fingerprint(study))
        except DamagedError as error:
            if problems is not None:
                problems.append(Problem(study.study_id, None, path.name, "kept-result-refused", str(error)))
            with contextlib.suppress(OSError):
                path.unlink()
            return None

    def kept(self, study: StudyRef) -> tuple[StudyResult, str] | None:
        """The study's result and the fingerprint it was made of, which may no longer be that of its files."""
        path = self._result(study)
        with contextlib.suppress(OSError, DamagedError):
            if (fingerprint := sealed_key(path)) and (result := StudyResult.load(path, study.study_id, fingerprint)):
                return result, fingerprint
        return None

    def save(self, study: StudyRef, result: StudyResult, fingerprint: str) -> None:
        """Keep the study's result, made from the files of this fingerprint.

        Raises:
            OSError: it cannot be written.
        """
        if not self.folder.is_dir():  # its run is over, and a folder without a mark would be nobody's
            raise FileNotFoundError(errno.ENOENT, "the work folder is gone", str(self.folder))
        result.save(self._result(study), fingerprint)

    def cubes(self, study: StudyRef, fingerprint: str) -> Path:
        """Where the study's cubes may be kept between rounds."""
        return self._path(study, f".{fingerprint[:24]}.cubes")

    def mark_started(self, study: StudyRef) -> None:
        """Leave a sign that a worker has started the study, to find the one that killed its worker."""
        with contextlib.suppress(OSError):
            self._path(study, ".started").open("x").close()

    def mark_ended(self, study: StudyRef) -> None:
        """Take the sign of :meth:`mark_started` away."""
        with contextlib.suppress(OSError):
            self._path(study, ".started").unlink()

    def was_started(self, study: StudyRef) -> bool:
        """Whether a worker began the study and did not come to its end."""
        return self._path(study, ".started").is_file()

    def claim_slot(self, run: str) -> int:
        """A number from 0 that no other worker of the same run has, by which workers spread over GPUs."""
        for number in range(10_000):
            try:
                (self.folder / f"{run}.{number}.slot").open("x").close()
            except FileExistsError:
                continue
            except OSError:
                return 0
            return number
        return 0

    def has_room(self, gib: float) -> bool:
        """Whether the disk has more than this many GiB left; what can be made again must not be what fills it."""
        try:
            return shutil.disk_usage(self.folder).free > gib * 2**30
        except OSError:
            return False

    def remove_results(self) -> None:
        """Delete the results: the run is complete."""
        delete_known(self.folder, KIND, RESULTS)

    def _result(self, study: StudyRef) -> Path:
        flat = self._path(study, ".result")
        return flat.parent / flat.name[:2] / flat.name

    def _path(self, study: StudyRef, suffix: str) -> Path:
        # A study's id comes from a table and may be a path; its hash is always a plain name.
        return self.folder / (
            hashlib.sha256(study.study_id.encode("utf-8", "surrogateescape")).hexdigest()[:24] + suffix
        )


def _states(ref: SeriesRef) -> object:
    """What changes with the files of a series: their states, or with their names that of the zip that holds them."""
    if not ref.files:
        return file_states(ref.path)
    if ref.path.is_dir():
        return [(name, file_state(ref.path / name)) for name in named_files(ref)]
    return ref.files, file_state(ref.path)


def count_files(study: StudyRef) -> int:
    """How many files of the study are to be seen from here."""
    if study.remote is not None:
        return len(remote_states(study))
    states = [_states(ref) for ref in study.series]
    return sum(len(found) if isinstance(found, list) else found is not None for found in states)


@functools.cache
def work_device(choice: str, work: WorkFolder, run: str) -> str:
    """The device of this process: ``cpu``, ``mps`` or ``cuda:N``, each GPU to every n-th worker.

    Args:
        choice: auto, cpu, cuda or mps; where no GPU of the kind works it is the CPU in any case.
        work: where workers claim their numbers.
        run: the run they count in.
    """
    if choice == "cpu":
        return "cpu"
    usable = [name for name in usable_gpus() if choice == "auto" or name.startswith(choice)]
    if not usable:
        return "cpu"
    return usable[work.claim_slot(run) % len(usable)]


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, default=str, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
