"""What the numbers depend on beside the data: this code, Python, the packages; one and the same in a cluster."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import platform
from pathlib import Path

_PACKAGES = ("torch", "timm", "pydicom", "SimpleITK", "numpy", "scipy", "pandas", "joblib", "safetensors", "pillow")
_DECODERS = ("pylibjpeg", "pylibjpeg-rle", "pylibjpeg-openjpeg")
_RUNTIMES = ("openvino",)


@functools.cache
def versions() -> dict[str, str]:
    """Python, the system and the packages that the numbers depend on."""
    found = {"python": platform.python_version(), "system": platform.platform()}
    for name in (*_PACKAGES, *_DECODERS, *_RUNTIMES):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


@functools.cache
def code_version() -> str:
    """A hash of the package's files: what older or changed code computed is not mixed with what this code computes."""
    root = Path(__file__).parent
    found = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if path.suffix in (".py", ".csv", ".yaml"):
            found.update(f"{path.relative_to(root)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest()


def program() -> dict[str, str]:
    """The code and the packages by name, for machines that have to give the same numbers."""
    return {"the code": code_version()[:12], **{name: one for name, one in versions().items() if name != "system"}}
