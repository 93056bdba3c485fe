"""Which network may grade which study."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import pytest

from pipeline.competition import StudyRef
from pipeline.ensemble.networks import Networks
from pipeline.labels import Family
from pipeline.run.plan import make_plan, severity_rounds
from pipeline.weights.manifest import Manifest, Member
from pipeline.weights.seen import seen_list, seen_studies
from tests.weights.members import add


@pytest.fixture
def networks(tmp_path):
    """Two folds of points and canal graders; fold k has seen study 1-k."""
    manifest = Manifest(tmp_path, "test", "")
    for fold in (0, 1):
        for task in ("landmarks", "canal"):
            name = f"{task}-{fold}"
            member = Member(name, task, name, "", fold=fold, seen=f"{fold}.txt")
            manifest = manifest.add_member(member, name.encode(), seen_list(seen_studies([str(1 - fold)])))
    return Networks(manifest, manifest.members)


STUDIES = [StudyRef(name, None, ()) for name in ("0", "1", "2")]


def plan_of(networks, guard, in_rounds=False):
    return make_plan(STUDIES, networks, in_rounds, guard, 60.0)


def test_without_an_evaluation_every_grader_grades_every_study(networks):
    plan = plan_of(networks, guard=False)
    assert [task.names for task in plan.rounds[0]] == [("canal-0", "canal-1")] * 3
    assert [task.landmarks for task in plan.rounds[0]] == [("landmarks-0",)] * 3
    assert plan.guard_line(3) == ""


def test_a_network_does_not_grade_what_it_was_trained_on(networks):
    plan = plan_of(networks, guard=True)
    assert [task.names for task in plan.rounds[0]] == [("canal-0",), ("canal-1",), ("canal-0", "canal-1")]
    assert [task.landmarks for task in plan.rounds[0]] == [("landmarks-0",), ("landmarks-1",), ("landmarks-0",)]
    assert "4 of 4 networks were trained on some of the 3 studies" in plan.guard_line(3)
    assert "\n" not in plan.guard_line(3)


def test_rounds_leave_out_a_study_whose_network_may_not_grade_it(networks):
    plan = plan_of(networks, guard=True, in_rounds=True)
    assert [[(task.study.study_id, task.names) for task in tasks] for tasks in plan.rounds] == [
        [("0", ("canal-0",)), ("1", ()), ("2", ("canal-0",))],
        [("1", ("canal-1",)), ("2", ("canal-1",))],
    ]


def test_a_network_without_a_training_list_counts_as_having_seen_all(networks):
    members = tuple(replace(member, seen=None) for member in networks.members)
    plan = plan_of(Networks(replace(networks.manifest, members=members), members), guard=True)
    assert all(task.names == () for task in plan.rounds[0])
    assert plan.rounds[0][0].guarded == frozenset({Family.CANAL})
    assert "taken to have seen all" in plan.guard_line(3)


def test_a_refused_point_network_leaves_no_grader_to_run(networks):
    members = tuple(member for member in networks.members if member.task == "canal")
    plan = plan_of(Networks(networks.manifest, members), guard=False)
    assert all(task.names == () for task in plan.rounds[0])


def test_a_plan_of_many_studies_holds_no_task_of_each(networks):
    studies = [StudyRef(str(number), None, ()) for number in range(20_000)]
    tracemalloc.start()
    plan = make_plan(studies, networks, True, True, 60.0)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [len(tasks) for tasks in plan.rounds] == [20_000, 19_999]
    assert [task.study for task in plan.rounds[0][::9_999]] == studies[::9_999]
    assert held < 40 * len(studies)


@pytest.fixture
def manifest(tmp_path):
    return Manifest(tmp_path, "test", "two phantoms")


def test_rounds_take_the_best_value_per_second_of_every_family_first(manifest):
    for name, task, score, seconds in (
        ("c-slow", "canal", 0.30, 10.0),
        ("c-fast", "canal", 0.35, 1.0),
        ("f", "foraminal", 0.40, 2.0),
        ("s-new", "subarticular", None, 1.0),
        ("s", "subarticular", 0.5, 1.0),
    ):
        add(manifest, name, task, score=score, seconds_per_study=seconds)
    rounds = severity_rounds(Manifest.load(manifest.folder))
    assert [[member.name for member in members] for members in rounds] == [["c-fast", "f", "s"], ["c-slow", "s-new"]]
