"""Names of files and folders without the patient's: exports are full of both.

Of a path those parts are shown that hold nothing but words of imaging and of archives, and short numbers, none of them
one that the header has of the patient. Headers alone would not do: they are often anonymised in folders that are not.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

HIDDEN = "***"
_WORDS = re.compile(r"[^\W_]+")
_PLAIN = re.compile(
    r"[a-z]|t[12]w?|stir|tirm|sag(ittal)?|ax(ial)?|tra(ns?|nsversal)?|cor(onal)?|dixon|[tf]se|fs|lws|lumbar|spine|mri?|"
    r"dicom(dir)?|dcm|ima|nii|gz|anat|data|export|(test|train)?images?|scans?|"
    r"(pa|st|se|im|img|image|series|study|sub|ses|case|pat|patient|exam|visit)?\d{0,4}|(pa|st|se|im)\d{5,8}",
    re.IGNORECASE,
)


def person_words(texts: Iterable[str]) -> frozenset[str]:
    """The words and numbers of what a header says of a person, in small letters.

    >>> sorted(person_words(["Doe^Jane", "PAT-0042"]))
    ['0042', 'doe', 'doejane', 'jane', 'pat', 'pat0042']
    """
    found: set[str] = set()
    for text in texts:
        words = [word.casefold() for word in _WORDS.findall(text)]
        found |= {*words, "".join(words)}
    return frozenset(word for word in found if len(word) > 1 or not word.isdigit())


def masked(name: str, person: Collection[str]) -> str:
    """A path with ``/`` between its parts, those hidden that may name a patient, of whom ``person`` are the words.

    >>> masked("DOE_JANE/T2_sag/doe.0003.ima", person_words(["Doe^Jane"]))
    '***/T2_sag/***'
    >>> masked("Jane Doe/1001/T2_sag.nii.gz", ())
    '***/1001/T2_sag.nii.gz'
    """
    return "/".join(part if _is_safe(part, person) else HIDDEN for part in name.replace("\\", "/").split("/"))


def _is_safe(part: str, person: Collection[str]) -> bool:
    words = [word.casefold() for word in _WORDS.findall(part)]
    joined = "".join(words)
    if any(word in words or (len(word) > 2 and word in joined) for word in person):
        return False
    return all(_PLAIN.fullmatch(word) for word in words)
