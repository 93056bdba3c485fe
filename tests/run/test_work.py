"""The work folder: nothing of the user's is touched, nothing stale or planted is taken over, one run at a time."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.commands import on_request
from pipeline.commands import submit as submit_command
from pipeline.commands.submit import main
from pipeline.competition import SeriesRef, StudyRef, open_competition
from pipeline.ensemble.networks import Networks
from pipeline.files import write_sealed
from pipeline.owned import MARK, claim
from pipeline.run import session
from pipeline.run.board import Board
from pipeline.run.plan import make_plan
from pipeline.run.result import StudyResult
from pipeline.run.study import grade_study
from pipeline.run.tally import LOG_HEADER
from pipeline.run.task import Workbench
from pipeline.run.work import WorkFolder
from pipeline.submission import read_submission
from pipeline.weights.manifest import Manifest
from tests.commands.test_submit import ROOT, SLOWLY, wait_for
from tests.run.studies import FakeNetworks, members, write_studies

NAMES = ["1", "2", "3"]


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    """Three studies, no weights, and the test's own folder as the current one."""
    write_studies(tmp_path / "data", NAMES)
    monkeypatch.setattr(submit_command, "DEFAULT_WEIGHTS", tmp_path / "no weights here")
    monkeypatch.chdir(tmp_path)


def submit(*options):
    return main(["--data", "data", "--workers", "1", "--quiet", *map(str, options)])


def snapshot(folder="."):
    """Every file, link and folder with its content."""
    return {
        str(path): path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None
        for path in sorted(Path(folder).rglob("*"))
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--work", "data"], "--work data and --data data are the same place"),
        (["--work", "data/test_images"], "--work data/test_images lies inside --data data"),
        (["--work", "."], "--out submission.csv lies inside --work ."),
        (["--work", ".", "--out", "../s.csv"], "--data data lies inside --work ."),
        (["--work", "mine"], "mine: is not empty (1 entries, the first is 'thesis.txt')"),
        (["--work", "to-data"], "are the same place"),
        (["--work", "mine/thesis.txt"], "is no folder"),
        (["--out", "data/submission.csv"], "lies inside --data data"),
        (["--out", "data/new/submission.csv"], "lies inside --data data"),
        (["--wide", "submission.csv"], "are the same place"),
        (["--wide", "submission.log"], "are the same place"),
        (["--out", "run.json"], "are the same place"),
        (["--out", "results.log"], "are the same place"),
        (["--stages", "data"], "are the same place"),
        (["--stages", "data/test_images/1"], "lies inside --data data"),
        (["--work", "w", "--stages", "w/stages"], "lies inside --work w"),
        (["--wide", "submission.work/wide.csv"], "lies inside the work folder submission.work"),
        (["--weights", "set", "--out", "set/submission.csv"], "lies inside --weights set"),
        (["--out", "to-data/submission.csv"], "lies inside --data data"),
        (["--out", "."], "--out .: is a folder"),
        (["--out", "link.csv"], "link.csv: is a link"),
        (["--out", "pipe"], "pipe: is a link, a pipe or a device"),
        (["--out", "notes.csv"], "is no log of submit.py; it is left as it is"),
        (["--out", "training/s.csv"], "is no report of submit.py; it is left as it is"),
        (["--stages", "tables"], "provenance.csv: exists and starts with 'a,b'"),
        (["--stages", "points"], "label_coordinates.csv: exists and starts with 'study_id,series_id"),
        (["--data", "data/test_images", "--out", "data/sample_submission.csv"], "are the same place"),
    ],
)
def test_a_call_that_would_reach_what_is_not_the_programs_changes_nothing(capsys, options, message):
    files = {
        "mine/thesis.txt": "years of work",
        "set/manifest.json": '{"set": "s", "description": "d"}',
        "notes.log": "my own notes\n",
        "training/run.json": '{"epochs": 3}',
        "tables/provenance.csv": "a,b\n1,2\n",
        "points/label_coordinates.csv": "study_id,series_id,instance_number,condition,level,x,y\n",
        "target.csv": "row_id,normal_mild,moderate,severe\n",
        "data/sample_submission.csv": "row_id,normal_mild,moderate,severe\n",
    }
    for name, text in files.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)
    Path("to-data").symlink_to("data")
    Path("link.csv").symlink_to("target.csv")
    os.mkfifo("pipe")
    before = snapshot()
    assert submit(*options) == 2
    assert snapshot() == before
    error = capsys.readouterr().err
    assert error.startswith("submit.py: ")
    assert message in error


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_a_series_of_named_files_is_another_when_one_of_them_or_what_describes_it_changes(packed, tmp_path):
    names = ("a/1", "c.nii.gz")
    data = tmp_path / "data"
    for name in (*names, "stranger"):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_text("1")
    path = Path(shutil.make_archive(str(data), "zip", data)) if packed else data
    study = StudyRef("s", path, (SeriesRef("s", "1", path, None, tuple((name, name) for name in names)),))
    work = WorkFolder(tmp_path, "x")
    first = work.fingerprint(study)
    (data / "stranger").write_text("another")
    assert work.fingerprint(study) == first
    seen = {first}
    for number, changed in enumerate([path] if packed else [data / "a/1", data / "c.json"], start=2):
        changed.write_text("another")
        seen.add(work.fingerprint(study))
        assert len(seen) == number


def test_a_folder_that_happens_to_have_the_work_folders_name_is_left_alone(tmp_path, capsys):
    mine = tmp_path / "submission.work"
    for name in ("thesis.txt", f"{'0' * 24}.started", f"{'0' * 24}.result", "deep/notes.partial"):
        (mine / name).parent.mkdir(parents=True, exist_ok=True)
        (mine / name).write_text("years of work")
    before = snapshot(mine)
    assert submit() == 0
    assert snapshot(mine) == before
    assert "work-folder 1" in capsys.readouterr().out
    log = Path("submission.log").read_text()
    assert "submission.work: is not empty" in log
    assert "works in a temporary folder" in log
    assert len(read_submission(Path("submission.csv"))) == 75


def test_strangers_files_in_a_work_folder_stay(tmp_path):
    claim(tmp_path / "work", "work")
    strangers = ["notes.started", "a.partial", "mine.cubes", "x.slot", "report.result", "deep/y.started"]
    for name in strangers:
        (tmp_path / "work" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "work" / name).write_text("mine")
    (tmp_path / "work" / f"{'1' * 24}.started").symlink_to("notes.started")
    (tmp_path / "work" / f"{'0' * 24}.started").write_text("")
    assert submit("--work", "work") == 0
    left = {MARK, "deep", f"{'1' * 24}.started", *(name for name in strangers if "/" not in name)}
    assert {path.name for path in (tmp_path / "work").iterdir()} == left
    assert (tmp_path / "work" / "deep" / "y.started").read_text() == "mine"


def test_an_empty_folder_of_the_users_is_used_and_stays(tmp_path):
    (tmp_path / "empty").mkdir()
    assert submit("--work", "empty") == 0
    assert list((tmp_path / "empty").iterdir()) == []
    assert submit("--work", "new") == 0
    assert not (tmp_path / "new").exists()


RECORDED = """
import os, sys
wrote, first = set(), lambda args: args[0]
def note(event, args):
    if event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
        wrote.add(args[0])
    elif event in ("os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.chmod", "os.utime"):
        wrote.add(args[0])
    elif event in ("os.rename", "os.link", "os.symlink"):
        wrote.update(args[:2])
sys.dont_write_bytecode = True
from pathlib import Path
from pipeline.commands import submit as submit_command
submit_command.DEFAULT_WEIGHTS = Path("no weights here")
sys.addaudithook(note)
status = submit_command.main(sys.argv[1:])
print("WROTE", *sorted({os.path.abspath(os.fsdecode(path)) for path in wrote if not isinstance(path, int)}), sep="\\n")
sys.exit(status)
"""


def test_a_run_writes_and_deletes_nothing_but_what_was_named(tmp_path):
    command = [sys.executable, "-c", RECORDED, "--data", "data", "--workers", "1", "--quiet"]
    command += ["--out", "out/s.csv", "--stages", "tables", "--wide", "wide.csv"]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True
    )
    lines = done.stdout.partition("WROTE\n")[2].splitlines()
    wrote = {line.removeprefix(f"{tmp_path}/") for line in lines if line not in (os.devnull, str(tmp_path))}
    tables = ("label_coordinates.csv", "problems.csv", "probabilities.csv", "provenance.csv", "results.json")
    named = {"out", "out/s.csv", "out/s.log", "out/run.json", "out/.s.csv.lock", "wide.csv", "tables"}
    named |= {f"tables/{name}" for name in tables}
    tables_of = "s|run|wide|provenance|problems|probabilities|label_coordinates|results"
    hidden = re.compile(rf"out/s\.work(/.*)?|((out|tables)/)?\.({tables_of})\.(csv|json)\.[0-9a-f]{{12}}\.partial")
    assert wrote >= named - {"out/run.json"}
    assert [path for path in wrote - named if not hidden.fullmatch(path)] == []


def test_a_log_that_a_link_leads_out_of_is_not_written(tmp_path, capsys):
    (tmp_path / "elsewhere.txt").write_text("")
    (tmp_path / "submission.log").symlink_to("elsewhere.txt")
    assert submit() == 2
    assert "submission.log: is a link" in capsys.readouterr().err
    assert (tmp_path / "submission.log").is_symlink()


def test_what_runs_before_have_left_is_replaced(tmp_path):
    assert submit("--stages", "stages") == 0
    columns = ",".join(on_request.COLUMNS)
    (tmp_path / "stages" / "label_coordinates.csv").write_text(f"{columns}\n1,2,3\n")
    assert submit("--stages", "stages") == 0
    assert not (tmp_path / "stages" / "label_coordinates.csv").exists(), "points of another run"
    (tmp_path / "run.json").write_text("")
    (tmp_path / "submission.log").write_text("")
    assert submit() == 0
    assert (tmp_path / "submission.log").read_text().startswith(LOG_HEADER)


class Interrupted:
    """Runs over fake networks whose results stay, as after a kill; ``weights`` as the manifest has them."""

    def __init__(self, tmp_path, monkeypatch, capsys):
        self.weights, self.scratch, self.capsys = tmp_path / "weights", tmp_path / "scratch", capsys
        self.scratch.mkdir()
        self.weights.mkdir()
        manifest = Manifest(self.weights, "fake", "nothing")
        for member in members():
            manifest = manifest.add_member(member, b"network")
        self.manifest = manifest.add_file("ensemble.json", b"{}")

        def networks(manifest, problems, *_):
            opened, refused = Networks.open(manifest)
            problems += refused
            return FakeNetworks(opened.manifest, opened.members, self.scratch)

        monkeypatch.setattr(session, "open_networks", networks)
        monkeypatch.setattr(WorkFolder, "remove_results", lambda self: None)

    def run(self, *options):
        """Studies taken over, and whose points were looked for."""
        for old in self.scratch.glob("*.found"):
            old.unlink()
        assert submit("--weights", self.weights, *options) == 0
        self.line = self.capsys.readouterr().out
        taken = self.line.partition(" studies taken over")[0].rpartition(" ")[2] if "taken over" in self.line else "0"
        return int(taken), sorted(path.name.split(".")[0] for path in self.scratch.glob("*.found"))


@pytest.fixture
def interrupted(tmp_path, monkeypatch, capsys):
    return Interrupted(tmp_path, monkeypatch, capsys)


def test_the_same_call_takes_the_results_over(interrupted):
    assert interrupted.run() == (0, NAMES)
    assert interrupted.run() == (3, [])
    assert interrupted.run("--stages", "stages", "--work", "submission.work") == (3, [])


def replace_in_place(path, keep_times):
    """Other pixels in the same file: same name, same size, the folder as old as before."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-40:] = b"\x01" * 40
    with path.open("r+b") as file:
        file.write(content)
    if keep_times:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("keep_times", [False, True])
def test_a_study_whose_pixels_were_replaced_in_place_is_graded_again(tmp_path, interrupted, keep_times):
    interrupted.run()
    series = tmp_path / "data" / "test_images" / "2" / "2-1"
    before = series.stat().st_mtime_ns
    replace_in_place(series / "2.dcm", keep_times)
    assert series.stat().st_mtime_ns == before
    assert interrupted.run() == (2, ["2"])


def test_a_study_that_changes_after_it_was_graded_is_named_where_its_rows_come_from(tmp_path, interrupted):
    path = tmp_path / "data" / "test_images" / "2" / "2-1" / "2.dcm"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Board, "unreached", lambda *_: replace_in_place(path, keep_times=True))
        interrupted.run("--stages", "stages")
    assert '2,,,result-lost,"the table has its rows' in (tmp_path / "stages" / "problems.csv").read_text()


def test_a_file_behind_a_link_counts_as_the_one_it_leads_to(tmp_path, interrupted):
    path = tmp_path / "data" / "test_images" / "2" / "2-1" / "2.dcm"
    shutil.move(path, tmp_path / "elsewhere.dcm")
    path.symlink_to(tmp_path / "elsewhere.dcm")
    interrupted.run()
    replace_in_place(tmp_path / "elsewhere.dcm", keep_times=False)
    assert interrupted.run() == (2, ["2"])


def test_pixels_that_are_replaced_while_a_study_is_read_are_not_taken_for_those_that_were_read(tmp_path, interrupted):
    path = tmp_path / "data" / "test_images" / "2" / "2-1" / "2.dcm"
    found = FakeNetworks.find_landmarks

    def late(self, volumes, *rest):
        if volumes.study_id == "2":
            replace_in_place(path, keep_times=False)
        return found(self, volumes, *rest)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(FakeNetworks, "find_landmarks", late)
        interrupted.run()
    assert interrupted.run() == (2, ["2"])


def test_another_configuration_of_a_member_makes_every_result_anew(interrupted):
    interrupted.run()
    first, *rest = interrupted.manifest.members
    replace(interrupted.manifest, members=(replace(first, config={"cubes": {"size_mm": 50}}), *rest)).save()
    assert interrupted.run() == (0, NAMES)


def test_results_made_without_a_damaged_file_are_made_anew_when_it_is_mended(interrupted):
    path = interrupted.weights / "ensemble.json"
    path.write_text('{"damaged')
    interrupted.run()
    assert "weights-refused 1" in interrupted.line
    path.write_text("{}")
    assert interrupted.run() == (0, NAMES)
    assert interrupted.run() == (3, [])


def test_results_of_other_code_or_libraries_are_made_anew(interrupted, monkeypatch):
    interrupted.run()
    monkeypatch.setattr("pipeline.run.work.code_version", lambda: "changed")
    assert interrupted.run() == (0, NAMES)
    monkeypatch.setattr(session, "versions", lambda: {"pylibjpeg-rle": "installed since"})
    assert interrupted.run() == (0, NAMES)
    assert interrupted.run("--set", "study_seconds=99") == (0, NAMES)


def bomb():
    """40 kB that unpack to 40 MB, as the results of earlier versions were kept."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("probabilities.npy", bytes(40_000_000))
    return content.getvalue()


DAMAGE = {
    "empty": lambda path, content: path.write_bytes(b""),
    "cut short": lambda path, content: path.write_bytes(content[: len(content) // 2]),
    "one bit": lambda path, content: path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]),
    "zip bomb": lambda path, content: path.write_bytes(bomb()),
    "huge": lambda path, content: os.truncate(path, 20 * 2**30),
    "pipe": lambda path, content: (path.unlink(), os.mkfifo(path)),
    "link": lambda path, content: (path.rename("moved"), path.symlink_to(Path("moved").resolve())),
    "device": lambda path, content: (path.unlink(), path.symlink_to("/dev/zero")),
    "of another study": lambda path, content: path.write_bytes(
        next(other for other in path.parent.parent.rglob("*.result") if other != path).read_bytes()
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_kept_result_that_is_not_as_it_was_written_is_ignored_and_counted(tmp_path, interrupted, name):
    interrupted.run()
    kept = sorted((tmp_path / "submission.work").rglob("*.result"))
    content = kept[0].read_bytes()
    DAMAGE[name](kept[0], content)
    taken, again = interrupted.run()
    assert (taken, len(again)) == (2, 1)
    # Another study's result is whole, and of other inputs.
    assert ("kept-result-refused 1" in interrupted.line) == (name != "of another study")
    assert interrupted.run() == (3, [])
    assert sorted((tmp_path / "submission.work").rglob("*.result")) == kept


def test_a_folder_in_place_of_a_result_costs_the_resume_of_that_study_alone(tmp_path, interrupted):
    interrupted.run()
    kept = next((tmp_path / "submission.work").rglob("*.result"))
    kept.unlink()
    kept.mkdir()
    assert interrupted.run()[0] == 2
    assert "kept-result-refused" in interrupted.line
    assert "result-not-kept 1" in interrupted.line
    assert kept.is_dir()


class TestPlanted:
    """A result with a right checksum whose content no run writes."""

    @pytest.fixture
    def whole(self, tmp_path):
        networks = FakeNetworks.make(tmp_path)
        study = open_competition(tmp_path / "data").study("1")
        work = WorkFolder.of(tmp_path / "planted", {})
        ((task,),) = make_plan([study], networks, False, False, 30).rounds
        return grade_study(task, Workbench(work, "run0", networks, device="cpu"))

    @pytest.mark.parametrize(
        "change",
        [
            {"study_id": "2"},
            {"source": ("model",) * 24},
            {"source": ("model",) * 24 + ("prior",)},
            {"reason": ("because",) * 25},
            {"reason": (None,) * 24 + ("time over",)},
            {"members": ((),) * 25},
            {"done": ()},
            {"problems": ("all well",)},
            {"seconds": {"read": float("nan")}},
            {"seconds": {"read": 10**400}},
            {"probabilities": "AAAA"},
            {"probabilities": "not base64"},
            {"probabilities": [[1, 0, 0]] * 25},
            {"predictions": {"canal-0": None}},
            {"landmarks": 5},
            {"extra": 1},
        ],
    )
    def test_is_ignored(self, tmp_path, whole, change):
        path = tmp_path / "planted" / "file"
        whole.save(path, "key")
        body = path.read_bytes().partition(b"\n")[2]
        assert StudyResult.load(path, "1", "key").members == whole.members
        write_sealed(path, "key", json.dumps(json.loads(body) | change).encode())
        with pytest.raises(ValueError, match="file: "):
            StudyResult.load(path, "1", "key")

    @pytest.mark.parametrize("value", [np.inf, -0.25])
    def test_probabilities_that_are_none_are_ignored(self, tmp_path, whole, value):
        path = tmp_path / "planted" / "file"
        whole.probabilities[3] = value
        whole.save(path, "key")
        if np.isinf(value):  # a network may say so; the row then is the prior's
            assert np.isnan(StudyResult.load(path, "1", "key").probabilities[3]).all()
        else:
            with pytest.raises(ValueError, match="contradict"):
                StudyResult.load(path, "1", "key")

    @pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{}", b"[" * 100_000, b'{"probabilities": 1e999}', b"\xff"])
    def test_text_that_is_no_result_is_ignored(self, tmp_path, body):
        write_sealed(tmp_path / "file", "key", body)
        with pytest.raises(ValueError, match="file: "):
            StudyResult.load(tmp_path / "file", "1", "key")


def start(*options, seconds="0.4"):
    command = [sys.executable, "-c", SLOWLY.replace("0.4", seconds), "--data", "data", "--workers", "1", "--quiet"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


@pytest.mark.parametrize(("first", "second"), [((), ()), (("--work", "w", "--out", "one.csv"), ("--work", "w"))])
def test_of_two_runs_at_once_the_second_is_refused_and_a_killed_one_holds_nothing(tmp_path, capsys, first, second):
    process = start(*first, seconds="600")
    try:
        out, work = ("one.csv", "w") if first else ("submission.csv", "submission.work")
        wait_for(lambda: Path(out).exists() and list(Path(work).glob("*.started")))
        before = snapshot()
        assert submit(*second) == 1
        assert "another run is writing there; wait until it has ended" in capsys.readouterr().err
        assert snapshot() == before
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert submit(*second) == 0
    assert "not-locked" not in capsys.readouterr().out
    assert not (tmp_path / ".submission.csv.lock").exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO])
def test_a_file_system_without_locks_is_named_and_the_run_goes_on(monkeypatch, capsys, number):
    def flock(descriptor, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    assert submit() == 0
    assert "not-locked 2" in capsys.readouterr().out
    assert "submission.csv: not-locked: " in Path("submission.log").read_text()


def test_a_lock_that_says_it_is_taken_where_none_can_be_had_is_named(monkeypatch, capsys):
    """What filelock before version 4 makes of a file system without locks."""
    import filelock

    def acquire(self, *_, **options):
        raise filelock.Timeout(self.lock_file)

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    assert submit() == 0
    assert "not-locked 2" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_a_strangers_file_with_the_locks_name_is_left_alone(tmp_path, capsys, kind):
    path = tmp_path / ".submission.csv.lock"
    (tmp_path / "elsewhere").write_text("years of work")
    if kind == "file":
        path.write_text("years of work")
    elif kind == "link":
        path.symlink_to("elsewhere")
    else:
        path.mkdir()
    before = snapshot(), path.lstat().st_mtime_ns
    assert submit() == 0
    assert "not-locked 1" in capsys.readouterr().out
    after = snapshot(), path.lstat().st_mtime_ns
    assert {name: after[0][name] for name in before[0]} == before[0]
    assert after[1] == before[1]


def test_without_any_folder_to_work_in_the_table_is_written(tmp_path, monkeypatch, capsys):
    (tmp_path / "submission.work").write_text("a file")

    def nowhere(*_, **__):
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.TemporaryDirectory", nowhere)
    assert submit() == 0
    line = capsys.readouterr().out
    assert "result-not-kept 3" in line
    assert "work-folder 1" in line
    assert len(read_submission(Path("submission.csv"))) == 75


def test_cubes_between_rounds_are_read_again_only_as_they_were_written(tmp_path):
    from pipeline.cubes import Cube, CubeSettings, StudyCubes
    from pipeline.cubes.kept import load_cubes, save_cubes
    from pipeline.labels import SeriesKind

    pixels = np.random.default_rng(0).random((5, 8, 8)).astype(np.float16).astype(np.float32)
    three = np.arange(3.0)
    cube = Cube(pixels, np.array([True] * 4 + [False]), three, three, three, 0.5, 1.5, "7", three * np.nan)
    path = tmp_path / "a.cubes"
    save_cubes(path, {CubeSettings(): StudyCubes("1", {(3, SeriesKind.AXIAL_T2): (cube, cube)})})
    (found,) = load_cubes(path)[CubeSettings()].cubes.values()
    assert len(found) == 2
    assert np.array_equal(found[1].pixels, pixels)
    assert found[1].present.tolist() == [True] * 4 + [False]
    content = path.read_bytes()
    path.rename(tmp_path / "b.cubes")
    assert load_cubes(tmp_path / "b.cubes") is None, "cubes of other inputs"
    for damaged in (b"", content[:-1], content[:200] + b"\0" + content[201:], bomb()):
        path.write_bytes(damaged)
        assert load_cubes(path) is None
    for body in (b"", b"[", (2**62).to_bytes(8, "little") + b"{}"):
        write_sealed(path, path.name, body)
        assert load_cubes(path) is None
