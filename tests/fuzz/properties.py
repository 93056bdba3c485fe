"""The property tests, with other examples each time; the test command always draws the same ones."""

from __future__ import annotations

import importlib
import inspect
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import seed as seeded
from hypothesis import settings

MODULES = ("tests.test_names", "tests.test_tables", "tests.volumes.test_properties")
"""Whose tests are property tests; ``tests/fuzz/test_fuzz.py`` sees to it that none is missing."""
HANG_SECONDS = 120.0


def properties() -> dict[str, Any]:
    """The property tests that take nothing but what is drawn, by name."""
    found = {}
    for module in map(importlib.import_module, MODULES):
        for name, test in inspect.getmembers(module, lambda one: hasattr(one, "hypothesis")):
            if not inspect.signature(test).parameters:
                found[f"{module.__name__}.{name}"] = test
    return found


def prepare(folder: Path) -> None:
    """There is nothing to mutate."""


def begin(corpus: None, folder: Path) -> Callable[[int, int], tuple[str, list[str], str | None]]:
    """A case is one of the tests, with examples of its own seed."""
    settings.register_profile("others", derandomize=False, database=None, deadline=None)
    settings.load_profile("others")  # before the tests are imported
    tests = properties()

    def run(seed: int, number: int) -> tuple[str, list[str], str | None]:
        name = list(tests)[number % len(tests)]
        try:
            seeded(1_000_000 * seed + number)(tests[name])()
        except Exception as error:
            return name, ["failed"], "".join(traceback.format_exception(error))
        return name, ["holds"], None

    return run


def keep(corpus: None, seed: int, number: int, path: Path) -> None:
    """What failed is in the message; here is how to have it again."""
    test = list(properties())[number % len(properties())]
    text = f"{test}: the message has the example; all of them: @seed({1_000_000 * seed + number})\n"
    path.with_suffix(".txt").write_text(text, encoding="utf-8")
