"""What ``train ... --sweep FILE`` tries: every combination of a ``grid``, or the entries of a ``list``.

.. code-block:: yaml

    grid:
      loop.epochs: [4, 16]
      mix.share: [0, 0.5]

gives four trainings; ``list: {far: {mix.share: 0.5, loop.epochs: 16}}`` gives the one that it names.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline.config import ConfigError
from pipeline.files import read_bounded

MOST_BYTES = 2**20
MOST_TRIES = 1000
_LONGEST = 100
"""Characters of a folder's name."""


def read_sweep(path: Path) -> dict[str, list[str]]:
    """The overrides (``key=value``) of every training, by the name of its folder.

    Raises:
        ConfigError: the file is no such mapping, or has nothing or too much to try.
        OSError: it cannot be read.
    """
    try:
        content = yaml.safe_load(read_bounded(path, MOST_BYTES))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: is no YAML: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(content, Mapping) or len(content) != 1 or next(iter(content)) not in ("grid", "list"):
        raise ConfigError(f"{path}: expected one key, grid or list")
    ((kind, entries),) = content.items()
    if not isinstance(entries, Mapping) or not entries:
        raise ConfigError(f"{path}: {kind} is {entries!r}, expected a mapping with something in it")
    tries = _grid(path, entries) if kind == "grid" else _list(path, entries)
    return {name: [f"{key}={_text(value)}" for key, value in one.items()] for name, one in tries.items()}


def _grid(path: Path, entries: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    count = 1
    for key, values in entries.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"{path}: grid: {key} is {values!r}, expected a list of values")
        count *= len(values)
    if count > MOST_TRIES:
        raise ConfigError(f"{path}: {count} combinations, at most {MOST_TRIES}")
    tries: dict[str, dict[str, Any]] = {}
    for number, values in enumerate(itertools.product(*entries.values())):
        one = dict(zip(entries, values, strict=True))
        name = re.sub(
            r"[^\w.=,-]+", "", ",".join(f"{key}={_text(value)}" for key, value in one.items()), flags=re.ASCII
        )
        tries[name if len(name) <= _LONGEST and name not in tries else f"try{number:03d}"] = one
    return tries


def _list(path: Path, entries: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    for name, one in entries.items():
        if not re.fullmatch(rf"[\w.=,-]{{1,{_LONGEST}}}", str(name), re.ASCII) or str(name).strip(".") == "":
            raise ConfigError(f"{path}: list: {name!r} is no name for a folder; use letters, digits, dots and dashes")
        if not isinstance(one, Mapping):
            raise ConfigError(f"{path}: list: {name} is {one!r}, expected settings such as loop.epochs: 4")
    return {str(name): dict(one) for name, one in entries.items()}


def _text(value: Any) -> str:
    """A value as ``--set`` takes it, on one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n").removesuffix("\n...")
