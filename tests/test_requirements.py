"""What is installed: lower bounds past known vulnerabilities, tested versions with hashes, room for Kaggle's image."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
SOUND_FROM = {
    "torch": ("2.10", "CVE-2026-24747, CVE-2025-32434: torch.load with weights_only runs code"),
    "pydicom": ("3.0.2", "CVE-2026-32711: a DICOMDIR leads out of its folder"),
    "simpleitk": ("2.5.4", "CVE-2025-11266 in the GDCM inside, 3.0.24 before: fragments of pixel data"),
    "opencv-python-headless": ("4.12", "CVE-2025-53644: a JPEG writes past a buffer"),
    "pillow": ("11.3", "CVE-2023-50447: ImageMath runs code; CVE-2024-28219, CVE-2025-48379: writing past a buffer"),
    "joblib": ("1.2", "CVE-2022-21797: pre_dispatch runs code"),
    "numpy": ("1.22", "CVE-2021-41496, CVE-2021-34141"),
    "scipy": ("1.10", "CVE-2023-25399, CVE-2023-29824"),
    "tqdm": ("4.66.3", "CVE-2024-34062: arguments of the command line run code"),
    "pyyaml": ("5.4", "CVE-2020-14343: full_load runs code"),
    "python-gdcm": ("3.2.2", "CVE-2025-11266: fragments of pixel data"),
    "jinja2": ("3.1.6", "CVE-2025-27516: the sandbox has a hole"),
    "setuptools": ("78.1.1", "CVE-2025-47273: an index leads out of its folder"),
    "werkzeug": ("3.1.4", "CVE-2024-34069, CVE-2025-66221"),
    "protobuf": ("6.31.1", "CVE-2025-4565: nested messages end the process"),
    "filelock": ("3.20.1", "CVE-2025-68146: a link is followed"),
}
"""Package to the first version without the vulnerabilities that are known of it, as far as it is used here."""


def requirements(name):
    """The requirements of a file, without what it includes."""
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("-")]


def pins():
    """Package to its one version in ``constraints.txt`` and the hashes of its files."""
    text = re.sub(r"^#.*\n", "", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        requirement, *hashes = re.split(r"\s+--hash=", line.strip())
        pinned = Requirement(requirement)
        (specifier,) = pinned.specifier
        assert specifier.operator == "=="
        name = canonicalize_name(pinned.name)
        assert name not in found, "one version for every Python"
        found[name] = (Version(specifier.version), hashes)
    return found


ALL = [
    *requirements("requirements.txt"),
    *requirements("requirements-decoders.txt"),
    *requirements("requirements-dev.txt"),
]


@pytest.mark.parametrize("requirement", [r for r in ALL if canonicalize_name(r.name) in SOUND_FROM], ids=str)
def test_a_lower_bound_is_past_what_is_known(requirement):
    bounds = [Version(s.version) for s in requirement.specifier if s.operator in (">=", "==", "~=")]
    sound, why = SOUND_FROM[canonicalize_name(requirement.name)]
    assert max(bounds) >= Version(sound), why


def test_every_requirement_of_the_program_has_a_tested_version_in_its_range():
    tested = pins()
    for requirement in requirements("requirements.txt") + requirements("requirements-decoders.txt"):
        version, _ = tested[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), requirement


def test_every_tested_version_has_hashes_and_is_past_what_is_known():
    tested = pins()
    assert len(tested) > 40, "what the requirements need is there too"
    for name, (version, hashes) in tested.items():
        assert hashes, name
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in hashes), name
        sound, why = SOUND_FROM.get(name, ("0", ""))
        assert version >= Version(sound), why


def test_the_ranges_admit_the_kaggle_image():
    lines = (ROOT / "tests" / "commands" / "kaggle_image.txt").read_text().split()
    image = {
        canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines) if version
    }
    ranges = {canonicalize_name(requirement.name): requirement.specifier for requirement in ALL}
    shared = image.keys() & ranges.keys()
    assert {"torch", "pillow", "numpy"} <= shared
    own = {canonicalize_name(requirement.name) for requirement in requirements("requirements.txt")}
    assert [name for name in sorted(shared & own) if not ranges[name].contains(image[name])] == []
