"""Which program computes the networks on a CPU, PyTorch or OpenVINO, and where converted networks are kept.

Known without importing either: :mod:`pipeline.weights.converted` does the work.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from pipeline.weights.manifest import Member

Runtime = Literal["auto", "torch", "openvino"]
Chosen = Literal["torch", "openvino"]

PAYS_FROM = 35
"""Studies from which on converting the default set, which is done once, costs less than it saves."""
_FORMAT = 1


class RuntimeFailedError(Exception):
    """OpenVINO cannot compute a network, or not as PyTorch does; PyTorch can."""


def check_runtime(runtime: Runtime) -> None:
    """Say before any work that what is asked for is not there.

    Raises:
        ValueError: naming what to install.
    """
    if runtime == "openvino" and not _is_installed():
        raise ValueError("runtime is openvino, which is not installed: pip install -r requirements-runtime.txt")


def choose_runtime(wanted: Runtime, members: Sequence[Member], studies: int) -> Chosen:
    """What computes the networks of a run where they run on a CPU.

    Args:
        wanted: ``auto`` is OpenVINO where it is installed and saves time: all networks were converted before, or at
            least :data:`PAYS_FROM` studies wait.
        members: the networks.
        studies: to be graded; 0 where no time may be spent on converting.
    """
    if wanted != "auto":
        return wanted
    return "openvino" if _is_installed() and (studies >= PAYS_FROM or all(map(_is_kept, members))) else "torch"


def cache_folder() -> Path | None:
    """Where converted networks are kept between runs: ``$LUMBAR_CACHE``, or the user's cache; None without a home."""
    if named := os.environ.get("LUMBAR_CACHE"):
        return Path(named)
    try:
        if sys.platform == "win32":
            base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
        elif sys.platform == "darwin":
            base = Path.home() / "Library" / "Caches"
        else:
            base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None
    return base / "lumbar-grading"


def conversion_key(member: Member) -> str:
    """A word for all that the converted parts of a network depend on."""
    content = [_FORMAT, member.sha256, member.config, version("openvino"), version("torch"), version("timm")]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def _is_installed() -> bool:
    return importlib.util.find_spec("openvino") is not None


def _is_kept(member: Member) -> bool:
    folder = cache_folder()
    return folder is not None and (folder / f"{conversion_key(member)}.0").is_file()
