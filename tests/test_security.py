"""What SECURITY.md promises is held by tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "SECURITY.md").read_text()


def test_every_test_that_is_named_exists():
    functions = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        functions |= set(re.findall(r"^def (test_\w+)\(", path.read_text(), re.MULTILINE))
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    assert len(named) > 30
    assert named - functions == set()


def test_every_file_that_is_named_exists():
    named = set(re.findall(r"`((?:tests|pipeline)/[\w/]+\.py)`", TEXT))
    assert len(named) > 5
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_every_promise_names_what_holds_it():
    promised = TEXT.partition("## What is promised")[2].partition("## What is not promised")[0]
    rows = [row for row in promised.splitlines() if row.startswith("| ") and "---" not in row and "held by" not in row]
    assert len(rows) > 10
    assert [row for row in rows if not re.search(r"`(test_\w+|tests/[\w/]+\.py)`", row.split(" | ")[-1])] == []
