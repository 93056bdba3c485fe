"""The page of one study: one file that holds all its pictures."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.competition import StudyRef
from pipeline.device import limit_threads, limit_torch_threads
from pipeline.ensemble.networks import Networks
from pipeline.labels import CELL_INDEX, CELLS, CONDITIONS, GRADE_NAMES, LEVELS, Cell, level_title
from pipeline.report.record import StudyRecord
from pipeline.report.site import write_page
from pipeline.report.slices import viewers
from pipeline.report.windows import Looks, Seen
from pipeline.report.words import GRADE_WORDS, sentences, worst
from pipeline.volumes import ReadLimits, StudyVolumes, read_study


@dataclass(frozen=True, eq=False)
class Job:
    """A page to make.

    Attributes:
        record: what the run says of the study.
        ref: its images; None where they are not at hand.
        out: the file of the page.
        networks: that graded it; None where they are not at hand.
        attention: whether to ask the networks what they looked at.
        notes: of the run, on what cannot be shown.
        deadline: in seconds of :func:`time.monotonic`, which processes share; no page is begun after it. None: no end.
    """

    record: StudyRecord
    ref: StudyRef | None
    out: Path
    networks: Networks | None
    attention: bool
    notes: tuple[str, ...]
    deadline: float | None = None


def make_page(job: Job) -> str | None:
    """Write the page; None where it is whole, else why it lacks pictures or is not there."""
    if job.deadline is not None and time.monotonic() > job.deadline:
        return "no time was left for its page"
    limit_threads(1)
    notes, failed = list(job.notes), ""
    volumes: StudyVolumes | None = None
    shown: list[dict[str, Any]] = []
    seen: list[list[Seen]] = [[] for _ in CELLS]
    try:
        if job.ref is not None:
            volumes = read_study(job.ref, ReadLimits())
            shown = viewers(volumes, job.record)
            if not shown:
                notes.append("No series of this study gave an image.")
        if volumes is not None and job.networks is not None and job.record.landmarks.found.any():
            limit_torch_threads(1)
            seen = _looks(_Key(job.networks), job.attention).of_study(job.record, volumes)
    except Exception as error:  # whatever images and networks can raise costs pictures, not the page
        failed = f"pictures are missing: {type(error).__name__}: {error}"
        notes.append(failed)
    _write(job, shown, seen, notes)
    return failed or None


class _Key:
    """Networks by the identity of their set, so that a worker loads them once and not a study."""

    def __init__(self, networks: Networks) -> None:
        self.networks = networks
        self.name = (str(networks.manifest.folder), *(member.sha256 for member in networks.members))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)


@functools.lru_cache(maxsize=1)
def _looks(key: _Key, attention: bool) -> Looks:
    return Looks(key.networks, attention)


def _write(job: Job, shown: list[dict[str, Any]], seen: Sequence[Sequence[Seen]], notes: list[str]) -> None:
    study, found = job.record, worst(job.record)
    cells = [_cell(study, index, seen[index]) for index in range(len(CELLS))]
    outlines = {index: [one.outline for one in seen[index] if one.outline] for index in range(len(CELLS))}
    reasons: dict[tuple[str, str], list[str]] = {}
    for cell in cells:
        if cell["reason"]:
            reasons.setdefault((cell["reason"], cell["detail"]), []).append(cell["title"])
    write_page(
        job.out,
        "study.html",
        study_id=study.study_id,
        sentences=sentences(study),
        levels=[level_title(level) for level in LEVELS],
        grid=[
            (condition.title, [cells[CELL_INDEX[Cell(condition, level)]] for level in LEVELS])
            for condition in CONDITIONS
        ],
        cells=cells,
        viewers=shown,
        data={"viewers": shown, "outlines": outlines, "worst": None if found is None else found.cell},
        reasons=[(why, detail, names) for (why, detail), names in reasons.items()],
        problems=study.problems,
        has_truth=bool(np.isfinite(study.truth).any()),
        has_marks=study.marked is not None and len(study.marked) > 0,
        has_heat=any(one.heat for strips in seen for one in strips),
        notes=notes,
    )


def _cell(study: StudyRecord, index: int, seen: Sequence[Seen]) -> dict[str, Any]:
    cell, row, called = CELLS[index], study.provenance[index], int(study.called[index])
    truth = study.truth[index]
    return {
        "index": index,
        "title": f"{level_title(cell.level)} {cell.condition.title}",
        "level": level_title(cell.level),
        "called": called,
        "word": GRADE_WORDS[called],
        "grade": GRADE_NAMES[called],
        "plain": [float(p) for p in study.plain[index]],
        "weighted": [float(p) for p in study.weighted[index]],
        "truth": None if np.isnan(truth) else GRADE_NAMES[int(truth)],
        "wrong": bool(np.isfinite(truth) and int(truth) != called),
        "source": row["source"],
        "members": study.members(index),
        "series": row["series"].replace(";", ", "),
        "finders": row["landmarks"].replace(";", ", "),
        "reason": row["reason"],
        "detail": row["detail"],
        "confidence": float(study.landmarks.confidence[index]) if study.landmarks.found[index] else None,
        "point": {"series": study.landmarks.series_id[index], "instance": int(study.landmarks.instance_number[index])},
        "strips": [dataclasses.asdict(one) for one in seen],
    }
