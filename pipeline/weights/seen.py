"""Which studies a network has seen: a list of truncated hashes beside its file, enough to ask and no list of ids."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from pipeline.files import read_bounded, write_atomically
from pipeline.weights.manifest import MOST_FILE_BYTES, WeightsError, hashes_in


def study_hash(study_id: str) -> str:
    """16 hexadecimal digits that stand for a study in a list of seen studies."""
    return hashlib.sha256(study_id.encode()).hexdigest()[:16]


def seen_studies(study_ids: Iterable[str], start_from: str = "", held_out: Iterable[str] = ()) -> list[str]:
    """The hashes of the studies that a network has seen when its training ends, sorted.

    Args:
        study_ids: what the run trains on.
        start_from: weights that it continues from; what they have seen, it has seen too.
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
    """Write a list of :func:`seen_studies`."""
    write_atomically(path, lambda partial: partial.write_bytes(seen_list(hashes)))


def seen_list(hashes: Iterable[str]) -> bytes:
    """The content of a list of :func:`seen_studies`, a hash a line."""
    return "".join(f"{line}\n" for line in hashes).encode("ascii")


def _seen_by(weights: Path) -> set[str]:
    """The list beside a member's file (``NAME.seen.txt``) or in a run's folder (``seen.txt``)."""
    for path in (weights.with_name(f"{weights.stem}.seen.txt"), weights.with_name("seen.txt")):
        if path.is_file():
            return set(hashes_in(path, read_bounded(path, MOST_FILE_BYTES)))
    raise WeightsError(
        f"{weights}: neither {weights.stem}.seen.txt nor seen.txt lies beside it, so nobody knows which studies these "
        "weights have seen; start from a run's or a weights folder"
    )
