"""``train STAGE``: arguments, folds and exit statuses; no stage is really trained."""

import subprocess
import sys
import types

import pytest

from pipeline.__main__ import main
from pipeline.commands import train
from pipeline.competition import CompetitionError
from pipeline.tables import TableError
from pipeline.weights.backbones import BackboneError


@pytest.fixture
def stage(monkeypatch, tmp_path):
    """A stage that notes its arguments; relative folders are in one of the test's own."""
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("tests.training.fake_stage")
    module.seen = []
    module.add_arguments = lambda parser: parser.add_argument("--extra", type=int, default=1)

    def run(args):
        module.seen.append((args.fold, str(args.out), args.extra))
        return 0

    module.run = run
    stage = train.Stage(module.add_arguments, lambda args: module.run(args), "a stage")
    monkeypatch.setitem(train.STAGES, "severity", stage)
    return module


def test_a_fold_is_trained_with_common_and_own_arguments(stage):
    assert main(["train", "severity", "--data", "a", "b", "--fold", "3", "--out", "o", "--extra", "7"]) == 0
    assert stage.seen == [(3, "o", 7)]


def test_all_folds_go_to_a_folder_each(stage):
    assert main(["train", "severity", "--data", "a", "--folds", "all", "--out", "o"]) == 0
    assert stage.seen == [(fold, f"o/fold{fold}", 1) for fold in range(5)]


@pytest.mark.parametrize("name", [".", "fold3"])
@pytest.mark.parametrize("again", ["--resume", "--restart"])
def test_a_folder_of_other_things_is_refused_before_the_first_fold(stage, tmp_path, capsys, name, again):
    theirs = tmp_path / "o" / name / "history.csv"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("years of work")
    assert main(["train", "severity", "--data", "a", "--folds", "all", "--out", "o", again]) == 2
    assert "was not made by this program" in capsys.readouterr().err
    assert stage.seen == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [theirs]


def test_no_held_out_fold(stage):
    assert main(["train", "severity", "--data", "a", "--fold", "none"]) == 0
    assert stage.seen == [(None, "runs/severity", 1)]


def test_a_fold_that_fails_ends_the_run_with_its_status(stage):
    stage.run = lambda args: 1 if args.fold == 2 else 0
    assert main(["train", "severity", "--data", "a", "--folds", "all"]) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["train"],
        ["train", "nothing"],
        ["train", "severity"],
        ["train", "severity", "--data", "a", "--fold", "5"],
        ["train", "severity", "--data", "a", "--fold", "1", "--folds", "all"],
        ["train", "severity", "--data", "a", "--resume", "--restart"],
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
        (TableError("t.csv", "row 3", "study_id", "x"), 1),
        (FileExistsError("a file is in the way"), 1),
    ],
)
def test_errors_are_a_line_and_a_status(stage, capsys, error, status):
    def run(args):
        raise error

    stage.run = run
    assert main(["train", "severity", "--data", "a"]) == status
    assert capsys.readouterr().err.startswith("train severity: ")


def test_faults_of_the_program_keep_their_traceback(stage):
    def run(args):
        raise KeyError("a bug")

    stage.run = run
    with pytest.raises(KeyError):
        main(["train", "severity", "--data", "a"])


@pytest.mark.parametrize("arguments", [["train", "--help"], ["train", "landmarks", "--help"]])
def test_help_answers_without_torch(arguments):
    call = f"status = main({arguments!r}); sys.exit(status or 'torch' in sys.modules)"
    code = f"import sys; from pipeline.__main__ import main; {call}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "landmarks" in done.stdout
