"""A real Dask scheduler and real workers: the table of one machine, whoever dies, comes late or lacks something."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("distributed", reason="needs the package distributed (requirements-cluster.txt)")
from distributed import LocalCluster

from pipeline.__main__ import main
from pipeline.cluster import MOST_DEATHS, Cluster, on_cluster
from pipeline.competition import open_competition
from pipeline.console import WorkError
from pipeline.ensemble.networks import Networks
from pipeline.folds import make_folds
from pipeline.labels import CELL_COLUMNS
from pipeline.landmarks.examples import ExampleSettings
from pipeline.landmarks.prepare import ExamplesOf, prepare
from pipeline.parallel import WorkerLostError
from pipeline.run.result import Reason, Source
from pipeline.run.rounds import Run
from pipeline.submission import read_submission
from pipeline.weights.manifest import Manifest
from pipeline.weights.seen import seen_list, seen_studies
from tests.run.jobs import deadly, double, own_number, same
from tests.run.studies import FakeNetworks, members, write_studies
from tests.run.test_rounds import Setup

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL for workers to die of")


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    """A scheduler with two workers, each a process under Dask's own watch, of one thread."""
    folder = tmp_path_factory.mktemp("dask")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, local_directory=folder) as cluster:
            yield cluster


@pytest.fixture(scope="module")
def address(workers):
    return workers.scheduler_address


class Away(Setup):
    """As its base, on a cluster."""

    def __init__(self, address, *args, **options):
        super().__init__(*args, **options)
        self.run = Run.open(self.bench, self.schedule, 1, self.take, True, address, self.competition.studies[0])


def test_jobs_come_back_in_their_order_from_processes_of_the_workers(address, tmp_path):
    assert list(on_cluster(double, [(n, tmp_path) for n in range(6)], address, same)) == [0, 2, 4, 6, 8, 10]
    assert len({path.suffix for path in tmp_path.iterdir()}) == 2


def test_a_job_that_kills_its_process_is_tried_three_times_and_costs_itself_alone(address):
    jobs = [(n,) for n in range(4)]
    assert list(on_cluster(deadly, jobs, address, same, lost=lambda number: -number)) == [0, -1, 2, 3]


@pytest.mark.slow
def test_a_job_that_kills_its_process_ends_work_that_cannot_do_without_it(address):
    with pytest.raises(WorkerLostError, match=rf"killed its process {MOST_DEATHS} times, on .* alone"):
        list(on_cluster(deadly, [(1,)], address, same))


def test_a_worker_that_differs_from_this_machine_is_refused_by_name(address):
    with pytest.raises(WorkError, match=r"2 of 2 workers are unfit; tcp://.*: process is [0-9]+, expected [0-9]+"):
        Cluster(address, own_number)


def test_an_address_where_nobody_answers_is_an_error_of_one_line(monkeypatch):
    monkeypatch.setattr("pipeline.cluster.CONNECT_SECONDS", 0.5)
    with pytest.raises(WorkError, match=r"--cluster tcp://127.0.0.1:1: no Dask scheduler answers there"):
        Cluster("tcp://127.0.0.1:1", same)


def test_the_table_is_that_of_one_machine_though_a_worker_is_killed_and_one_comes_late(workers, address, tmp_path):
    names = ["1", "2-raises", "3-blind", "4-canalfails", *map(str, range(5, 13))]
    (tmp_path / "here").mkdir()
    (tmp_path / "away").mkdir()
    here = Setup(tmp_path / "here", names).go()
    away = Away(address, tmp_path / "away", names, grading=0.1)
    came = []

    def take(result):
        came.append(result.study_id)
        if len(came) == 2:
            os.kill(next(iter(workers.workers.values())).pid, signal.SIGKILL)
            workers.scale(3)
        away.take(result)

    away.run.take = take
    away.go()
    assert sorted(came) == sorted(names)
    assert away.out.read_text() == here.out.read_text()
    assert away.run.ended_by is None
    for name in names:
        mine, other = away.result(name), here.result(name)
        assert (mine.source, mine.reason, mine.members) == (other.source, other.reason, other.members), name


def test_a_study_that_kills_its_process_is_named_and_ends_no_worker(workers, address, tmp_path):
    before = {worker.pid for worker in workers.workers.values()}
    setup = Away(address, tmp_path, ["1", "2-dies", "3"]).go()
    assert set(setup.result("2-dies").reason) == {Reason.WORKER_DIED}
    assert [problem.what for problem in setup.result("2-dies").problems] == ["worker-died"]
    assert setup.networks.times_found("2-dies") == MOST_DEATHS
    for name in ("1", "3"):
        assert set(setup.result(name).source) == {Source.MODEL}, name
    assert before <= {worker.pid for worker in workers.workers.values()}


def test_later_rounds_go_on_from_what_the_first_has_kept_and_a_budget_ends_in_time(address, tmp_path):
    (tmp_path / "all").mkdir()
    setup = Away(address, tmp_path / "all", ["1", "2"], copies=2, minutes=10).go()
    assert len(setup.plan.rounds) == 2
    for name in ("1", "2"):
        assert len(setup.result(name).done) == 6
        assert setup.networks.times_found(name) == 1
    (tmp_path / "some").mkdir()
    names = [str(number) for number in range(40)]
    over = Away(address, tmp_path / "some", names, grading=0.5)
    over.run.pace.schedule = replace(over.schedule, minutes=(time.monotonic() - over.schedule.started + 8) / 60)
    over.go()
    assert over.run.ended_by.reason is Reason.TIME_OVER
    assert len(read_submission(over.out)) == 40 * 25


@contextlib.contextmanager
def scheduler_that_goes(folder):
    """A scheduler with one worker, and how to end it at once."""
    options = {"n_workers": 1, "threads_per_worker": 1, "processes": False, "dashboard_address": None}
    with LocalCluster(**options, local_directory=folder) as cluster:
        yield cluster.scheduler_address, threading.Thread(target=cluster.close).start


def test_a_scheduler_that_goes_ends_the_run_and_the_same_call_goes_on(tmp_path, capsys):
    with scheduler_that_goes(tmp_path) as (address, end):
        setup = Away(address, tmp_path, ["1", "2", "3"], grading=0.1)
        take = setup.run.take

        def last(result):
            take(result)
            end()

        setup.run.take = last
        setup.go()
    assert setup.run.ended_by.reason is Reason.CLUSTER_LOST
    assert "the scheduler of the cluster is gone" in capsys.readouterr().err
    assert len(read_submission(setup.out)) == 75
    assert 1 <= sum(setup.work.load(study) is not None for study in setup.competition.studies) < 3


@pytest.fixture
def labelled(tmp_path, monkeypatch):
    """A labelled folder of ten tiny studies, and a weights folder whose canal networks have each seen eight of them.

    Both are named as seen from the folder of the call, which is not that of the workers.
    """
    monkeypatch.chdir(tmp_path)
    names = [f"s{number}" for number in range(10)]
    root = write_studies(tmp_path / "data", names, split="train")
    grades = np.random.default_rng(0).choice(["Normal/Mild", "Moderate", "Severe"], (10, 25), p=[0.6, 0.2, 0.2])
    labels = pd.DataFrame(grades, index=pd.Index(names, name="study_id"), columns=list(CELL_COLUMNS))
    labels.to_csv(root / "train.csv")
    folds = make_folds(open_competition(root, split="train").labels)
    (tmp_path / "weights").mkdir()
    Manifest(Path("weights"), "made up", "nothing").save()
    manifest = Manifest.load(Path("weights"))
    points, canal, *_ = members()
    manifest = manifest.add_member(replace(points, seen="p.seen.txt"), b"tensors", seen_list(seen_studies(["other"])))
    for fold in range(5):
        seen = seen_list(seen_studies(folds.index[folds != fold]))
        member = replace(canal, name=f"canal-fold{fold}", fold=fold, seen=f"{fold}.seen.txt")
        manifest = manifest.add_member(member, b"tensors", seen)
    networks = FakeNetworks(manifest, manifest.members, tmp_path)
    monkeypatch.setattr(Networks, "open", classmethod(lambda cls, manifest: (networks, [])))
    return ["--data", "data", "--weights", "weights"]


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.usefixtures("labelled")
def test_evaluate_severity_and_ensemble_write_what_one_machine_writes(address, tmp_path):
    for where, options in (("here", []), ("away", ["--cluster", address])):
        shutil.copytree("weights", f"{where}/weights")
        call = ["--data", "data", "--weights", f"{where}/weights", *options]
        assert main(["evaluate", "severity", *call, "--out", f"{where}/severity"]) == 0
        assert main(["ensemble", *call, "--no-context", "--save-oof", f"{where}/oof"]) == 0
    here, away = contents(tmp_path / "here"), contents(tmp_path / "away")
    assert {"severity/predictions.csv", "severity/severity.json", "oof/canal/oof.csv", "weights/ensemble.json"} <= set(
        here
    )
    assert [name for name in sorted({*here, *away}) if here.get(name) != away.get(name)] == []


def test_a_scheduler_that_goes_is_no_interrupt_by_the_user(labelled, tmp_path, capsys, monkeypatch):
    with scheduler_that_goes(tmp_path) as (address, end):
        monkeypatch.setattr(Run, "_take", lambda *_: end())
        status = main(["evaluate", "severity", *labelled, "--cluster", address, "--out", str(tmp_path / "out")])
    assert status == 1
    said = capsys.readouterr().err
    assert "the scheduler of the cluster is gone" in said
    assert "nothing was written; call again" in said


def test_the_training_cache_is_that_of_one_machine(address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = write_studies(tmp_path / "data", ["1", "2", "3"], split="train")
    rows = [
        (study, f"{study}-1", 1, "Spinal Canal Stenosis", level, 8.0, 2.0 + 2 * number)
        for study in ("1", "2", "3")
        for number, level in enumerate(("L1/L2", "L2/L3", "L3/L4", "L4/L5", "L5/S1"))
    ]
    names = ["study_id", "series_id", "instance_number", "condition", "level", "x", "y"]
    pd.DataFrame(rows, columns=names).to_csv(root / "train_label_coordinates.csv", index=False)
    competition = open_competition(root, split="train")
    examples = [ExamplesOf("sagittal", ExampleSettings(size_px=32))]
    prepare([competition], tmp_path / "here", examples, workers=1)
    prepare([competition], Path("away"), examples, cluster=address)
    here = contents(tmp_path / "here")
    assert len([name for name in here if name.endswith(".safetensors")]) == 6
    assert contents(tmp_path / "away") == here
