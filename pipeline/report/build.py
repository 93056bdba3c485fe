"""The whole report of a run: a page a study, made by worker processes, and the page that lists them."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.competition import CompetitionError, StudyRef
from pipeline.ensemble.networks import Networks
from pipeline.intake import open_data
from pipeline.parallel import in_processes
from pipeline.report.overview import PART, Overview
from pipeline.report.record import RunRecord
from pipeline.report.site import INSTALL, begin, page_name
from pipeline.report.study import Job, make_page
from pipeline.tables import TableError
from pipeline.weights.manifest import Manifest, WeightsError


@dataclass(frozen=True)
class Made:
    """What a report became: its first page, pages of studies, and of these those that lack pictures."""

    index: Path
    pages: int
    poor: int
    notes: tuple[str, ...]


def build_report(
    run: RunRecord,
    out: Path,
    data: Path | None = None,
    weights: Path | None = None,
    workers: int = -1,
    seconds: float | None = None,
) -> Made:
    """Write the report of a run.

    Args:
        run: what it left.
        out: folder of the pages; new, empty, or of an earlier report.
        data: its images; by default where ``run.json`` says they were. Without them the pages have no pictures.
        weights: the networks; by default those that ``run.json`` names. Without them no windows are shown.
        workers: processes; -1 for one a processor.
        seconds: after which no further page is begun; None for no end.

    Raises:
        CompetitionError: ``data`` was given and is no folder of studies.
        CallError: the tables are not those of one run.
        RefusedError: ``out`` holds other things.
        WorkError: a package is missing.
        OSError: a page cannot be written.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    begin(out)
    notes: list[str] = []
    refs = _images(run, data, notes)
    networks = _networks(run, weights, notes) if refs else None
    attention = importlib.util.find_spec("captum") is not None
    if networks is not None and not attention:
        notes.append(f"No heat maps: the package captum is not installed ({INSTALL} captum).")
    overview = Overview(run)
    poor = pages = 0
    for start in range(0, len(run.study_ids), PART):  # not all at once, for what is shown of a study fills memory
        jobs = []
        for number, study_id in enumerate(run.study_ids[start : start + PART], start + 1):
            page = out / page_name(number, study_id)
            record, ref = run.study(study_id), refs.get(study_id)
            jobs.append((Job(record, ref, page, networks, attention, tuple(notes), deadline),))
        here = min(workers, len(jobs)) if workers > 0 else workers
        for (job,), trouble in zip(jobs, _troubles(jobs, here), strict=True):
            written = job.out.is_file()
            pages += written
            poor += trouble is not None
            overview.add(job.record, job.out.relative_to(out).as_posix() if written else "", trouble or "")
    overview.write(out, notes)
    return Made(out / "index.html", pages, poor, tuple(notes))


def _troubles(jobs: list[tuple[Job]], workers: int) -> Iterator[str | None]:
    yield from in_processes(make_page, jobs, 1 if len(jobs) == 1 else workers, _lost)


def _lost(job: Job) -> str | None:
    """The page of a study whose images killed the worker."""
    why = "its images ended the process that read them"
    make_page(Job(job.record, None, job.out, None, False, (*job.notes, f"No pictures: {why}."), job.deadline))
    return why


def _images(run: RunRecord, data: Path | None, notes: list[str]) -> dict[str, StudyRef]:
    """The studies' images by id; none, and a note, where they are not where the run had them."""
    command = run.facts["command"]
    series = command.get("series")
    place = data or Path(str(run.facts["images"]))
    try:
        found = open_data(place, Path(series) if series else None, run.facts.get("split"))
    except (CompetitionError, TableError, OSError) as error:
        if data is not None:
            raise
        notes.append(f"No pictures: {error}. Name the images with --data.")
        return {}
    return {study.study_id: study for study in found.studies if study.series}


def _networks(run: RunRecord, weights: Path | None, notes: list[str]) -> Networks | None:
    """The networks of the run, by checksum; None, and a note, where they are not at hand."""
    used = run.facts.get("weights")
    if not used:
        return None
    folder = weights or Path(used["folder"])
    try:
        networks, _ = Networks.open(Manifest.load(folder))
    except (WeightsError, OSError) as error:
        notes.append(f"What the networks saw is not shown: {error}. Name the weights with --weights.")
        return None
    sums = {member["name"]: member["sha256"] for member in used["members"]}
    same = tuple(member for member in networks.members if sums.get(member.name) == member.sha256)
    if changed := len(sums) - len(same):
        notes.append(f"What {changed} of {len(sums)} networks saw is not shown: {folder} has other ones now.")
    return Networks(networks.manifest, same)
