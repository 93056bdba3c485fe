"""What a file that somebody else wrote may say: names that stay in their folder, and JSON of numbers that are numbers.

How such a file is read, without following a link or waiting for a pipe, is :func:`pipeline.files.read_bounded`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

MOST_DEPTH = 32
"""Levels of brackets in a JSON text; the settings of a network have six."""

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,118}[A-Za-z0-9_-])?")
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\.|$)", re.IGNORECASE)
"""Names that mean a device on Windows, whatever their suffix."""


def check_name(name: str) -> None:
    """Refuse what is not the plain name of a file, which stays in its folder on every system and means nothing else.

    Raises:
        ValueError: it is empty, hidden, too long, leads to another folder, or means a device.
    """
    if not _NAME.fullmatch(name) or _DEVICE.match(name):
        raise ValueError(
            f"{name!r:.100} is not a plain name: expected at most 120 letters, digits, '.', '_' and '-', no folder, "
            "the first and last a letter or digit, and no device"
        )


def parse_json(content: bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is no JSON in UTF-8, is nested deeper than ``MOST_DEPTH``, has a number that is not finite, or an
            object that names a key twice.
    """
    try:
        value = json.loads(
            content.decode("utf-8"), object_pairs_hook=_each_once, parse_float=_finite, parse_constant=_finite
        )
    except RecursionError:
        raise ValueError(f"is nested deeper than {MOST_DEPTH} levels") from None
    except ValueError as error:
        raise ValueError(f"is not JSON: {error}") from error
    level, depth = [value], 0
    while level := [part for whole in level for part in _parts(whole)]:
        depth += 1
        if depth > MOST_DEPTH:
            raise ValueError(f"is nested deeper than {MOST_DEPTH} levels")
    return value


def _parts(value: Any) -> Sequence[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else ()


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {max(names, key=names.count)!r:.80} is there twice")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text:.40} is not finite")
    return value
