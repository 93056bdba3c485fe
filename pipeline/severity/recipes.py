"""The classifiers that ``train all`` trains: one of each family, or all of the ``recipes`` that a preset has of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import ConfigError
from pipeline.labels import Family
from pipeline.preset import load_settings, read_recipes
from pipeline.severity.settings import SeveritySettings


@dataclass(frozen=True)
class Recipe:
    """One kind of network of a family.

    Attributes:
        family: that it grades.
        key: of the preset's ``recipes``; empty for the section's own settings.
        settings: of its training.
    """

    family: Family
    key: str
    settings: SeveritySettings

    @property
    def name(self) -> str:
        """Of its runs, its networks and its out-of-fold table."""
        return recipe_name(self.family, self.key)

    @property
    def rounds(self) -> int:
        """How often it is trained: a second time where the first networks rule labels out or give some."""
        return 2 if self.settings.label_noise or self.settings.pseudo_labels else 1


def recipe_name(family: Family, key: str) -> str:
    """``foraminal-zoom`` for the recipe ``zoom``, ``foraminal`` for the only one."""
    return f"{family.value}-{key}" if key else family.value


def recipe_keys(preset: str | Path | None, families: Sequence[Family]) -> dict[str, tuple[Family, str]]:
    """Family and key of every recipe of a preset, by name, in the order of the file; raises ConfigError."""
    return {
        recipe_name(family, key): (family, key) for family in families for key in read_recipes(preset, family.value)
    }


def load_recipes(
    preset: str | Path | None, families: Sequence[Family], overrides: Mapping[str, Sequence[str]]
) -> list[Recipe]:
    """Every recipe of a preset with its settings.

    Args:
        preset: name or path; None for the defaults.
        families: that are trained.
        overrides: ``key=value`` texts by the name of the recipe.

    Raises:
        ConfigError: a setting of any of them is wrong.
    """
    recipes = []
    for name, (family, key) in recipe_keys(preset, families).items():
        settings = load_settings(SeveritySettings, preset, family.value, overrides.get(name, ()), key)
        try:
            settings.families(family)
        except ValueError as error:
            raise ConfigError(f"{name}: {error}") from error
        recipes.append(Recipe(family, key, settings))
    return recipes
