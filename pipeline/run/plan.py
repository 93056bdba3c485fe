"""Which networks grade which study in which round, and which may not, because they have seen it in training."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pipeline.competition import StudyRef
from pipeline.labels import Family
from pipeline.run.task import Grader, StudyNetworks, StudyTask
from pipeline.weights.manifest import LANDMARK_TASKS, Manifest, Member, WeightsError
from pipeline.weights.seen import study_hash

T = TypeVar("T")

READ_COST = 0.6
"""Seconds on one idle CPU thread to read a study and to cut its cubes."""
CUBES_COST = 0.1
"""Seconds to load the cubes that an earlier round has kept."""


@dataclass(frozen=True)
class Plan:
    """Rounds of tasks. ``kept_out`` counts by member the studies it may not grade, for the leak guard's line."""

    rounds: tuple[tuple[StudyTask, ...], ...]
    members: int
    kept_out: dict[str, int]
    unrecorded: tuple[str, ...] = ()

    def guard_line(self, studies: int) -> str:
        """What the leak guard did, in one line; empty where there was nothing to guard."""
        if not self.kept_out:
            return ""
        count = sum(1 for number in self.kept_out.values() if number)
        text = f"leak guard: {count} of {self.members} networks were trained on some of the {studies} studies"
        text += " and are not used for those"
        if self.unrecorded:
            text += f"; no training list, so taken to have seen all: {', '.join(self.unrecorded)}"
        return text


def make_plan(
    studies: Sequence[StudyRef],
    networks: StudyNetworks | None,
    in_rounds: bool,
    guard: bool,
    seconds: float,
) -> Plan:
    """Spread the networks over rounds, and leave out of each study those that have seen it.

    Args:
        studies: to grade.
        networks: the usable ones, None where there are none.
        in_rounds: a time may end the run, so every study is helped once before a second network helps any. Without
            it one round runs everything and no cube is kept.
        guard: the studies are an evaluation, so a network that has seen one may not grade it.
        seconds: a study may take.
    """
    if networks is None:
        return Plan((tuple(StudyTask(study, seconds=seconds, base_cost=READ_COST) for study in studies),), 0, {})
    usable = {member.name for member in networks.members}
    finders = [member for member in networks.members if member.task in LANDMARK_TASKS]
    finding_cost = {member.name: member.seconds_per_study for member in finders}
    graders = [
        [member for member in members if member.name in usable] for members in severity_rounds(networks.manifest)
    ]
    if not in_rounds:
        graders = [[member for members in graders for member in members]]
    graders = [members for members in graders if members] or [[]]
    everyone = [*finders, *(member for members in graders for member in members)]
    seen: dict[str, frozenset[str]] = {}
    for member in everyone if guard else ():
        with contextlib.suppress(WeightsError):  # no list, or a damaged one: the network counts as unrecorded
            if member.seen is not None:
                seen[member.name] = networks.manifest.seen(member)
    unrecorded = {member.name for member in everyone if guard} - seen.keys()
    kept_out = {member.name: 0 for member in everyone} if guard else {}

    def allowed(member: Member, mark: str) -> bool:
        if not guard or (member.name not in unrecorded and mark not in seen[member.name]):
            return True
        kept_out[member.name] += 1
        return False

    known: dict[Any, Any] = {}

    def once(value: T) -> T:
        """The equal one that an earlier study has, for there may be a million of them."""
        return known.setdefault(value, value)

    rounds: list[list[StudyTask]] = [[] for _ in graders]
    for study in studies:
        mark = study_hash(study.study_id)
        points = first_finders(member for member in finders if allowed(member, mark))
        mine = [[member for member in members if allowed(member, mark)] for members in graders]
        if not points:
            mine = [[] for _ in graders]
        free = {Family(member.task) for members in mine for member in members}
        guarded = frozenset({Family(member.task) for members in graders for member in members} - free)
        for number, members in enumerate(mine):
            if number and not members:
                continue
            later = tuple(member.name for rest in mine[number + 1 :] for member in rest)
            run_now = tuple(Grader(member.name, member.seconds_per_study) for member in members)
            base_cost = CUBES_COST if number else READ_COST + sum(finding_cost[name] for name in points)
            never = guarded if guard else frozenset()
            task = StudyTask(study, once(points), once(run_now), once(later), once(never), seconds, base_cost)
            rounds[number].append(task)
    full = tuple(tuple(tasks) for tasks in rounds if tasks)
    return Plan(full, len(everyone), kept_out, tuple(sorted(unrecorded)))


def severity_rounds(manifest: Manifest) -> tuple[tuple[Member, ...], ...]:
    """Graders in the order they should run: each round holds the next best value per second of every family."""
    ranked = [
        sorted(manifest.of_task(family.value), key=lambda member: (-member.value_per_second, member.name))
        for family in Family
    ]
    longest = max(map(len, ranked), default=0)
    return tuple(tuple(order[i] for order in ranked if i < len(order)) for i in range(longest))


def first_finders(members: Iterable[Member]) -> tuple[str, ...]:
    """The networks that find a new study's points: the first sagittal and the first axial one.

    Without a sagittal one, on which all points hang, there are none.
    """
    first: dict[str, str] = {}
    for member in members:
        first.setdefault(member.task, member.name)
    return tuple(first.values()) if "landmarks" in first else ()
