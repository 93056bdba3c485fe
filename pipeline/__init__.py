"""Automatic grading of lumbar spine MRI. The modules and packages, roughly in the order in which the data meets them:

``labels`` is the vocabulary, ``config``, ``preset``, ``files``, ``device`` and ``pictures`` are what every package may
use, as are ``parallel`` and ``cluster``, by which work is done in other processes and on other machines. ``tables``,
``listing`` and ``competition`` read the competition's folder, ``remote`` one behind a URL, ``intake`` any other one,
``weights`` a set of networks, ``submission`` the table. ``volumes`` reads DICOM series (stage one), ``landmarks`` finds
the 25 points (two), ``cubes`` cuts windows around them (three), ``severity`` grades these (four); ``stacks`` keeps what
of the series is trained on. ``ensemble`` blends the networks of one set, ``run`` takes all studies through the stages,
``exports`` hands results to other programs, ``commands`` are what a person calls, and ``api`` is the way from Python.
``phantom`` makes synthetic studies, ``training`` trains the networks of stages two and four on ``folds``, ``scoring``
measures what they say.

The order of imports, from what is used to what uses it, stands in pyproject.toml, and ``lint-imports`` keeps it: by it
``training`` and ``scoring`` lie below ``volumes``, because weights carry settings of the one and fits use the other.
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.api import Grading, grade

os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")  # what mps lacks, the CPU does; read when torch is loaded

__version__ = "0.1.0"
__all__ = ["Grading", "grade"]


def __getattr__(name: str) -> Any:
    """``grade`` and its result are imported when they are asked for: the package itself loads nothing."""
    if name in __all__:
        from pipeline import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
