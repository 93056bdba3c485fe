"""Which networks grade which study in which round, and which may not, because they have seen it in training."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np

from pipeline.competition import StudyRef
from pipeline.labels import Family
from pipeline.run.task import Grader, StudyNetworks, StudyTask
from pipeline.weights.manifest import LANDMARK_TASKS, Manifest, Member, WeightsError
from pipeline.weights.seen import study_hash

READ_COST = 0.6
"""Seconds on one idle CPU thread to read a study and to cut its cubes."""
CUBES_COST = 0.1
"""Seconds to load the cubes that an earlier round has kept."""


@dataclass(frozen=True, eq=False)
class Round(Sequence[StudyTask]):
    """The tasks of a round, each made where it is asked for, since there may be a million.

    Attributes:
        studies: of the run.
        orders: the different tasks there are, with any study.
        study, order: (N,) the places in those of each task.
    """

    studies: Sequence[StudyRef]
    orders: Sequence[StudyTask | None]
    study: np.ndarray
    order: np.ndarray

    @classmethod
    def of(cls, studies: Sequence[StudyRef], orders: Sequence[StudyTask | None], order: np.ndarray) -> Round:
        """Of the orders of all studies, without those that are None."""
        some = np.array([one is not None for one in orders], bool)
        study = np.flatnonzero(some[order]).astype(np.uint32)
        return cls(studies, orders, study, order[study])

    def __len__(self) -> int:
        return len(self.study)

    @overload
    def __getitem__(self, which: int) -> StudyTask: ...
    @overload
    def __getitem__(self, which: slice | np.ndarray) -> Round: ...
    def __getitem__(self, which: int | slice | np.ndarray) -> StudyTask | Round:
        """A task, or the round of those that a slice or a mask leaves."""
        if isinstance(which, int):
            order = self.orders[self.order[which]]
            assert order is not None, "Round.of leaves those out"
            return replace(order, study=self.studies[self.study[which]])
        return replace(self, study=self.study[which], order=self.order[which])


@dataclass(frozen=True)
class Plan:
    """Rounds of tasks. ``kept_out`` counts by member the studies it may not grade, for the leak guard's line."""

    rounds: tuple[Round, ...]
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
        orders = [StudyTask(study, seconds=seconds, base_cost=READ_COST) for study in studies[:1]]
        return Plan((Round.of(studies, orders, np.zeros(len(studies), np.uint32)),), 0, {})
    usable = {member.name for member in networks.members}
    finders = [member for member in networks.members if member.task in LANDMARK_TASKS]
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

    def kept_from(study: StudyRef) -> frozenset[str]:
        mark = study_hash(study.study_id) if seen else ""
        return frozenset(unrecorded.union(name for name, hashes in seen.items() if mark in hashes))

    kinds: dict[frozenset[str], int] = {}  # studies differ by the networks that may not grade them, and by nothing else
    kind = np.fromiter((kinds.setdefault(kept_from(study), len(kinds)) for study in studies), np.uint32, len(studies))
    tasks = [_tasks(studies[0], finders, graders, away, guard, seconds) for away in kinds]
    rounds = (Round.of(studies, orders, kind) for orders in zip(*tasks, strict=True))
    counts = dict(zip(kinds, np.bincount(kind).tolist(), strict=True))
    kept_out = {one.name: sum(counts[away] for away in kinds if one.name in away) for one in everyone} if guard else {}
    return Plan(tuple(filter(len, rounds)), len(everyone), kept_out, tuple(sorted(unrecorded)))


def _tasks(
    study: StudyRef,
    finders: Sequence[Member],
    graders: Sequence[Sequence[Member]],
    away: frozenset[str],
    guard: bool,
    seconds: float,
) -> list[StudyTask | None]:
    """What each round does with a study that the networks ``away`` may not grade; None for nothing."""
    points = first_finders(member for member in finders if member.name not in away)
    mine = [[member for member in members if points and member.name not in away] for members in graders]
    free = {Family(member.task) for members in mine for member in members}
    asked = {Family(member.task) for members in graders for member in members}
    finding = sum(member.seconds_per_study for member in finders if member.name in points)
    return [
        None
        if number and not members
        else StudyTask(
            study,
            points,
            tuple(Grader(member.name, member.seconds_per_study) for member in members),
            tuple(member.name for rest in mine[number + 1 :] for member in rest),
            frozenset(asked - free if guard else ()),
            seconds,
            CUBES_COST if number else READ_COST + finding,
        )
        for number, members in enumerate(mine)
    ]


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
