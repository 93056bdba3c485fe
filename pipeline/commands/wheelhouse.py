"""Wheels of the optional packages for a machine that cannot be asked: the Kaggle image, offline and of its own Python.

The base path needs no wheel (every package of ``requirements.txt`` is in that image), so a wheelhouse holds only what
``requirements-decoders.txt`` names, without dependencies: those have to be in the image or in the wheelhouse, and that
is checked from each wheel's own metadata.
"""

from __future__ import annotations

import email.parser
import hashlib
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

MARKER = "wheelhouse.json"
"""The file by which the notebook knows a wheelhouse."""
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
"""What the image's Ubuntu 22.04 (glibc 2.35) can load, newest first."""


class WheelError(RuntimeError):
    """A wheel could not be fetched, or needs a package that will not be there."""


@dataclass(frozen=True)
class Wheel:
    """A downloaded wheel: its distribution's normalised name and version."""

    path: Path
    name: str
    version: str


def build_wheelhouse(out: Path, requirements: Path, python_version: str, present: Iterable[str]) -> list[Wheel]:
    """Download wheels for the packages of a requirements file and write the marker beside them.

    Args:
        out: a folder that does not exist yet.
        requirements: the optional packages with their version ranges.
        python_version: of the machine that will install them, e.g. ``3.12``.
        present: distributions that machine has, which a wheel may therefore need.

    Raises:
        WheelError: pip found no fitting wheel, or one needs what is neither present nor in the wheelhouse.
        FileExistsError: ``out`` is there.
    """
    out.mkdir(parents=True)
    command = _pip_download(out, requirements, python_version)
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        last = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()[-1:]
        raise WheelError(
            f"{requirements.name}: pip found no wheels for Python {python_version} on Linux x86_64: {' '.join(last)}; "
            "is an index reachable? --no-wheels leaves them out"
        )
    wheels = [_describe(path) for path in sorted(out.glob("*.whl"))]
    _check_needs(wheels, {normalised(name) for name in present})
    content = {
        "python": python_version,
        "wheels": [
            {"file": wheel.path.name, "name": wheel.name, "version": wheel.version, "sha256": sha256_of(wheel.path)}
            for wheel in wheels
        ],
    }
    (out / MARKER).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return wheels


def requirement_names(path: Path) -> list[str]:
    """The normalised names of the distributions a requirements file lists; its options and includes are left out."""
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [_name_of(line) for line in lines if line and not line.startswith("-")]


def normalised(name: str) -> str:
    """A distribution's name as the packaging rules compare it: lower case, one dash for any run of ``-_.``."""
    return re.sub(r"[-_.]+", "-", name).lower()


def sha256_of(path: Path) -> str:
    """The checksum of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _pip_download(out: Path, requirements: Path, python_version: str) -> Sequence[str]:
    platforms = [part for platform in PLATFORMS for part in ("--platform", platform)]
    return [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-cache-dir"),
        *("--only-binary=:all:", "--no-deps", "--implementation", "cp", "--python-version", python_version),
        *platforms,
        *("--dest", str(out), "--requirement", str(requirements)),
    ]


def _describe(path: Path) -> Wheel:
    name, version = path.name.split("-")[:2]
    return Wheel(path, normalised(name), version)


def _check_needs(wheels: Sequence[Wheel], present: set[str]) -> None:
    there = present | {wheel.name for wheel in wheels}
    for wheel in wheels:
        missing = [name for name in _needs(wheel.path) if name not in there]
        if missing:
            raise WheelError(
                f"{wheel.path.name} needs {', '.join(missing)}, which is neither in requirements.txt nor in the "
                "wheelhouse; add it to requirements-decoders.txt"
            )


def _needs(path: Path) -> list[str]:
    """What a wheel requires without extras and on this platform, from its METADATA."""
    with zipfile.ZipFile(path) as archive:
        inside = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.parser.Parser().parsestr(archive.read(inside).decode("utf-8"))
    # Anything under a marker is for an extra, another system or an old Python.
    return [_name_of(line) for line in metadata.get_all("Requires-Dist", []) if ";" not in line]


def _name_of(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", requirement)
    if found is None:
        raise WheelError(f"{requirement!r} is not the name of a package")
    return normalised(found.group())
