"""Grading from Python: ``from pipeline import grade``. The same run as ``submit.py``, its files read back as tables."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.commands import submit
from pipeline.console import CallError, Parser
from pipeline.exports.results import RESULTS_FILE
from pipeline.intake import SOURCES_TABLE
from pipeline.labels import GRADES
from pipeline.names import unguarded
from pipeline.run.settings import DEVICES

_IDS = ("study_id", "series_id")


@dataclass(frozen=True, eq=False)
class Grading:
    """What a run found.

    Attributes:
        probabilities: by study_id, condition and level: ``normal_mild``, ``moderate``, ``severe`` (how many of a
            hundred such cells have the grade), the same as ``weighted_...`` (what is submitted: moderate counted
            twice, severe four times), the likeliest ``grade``, the ``source`` (``model``, ``context`` or ``prior``;
            the last says nothing of the images) and the ``reason`` where it is not ``model``.
        points: a row a point that was found, the columns of ``label_coordinates.csv``: patient millimetres are LPS.
        provenance: a row a cell: the networks and series behind it.
        problems: what was found wrong and worked around.
        sources: which id is which study, where the folder has not the competition's layout; else None.
        report: ``run.json``: weights and checksums, versions, timings, counts.
    """

    probabilities: pd.DataFrame
    points: pd.DataFrame
    provenance: pd.DataFrame
    problems: pd.DataFrame
    sources: pd.DataFrame | None
    report: dict[str, Any]


def grade(
    data: str | Path,
    weights: str | Path | None = None,
    *,
    studies: Sequence[str] = (),
    device: str = "auto",
    workers: int = 1,
    settings: Sequence[str] = (),
) -> Grading:
    """Grade every study of a folder, a DICOMDIR or a zip.

    Args:
        data: as ``--data``.
        weights: a set of weights; without it that of ``submit.py``.
        studies: only these, by id.
        device: auto, cpu, cuda or mps.
        workers: processes; with more than one the calling script needs ``if __name__ == "__main__":``.
        settings: as ``--set``.

    Raises:
        CallError, CompetitionError, ConfigError: the call was wrong.
        OSError: there is no room for temporary files.
        KeyboardInterrupt: it was stopped by Ctrl-C.

    Whatever is wrong with a study is in ``problems``, and what must not be overlooked is warned of.
    """
    if device not in DEVICES:
        raise CallError(f"device {device!r}: expected one of {', '.join(DEVICES)}")
    parser = Parser()
    submit.add_arguments(parser)
    args = parser.parse_args(["--data", "."], argparse.Namespace(verbose=False, quiet=True))
    args.data, args.weights = Path(data), None if weights is None else Path(weights)
    args.studies, args.device, args.workers, args.set = list(studies), device, workers, list(settings)
    with tempfile.TemporaryDirectory(prefix="lumbar-grading-") as place:
        out = Path(place)
        args.out, args.stages = out / "submission.csv", out / "stages"
        with contextlib.redirect_stdout(io.StringIO()) as said:
            status = submit.run(args, time.monotonic())
        if status:
            raise KeyboardInterrupt
        for line in said.getvalue().splitlines():
            if "WARNING: " in line:
                text = line.partition("WARNING: ")[2].replace("submission.log says why", "provenance says why")
                warnings.warn(text, stacklevel=2)
        results = json.loads((out / "stages" / RESULTS_FILE).read_text(encoding="utf-8"))
        return Grading(
            probabilities=_probabilities(results["studies"]),
            points=_table(out / "stages" / "label_coordinates.csv"),
            provenance=_table(out / "stages" / "provenance.csv"),
            problems=_table(out / "stages" / "problems.csv"),
            sources=_table(out / SOURCES_TABLE) if (out / SOURCES_TABLE).is_file() else None,
            report=json.loads((out / "run.json").read_text(encoding="utf-8")),
        )


def _probabilities(studies: Sequence[dict[str, Any]]) -> pd.DataFrame:
    rows = [
        {
            "study_id": study["study_id"],
            "condition": cell["condition"],
            "level": cell["level"],
            **cell["plain"],
            **{f"weighted_{grade}": cell["weighted"][grade] for grade in GRADES},
            **{name: cell[name] for name in ("grade", "source", "reason")},
        }
        for study in studies
        for cell in study["cells"]
    ]
    return pd.DataFrame(rows).set_index(["study_id", "condition", "level"])


def _table(path: Path) -> pd.DataFrame:
    """A table of the run without the guard of texts against spreadsheets; empty where it was not written."""
    if not path.is_file():
        return pd.DataFrame()
    table = pd.read_csv(path, dtype=dict.fromkeys(_IDS, str), keep_default_na=False, na_values=[""])
    for name in table.select_dtypes(exclude="number").columns:
        table[name] = table[name].map(unguarded, na_action="ignore")
    return table
