"""Every command of ``python -m pipeline`` and ``submit.py``: its arguments, and what it says at the end."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The folder of ``submit.py``."""
DEFAULT_WEIGHTS = ROOT / "weights" / "default"
