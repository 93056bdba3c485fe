"""The series of a study together: what each says of the others, and whether they are of one patient."""

from __future__ import annotations

from pipeline.competition import StudyRef
from pipeline.problem import Problem
from pipeline.volumes.limits import DEFAULT_LIMITS, Budget, ReadLimits
from pipeline.volumes.origin import same_study
from pipeline.volumes.placing import SLICE_LOCATION
from pipeline.volumes.reader import SeriesReader
from pipeline.volumes.volume import ASSUMED_SIDES, StudyVolumes

_KIND_UNKNOWN = "neither its name nor its times tell T1 from T2, and no table does; not graded"


def read_study(ref: StudyRef, limits: ReadLimits = DEFAULT_LIMITS) -> StudyVolumes:
    """Read every series of a study, within the limits of the study as a whole. Never raises for bad data.

    What is of another patient or examination than two thirds of the series is left out, and named.
    """
    budget = Budget(limits)
    readers = [SeriesReader(series, budget) for series in ref.series]
    readings = [reader.read() for reader in readers]
    votes = [vote for reader in readers for vote in reader.signs.items()]
    signs = {plane: sign for plane, sign in votes if (plane, -sign) not in votes}
    for number, reading in enumerate(readings):
        unsided = (volume.plane for volume in reading.volumes if {SLICE_LOCATION, ASSUMED_SIDES} <= set(volume.flags))
        if signs.keys() & set(unsided):
            readers[number] = SeriesReader(ref.series[number], budget, signs)
            readings[number] = readers[number].read()
    parts = [(reader.series_id, origin, stacks) for reader in readers for origin, stacks in reader.parts if stacks]
    kept, why = same_study([origin for _, origin, _ in parts])
    problems = [problem for reading in readings for problem in reading.problems]
    problems += [
        Problem(ref.study_id, reader.series_id, None, "kind-unknown", _KIND_UNKNOWN)
        for reader, reading in zip(readers, readings, strict=True)
        if reader.is_unnamed and reading.volumes
    ]
    left_out = [part for part, keep in zip(parts, kept, strict=True) if not keep]
    if why is not None and not any(kept):
        problems.append(Problem(ref.study_id, None, None, "mixed-study", why))
    elif why is not None:
        names = sorted({series_id for series_id, _, _ in left_out})
        problems += [Problem(ref.study_id, series_id, None, "other-study", why) for series_id in names]
    strangers = {id(volume) for _, _, stacks in left_out for volume in stacks}
    return StudyVolumes(
        study_id=ref.study_id,
        volumes=tuple(volume for reading in readings for volume in reading.volumes if id(volume) not in strangers),
        problems=tuple(problems),
    )
