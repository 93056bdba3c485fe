"""Whose file is it? Folders that the program uses carry a mark, and only what the program made is ever deleted.

A folder is claimed before anything is written into it: one that is new or empty gets the mark, one that carries the
mark of the same kind is taken over, any other is refused. What is deleted from it is deleted file by file by names the
program itself gives; nothing is reached through a link, and a folder with anything else in it stays. A lock keeps two
runs from writing the same results.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import tempfile
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.files import read_bounded, write_text

if TYPE_CHECKING:
    from filelock import BaseFileLock

MARK = ".lumbar-grading"
"""Name of the mark, a JSON object: ``kind`` of the folder, whether it was ``made`` here, ``format`` of marks."""
FORMAT = 1
_UNFINISHED_MARK = re.compile(rf"\.{re.escape(MARK)}\.[0-9a-f]+\.partial")


class RefusedError(ValueError):
    """The call would write over, empty or delete what the program did not make. Nothing was touched; exit status 2."""


class BusyError(Exception):
    """Another process holds the lock; exit status 1, for the same call may be right a little later."""


def check_claim(folder: Path, kind: str, besides: Collection[str] = ()) -> None:
    """Say before any work whether :func:`claim` would be refused; writes nothing.

    Args:
        folder: to claim.
        kind: of what the program will write there.
        besides: names that a user may have put there before; a folder of nothing else counts as empty.

    Raises:
        RefusedError: there is a file, or a folder that is not empty and does not carry the mark of this kind.
        OSError: it cannot be read.
    """
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise RefusedError(f"{folder}: is no folder and is left as it is; name a new or empty folder")
    names = sorted(
        path.name for path in folder.iterdir() if path.name not in besides and not _UNFINISHED_MARK.fullmatch(path.name)
    )
    found = _mark(folder).get("kind")
    if names and found != kind:
        made = "was not made by this program" if found is None else f"was made for {found!r}, not for {kind!r}"
        raise RefusedError(
            f"{folder}: is not empty ({len(names)} entries, the first is {names[0]!r}) and {made}; it is left as it "
            "is: name a new or empty folder, or remove this one yourself"
        )


def claim(folder: Path, kind: str, besides: Collection[str] = ()) -> None:
    """Make ``folder`` the program's own, for files of ``kind``; its mark says so to later calls.

    Raises:
        RefusedError: as :func:`check_claim`.
        OSError: it cannot be made or marked.
    """
    check_claim(folder, kind, besides)
    made = not folder.is_dir()
    folder.mkdir(parents=True, exist_ok=True)
    if not is_owned(folder, kind):
        write_text(folder / MARK, json.dumps({"kind": kind, "made": made, "format": FORMAT}) + "\n")


def is_owned(folder: Path, kind: str) -> bool:
    """Whether the folder carries the mark of this kind."""
    return _mark(folder).get("kind") == kind


def delete_known(folder: Path, kind: str, known: re.Pattern[str]) -> None:
    """Delete the regular files of a claimed folder whose path in it (``a/b.txt``) is wholly matched by ``known``.

    Links, strangers' files and all that lies behind a link stay; a subfolder goes when this has emptied it. Nothing
    happens to a folder without the mark. What cannot be deleted stays; this never raises for it.
    """
    if is_owned(folder, kind):
        with contextlib.suppress(RecursionError):
            _delete(folder, "", known)


def remove(folder: Path, kind: str, known: re.Pattern[str]) -> bool:
    """As :func:`delete_known`, then the mark if nothing else is left, and the folder if :func:`claim` made it.

    Returns whether nothing is left.
    """
    delete_known(folder, kind, known)
    with contextlib.suppress(OSError):
        mark = _mark(folder)
        if mark.get("kind") == kind and [path.name for path in folder.iterdir()] == [MARK]:
            (folder / MARK).unlink()
            if mark.get("made") is True:
                folder.rmdir()
            return True
    return False


def check_apart(
    reads: Mapping[str, Path | None], writes: Mapping[str, Path | None], empties: Mapping[str, Path | None]
) -> None:
    """Refuse paths of one call that reach into each other, by whatever links or spelling.

    Keys are what the user calls them, e.g. ``--data``; None stands for a path that was not given.

    Args:
        reads: input files and folders; nothing may be written to or inside one.
        writes: result files, and folders into which single files of known names are written.
        empties: folders that are claimed, from which files are deleted; nothing else may lie inside one.

    Raises:
        RefusedError: two are the same place, or one lies where it would be written over or deleted.
    """
    inputs, results, own = ([(n, p) for n, p in given.items() if p is not None] for given in (reads, writes, empties))
    outputs = [*results, *own]
    steps = {path: _steps(path) for _, path in (*inputs, *outputs)}
    for number, (name, path) in enumerate(outputs):
        for other, place in (*inputs, *outputs[:number]):
            if _is_within(steps[path], steps[place]) and _is_within(steps[place], steps[path]):
                raise RefusedError(f"{name} {path} and {other} {place} are the same place; name two")
        for other, place in (*inputs, *own):
            if other != name and _is_within(steps[path], steps[place]):
                why = "from which this program deletes" if (other, place) in own else "to which it must not write"
                raise RefusedError(f"{name} {path} lies inside {other} {place}, {why}; name a place outside of it")
    for name, path in own:
        for other, place in inputs:
            if _is_within(steps[place], steps[path]):
                raise RefusedError(
                    f"{other} {place} lies inside {name} {path}, from which this program deletes; name another {name}"
                )


def check_table(name: str, path: Path, columns: Sequence[str]) -> None:
    """A file that is there is replaced only if it is empty or a table of the same kind, for it may be somebody's work.

    Args:
        name: what the user calls it, e.g. ``--out``.
        path: of the table to be written.
        columns: of that table.

    Raises:
        RefusedError: it is something else.
    """
    header = first_line(path) if is_there(name, path) else ""
    if header and [column.strip(' "') for column in header.split(",")] != list(columns):
        expected = ",".join(columns) if len(columns) <= 5 else f"{','.join(columns[:2])},..."
        raise RefusedError(
            f"{name} {path}: exists and starts with {header[:60]!r}, not with {expected!r}; "
            "it is left as it is, name another file or remove it"
        )


def is_there(name: str, path: Path) -> bool:
    """Whether there is a file that could be replaced.

    Raises:
        RefusedError: there is a folder, a link, a device or a pipe.
    """
    if path.is_dir():
        raise RefusedError(f"{name} {path}: is a folder; expected the name of a file")
    if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
        raise RefusedError(
            f"{name} {path}: is a link, a pipe or a device and is left as it is; expected the name of a file"
        )
    return path.is_file()


def first_line(path: Path) -> str:
    """What the first line of a file says, without its end; empty where there is nothing."""
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.readline(10_000).strip().removeprefix("\ufeff")


@contextlib.contextmanager
def hold(path: Path, what: str) -> Iterator[str]:
    """Hold a lock file while the body runs. The lock ends with the process, however that ends; the file may stay.

    Yields "", or why nothing is locked: the folder cannot be written, its file system knows no locks, or a file of
    somebody else's has the name. The body then runs all the same.

    Args:
        path: an empty file, made here and deleted at the end.
        what: is locked, for the message.

    Raises:
        BusyError: another process holds it.
    """
    lock, why = _lock(path)
    if lock is None and not why:
        raise BusyError(f"{what}: another run is writing there; wait until it has ended, or name another place")
    try:
        yield why
    finally:
        if lock is not None:
            try:
                path.unlink()  # while it is held, so that nobody waits for a file that is about to go
                lock.release()
            except OSError:  # Windows deletes no file that somebody has open, be it another run by then
                lock.release()
                with contextlib.suppress(OSError):
                    path.unlink()


def _lock(path: Path) -> tuple[BaseFileLock | None, str]:
    """The lock, or why there is none; neither where another process has it."""
    from filelock import FileLock, Timeout

    try:
        if os.path.lexists(path) and (not stat.S_ISREG(path.lstat().st_mode) or path.lstat().st_size):
            return None, "there is a file of somebody else's"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a soft lock is used where there is no other
            lock = FileLock(path)
            lock.acquire(timeout=0)
    except Timeout:
        return None, "" if _knows_locks(path.parent) else "the file system knows no locks"
    except (OSError, NotImplementedError) as error:
        return None, str(getattr(error, "strerror", None) or error)
    if not path.exists():  # filelock before 4 takes a file that its holder has just deleted
        lock.release()
        return None, ""
    return lock, ""


def _knows_locks(folder: Path) -> bool:
    """Whether a lock that nobody can hold is free; filelock before 4 says that one is taken where none can be had."""
    from filelock import FileLock, Timeout

    with contextlib.suppress(OSError, NotImplementedError), tempfile.TemporaryDirectory(dir=folder) as probe:
        try:
            FileLock(Path(probe) / "lock").acquire(timeout=0).lock.release()
        except Timeout:
            return False
    return True


def _mark(folder: Path) -> dict[str, Any]:
    """What the folder's mark says; empty without one."""
    try:
        content = json.loads(read_bounded(folder / MARK, 4096))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) and content.get("format") == FORMAT else {}


def _delete(folder: Path, inside: str, known: re.Pattern[str]) -> bool:
    """Whether something went."""
    went = False
    with contextlib.suppress(OSError):
        for path in list(folder.iterdir()):
            name = inside + path.name
            with contextlib.suppress(OSError):
                if path.is_symlink():
                    continue
                if path.is_dir():
                    if _delete(path, f"{name}/", known):
                        went = True
                        path.rmdir()
                elif path.is_file() and name != MARK and (known.fullmatch(name) or _UNFINISHED_MARK.fullmatch(name)):
                    path.unlink()
                    went = True
    return went


def _is_within(path: list[object], folder: list[object]) -> bool:
    """Whether the one is the other or lies inside it, both as :func:`_steps`, also where neither exists yet."""
    first = max(number for number, step in enumerate(folder) if isinstance(step, tuple))
    end = folder[first:]  # from the last part that exists, wherever it is mounted
    return any(path[number : number + len(end)] == end for number in range(len(path)))


def _steps(path: Path) -> list[object]:
    """The way from the root to ``path``: places that exist by device and number, others by name."""
    real = Path(os.path.realpath(path))
    steps: list[object] = []
    one_case = False
    for place in (*reversed(real.parents), real):
        try:
            found = place.stat()
        except OSError:
            steps.append(place.name.casefold() if one_case else place.name)
            continue
        steps.append((found.st_dev, found.st_ino))
        swapped = place.with_name(place.name.swapcase()) if place.name else place
        if swapped != place:
            one_case = swapped.exists() and swapped.samefile(place)
    return steps
