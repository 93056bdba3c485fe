"""``python -m pipeline check DIR``: read a folder exactly as the pipeline would and print what was found.

Exit status: 0 if every study has all three kinds of series, 1 if any cell of any study would fall back to class
frequencies, 2 if the call was wrong or the folder holds no study. Problems that cost slices but no whole kind are
printed, the first few of a kind, and counted.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.console import CallError, say, say_json
from pipeline.labels import NEEDED, SeriesKind
from pipeline.problem import Problem

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.competition import StudyRef
    from pipeline.volumes import StudyVolumes, Volume

KINDS = tuple(kind for kind in SeriesKind if any(kind in kinds for kinds in NEEDED.values()))
"""The kinds of series that some family is graded on."""
GAP_STEPS = 1.6
"""A distance between slices of more than this many usual ones is reported as a gap."""

NAMED = 5
"""So many problems of one kind are printed for a study, and for the folder; the rest of them are counted."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``check``."""
    parser.add_argument("data", type=Path, metavar="PATH", help="any folder of studies, a DICOMDIR or a zip")
    parser.add_argument("--series", type=Path, metavar="CSV", help="series descriptions, if not beside the images")
    parser.add_argument("--split", choices=("train", "test"), help="images of a competition folder (default: test)")
    parser.add_argument("--seconds", type=float, metavar="S", help="time limit for reading one study (default: 60)")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.epilog = "exit status: 0 every cell can be graded, 1 some would fall back, 2 the call was wrong"


def run(args: argparse.Namespace) -> int:
    """Check the folder and print the result; returns the exit status."""
    from pipeline.competition import no_study
    from pipeline.intake import open_data
    from pipeline.volumes import ReadLimits

    if args.workers < 1 or (args.seconds is not None and not args.seconds > 0):
        raise CallError("--workers and --seconds must be above 0")
    competition = open_data(args.data, args.series, args.split, quiet=False)
    coordinates = competition.coordinates
    limits = ReadLimits() if args.seconds is None else ReadLimits(study_seconds=args.seconds)
    studies = []
    sources = _sources(competition.sources)
    if not args.json:
        say(*(problem for problem in competition.problems if problem.what == "layout"))
    for study in _studies(competition.studies, limits, coordinates, args.workers):
        studies.append(study)
        if not args.json:
            say(*_lines(study, sources))
    listing = [asdict(problem) for problem in competition.problems]
    summary = _summary(studies, listing)
    if args.json:
        said = {"studies": studies, "problems": listing, "summary": summary}
        say_json(said if not sources else {**said, "sources": list(sources.values())}, indent=1)
    else:
        say(*_named([problem for problem in listing if problem["what"] != "layout"]))
        if studies:
            say(_last_line(summary))
    if not studies:
        raise CallError(no_study(competition))
    return 1 if summary["studies_with_fallback"] else 0


def _studies(
    refs: tuple[StudyRef, ...], limits: Any, coordinates: pd.DataFrame | None, workers: int
) -> Iterator[dict[str, Any]]:
    from pipeline.parallel import in_processes

    points = {} if coordinates is None else dict(tuple(coordinates.groupby("study_id")))
    jobs = [(ref, limits, points.get(ref.study_id)) for ref in refs]
    return in_processes(describe_study, jobs, workers, lost=_lost_study)


def describe_study(ref: StudyRef, limits: Any, coordinates: pd.DataFrame | None = None) -> dict[str, Any]:
    """Read one study and say in plain values what was found: the pixels are dropped again.

    Args:
        ref: the study.
        limits: for reading.
        coordinates: its labelled points, None for none; those that cannot be right are problems.
    """
    from pipeline.volumes import read_study

    return _description(ref, read_study(ref, limits), coordinates)


def _lost_study(ref: StudyRef, *_: Any) -> dict[str, Any]:
    """The description of a study that ended the process that read it."""
    from pipeline.volumes import StudyVolumes

    problem = Problem(ref.study_id, None, None, "worker-died", "the process that read the study alone was killed")
    return _description(ref, StudyVolumes(ref.study_id, (), (problem,)), None)


def _description(ref: StudyRef, reading: StudyVolumes, coordinates: pd.DataFrame | None) -> dict[str, Any]:
    doubted = [] if coordinates is None else _doubted_labels(reading, coordinates)
    series = []
    for one in ref.series:
        stacks = [_stack(volume) for volume in reading.volumes if volume.series_id == one.series_id]
        series.append(
            {
                "series_id": one.series_id,
                "description": one.description.value if one.description is not None else None,
                "kinds": sorted({stack["kind"] for stack in stacks}),
                "slices": sum(stack["slices"] for stack in stacks),
                "orientations": _orientations([stack["normal"] for stack in stacks]),
                "stacks": stacks,
            }
        )
    missing = [kind.value for kind in KINDS if not reading.of_kind(kind)]
    return {
        "study_id": ref.study_id,
        "series": series,
        "missing": missing,
        "problems": [asdict(problem) for problem in (*reading.problems, *doubted)],
    }


def _doubted_labels(reading: StudyVolumes, coordinates: pd.DataFrame) -> list[Problem]:
    from pipeline.landmarks.labelled import find_mislabelled, labelled_points

    points = labelled_points(reading, coordinates)
    columns = (points[name].astype(str) for name in ("series_id", "condition", "level"))
    return [
        Problem(reading.study_id, series_id, None, "label-in-doubt", f"{condition} {level}: {reason}")
        for series_id, condition, level, reason in zip(*columns, find_mislabelled(reading, points), strict=True)
        if reason
    ]


def _orientations(normals: list[list[float]]) -> int:
    """How many different normals, to 0.1 degree."""
    import numpy as np

    seen: list[list[float]] = []
    for normal in normals:
        if all(np.linalg.norm(np.subtract(normal, other)) > np.radians(0.1) for other in seen):
            seen.append(normal)
    return len(seen)


def _stack(volume: Volume) -> dict[str, Any]:
    import numpy as np

    steps = volume.slice_steps_mm
    usual = volume.slice_spacing_mm
    defects = list(volume.flags)
    if len(steps) and usual > 0 and steps.max() > GAP_STEPS * usual:
        defects.append(f"gap of {steps.max():.1f} mm")
    numbers = volume.instance_numbers
    return {
        "kind": volume.kind.value,
        "plane": volume.plane.value,
        "slices": volume.shape[0],
        "rows": volume.shape[1],
        "cols": volume.shape[2],
        "spacing_mm": [round(value, 4) for value in volume.spacing_mm],
        "slice_spacing_mm": round(usual, 3) if len(steps) else None,
        "normal": np.round(volume.normal, 6).tolist(),
        "instances": [int(numbers.min()), int(numbers.max())],
        "defects": defects,
    }


def _summary(studies: list[dict[str, Any]], listing: list[dict[str, Any]]) -> dict[str, Any]:
    series = [one for study in studies for one in study["series"]]
    problems = [problem["what"] for study in studies for problem in study["problems"]]
    problems += [problem["what"] for problem in listing]
    return {
        "studies": len(studies),
        "series": len(series),
        "stacks": sum(len(one["stacks"]) for one in series),
        "slices": sum(one["slices"] for one in series),
        "problems": dict(sorted(Counter(problems).items())),
        "studies_with_fallback": sum(bool(study["missing"]) for study in studies),
        "missing_kinds": dict(sorted(Counter(kind for study in studies for kind in study["missing"]).items())),
    }


def _sources(table: pd.DataFrame | None) -> dict[tuple[str, str], dict[str, Any]]:
    """Where each series lies, by study and series, where ids are no folders' names."""
    rows = [] if table is None else table.astype(object).to_dict("records")
    return {(str(row["study_id"]), str(row["series_id"])): {str(key): row[key] for key in row} for row in rows}


def _lines(study: dict[str, Any], sources: dict[tuple[str, str], dict[str, Any]]) -> Iterator[str]:
    yield f"study {study['study_id']}"
    for one in study["series"]:
        kinds = " and ".join(one["kinds"]) or "nothing readable"
        count = one["orientations"]
        stacks = f", {count} orientations" if count > 1 else ""
        source = sources.get((study["study_id"], one["series_id"]))
        where = f"; {source['files']} files from {source['folder']}/{source['first_file']}" if source else ""
        yield f"  series {one['series_id']}: {kinds}, {one['slices']} slices{stacks}{where}"
        for stack in one["stacks"]:
            first, last = stack["instances"]
            row, col = stack["spacing_mm"]
            step = "single slice" if stack["slice_spacing_mm"] is None else f"{stack['slice_spacing_mm']:.2f} mm apart"
            defects = "; " + ", ".join(stack["defects"]) if stack["defects"] else ""
            yield (
                f"    {stack['plane']} {stack['slices']:>3} x {stack['rows']} x {stack['cols']}, "
                f"{row:.3f} x {col:.3f} mm, {step}, instances {first} to {last}{defects}"
            )
    yield from _named(study["problems"])
    if study["missing"]:
        yield f"  missing, so their cells would fall back: {', '.join(study['missing'])}"


def _named(problems: list[dict[str, Any]]) -> Iterator[str]:
    """A line for each of the first few problems of a kind, and one for the others of it."""
    seen: Counter[str] = Counter()
    for problem in problems:
        seen[problem["what"]] += 1
        if seen[problem["what"]] <= NAMED:
            yield f"  ! {_where(problem)}"
    for what, count in seen.items():
        if count > NAMED:
            yield f"  ! {what}: {count - NAMED} more"


def _where(problem: dict[str, Any]) -> str:
    parts = [part for part in (problem["study_id"], problem["series_id"], problem["file"]) if part]
    return f"{'/'.join(parts)}: {problem['what']}: {problem['detail']}" if parts else str(problem["detail"])


def _last_line(summary: dict[str, Any]) -> str:
    counts = ", ".join(f"{what} {count}" for what, count in summary["problems"].items()) or "none"
    missing = ", ".join(f"{kind} {count}" for kind, count in summary["missing_kinds"].items())
    lacking = f" (missing: {missing})" if missing else ""
    return (
        f"{summary['studies']} studies, {summary['series']} series, {summary['stacks']} stacks, "
        f"{summary['slices']} slices; problems: {counts}; "
        f"{summary['studies_with_fallback']} studies would fall back in part{lacking}"
    )
