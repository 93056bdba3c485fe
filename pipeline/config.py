"""Typed settings: frozen dataclasses filled from a YAML preset and ``key.sub=value`` overrides.

A misspelt key that silently becomes a default costs a training run, so every key and every value is checked
against the dataclass: unknown keys are refused with the nearest known one, numbers, enums, tuples and optional
values by their declared type. The same functions write settings beside a checkpoint and read them back.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import operator
import re
import types
import typing
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

import yaml

T = TypeVar("T")

PRESET_FOLDER = Path(__file__).parent / "presets"
PRESET_SECTIONS = ("landmarks", "axial", "canal", "foraminal", "subarticular")
"""Of a preset: one for each kind of network."""
RECIPE_SECTIONS = PRESET_SECTIONS[2:]
"""Those that may have ``recipes``: further networks, each a few changes of the section's own settings."""
_SHOWN = 200
"""Characters of a wrong value that a message repeats; it may come from a file and be of any length."""


class ConfigError(ValueError):
    """A setting that does not exist or has the wrong type; the message names the key and what was expected."""


def load_settings(
    cls: type[T],
    preset: str | Path | None = None,
    section: str | None = None,
    overrides: Sequence[str] = (),
    recipe: str = "",
) -> T:
    """Settings of type ``cls``: its defaults, then a preset's section, then overrides such as ``"optimiser.lr=1e-3"``.

    Args:
        cls: a (frozen) dataclass.
        preset: name of a file in ``pipeline/presets`` or a path to a YAML file; None for the defaults alone.
        section: the top-level key of the preset that holds these settings; a preset without it leaves the defaults.
            None takes the whole file.
        overrides: ``key=value`` texts, values in YAML notation.
        recipe: laid over the section, of :func:`read_recipes`; the section's own settings for none.

    Raises:
        ConfigError: an unknown preset, recipe, key or a value of the wrong type.
    """
    mapping: dict[str, Any] = {}
    if preset is not None:
        content = read_preset(preset)
        if section in PRESET_SECTIONS and (strange := [name for name in content if name not in PRESET_SECTIONS]):
            near = difflib.get_close_matches(str(strange[0]), PRESET_SECTIONS, 1)
            hint = f"did you mean {near[0]}?" if near else f"expected some of {', '.join(PRESET_SECTIONS)}, or base"
            raise ConfigError(f"preset {preset}: unknown section {strange[0]!r}; {hint}")
        chosen = content if section is None else content.get(section)
        if chosen is not None and not isinstance(chosen, Mapping):
            raise ConfigError(f"preset {preset}: section {section!r} is {_kind(chosen)}, expected a mapping")
        mapping = _merged(chosen or {}, {})  # a copy: YAML's aliases are one object
    if section in RECIPE_SECTIONS:
        recipes = read_recipes(preset, section)
        mapping.pop("recipes", None)
        if recipe and recipe not in recipes:
            raise ConfigError(
                f"preset {preset}: {section} has no recipe {recipe!r:.{_SHOWN}}, but {', '.join(recipes)}"
            )
        mapping = _merged(mapping, recipes.get(recipe, {}))
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {override}: expected KEY=VALUE")
        _set(
            mapping, key.strip().split("."), _yaml(text.encode(errors="surrogateescape"), f"--set {override}"), override
        )
    return from_dict(cls, mapping)


def read_recipes(preset: str | Path | None, section: str) -> dict[str, Any]:
    """What each recipe of a section changes of it, by name; ``{"": {}}``, the section alone, where it names none.

    A recipe that is null, say one of the ``base``, is left out. Raises ConfigError for what are no recipes.
    """
    content = None if preset is None else read_preset(preset).get(section)
    found = content.get("recipes", {}) if isinstance(content, Mapping) else {}
    blocks = _convert(dict[str, dict[str, Any] | None], found, f"{section}.recipes")
    for name in blocks:
        if not re.fullmatch("[a-z0-9_]{1,40}", name):
            raise _wrong(f"{section}.recipes", name, "names of small letters, digits and underscores")
    return {name: block for name, block in blocks.items() if block is not None} or {"": {}}


def read_preset(preset: str | Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The content of a preset by name (``cpu``) or path, laid over that of the preset that its ``base`` names.

    Args:
        preset: name, or path of a YAML file; of a ``base``, relative to the file that names it.
        above: the files on whose behalf it is read.

    Raises:
        ConfigError: it does not exist, is not a YAML mapping, or is its own base.
    """
    path = Path(preset)
    if above and not path.is_absolute() and path.suffix in (".yaml", ".yml"):
        path = above[-1].parent / path
    if path.suffix not in (".yaml", ".yml"):
        path = PRESET_FOLDER / f"{preset}.yaml"
    if not path.is_file():
        known = sorted(file.stem for file in PRESET_FOLDER.glob("*.yaml"))
        raise ConfigError(f"no preset {str(preset)!r}; expected one of {', '.join(known)} or the path of a .yaml file")
    content = _yaml(path.read_bytes(), str(path))
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a mapping of sections, found {_kind(content)}")
    base = content.pop("base", None)
    if base is None:
        return content
    if not isinstance(base, str) or path in above:
        raise ConfigError(f"{path}: base is {base!r}; expected the name of another preset or the path of a .yaml file")
    return _merged(read_preset(base, (*above, path)), content)


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
        raise _wrong(where.rstrip(".") or cls.__name__, mapping, f"a mapping of {cls.__name__}")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    values: dict[str, Any] = {}
    for key, value in mapping.items():
        name = f"{where}{key!s:.{_SHOWN}}"
        if key not in fields:
            near = difflib.get_close_matches(name.removeprefix(where), fields, n=1, cutoff=0.0)
            hint = f"; did you mean {where}{near[0]}?" if near else ""
            raise ConfigError(f"unknown setting {name!r} of {cls.__name__}{hint}")
        values[key] = _convert(hints[key], value, name)
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
            raise ValueError(f"{type(settings).__name__}: {name} is {value!r:.{_SHOWN}}, expected {expected}")


def _convert(hint: Any, value: Any, name: str) -> Any:
    origin = typing.get_origin(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _convert_union(hint, value, name)
    if origin is typing.Literal:
        if value in typing.get_args(hint):
            return value
        raise _wrong(name, value, "one of " + ", ".join(map(repr, typing.get_args(hint))))
    if origin is tuple:
        return _convert_tuple(hint, value, name)
    if origin in (list, Sequence):
        (item,) = typing.get_args(hint)
        return [_convert(item, part, f"{name}[{i}]") for i, part in enumerate(_as_list(value, name))]
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise _wrong(name, value, "a mapping")
        key_hint, item = typing.get_args(hint)
        return {_convert(key_hint, k, name): _convert(item, v, f"{name}.{k!s:.{_SHOWN}}") for k, v in value.items()}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, hint):
            return value
        return from_dict(hint, value, where=f"{name}.")
    if isinstance(hint, type) and issubclass(hint, Enum):
        try:
            return hint(value)
        except ValueError:
            raise _wrong(name, value, "one of " + ", ".join(repr(m.value) for m in hint)) from None
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
        raise _wrong(name, value, "a finite number")
    if hint is str and isinstance(value, str):
        return value
    if hint is Path and isinstance(value, str | Path):
        return Path(value)
    if hint is type(None) and value is None:
        return None
    if hint not in (bool, int, float, str) and isinstance(value, hint):
        return value  # an object that is one already, such as an array
    raise _wrong(name, value, getattr(hint, "__name__", str(hint)))


def _convert_union(hint: Any, value: Any, name: str) -> Any:
    choices = typing.get_args(hint)
    if value is None and type(None) in choices:
        return None
    failures: list[str] = []
    for choice in choices:
        if choice is type(None):
            continue
        try:
            return _convert(choice, value, name)
        except ConfigError as error:
            failures.append(str(error))
    raise ConfigError(failures[0] if len(failures) == 1 else f"setting {name!r}: " + "; or ".join(failures))


def _convert_tuple(hint: Any, value: Any, name: str) -> tuple[Any, ...]:
    parts = _as_list(value, name)
    items = typing.get_args(hint)
    if len(items) == 2 and items[1] is Ellipsis:
        return tuple(_convert(items[0], part, f"{name}[{i}]") for i, part in enumerate(parts))
    if len(items) != len(parts):
        raise _wrong(name, value, f"{len(items)} values")
    return tuple(_convert(item, part, f"{name}[{i}]") for i, (item, part) in enumerate(zip(items, parts, strict=True)))


def _as_list(value: Any, name: str) -> list[Any]:
    if isinstance(value, list | tuple):
        return list(value)
    raise _wrong(name, value, "a list")


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


def _set(mapping: dict[str, Any], keys: list[str], value: Any, override: str) -> None:
    for key in keys[:-1]:
        mapping = mapping.setdefault(key, {})
        if not isinstance(mapping, dict):
            raise ConfigError(f"--set {override}: {key} is a value, it has no settings below it")
    mapping[keys[-1]] = value


def _yaml(content: bytes, where: str) -> Any:
    try:
        return yaml.safe_load(content)
    except (ValueError, yaml.YAMLError) as error:  # a date that does not exist is a ValueError
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"
        raise ConfigError(
            f"{where}: not valid YAML: {getattr(error, 'problem', None) or ' '.join(str(error).split())}{place}"
        ) from error


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` laid over ``below``, mapping by mapping, in new mappings; other values replace each other."""
    result = {key: _merged(item, {}) if isinstance(item, Mapping) else item for key, item in below.items()}
    for key, item in above.items():
        inner = result.get(key)
        result[key] = _merged(inner, item) if isinstance(inner, Mapping) and isinstance(item, Mapping) else item
    return result


def _wrong(name: str, value: Any, expected: str) -> ConfigError:
    return ConfigError(f"setting {name!r}: expected {expected}, found {value!r:.{_SHOWN}} ({_kind(value)})")


def _kind(value: Any) -> str:
    return type(value).__name__
