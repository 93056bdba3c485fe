"""``submit.py`` from its arguments to its files, without weights: every row there, every fault counted."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.__main__ import main as pipeline_main
from pipeline.commands import submit as submit_command
from pipeline.commands.submit import main
from pipeline.ensemble.prior import read_prior
from pipeline.labels import CELL_COLUMNS, CELLS, GRADE_NAMES, GRADES, row_id
from pipeline.submission import ROW_ORDER, probabilities_of, read_submission
from pipeline.weights.manifest import Manifest, Member
from tests.run.studies import write_studies
from tests.volumes.oracle import AXIAL, SAGITTAL, write_series

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _without_weights(tmp_path, monkeypatch):
    """The set that lies in the repository is not what these tests are about."""
    monkeypatch.setattr(submit_command, "DEFAULT_WEIGHTS", tmp_path / "no weights here")


def submit(tmp_path, *options, data="data"):
    out = tmp_path / "out" / "submission.csv"
    arguments = ["--data", tmp_path / data, "--out", out, "--workers", 1, "--quiet", *options]
    return main([str(one) for one in arguments]), out


def test_every_row_is_there_in_the_order_of_the_sample(tmp_path, capsys):
    write_studies(tmp_path / "data", ["9", "10"])
    status, out = submit(tmp_path, "--stages", tmp_path / "stages", "--wide", tmp_path / "wide.csv")
    assert status == 0
    rows = read_submission(out)
    assert list(rows.index) == [row_id(study, CELLS[index]) for study in ("10", "9") for index in ROW_ORDER]
    assert list(rows.index) == sorted(rows.index)
    assert rows.to_numpy() == pytest.approx(np.tile(read_prior()[list(ROW_ORDER)], (2, 1)), abs=1e-6)
    provenance = pd.read_csv(tmp_path / "stages" / "provenance.csv", dtype=str, keep_default_na=False)
    assert list(provenance["row_id"]) == list(rows.index)
    assert set(provenance["source"]) == {"prior"}
    assert set(provenance["reason"]) == {"no network for this condition"}
    assert not (tmp_path / "stages" / "label_coordinates.csv").exists()
    grades = pd.read_csv(tmp_path / "stages" / "probabilities.csv", index_col="row_id")
    weighted = grades[[f"weighted_{grade}" for grade in GRADES]].to_numpy()
    plain = grades[[f"plain_{grade}" for grade in GRADES]].to_numpy()
    assert weighted == pytest.approx(rows.loc[grades.index].to_numpy(), abs=1e-4)
    counted = plain * [1, 2, 4]
    assert counted / counted.sum(1, keepdims=True) == pytest.approx(weighted, abs=1e-3)
    assert len(pd.read_csv(tmp_path / "wide.csv").columns) == 76
    line, warning = capsys.readouterr().out.splitlines()
    assert warning.startswith("submit: WARNING: 50 of 50 rows are class frequencies")
    assert (
        "2 studies, 50 rows: 0 from the images (networks), 0 from the rest of the study (context), 50 class frequencies"
        in line
    )
    report = json.loads((out.parent / "run.json").read_text())
    assert report["reasons"] == {"no network for this condition": 50}
    assert report["versions"]["numpy"] == np.__version__
    assert sorted(path.name for path in out.parent.iterdir()) == ["run.json", "submission.csv", "submission.log"]


def test_only_the_named_studies_are_graded(tmp_path, capsys):
    write_studies(tmp_path / "data", ["9", "10", "11"])
    status, out = submit(tmp_path, "--studies", "11", "9")
    assert status == 0
    assert {name.split("_")[0] for name in read_submission(out).index} == {"9", "11"}
    assert submit(tmp_path, "--studies", "9", "12")[0] == 2
    assert "--studies 12: not one of the 3 studies, e.g. 10" in capsys.readouterr().err


def test_studies_that_only_a_table_names_get_their_rows(tmp_path, capsys):
    root = write_studies(tmp_path / "data", ["1"])
    names = ["1", "2", "../../etc"]
    rows = [f"{name}_{column},0.3,0.3,0.4" for name in names for column in CELL_COLUMNS]
    (root / "sample_submission.csv").write_text("row_id,normal_mild,moderate,severe\n" + "\n".join(rows) + "\n")
    with (root / "test_series_descriptions.csv").open("a") as table:
        table.write("3,33,Axial T2\n1,99,Sagittal T1\n")
    (root / "test_images" / "4").mkdir()
    (root / "test_images" / "notes.txt").write_text("x")
    (root / "test_images" / "loop").symlink_to(root / "test_images" / "loop")
    status, out = submit(tmp_path)
    assert status == 0
    probabilities_of(read_submission(out), ["1", "2", "3", "4", "../../etc"], out)
    assert len(read_submission(out)) == 5 * 25
    line = capsys.readouterr().out
    for counted in ("study absent 100", "study-absent 2", "study-id-unsafe 1", "series-absent 1", "stray-file 2"):
        assert counted in line
    assert "study-empty 1" in line
    assert "study-unlisted 1" in line


HOSTILE_NAMES = (
    b"1",
    b"caf\xe9",
    b"caf\\xe9",
    b"a\nb",
    b"\x1b[31mred",
    b"\x9b2J",
    "\u009b2J".encode(),
    b"=1+1",
    b"-5",
    b"NA",
)


@pytest.fixture
def hostile_names(tmp_path):
    """Studies, series and files whose names hold any bytes, and a table with a terminal's sequence in it."""
    images = tmp_path / "data" / "test_images"
    for name in HOSTILE_NAMES:
        write_series(images / os.fsdecode(name) / "s", SAGITTAL)
    series = write_series(images / "1" / os.fsdecode(b"=s\xe9\x1b[2J"), AXIAL)
    (series / os.fsdecode(b"\xe9\r\x1b]0;title\x07.dcm")).write_bytes(b"no DICOM")
    (images / os.fsdecode(b"stray\xe9\n.txt")).touch()
    table = 'study_id,series_id,series_description\n1,s,"\x1b[31mbad"\n"\x1b[0m\n=2",1,Axial T2\n=1+1,s,Sagittal T1\n'
    (tmp_path / "data" / "test_series_descriptions.csv").write_text(table)
    return tmp_path


def test_names_of_any_bytes_are_shown_escaped_and_no_row_is_lost(hostile_names, capsys):
    stages, wide = hostile_names / "stages", hostile_names / "out" / "wide.csv"
    status, out = submit(hostile_names, "--stages", stages, "--wide", wide)
    assert status == 0
    ids = ["1", "caf\\xe9", "caf\\\\xe9", "a\\x0ab", "\\x1b[31mred", "\\x9b2J", "\\u009b2J", "=1+1", "-5", "NA"]
    table = read_submission(out)
    probabilities_of(table, [*ids, "\\x1b[0m\\x0a=2"], out)
    assert len(table) == 25 * 11
    assert out.read_text().count("\n=1+1_") == 25  # in the competition's own table an id that can be written stays
    for path in (out, wide, out.with_suffix(".log"), out.with_name("run.json"), *stages.iterdir()):
        lines = path.read_text(encoding="utf-8").split("\n")
        assert all(line.isprintable() for line in lines), path
    for path in (wide, *stages.glob("*.csv")):
        cells = pd.read_csv(path, dtype=str, keep_default_na=False).to_numpy().ravel()
        assert not [cell for cell in cells if cell[:1] in set("=+-@")], path
    printed = capsys.readouterr()
    assert all(line.isprintable() for line in (printed.out + printed.err).split("\n"))
    assert "name-escaped 6" in printed.out
    assert "1/=s\\xe9\\x1b[2J/\\xe9\\x0d\\x1b]0;title\\x07.dcm: not-dicom" in out.with_suffix(".log").read_text()


def test_a_folder_and_a_table_may_lie_where_no_name_is_utf_8(tmp_path, capsys):
    root = tmp_path / os.fsdecode(b"\xe9\n\x1b[1m")
    write_studies(root / "data", ["1"])
    status, out = submit(root, "--stages", root / "stages")
    assert status == 0
    assert len(read_submission(out)) == 25
    assert json.loads(out.with_name("run.json").read_text())["images"].endswith("\\xe9\\x0a\\x1b[1m/data/test_images")
    assert submit(root, data="absent")[0] == 2
    printed = capsys.readouterr()
    assert all(line.isprintable() for line in (printed.out + printed.err).split("\n"))


def test_a_table_that_cannot_be_read_is_counted_and_the_images_speak_for_themselves(tmp_path, capsys):
    root = write_studies(tmp_path / "data", ["1"])
    (root / "test_series_descriptions.csv").write_bytes(b"\xff\xfe\x00\x01 not a table")
    assert submit(tmp_path)[0] == 0
    assert "table-unreadable 1" in capsys.readouterr().out


def test_faults_of_files_and_folders_lose_no_row(tmp_path, capsys):
    root = write_studies(tmp_path / "data", [str(number) for number in range(8)])
    images = root / "test_images"
    truncated = images / "0" / "0-0" / "1.dcm"
    truncated.write_bytes(truncated.read_bytes()[:300])
    (images / "1" / "1-1" / "2.dcm").write_bytes(b"")
    (images / "2" / "2-2" / "3.dcm").write_text("this is a text file\n" * 50)
    for path in (images / "3" / "3-2").iterdir():
        path.unlink()
    (images / "3" / "3-2").rmdir()
    for path in (images / "4" / "4-0").iterdir():
        path.unlink()
    for series in (images / "5").iterdir():
        for path in list(series.iterdir())[1:]:
            path.unlink()
    for path in (images / "6" / "6-1").iterdir():
        path.write_bytes(os.urandom(200))
    status, out = submit(tmp_path, "--stages", tmp_path / "stages")
    assert status == 0
    assert len(read_submission(out)) == 8 * 25
    provenance = pd.read_csv(tmp_path / "stages" / "provenance.csv", dtype=str, keep_default_na=False)
    reasons = provenance.groupby(["study_id", "reason"]).size().to_dict()
    assert reasons["3", "series missing"] == 10
    assert reasons["4", "series unreadable"] == 10
    assert reasons["7", "no network for this condition"] == 25
    assert ("6", "series unreadable") not in reasons  # the canal is still to be seen on the axial series
    log = (out.parent / "submission.log").read_text()
    for place in ("0/0-0/1.dcm", "1/1-1/2.dcm", "2/2-2/3.dcm", "3/3-2", "4/4-0", "6/6-1"):
        assert place in log, place
    line, warning = capsys.readouterr().out.splitlines()
    assert "WARNING: 200 of 200 rows" in warning
    assert "series missing 10, series unreadable 10" in line


@pytest.mark.slow
def test_phantoms_with_every_fault_of_files_lose_no_row(tmp_path, capsys):
    from pipeline.phantom import make_phantom

    faults = ["truncated", "zero_byte", "text_file", "missing_series", "empty_series"]
    root = make_phantom(tmp_path / "data", len(faults), split="test", size="small", defects=faults)
    studies = list(pd.read_csv(root / "test_truth.csv", dtype={"study_id": str})["study_id"])
    one_slice = root / "test_images" / studies[0]
    for path in [path for series in one_slice.iterdir() for path in sorted(series.iterdir())[1:]]:
        path.unlink()
    status, out = submit(tmp_path, "--stages", tmp_path / "stages")
    assert status == 0
    probabilities_of(read_submission(out), studies, out)
    assert pipeline_main(["score", str(root / "test_truth.csv"), str(out)]) == 0
    provenance = pd.read_csv(tmp_path / "stages" / "provenance.csv", dtype=str)
    assert len(provenance) == 25 * len(studies)
    assert provenance["reason"].notna().all()
    log = (out.parent / "submission.log").read_text()
    for what in ("empty-file", "not-dicom", "series-absent", "no-volume"):
        assert what in log, what
    assert "problems in" in capsys.readouterr().out


def labelled(tmp_path, count=20):
    names = [str(100 + number) for number in range(count)]
    root = write_studies(tmp_path / "data", names, "train")
    grades = np.random.default_rng(3).choice(3, (count, 25), p=[0.6, 0.25, 0.15])
    frame = pd.DataFrame(np.array(GRADE_NAMES)[grades], columns=list(CELL_COLUMNS))
    frame.insert(0, "study_id", names)
    frame.to_csv(root / "train.csv", index=False)
    return root


def test_a_fold_is_graded_and_scored(tmp_path, capsys):
    root = labelled(tmp_path)
    status, out = submit(tmp_path, "--fold", 2)
    assert status == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1].startswith("score: spinal ")
    studies = sorted({name.split("_")[0] for name in read_submission(out).index})
    assert len(studies) == 4
    assert pipeline_main(["score", str(root / "train.csv"), str(out), "--json"]) == 2
    assert "rows are missing" in capsys.readouterr().err
    assert pipeline_main(["score", str(root / "train.csv"), str(out), "--json", "--submitted"]) == 0
    score = json.loads(capsys.readouterr().out)
    assert json.loads((out.parent / "run.json").read_text())["score"] == pytest.approx(score, abs=1e-6)


def test_the_score_of_a_fitted_set_says_what_the_fit_has_seen(tmp_path, capsys):
    labelled(tmp_path)
    manifest = Manifest(tmp_path / "weights", "made up", "nothing")
    manifest.folder.mkdir()
    manifest.add_file("ensemble.json", b"{}")
    submit(tmp_path, "--fold", 2, "--weights", manifest.folder)
    *_, score, remark = capsys.readouterr().out.splitlines()
    assert score.startswith("score: spinal ")
    assert "ensemble_report.json of the weights is cross-fitted" in remark


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "nowhere"], "nowhere does not exist"),
        (["--data", "data/test_series_descriptions.csv"], "is a file"),
        (["--data", "data", "--workers", "0"], "expected 1 or more"),
        (["--data", "data", "--time-budget", "-1"], "expected minutes above 0"),
        (["--data", "data", "--weights", "nowhere"], "no manifest.json there"),
        (["--data", "data", "--series", "nowhere.csv"], "nowhere.csv"),
        (["--data", "data", "--fold", "0"], "has no train_images"),
        (["--data", "data", "--set", "study_secs=3"], "did you mean study_seconds"),
        (["--data", "empty"], "holds no study"),
        (["--data", "data", "--out", "empty"], "is a folder"),
    ],
)
def test_a_wrong_call_is_status_two_and_says_what_was_expected(tmp_path, monkeypatch, capsys, options, message):
    write_studies(tmp_path / "data", ["1"])
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "submission.csv").exists()


@pytest.mark.parametrize("option", ["--out", "--wide"])
def test_a_file_that_is_no_submission_is_not_replaced(tmp_path, capsys, option):
    write_studies(tmp_path / "data", ["1"])
    truth = tmp_path / "test_truth.csv"
    truth.write_text("study_id,spinal_canal_stenosis_l1_l2\n1,Severe\n")
    assert submit(tmp_path, option, truth)[0] == 2
    assert f"{option} {truth}: exists and starts with 'study_id,spinal_canal" in capsys.readouterr().err
    assert truth.read_text().endswith("1,Severe\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("before", ["", "row_id,normal_mild,moderate,severe\r\nold,1,0,0\r\n"])
def test_an_earlier_submission_and_an_empty_file_are_replaced(tmp_path, before):
    write_studies(tmp_path / "data", ["1"])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "submission.csv").write_text(before, newline="")
    wide = tmp_path / "wide.csv"
    assert submit(tmp_path, "--wide", wide)[0] == 0
    status, out = submit(tmp_path, "--wide", wide)
    assert status == 0
    assert len(read_submission(out)) == 25


def test_a_fold_that_is_not_there_is_a_wrong_call(tmp_path, capsys):
    labelled(tmp_path, 10)
    assert submit(tmp_path, "--fold", 7)[0] == 2
    assert "expected one of 0, 1, 2, 3, 4" in capsys.readouterr().err


def test_too_few_studies_for_folds_is_a_wrong_call(tmp_path, capsys):
    labelled(tmp_path, 3)
    assert submit(tmp_path, "--fold", 0)[0] == 2
    assert "cannot make 5 folds of 3 studies" in capsys.readouterr().err


def test_folds_stored_with_the_weights_are_the_ones_that_count(tmp_path):
    labelled(tmp_path, 10)
    weights = tmp_path / "weights"
    weights.mkdir()
    lines = [f"{100 + number},{int(number == 3)}" for number in range(10)]
    text = "study_id,fold\n" + "\n".join(lines) + "\n"
    Manifest(weights, "test", "nothing").add_file("folds.csv", text.encode())
    status, out = submit(tmp_path, "--fold", 1, "--weights", weights)
    assert status == 0
    assert {name.split("_")[0] for name in read_submission(out).index} == {"103"}


def test_a_place_that_cannot_be_written_is_status_one(tmp_path, capsys):
    write_studies(tmp_path / "data", ["1"])
    (tmp_path / "out").write_text("a file where a folder should be")
    assert submit(tmp_path)[0] == 1
    assert "out" in capsys.readouterr().err


def test_damaged_weights_are_refused_by_name_and_the_table_is_written(tmp_path, capsys):
    write_studies(tmp_path / "data", ["1"])
    weights = tmp_path / "weights"
    weights.mkdir()
    Manifest(weights, "test", "nothing").add_member(Member("a", "canal", "a.safetensors", ""), b"network")
    (weights / "a.safetensors").write_bytes(b"netw0rk")
    status, out = submit(tmp_path, "--weights", weights)
    assert status == 0
    printed = capsys.readouterr()
    assert "a.safetensors: sha256 is" in printed.err
    assert "weights-refused 1" in printed.out
    assert len(read_submission(out)) == 25


SLOWLY = """
import sys, time
import pipeline.volumes
read = pipeline.volumes.read_study
def slowly(*args):
    time.sleep(0.4)
    return read(*args)
pipeline.volumes.read_study = slowly
from pathlib import Path
from pipeline.commands import submit as submit_command
submit_command.DEFAULT_WEIGHTS = Path("no weights here")
sys.exit(submit_command.main(sys.argv[1:]))
"""


def start(tmp_path, *options, **kind):
    out = tmp_path / "submission.csv"
    arguments = ["--data", tmp_path / "data", "--out", out, "--workers", 1, *options]
    code = [sys.executable, "-c", SLOWLY, *map(str, arguments)]
    return subprocess.Popen(code, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kind), out


KEPT = "*.result"


def wait_for(condition, seconds=60):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)


def test_a_terminated_run_ends_cleanly_and_the_next_continues_it(tmp_path):
    names = [str(number) for number in range(12)]
    write_studies(tmp_path / "data", names)
    process, out = start(tmp_path)
    kept = tmp_path / "submission.work"
    wait_for(lambda: len(list(kept.rglob(KEPT))) >= 3)
    process.send_signal(signal.SIGTERM)
    printed, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "ended early: stopped" in printed
    probabilities_of(read_submission(out), names, out)
    done = len(list(kept.rglob(KEPT)))
    assert 3 <= done < 12
    process, out = start(tmp_path)
    printed, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert f"{done} studies taken over" in printed
    assert "stopped" not in printed
    assert not kept.exists()


"""Results of finished studies in a work folder."""


@contextlib.contextmanager
def hangup(disposition):
    """What a program that is started inside does when its terminal closes, however the tests were started."""
    before = signal.signal(signal.SIGHUP, disposition)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_closed_terminal_ends_a_run_cleanly_and_nohup_keeps_it_going(tmp_path):
    names = [str(number) for number in range(12)]  # five seconds, of which a busy machine may miss some
    write_studies(tmp_path / "data", names)
    with hangup(signal.SIG_DFL):
        process, out = start(tmp_path)
    wait_for(lambda: list((tmp_path / "submission.work").rglob(KEPT)))
    process.send_signal(signal.SIGHUP)
    printed, errors = process.communicate(timeout=120)
    assert process.returncode == 129, errors
    assert "ended early: stopped" in printed
    probabilities_of(read_submission(out), names, out)
    with hangup(signal.SIG_IGN):
        process, out = start(tmp_path)
    wait_for(lambda: len(list((tmp_path / "submission.work").rglob(KEPT))) > 1)
    process.send_signal(signal.SIGHUP)
    printed, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "stopped" not in printed


def test_a_terminal_that_is_closed_ends_the_workers_without_a_word_of_theirs(tmp_path):
    names = [str(number) for number in range(60)]
    write_studies(tmp_path / "data", names)
    with hangup(signal.SIG_DFL):
        process, out = start(tmp_path, "--workers", 2, start_new_session=True)
    wait_for(lambda: list((tmp_path / "submission.work").glob("*.started")))
    os.killpg(process.pid, signal.SIGHUP)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 129
    assert "Traceback" not in errors
    probabilities_of(read_submission(out), names, out)


def test_a_run_continues_when_nobody_reads_what_it_prints_or_its_streams_are_closed(tmp_path):
    write_studies(tmp_path / "data", ["1"])
    for number, streams in enumerate(("2>&1 | true", "<&- >&- 2>&-")):
        out = tmp_path / str(number) / "submission.csv"
        command = [sys.executable, "submit.py", "--data", tmp_path / "data", "--out", out, "--workers", 1]
        command += ["--weights", "weights/phantom"]
        line = f"set -o pipefail; {' '.join(map(str, command))} {streams}"
        assert subprocess.run(["bash", "-c", line], cwd=ROOT, check=False, timeout=120).returncode == 0
        assert json.loads(out.with_name("run.json").read_text())["reasons"].get("study failed") is None
        assert len(read_submission(out)) == 25


def test_a_clock_that_is_set_during_the_run_ends_nothing(tmp_path, monkeypatch):
    write_studies(tmp_path / "data", ["1", "2", "3"])
    times = iter(range(0, 10**9, 100_000))
    monkeypatch.setattr(time, "time", lambda: 1e9 + (-1) ** next(times) * next(times))
    status, out = submit(tmp_path, "--time-budget", 5, "--stages", tmp_path / "stages")
    assert status == 0
    report = json.loads(out.with_name("run.json").read_text())
    assert report["ended_early"] is None
    assert 0 < report["seconds"] < 120


def test_without_locks_between_processes_studies_are_graded_one_by_one(tmp_path, monkeypatch, capsys):
    write_studies(tmp_path / "data", ["1", "2"])

    def refuse(*_, **__):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", refuse)
    for budget in ((), ("--time-budget", 5)):
        assert submit(tmp_path, "--workers", 2, *budget)[0] == 0
        printed = capsys.readouterr().out
        assert "no-workers 1" in printed
        assert "no network for this condition 50" in printed


def test_a_killed_run_leaves_a_whole_file(tmp_path):
    names = [str(number) for number in range(6)]
    write_studies(tmp_path / "data", names)
    chance = random.Random(0)
    for _ in range(3):
        process, out = start(tmp_path)
        wait_for(out.exists)
        time.sleep(chance.uniform(0, 1.5))
        process.kill()
        process.communicate()
        probabilities_of(read_submission(out), names, out)
        out.unlink()
