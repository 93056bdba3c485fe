"""Presets: YAML files of settings, a section for each kind of network, with recipes and ``key.sub=value`` overrides."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import yaml

from pipeline.config import MOST_SHOWN, ConfigError, convert, from_dict, wrong

T = TypeVar("T")

PRESET_FOLDER = Path(__file__).parent / "presets"
PRESET_SECTIONS = ("landmarks", "axial", "canal", "foraminal", "subarticular")
"""Of a preset: one for each kind of network."""
RECIPE_SECTIONS = PRESET_SECTIONS[2:]
"""Those that may have ``recipes``: further networks, each a few changes of the section's own settings."""


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
            raise ConfigError(f"preset {preset}: section {section!r} is {type(chosen).__name__}, expected a mapping")
        mapping = _merged(chosen or {}, {})  # a copy: YAML's aliases are one object
    if section in RECIPE_SECTIONS:
        recipes = read_recipes(preset, section)
        mapping.pop("recipes", None)
        if recipe and recipe not in recipes:
            raise ConfigError(
                f"preset {preset}: {section} has no recipe {recipe!r:.{MOST_SHOWN}}, but {', '.join(recipes)}"
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
    blocks = convert(dict[str, dict[str, Any] | None], found, f"{section}.recipes")
    for name in blocks:
        if not re.fullmatch("[a-z0-9_]{1,40}", name):
            raise wrong(f"{section}.recipes", name, "names of small letters, digits and underscores")
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
        raise ConfigError(f"{path}: expected a mapping of sections, found {type(content).__name__}")
    base = content.pop("base", None)
    if base is None:
        return content
    if not isinstance(base, str) or path in above:
        raise ConfigError(f"{path}: base is {base!r}; expected the name of another preset or the path of a .yaml file")
    return _merged(read_preset(base, (*above, path)), content)


def _set(mapping: dict[str, Any], keys: list[str], value: Any, override: str) -> None:
    for key in keys[:-1]:
        mapping = mapping.setdefault(key, {})
        if not isinstance(mapping, dict):
            raise ConfigError(f"--set {override}: {key} is a value, it has no settings below it")
    mapping[keys[-1]] = value


def _yaml(content: bytes, where: str) -> Any:
    return copy.deepcopy(_parsed(content, where))


@lru_cache
def _parsed(content: bytes, where: str) -> Any:
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
