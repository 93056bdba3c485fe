"""A medium's index (DICOMDIR) against what is on the medium.

The files' own headers say what they are; the index is only asked what should be there. A reference is a name to look
for among the files that were found, so none can lead anywhere else.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection

from pipeline.problem import Problem
from pipeline.storage import INDEX, Storage
from pipeline.volumes.elements import parse_elements
from pipeline.volumes.limits import DEFAULT_LIMITS

_RECORDS, _REFERENCE = 0x00041220, 0x00041500
_MOST_BYTES = 64 * 2**20


def compare_index(storage: Storage, index: str, names: Collection[str]) -> list[Problem]:
    """What an index and the files beside it do not agree on.

    Args:
        storage: that holds both.
        index: the index.
        names: every other file that was found.
    """
    try:
        if storage.size(index) > _MOST_BYTES:
            raise OSError(f"it is larger than {_MOST_BYTES} bytes")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about names that are none by the standard; they are only compared
            dataset, _ = parse_elements(storage.read(index, _MOST_BYTES), [_RECORDS], DEFAULT_LIMITS)
            records = dataset[_RECORDS].value if _RECORDS in dataset else []
            references = [tuple(map(str, _parts(one[_REFERENCE].value))) for one in records if _REFERENCE in one]
    except Exception as error:  # whatever pydicom meets in a broken one; the files speak for themselves
        return [_problem("index-unreadable", f"{error}; the files are told by their own headers")]
    base = index.rpartition("/")[0]
    there = {_plain(name.replace("\\", "/").removeprefix(f"{base}/")): name for name in names}
    unsafe = [
        parts for parts in references if any(part in ("", ".", "..") or set(part) & set("/\\:") for part in parts)
    ]
    wanted = {_plain("/".join(parts)) for parts in references if parts not in unsafe}
    absent, unlisted = wanted - there.keys(), there.keys() - wanted
    problems = []
    if unsafe:
        problems.append(
            _problem("index-unsafe", f"{len(unsafe)} of its references lead out of the medium; not followed")
        )
    if absent:
        problems.append(_problem("index-absent", f"it lists {len(absent)} files that are not there"))
    if wanted and unlisted:
        problems.append(
            _problem("index-unlisted", f"{len(unlisted)} files are not in it; told by their headers all the same")
        )
    return problems


def _parts(value: object) -> list[object]:
    return [value] if isinstance(value, str) else list(value)  # type: ignore[call-overload]


def _plain(name: str) -> str:
    """A name as ISO 9660 may have changed it: small letters, no version, no full stop at the end."""
    return name.casefold().partition(";")[0].rstrip(".")


def _problem(what: str, detail: str) -> Problem:
    return Problem("", None, INDEX, what, detail)
