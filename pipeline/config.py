"""Typed settings: frozen dataclasses filled from mappings; presets (:mod:`pipeline.preset`) give these.

A misspelt key that silently becomes a default costs a training run, so every key and every value is checked
against the dataclass: unknown keys are refused with the nearest known one, numbers, enums, tuples and optional
values by their declared type. The same functions write settings beside a checkpoint and read them back.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import operator
import types
import typing
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

MOST_SHOWN = 200
"""Characters of a wrong value that a message repeats; it may come from a file and be of any length."""


class ConfigError(ValueError):
    """A setting that does not exist or has the wrong type; the message names the key and what was expected."""


def to_dict(settings: Any) -> dict[str, Any]:
    """Plain dicts, lists, strings and numbers that JSON and YAML can hold; the inverse of :func:`from_dict`."""
    return {field.name: _plain(getattr(settings, field.name)) for field in dataclasses.fields(settings)}


def from_dict(cls: type[T], mapping: Any, where: str = "") -> T:
    """An instance of dataclass ``cls`` from a mapping (of whatever a file holds), nested dataclasses included.

    Raises:
        ConfigError: an unknown or missing key, or a value of the wrong type; ``where`` prefixes the key's name.
    """
    if not dataclasses.is_dataclass(cls):
        raise TypeError(f"{cls!r} is not a dataclass")
    if not isinstance(mapping, Mapping):
        raise wrong(where.rstrip(".") or cls.__name__, mapping, f"a mapping of {cls.__name__}")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    values: dict[str, Any] = {}
    for key, value in mapping.items():
        name = f"{where}{key!s:.{MOST_SHOWN}}"
        if key not in fields:
            near = difflib.get_close_matches(name.removeprefix(where), fields, n=1, cutoff=0.0)
            hint = f"; did you mean {where}{near[0]}?" if near else ""
            raise ConfigError(f"unknown setting {name!r} of {cls.__name__}{hint}")
        values[key] = convert(hints[key], value, name)
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise ConfigError(f"setting {where}{name!s} of {cls.__name__} is missing and has no default")
    try:
        return cls(**values)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{where or cls.__name__}: {error}") from error


def check_range(
    settings: Any,
    *names: str,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> None:
    """Refuse numbers outside of a range; for a ``__post_init__``. A value of None is not looked at.

    Raises:
        ValueError: ``BlurSettings: share is 1.5, expected at least 0 and at most 1``; NaN is in no range.
    """
    bounds = [
        (least, "at least", operator.ge), (above, "above", operator.gt),
        (most, "at most", operator.le), (below, "below", operator.lt),
    ]  # fmt: skip
    asked = [(limit, words, fits) for limit, words, fits in bounds if limit is not None]
    for name in names:
        value = getattr(settings, name)
        if value is not None and not all(fits(value, limit) for limit, _, fits in asked):
            expected = " and ".join(f"{words} {limit:g}" for limit, words, _ in asked)
            raise ValueError(f"{type(settings).__name__}: {name} is {value!r:.{MOST_SHOWN}}, expected {expected}")


def convert(hint: Any, value: Any, name: str) -> Any:
    origin = typing.get_origin(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _convert_union(hint, value, name)
    if origin is typing.Literal:
        if value in typing.get_args(hint):
            return value
        raise wrong(name, value, "one of " + ", ".join(map(repr, typing.get_args(hint))))
    if origin is tuple:
        return _convert_tuple(hint, value, name)
    if origin in (list, Sequence):
        (item,) = typing.get_args(hint)
        return [convert(item, part, f"{name}[{i}]") for i, part in enumerate(_as_list(value, name))]
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise wrong(name, value, "a mapping")
        key_hint, item = typing.get_args(hint)
        return {convert(key_hint, k, name): convert(item, v, f"{name}.{k!s:.{MOST_SHOWN}}") for k, v in value.items()}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, hint):
            return value
        return from_dict(hint, value, where=f"{name}.")
    if isinstance(hint, type) and issubclass(hint, Enum):
        try:
            return hint(value)
        except ValueError:
            raise wrong(name, value, "one of " + ", ".join(repr(m.value) for m in hint)) from None
    return _convert_scalar(hint, value, name)


def _convert_scalar(hint: Any, value: Any, name: str) -> Any:
    if hint is bool and isinstance(value, bool):
        return value
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)  # YAML 1.1 reads 1e-3 as text
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
        raise wrong(name, value, "a finite number")
    if hint is str and isinstance(value, str):
        return value
    if hint is Path and isinstance(value, str | Path):
        return Path(value)
    if hint is type(None) and value is None:
        return None
    if hint not in (bool, int, float, str) and isinstance(value, hint):
        return value  # an object that is one already, such as an array
    raise wrong(name, value, getattr(hint, "__name__", str(hint)))


def _convert_union(hint: Any, value: Any, name: str) -> Any:
    choices = typing.get_args(hint)
    if value is None and type(None) in choices:
        return None
    failures: list[str] = []
    for choice in choices:
        if choice is type(None):
            continue
        try:
            return convert(choice, value, name)
        except ConfigError as error:
            failures.append(str(error))
    raise ConfigError(failures[0] if len(failures) == 1 else f"setting {name!r}: " + "; or ".join(failures))


def _convert_tuple(hint: Any, value: Any, name: str) -> tuple[Any, ...]:
    parts = _as_list(value, name)
    items = typing.get_args(hint)
    if len(items) == 2 and items[1] is Ellipsis:
        return tuple(convert(items[0], part, f"{name}[{i}]") for i, part in enumerate(parts))
    if len(items) != len(parts):
        raise wrong(name, value, f"{len(items)} values")
    return tuple(convert(item, part, f"{name}[{i}]") for i, (item, part) in enumerate(zip(items, parts, strict=True)))


def _as_list(value: Any, name: str) -> list[Any]:
    if isinstance(value, list | tuple):
        return list(value)
    raise wrong(name, value, "a list")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def wrong(name: str, value: Any, expected: str) -> ConfigError:
    return ConfigError(f"setting {name!r}: expected {expected}, found {value!r:.{MOST_SHOWN}} ({type(value).__name__})")
