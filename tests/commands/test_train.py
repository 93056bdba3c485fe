"""``train STAGE``: arguments, folds and exit statuses; no stage is really trained."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.__main__ import main
from pipeline.commands.train import SeverityOptions, TrainOptions
from pipeline.competition import CompetitionError
from pipeline.tables import TableError
from pipeline.training.ladder import LadderError
from pipeline.weights.backbones import BackboneError

SEVERITY = ["train", "severity", "--condition", "canal"]


@pytest.fixture
def stage(monkeypatch, tmp_path):
    """Trainings that note what they are told; relative folders are in one of the test's own."""
    monkeypatch.chdir(tmp_path)
    stage = SimpleNamespace(seen=[])

    def run(options):
        stage.seen.append((options.fold, str(options.out), options.workers))
        return 0

    stage.run = run
    monkeypatch.setattr("pipeline.severity.train.train", lambda *runs: [stage.run(run) for run in runs])
    monkeypatch.setattr("pipeline.landmarks.train.train", lambda task, options: stage.run((task, options)))
    return stage


def test_a_fold_is_trained_with_common_and_own_arguments(stage):
    stage.run = lambda options: stage.seen.append(options) or 0
    assert main([*SEVERITY, "--data", "a", "b", "--fold", "3", "--out", "o", "--landmarks", "p.csv", "--restart"]) == 0
    common = {"data": [Path("a"), Path("b")], "fold": 3, "out": Path("o"), "cache": Path("cache"), "restart": True}
    assert stage.seen == [SeverityOptions(**common, condition="canal", landmarks=[Path("p.csv")])]


@pytest.mark.parametrize("task", ["landmarks", "axial"])
def test_a_point_network_is_trained_under_its_own_name(stage, task):
    stage.run = lambda options: stage.seen.append(options) or 0
    assert main(["train", task, "--data", "a", "--preset", "cpu", "--set", "loop.epochs=3", "--workers", "4"]) == 0
    common = {"data": [Path("a")], "out": Path("runs") / task, "cache": Path("cache"), "workers": 4}
    assert stage.seen == [(task, TrainOptions(**common, preset="cpu", set=["loop.epochs=3"]))]


def test_all_folds_go_to_a_folder_each(stage):
    assert main([*SEVERITY, "--data", "a", "--folds", "all", "--out", "o", "--workers", "2"]) == 0
    assert stage.seen == [(fold, f"o/fold{fold}", 2) for fold in range(5)]


@pytest.mark.parametrize("name", [".", "fold3"])
@pytest.mark.parametrize("again", ["--resume", "--restart"])
def test_a_folder_of_other_things_is_refused_before_the_first_fold(stage, tmp_path, capsys, name, again):
    theirs = tmp_path / "o" / name / "history.csv"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("years of work")
    assert main([*SEVERITY, "--data", "a", "--folds", "all", "--out", "o", again]) == 2
    assert "was not made by this program" in capsys.readouterr().err
    assert stage.seen == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [theirs]


def test_no_held_out_fold(stage):
    assert main([*SEVERITY, "--data", "a", "--fold", "none"]) == 0
    assert stage.seen == [(None, "runs/severity", 0)]


def test_a_fold_that_fails_ends_the_run(stage):
    note = stage.run

    def run(options):
        note(options)
        if options.fold == 2:
            raise LadderError("no batch fits")

    stage.run = run
    assert main([*SEVERITY, "--data", "a", "--folds", "all"]) == 1
    assert [fold for fold, _, _ in stage.seen] == [0, 1, 2]


@pytest.mark.parametrize(
    "arguments",
    [
        ["train"],
        ["train", "nothing"],
        SEVERITY,
        ["train", "severity", "--data", "a"],
        [*SEVERITY, "--data", "a", "--fold", "5"],
        [*SEVERITY, "--data", "a", "--fold", "1", "--folds", "all"],
        [*SEVERITY, "--data", "a", "--resume", "--restart"],
    ],
)
def test_a_wrong_call_is_status_2(stage, arguments, capsys):
    assert main(arguments) == 2
    assert not stage.seen


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BackboneError("no such network"), 2),
        (CompetitionError("no train_images"), 2),
        (TableError("t.csv", "row 3", "study_id", "x"), 2),
        (FileExistsError("a file is in the way"), 1),
    ],
)
def test_errors_are_a_line_and_a_status(stage, capsys, error, status):
    def run(args):
        raise error

    stage.run = run
    assert main([*SEVERITY, "--data", "a"]) == status
    assert capsys.readouterr().err.startswith("train severity: ")


def test_faults_of_the_program_keep_their_traceback(stage):
    def run(args):
        raise KeyError("a bug")

    stage.run = run
    with pytest.raises(KeyError):
        main([*SEVERITY, "--data", "a"])


def test_a_sweep_trains_each_of_its_settings_and_compares_them(stage, tmp_path, capsys):
    (tmp_path / "s.yaml").write_text("grid: {loop.epochs: [1, 2]}")

    def run(options):
        stage.seen.append((options.set, str(options.out)))
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "config.yaml").write_text(f"task: canal fold 0\nconfig: {{loop: {len(stage.seen)}}}")

    stage.run = run
    assert main([*SEVERITY, "--data", "a", "--out", "o", "--set", "loop.seed=3", "--sweep", "s.yaml"]) == 0
    assert stage.seen == [
        (["loop.seed=3", "loop.epochs=1"], "o/loop.epochs=1"), (["loop.seed=3", "loop.epochs=2"], "o/loop.epochs=2"),
    ]  # fmt: skip
    assert "o/loop.epochs=2\n" in capsys.readouterr().out


@pytest.mark.parametrize("command", [SEVERITY, ["train", "landmarks"]])
def test_a_wrong_setting_of_a_sweep_is_found_before_anything_is_trained(stage, tmp_path, capsys, command):
    (tmp_path / "s.yaml").write_text("list: {good: {loop.epochs: 1}, bad: {loop.epoch: 2}}")
    assert main([*command, "--data", "a", "--sweep", "s.yaml"]) == 2
    assert "loop.epoch" in capsys.readouterr().err
    assert stage.seen == []
