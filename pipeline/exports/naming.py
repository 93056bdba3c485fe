"""Names of files that are called by a study's id, which may hold any sign."""

from __future__ import annotations

import hashlib

from pipeline.names import stem


def file_stem(study_id: str) -> str:
    """The id itself if it is of letters and digits, else its beginning and a hash: two ids never have one name.

    >>> file_stem("4003253"), file_stem("a/../b")
    ('4003253', 'ab-900ea8b7')
    """
    plain = stem(study_id)
    return plain if plain == study_id else f"{plain}-{hashlib.sha256(study_id.encode()).hexdigest()[:8]}"
