"""The jitter of training windows from the errors that the localiser made on studies it had not seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline.files import read_bounded
from pipeline.labels import Family
from pipeline.severity.settings import JitterSettings
from pipeline.tables import TableError
from pipeline.untrusted import parse_json
from pipeline.weights.manifest import MOST_FILE_BYTES


def fit_jitter(jitter: JitterSettings, path: Path, family: Family) -> JitterSettings:
    """``jitter`` with the in-plane deviation, at least ``least_mm``, and the wrong slices of ``landmark_errors.json``.

    Raises:
        TableError: the file is not a table of errors by family, or lacks this one.
    """
    try:
        errors = parse_json(read_bounded(path, MOST_FILE_BYTES))
        errors = errors.get("families", errors)[family.value]
        offsets = {int(offset): float(share) for offset, share in errors["slice_offsets"].items()}
        total = sum(offsets.values())
        wrong = 1 - offsets.get(0, 0.0) / total if total > 0 else jitter.slice_share
        deviation = max(float(errors["in_plane_sd_mm"]), jitter.least_mm)
        return replace(jitter, sd_mm=deviation, slice_share=min(wrong, 0.9))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        text = f"no errors of {family} (in_plane_sd_mm, slice_offsets): {error!r:.200}; expected a landmark_errors.json"
        raise TableError(path, None, None, text) from error
