"""What a run leaves beside the table: the tables of the stages, the log, ``run.json`` and the line at the end."""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.files import write_atomically, write_text
from pipeline.labels import CELLS, GRADES, row_id
from pipeline.names import guarded, shown_all
from pipeline.problem import Problem
from pipeline.run.result import NOTE, ROWS, Source, StudyResult, plain_and_weighted
from pipeline.scoring.metric import Score
from pipeline.submission import ROW_ORDER
from pipeline.versions import versions
from pipeline.weights.manifest import Manifest, Member

PROVENANCE_COLUMNS = (
    "row_id",
    "study_id",
    "condition",
    "level",
    "source",
    "members",
    "series",
    "landmarks",
    "reason",
    "detail",
)
PROBLEM_COLUMNS = ("study_id", "series_id", "file", "what", "detail")
POINTS_TABLE = "label_coordinates.csv"
GRADES_TABLE = "probabilities.csv"
GRADES_COLUMNS = ("row_id", "source", *(f"{kind}_{grade}" for kind in ("plain", "weighted") for grade in GRADES))
"""``plain`` is how many in a hundred such rows have the grade; ``weighted``, what is submitted, counts them 1, 2, 4."""
STAGE_TABLES = ("provenance.csv", "problems.csv", GRADES_TABLE, POINTS_TABLE)


def write_stages(
    folder: Path, results: Iterable[StudyResult], general: Iterable[Problem], probabilities: Iterable[np.ndarray]
) -> None:
    """Write ``provenance.csv`` and ``probabilities.csv`` (a line a row), ``problems.csv`` and any points found.

    Results are taken one at a time, so memory does not grow with their number.

    Args:
        folder: for the tables.
        results: of the studies in their order.
        general: problems of no study.
        probabilities: (25, 3) of each as submitted, in the same order.

    Raises:
        OSError: a table cannot be written.
    """
    header_written = False

    def write(partials: list[Path]) -> None:
        nonlocal header_written
        with contextlib.ExitStack() as files:
            *tables, points = (
                files.enter_context(partial.open("w", encoding="utf-8", newline="\n")) for partial in partials
            )
            provenance, problems, grades = (csv.writer(file, lineterminator="\n") for file in tables)
            provenance.writerow(PROVENANCE_COLUMNS)
            problems.writerow(PROBLEM_COLUMNS)
            grades.writerow(GRADES_COLUMNS)
            problems.writerows(map(_cells, general))
            for result, weighted in zip(results, probabilities, strict=True):
                grades.writerows([guarded(cell) for cell in row] for row in grade_rows(result, weighted))
                provenance.writerows([guarded(cell) for cell in row] for row in provenance_rows(result))
                problems.writerows(map(_cells, result.problems))
                header, _, body = result.landmarks.partition("\n")
                if body:
                    points.write(body if header_written else f"{header}\n{body}")
                    header_written = True

    _write_together([folder / name for name in STAGE_TABLES], write)
    if not header_written:
        (folder / POINTS_TABLE).unlink(missing_ok=True)


def _write_together(paths: list[Path], write: Callable[[list[Path]], None], partials: tuple[Path, ...] = ()) -> None:
    """As :func:`write_atomically` for several files that are written side by side."""
    if not paths:
        write(list(partials))
        return
    write_atomically(paths[0], lambda partial: _write_together(paths[1:], write, (*partials, partial)))


def provenance_rows(result: StudyResult) -> list[tuple[str, ...]]:
    """The 25 lines of one study, in the order of the submission."""
    own = [problem for problem in result.problems if problem.what not in (NOTE, ROWS)]
    detail = "" if all(reason is None for reason in result.reason) else "; ".join(dict.fromkeys(map(_short, own)))
    rows: list[tuple[str, ...]] = []
    for index in ROW_ORDER:
        cell, reason = CELLS[index], result.reason[index]
        rows.append(
            (
                row_id(result.study_id, cell),
                result.study_id,
                cell.condition.value,
                cell.level,
                result.source[index].value,
                ";".join(result.members[index]),
                ";".join(result.series[index]),
                ";".join(result.landmark_members) if result.members[index] else "",
                "" if reason is None else reason.value,
                "" if reason is None else detail[:1000],
            )
        )
    return rows


def grade_rows(result: StudyResult, weighted: np.ndarray) -> list[tuple[str, ...]]:
    """The 25 lines of :data:`GRADES_COLUMNS` of one study, in the order of the submission, from its (25, 3) numbers."""
    both = plain_and_weighted(weighted)
    return [
        (row_id(result.study_id, CELLS[index]), result.source[index].value, *(f"{value:.4f}" for value in both[index]))
        for index in ROW_ORDER
    ]


@dataclass(frozen=True)
class RunReport:
    """The figures of a run, as ``run.json`` and the last line give them."""

    studies: int
    rows_by_source: Mapping[str, int]
    reasons: Mapping[str, int]
    problems: Mapping[str, int]
    studies_with_problems: int
    weights: Mapping[str, Any] | None
    seconds: float
    written: str
    ended_early: str | None
    resumed: int
    score: Score | None
    extra: Mapping[str, Any]

    def line(self) -> str:
        """One line that counts everything that was not graded as it should be."""
        rows = sum(self.rows_by_source.values())
        sources = ", ".join(
            f"{self.rows_by_source.get(source, 0)} {text}"
            for source, text in (
                (Source.MODEL, "from the images (networks)"),
                (Source.CONTEXT, "from the rest of the study (context)"),
                (Source.PRIOR, "class frequencies"),
            )
        )
        parts = [f"{self.studies} studies, {rows} rows: {sources}"]
        if self.reasons:
            parts[0] += f" (rows without a network: {_counted(self.reasons)})"
        faults = {what: count for what, count in self.problems.items() if what != NOTE}
        if faults:
            where = f" in {self.studies_with_problems} studies" if self.studies_with_problems else ""
            parts.append(f"{sum(faults.values())} problems{where}: {_counted(faults)}")
        if self.ended_early:
            parts.append(f"ended early: {self.ended_early}")
        if self.resumed:
            parts.append(f"{self.resumed} studies taken over from an interrupted run")
        if self.weights is None:
            parts.append("no weights")
        else:
            parts.append(f"weights {self.weights['set']} ({self.weights['description']})")
        parts.append(f"{self.seconds:.1f} s")
        return f"submit: {'; '.join(parts)}; written to {self.written}"

    def warnings(self) -> list[str]:
        """What must not be overlooked behind an exit status of 0, a line each."""
        found = []
        rows, prior = sum(self.rows_by_source.values()), self.rows_by_source.get("prior", 0)
        if rows and 2 * prior >= rows:
            failure = self.extra.get("first_failure")
            hint = f"a study failed with {failure}" if failure else f"is {self.extra['images']} the right folder?"
            found.append(
                f"{prior} of {rows} rows are class frequencies and say nothing of the images; submission.log says why "
                f"({hint})"
            )
        asked = self.extra["device"]
        if asked not in ("auto", "cpu") and (studies := self.extra["devices"].get("cpu")):
            found.append(f"--device {asked}, but no such GPU completed a convolution: {studies} studies ran on the CPU")
        if failed := self.problems.get("gpu-failed"):
            found.append(f"the GPU failed {failed} times and the CPU computed instead, slowly; problems.csv says why")
        return [f"submit: WARNING: {text}" for text in found]


def write_run_json(path: Path, report: RunReport) -> None:
    """Write the report with the versions it was made with.

    Raises:
        OSError: it cannot be written.
    """
    score = None if report.score is None else report.score.to_dict()
    content = {**asdict(replace(report, score=None)), **report.extra, "score": score, "versions": versions()}
    del content["extra"]
    write_text(path, json.dumps(shown_all(content), indent=2, ensure_ascii=False, default=str) + "\n")


def describe_weights(manifest: Manifest, members: Sequence[Member]) -> dict[str, Any]:
    """What the report says of a set of weights and of the networks of it that were used."""
    return {
        "set": manifest.set,
        "description": manifest.description,
        "folder": str(manifest.folder),
        "members": [
            {"name": m.name, "task": m.task, "fold": m.fold, "sha256": m.sha256, "score": m.score} for m in members
        ],
    }


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _cells(problem: Problem) -> list[str]:
    return [guarded(text or "") for text in asdict(problem).values()]


def _short(problem: Problem) -> str:
    where = "/".join(part for part in (problem.series_id, problem.file) if part)
    return f"{where}: {problem.what}" if where else f"{problem.what}: {problem.detail}"
