"""Names from outside (folders, files, cells of tables, headers) as text that can be shown, written and compared.

A file's name is any bytes but a slash, and a table or a header holds whatever was typed into it: bytes that are no
UTF-8, line breaks, a terminal's control sequences, signs that turn the direction of writing, a spreadsheet's formulas.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from typing import Any

_OUTER_SPACES = re.compile("^ +| +$")  # readers of tables take them off a cell
_LIKE_ESCAPED = re.compile(r"\\[\\xuU]")
_NUMBER = re.compile(r"(?P<whole>\d{1,40})([.,](?P<decimals>\d{0,40}))?([eE]\+?(?P<power>\d{1,2}))?", re.ASCII)
_FORMULA = "[=+@\uff1d\uff0b\uff0d\uff20-]"
"""What makes a spreadsheet take a cell for a formula, the full-width forms among it."""
_TO_GUARD, _GUARDED = re.compile(f"'*{_FORMULA}"), re.compile(f"'+{_FORMULA}")


def shown(text: object, longest: int = 2000) -> str:
    r"""A text in one line of printable characters: what a log, a terminal or a message gets to see.

    Of more than ``longest`` characters the first are shown; a table may hold a name of a million.

    >>> print(shown("caf\udce9\n\x1b[31m"))
    caf\xe9\x0a\x1b[31m
    """
    line = str(text)
    if not line.isprintable():
        line = "".join(map(_escaped, line))
    return line if len(line) <= longest else f"{line[: longest - 40]}... ({len(line)} characters)"


def plain_id(name: str) -> str:
    r"""The id of a study or series of this name: the name itself, if it can be shown and written as UTF-8.

    Otherwise it is escaped, and so is a name that looks like an escaped one: two names never have the same id.

    >>> print(plain_id("1234"), plain_id("caf\udce9"), plain_id(r"caf\xe9"))
    1234 caf\xe9 caf\\xe9
    """
    if name.isprintable() and name == name.strip() and not _LIKE_ESCAPED.search(name):
        return name
    text = "".join(map(_escaped, name.replace("\\", r"\\")))
    return _OUTER_SPACES.sub(lambda spaces: r"\x20" * len(spaces.group()), text)


def meant_id(text: str, names: Collection[str]) -> str | None:
    """The one of some folders' names that a spreadsheet may have turned into ``text``; None for none or several.

    Spreadsheets take ids for numbers: they drop leading zeros, add decimals, and round to a power of ten.

    >>> meant_id("4003253.0", ["4003253", "4003254"]), meant_id("12", ["0012"]), meant_id("4.003E+06", ["4003253"])
    ('4003253', '0012', '4003253')
    >>> meant_id("4E+06", ["4003253", "4003254"])
    """
    found = _NUMBER.fullmatch(text)
    if found is None or (found["power"] is None and (found["decimals"] or "").strip("0")):
        return None
    decimals = found["decimals"] or ""
    scale = int(found["power"] or len(decimals)) - len(decimals)
    if scale < 0:
        return None
    value, slack = int(found["whole"] + decimals) * 10**scale, 10**scale // 2
    if found["power"] is None:
        value, slack = int(found["whole"]), 0
    numbers = [name for name in names if name.isascii() and name.isdecimal() and len(name) <= 40]
    meant = [name for name in numbers if abs(int(name) - value) <= slack]
    return meant[0] if len(meant) == 1 else None


def is_rounded(text: str) -> bool:
    """Whether a text is a number with a power of ten, as spreadsheets show long ones."""
    found = _NUMBER.fullmatch(text)
    return found is not None and found["power"] is not None


def shown_all(content: Any) -> Any:
    """Lists and mappings with every text in them, also as a key, :func:`shown`."""
    if isinstance(content, Mapping):
        return {shown(key): shown_all(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [shown_all(value) for value in content]
    return shown(content) if isinstance(content, str | os.PathLike) else content


def file_name(name: str) -> str:
    """A name that the system gave, read as UTF-8 whatever the locale; other bytes are surrogates (PEP 383)."""
    return os.fsencode(name).decode("utf-8", "surrogateescape")


def stem(name: str) -> str:
    """The letters and digits of a name, at most 40: the beginning of a file's name."""
    return "".join(sign for sign in name if sign.isalnum())[:40]


def guarded(cell: str) -> str:
    """A cell of a table for people, with an apostrophe before what a spreadsheet would take for a formula."""
    return f"'{cell}" if _TO_GUARD.match(cell) else cell


def unguarded(cell: str) -> str:
    """The inverse of :func:`guarded`."""
    return cell[1:] if _GUARDED.match(cell) else cell


def _escaped(sign: str) -> str:
    if sign.isprintable():
        return sign
    code = ord(sign)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
