"""The validators of dcmtk and dicom3tools, which are Debian's packages and no Python."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

_PROGRAMS = ("dsrdump", "dsr2xml", "dciodvfy")


def check_report(path: Path) -> None:
    """Fail where one of them finds an error in a structured report; skip, loudly, where one is missing."""
    if missing := [name for name in _PROGRAMS if shutil.which(name) is None]:
        pytest.skip(f"NOT VALIDATED: {', '.join(missing)} missing; apt-get install dcmtk dicom3tools")
    for command in ("dsrdump", "dsr2xml"):
        done = subprocess.run([command, path], capture_output=True, text=True, check=True)
        assert not [line for line in done.stderr.splitlines() if line.startswith(("E:", "F:"))]
        assert "L4/L5 disc" in done.stdout
    checked = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
    said = (checked.stdout + checked.stderr).splitlines()
    assert "Comprehensive3DSR" in said
    assert [line for line in said if line.startswith("Error")] == []
    assert checked.returncode == 0
