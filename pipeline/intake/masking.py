"""Names of files and folders without the patient's: exports are full of both.

Where the header names a patient, a part of a path that holds any of these words or numbers is hidden. Where nothing
names one (NIfTI, anonymised headers in folders that were not renamed) only words of imaging and short numbers are
shown, for what is left may be a name.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

HIDDEN = "***"
_WORDS = re.compile(r"[^\W_]+")
_IMAGING = re.compile(
    r"t[12]|stir|tirm|sag(ittal)?|ax(ial)?|tra(nsversal)?|cor(onal)?|dixon|[tf]se|fs|w|lws|lumbar|spine|mri?|dicom|dcm|"
    r"ima|img|images?|nii|gz|sub|ses|anat|series|study|pa|st|se|im|(pa|st|se|im|img|image|series|study|sub|ses)?\d{1,8}",
    re.IGNORECASE,
)


def person_words(texts: Iterable[str]) -> frozenset[str]:
    """The words and numbers of what a header says of a person, in small letters.

    >>> sorted(person_words(["Doe^Jane", "PAT-0042"]))
    ['0042', 'doe', 'jane', 'pat', 'pat0042']
    """
    found: set[str] = set()
    for text in texts:
        words = [word.casefold() for word in _WORDS.findall(text)]
        found |= {*words, "".join(words)}
    return frozenset(word for word in found if len(word) > 1 or not word.isdigit())


def masked(name: str, person: Collection[str]) -> str:
    """A path with ``/`` between its parts, those hidden that may name the patient.

    >>> masked("DOE_JANE/T2_sag/doe.0003.ima", person_words(["Doe^Jane"]))
    '***/T2_sag/***'
    >>> masked("Jane Doe/1001/T2_sag.nii.gz", ())
    '***/1001/T2_sag.nii.gz'
    """
    return "/".join(part if _is_safe(part, person) else HIDDEN for part in name.replace("\\", "/").split("/"))


def _is_safe(part: str, person: Collection[str]) -> bool:
    words = [word.casefold() for word in _WORDS.findall(part)]
    if not person:
        return all(_IMAGING.fullmatch(word) for word in words)
    joined = "".join(words)
    return not any(word in words or (len(word) > 2 and word in joined) for word in person)
