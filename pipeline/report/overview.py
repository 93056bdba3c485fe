"""The first page of a report: what was run, with which networks, what came out, and a table of the studies."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.labels import CELLS, CONDITIONS, GRADE_NAMES, GRADES, LEVELS, Family, level_title
from pipeline.report import charts
from pipeline.report.record import RunRecord, StudyRecord
from pipeline.report.site import write_page
from pipeline.report.words import GRADE_WORDS, worst
from pipeline.scoring.metric import cell_losses, score_arrays
from pipeline.weights.manifest import Manifest, WeightsError
from pipeline.weights.seen import study_hash

PART = 2000
"""Studies in a table; a page of many more opens slowly."""


@dataclass(frozen=True)
class Row:
    """A line of the table of studies."""

    study_id: str
    page: str
    trouble: str
    grade: int
    worst: str
    what: str
    probability: float | None
    least: float | None
    severe: int
    moderate: int
    fallbacks: int
    reasons: str
    problems: int
    wrong: int | None
    loss: float | None


class Overview:
    """Collects the studies one by one; memory does not grow with their pictures."""

    def __init__(self, run: RunRecord) -> None:
        self.run = run
        self.rows: list[Row] = []
        self.called = np.zeros((len(CELLS), len(GRADES)), np.int64)
        self.confusion = np.zeros((len(CELLS), len(GRADES), len(GRADES)), np.int64)
        self.truth: list[np.ndarray] = []
        self.weighted: list[np.ndarray] = []

    def add(self, study: StudyRecord, page: str, trouble: str) -> None:
        """Take a study in; ``page`` is empty where it has none."""
        seen = np.array([study.from_images(index) for index in range(len(CELLS))])
        called, known = study.called, np.isfinite(study.truth)
        found = worst(study)
        np.add.at(self.called, (np.flatnonzero(seen), called[seen]), 1)
        both = np.flatnonzero(known)
        np.add.at(self.confusion, (both, study.truth[both].astype(int), called[both]), 1)
        if known.any():
            self.truth.append(study.truth)
            self.weighted.append(study.weighted)
        reasons = Counter(row["reason"] for row in study.provenance if row["reason"])
        loss = cell_losses(study.truth, study.weighted).reshape(-1, 2).sum(0)
        self.rows.append(
            Row(
                study.study_id,
                page,
                trouble,
                -1 if found is None else found.grade,
                "not graded" if found is None else GRADE_WORDS[found.grade],
                "" if found is None else found.what,
                None if found is None else found.probability,
                float(study.plain[seen].max(1).min()) if seen.any() else None,
                int((called[seen] == 2).sum()),
                int((called[seen] == 1).sum()),
                int((~seen).sum()),
                ", ".join(f"{why} ({count})" for why, count in reasons.most_common()),
                len(study.problems),
                int((study.truth[both] != called[both]).sum()) if known.any() else None,
                float(loss[0] / loss[1]) if loss[1] else None,
            )
        )

    def write(self, out: Path, notes: Sequence[str]) -> None:
        """Write ``index.html``, and of many studies a page a part.

        Raises:
            OSError: it cannot be written.
        """
        facts = self.run.facts
        score = None
        if self.truth:
            score = score_arrays(np.stack(self.truth), np.stack(self.weighted))
        parts = [self.rows[start : start + PART] for start in range(0, len(self.rows), PART)]
        pages = [f"studies-{number:04d}.html" for number in range(1, len(parts) + 1)] if len(parts) > 1 else []
        for number, page in enumerate(pages, 1):
            some = {"number": number, "parts": len(parts), "pages": pages, "rows": parts[number - 1]}
            write_page(out / page, "part.html", score=score is not None, **some)
        write_page(
            out / "index.html",
            "index.html",
            facts=facts,
            images=Path(str(facts.get("images", ""))).name,
            rows=self.rows,
            parts=[{"page": page, "rows": rows} for page, rows in zip(pages, parts, strict=False)],
            grade_names=GRADE_NAMES,
            networks=_networks(facts, self.run.study_ids),
            charts=self._charts(),
            score=None if score is None else {"terms": score.to_dict(), "cells": score.cells, "studies": score.studies},
            notes=notes,
        )

    def _charts(self) -> list[charts.Chart]:
        facts = self.run.facts
        levels = [level_title(level) for level in LEVELS]
        studies = max(len(self.rows), 1)
        seconds = {name: value / studies for name, value in facts.get("stage_seconds", {}).items()}
        found = [charts.bars(seconds, "Time per stage", "seconds of one process a study")]
        reasons = facts.get("reasons", {})
        if reasons:
            found.append(charts.bars(reasons, "Rows no network graded on an image, by reason", "rows"))
        for condition in CONDITIONS:
            counts = {
                levels[LEVELS.index(cell.level)]: self.called[index].tolist()
                for index, cell in enumerate(CELLS)
                if cell.condition is condition
            }
            found.append(charts.stacked(counts, f"{condition.title}, called on images", "studies"))
        if self.truth:
            for family in Family:
                rows = [index for index, cell in enumerate(CELLS) if cell.condition.family is family]
                found.append(charts.confusion(self.confusion[rows].sum(0), f"{family.value.title()}: true and called"))
        return found


def _networks(facts: Mapping[str, Any], study_ids: Sequence[str]) -> list[dict[str, Any]]:
    """The networks that were used, and what they have seen; unknown where the weights are not at hand."""
    weights = facts.get("weights")
    if not weights:
        return []
    manifest: Manifest | None = None
    with contextlib.suppress(WeightsError, OSError):
        manifest = Manifest.load(Path(weights["folder"]))
    hashes = {study_hash(study_id) for study_id in study_ids}
    known = {} if manifest is None else {member.name: member for member in manifest.members}
    rows = []
    for used in weights["members"]:
        member = known.get(used["name"])
        seen: frozenset[str] | None = None
        if manifest is not None and member is not None and member.sha256 == used["sha256"] and member.seen:
            try:
                seen = manifest.seen(member)
            except WeightsError:
                seen = None
        rows.append(
            {
                **used,
                "rows": facts.get("rows_by_network", {}).get(used["name"]),
                "seen": None if seen is None else len(seen),
                "overlap": None if seen is None else len(seen & hashes),
            }
        )
    return rows
