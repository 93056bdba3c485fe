"""The notebook as Kaggle runs it: no network, both layouts of mounts, and a submission whatever goes wrong."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import threading
import venv
from pathlib import Path

import pytest

from pipeline.commands import ROOT
from pipeline.commands.kaggle_metadata import NOTEBOOK
from pipeline.labels import CELLS, row_id
from pipeline.submission import read_submission
from tests.commands.isolated_notebook import EQUIVALENTS, isolation
from tests.commands.mounts import (
    LAYOUTS,
    OPTIONAL,
    built,
    mount,
    multiply,
    phantom_studies,
    some_weights,
    write_sample,
    write_wheels,
)

RUNNER = ROOT / "tests" / "commands" / "isolated_notebook.py"
CELLS_OF_CODE = [
    "".join(cell["source"])
    for cell in json.loads((ROOT / NOTEBOOK).read_text())["cells"]
    if cell["cell_type"] == "code"
]


class Listener:
    """A server on every interface of this host that counts who comes; what must not be reachable from inside."""

    def __enter__(self):
        self.server = socket.create_server(("", 0))
        self.server.settimeout(0.2)
        self.visitors, self._end = 0, threading.Event()
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        self._thread.join()
        self.server.close()

    @property
    def addresses(self) -> list[str]:
        port = self.server.getsockname()[1]
        hosts = {"127.0.0.1"}
        with contextlib.suppress(OSError):
            hosts |= {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), port, socket.AF_INET)}
        return [f"{host}:{port}" for host in sorted(hosts)]

    def _accept(self):
        while not self._end.is_set():
            with contextlib.suppress(TimeoutError):
                self.server.accept()[0].close()
                self.visitors += 1


def environment_of_its_own(folder: Path) -> Path:
    """A virtual environment that sees this one's packages and receives what the notebook installs; its Python."""
    venv.create(folder, with_pip=False, symlinks=True)
    (own,) = folder.glob("lib/python*/site-packages")
    shared = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (own / "shared.pth").write_text("".join(f"{path}\n" for path in sorted(shared)))
    return folder / "bin" / "python"


def run_offline(python: Path, notebook: Path, executed: Path, variables: dict[str, str], listener: Listener):
    """Execute the notebook in a network namespace without interfaces; asserts that nobody came out of it."""
    prefix = isolation()
    if prefix is None:
        pytest.fail(EQUIVALENTS)
    probes = [] if not prefix else [part for address in listener.addresses for part in ("--probe", address)]
    kept = {
        name: os.environ[name] for name in ("PATH", "HOME", "OMP_NUM_THREADS", "OMP_WAIT_POLICY") if name in os.environ
    }
    done = subprocess.run(
        [*prefix, str(python), str(RUNNER), str(notebook), str(executed), *probes],
        env={**kept, **variables}, cwd=executed.parent, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(executed.read_text())


def texts(executed: dict) -> str:
    """All that the executed notebook shows as text."""
    parts = []
    for cell in executed["cells"]:
        for output in cell.get("outputs", []):
            parts += output.get("text", []) or output.get("data", {}).get("text/plain", [])
    return "".join(parts)


def assert_complete(submission: Path, ids: list[str]) -> None:
    table = read_submission(submission)
    assert set(table.index) == {row_id(study, cell) for study in ids for cell in CELLS}
    assert len(table) == 25 * len(ids)
    assert table.to_numpy().sum(1) == pytest.approx(1, abs=1e-6)


def test_the_notebook_runs_offline_and_submits(tmp_path, monkeypatch):
    for name, value in {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(write_wheels(tmp_path / "index")),
        "PIP_CONFIG_FILE": os.devnull,
    }.items():
        monkeypatch.setenv(name, value)
    upload = built(tmp_path / "upload", "{}.{}".format(*sys.version_info), some_weights(tmp_path / "none"))
    studies = tmp_path / "studies"
    ids = multiply(phantom_studies(2), studies, 2)
    (tmp_path / "working").mkdir()
    variables = {
        "LUMBAR_INPUT": str(mount(tmp_path / "input", "new", upload, studies)),
        "LUMBAR_OUT": str(tmp_path / "working"),
        "LUMBAR_MINUTES": "5",
    }
    python = environment_of_its_own(tmp_path / "environment")
    with Listener() as listener:
        with socket.create_connection(("127.0.0.1", listener.server.getsockname()[1])):
            pass
        executed = run_offline(python, ROOT / NOTEBOOK, tmp_path / "executed.ipynb", variables, listener)
    assert listener.visitors == 1  # this test itself, which shows that the listener listens
    assert [cell["source"] for cell in executed["cells"]] == [
        cell["source"] for cell in json.loads((ROOT / NOTEBOOK).read_text())["cells"]
    ]
    assert_complete(tmp_path / "working" / "submission.csv", ids)
    said = texts(executed)
    assert "failed" not in said, said
    assert "submit.py ended with status 0" in said
    assert "every row is there" in said
    graded = json.loads((tmp_path / "working" / "run.json").read_text())["rows_by_source"]["model"]
    last = texts({"cells": executed["cells"][-1:]})
    assert last.startswith(f"{graded} of 50 rows from networks, " if graded else "CLASS FREQUENCIES ONLY")
    (site,) = (tmp_path / "environment").glob("lib/python*/site-packages")
    assert len(list(site.glob("from_wheelhouse_*.py"))) == len(OPTIONAL)
    assert len(list((tmp_path / "working" / "pictures").glob("*.png"))) == (2 if graded else 0)
    with (tmp_path / "working" / "stages" / "provenance.csv").open() as file:
        assert sum(1 for _ in csv.DictReader(file)) == 25 * len(ids)


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("KAGGLE_VENV"), reason="KAGGLE_VENV=1 builds an environment of several GB")
def test_the_notebook_runs_in_an_environment_that_has_only_what_the_kaggle_image_has(tmp_path):
    """The whole way from scratch: that image's packages, the real wheelhouse, trained weights, phantom studies.

    ``KAGGLE_VENV=1 python -m pytest -m slow tests/test_notebook.py``; needs an index for both downloads. With
    ``KAGGLE_VENV=DIR`` the environment is kept there and used again, with ``KAGGLE_PYTHON=python3.12`` it has that
    Python, by default the one that runs the test.
    """
    place = os.environ["KAGGLE_VENV"]
    environment = tmp_path / "image" if place == "1" else Path(place)
    python = environment / "bin" / "python"
    if not python.exists():
        subprocess.run([os.environ.get("KAGGLE_PYTHON", sys.executable), "-m", "venv", str(environment)], check=True)
        image = RUNNER.with_name("kaggle_image.txt")
        pip = [str(python), "-m", "pip", "install", "--no-compile", "--quiet", "-r", str(image)]
        subprocess.run(pip, check=True)
    for name in OPTIONAL:  # of a run before
        subprocess.run([str(python), "-m", "pip", "uninstall", "--yes", "--quiet", name], check=False)
    tell = "import sys; print('{}.{}'.format(*sys.version_info))"
    version = subprocess.run([str(python), "-c", tell], capture_output=True, text=True, check=True).stdout.strip()
    upload = built(tmp_path / "upload", version, some_weights(tmp_path / "none"))
    studies = tmp_path / "studies"
    ids = multiply(phantom_studies(2), studies, 2)
    variables = {"LUMBAR_INPUT": str(mount(tmp_path / "input", "old", upload, studies)), "LUMBAR_MINUTES": "30"}
    variables["LUMBAR_OUT"] = str(tmp_path / "working")
    with Listener() as listener:
        executed = run_offline(python, ROOT / NOTEBOOK, tmp_path / "executed.ipynb", variables, listener)
    assert listener.visitors == 0
    assert_complete(tmp_path / "working" / "submission.csv", ids)
    said = texts(executed)
    assert "failed" not in said, said
    assert said.count(" installed") == len(OPTIONAL), said
    report = json.loads((tmp_path / "working" / "run.json").read_text())
    pinned = dict(line.split("==") for line in RUNNER.with_name("kaggle_image.txt").read_text().split() if "==" in line)
    assert {name: report["versions"][name].partition("+")[0] for name in ("torch", "timm", "numpy", "pandas")} == {
        name: pinned[name] for name in ("torch", "timm", "numpy", "pandas")
    }
    assert report["rows_by_source"]["model"] > 0 or report["weights"] is None


def test_the_runner_refuses_where_a_connection_could_be_made(tmp_path):
    with Listener() as listener:
        done = subprocess.run(
            [sys.executable, str(RUNNER), NOTEBOOK, str(tmp_path / "x.ipynb"), "--probe", listener.addresses[0]],
            cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    assert done.returncode == 3
    assert "a connection could be made" in done.stderr
    assert not (tmp_path / "x.ipynb").exists()


class Cells:
    """Runs cells of the notebook in this process, by the words their first lines say."""

    def __init__(self, monkeypatch, tmp_path, **variables):
        for name in list(os.environ):
            if name.startswith("LUMBAR_") and name != "LUMBAR_REAL_DATA":
                monkeypatch.delenv(name)
        monkeypatch.setenv("LUMBAR_OUT", str(tmp_path / "working"))
        for name, value in variables.items():
            monkeypatch.setenv(f"LUMBAR_{name}", str(value))
        self.names: dict = {}
        self.submission = tmp_path / "working" / "submission.csv"

    def run(self, count: int) -> Cells:
        """The first cells: 1 and 2 settings, 3 places, 4 first submission, 5 wheels, 6 and 7 the run, 8 the check,
        9 the outcome."""
        for source in CELLS_OF_CODE[:count]:
            exec(compile(source, "notebook", "exec"), self.names)
        return self

    def run_cell(self, number: int) -> Cells:
        exec(compile(CELLS_OF_CODE[number - 1], "notebook", "exec"), self.names)
        return self


@pytest.fixture
def tiny(tmp_path):
    """A competition of two studies without images, and a build without wheels, mounted nowhere yet."""
    competition = tmp_path / "competition"
    for study in ("1001", "1002"):
        (competition / "test_images" / study / "1").mkdir(parents=True)
    trap = competition / "train_images" / "1" / "deep"
    trap.mkdir(parents=True)
    (trap / "wheelhouse.json").write_text("{}")
    (competition / "test_series_descriptions.csv").write_text("study_id,series_id,series_description\n")
    write_sample(competition, ["1001", "1002", "1003"])
    return competition, built(tmp_path / "upload", None, some_weights(tmp_path / "none"))


@pytest.mark.parametrize("name", ["submission.csv", "run.json", "submission.log", "stages/problems.csv"])
@pytest.mark.parametrize("kind", ["text", "link", "pipe"])
def test_what_lies_there_is_left_as_it_is(tmp_path, monkeypatch, tiny, capsys, name, kind):
    theirs, secret = tmp_path / "working" / name, tmp_path / "thesis.txt"
    theirs.parent.mkdir(parents=True)
    secret.write_text("years of work")
    if kind == "text":
        theirs.write_text("years of work")
    elif kind == "link":
        theirs.symlink_to(secret)
    else:
        os.mkfifo(theirs)
    before = {path.name for path in (tmp_path / "working").iterdir()}
    cells = Cells(monkeypatch, tmp_path, INPUT=mount(tmp_path / "input", "old", tiny[1], tiny[0])).run(4)
    assert f"{theirs} is not of this notebook and is left as it is" in capsys.readouterr().out
    (own,) = {path.name for path in (tmp_path / "working").iterdir()} - before
    assert_complete(tmp_path / "working" / own / "submission.csv", ["1001", "1002", "1003"])
    assert cells.names["STAGES"].parent == cells.names["SUBMISSION"].parent == tmp_path / "working" / own
    assert secret.read_text() == "years of work"
    assert kind != "text" or theirs.read_text() == "years of work"


def test_what_it_wrote_before_is_replaced(tmp_path, monkeypatch, tiny, capsys):
    root = mount(tmp_path / "input", "old", tiny[1], tiny[0])
    for _ in range(2):
        cells = Cells(monkeypatch, tmp_path, INPUT=root, MINUTES=5).run(9)
        assert cells.names["ended"] == "submit.py ended with status 0"
        assert "not of this notebook" not in capsys.readouterr().out
    assert_complete(cells.submission, ["1001", "1002", "1003"])


def test_a_pipe_among_the_inputs_is_not_waited_for(tmp_path, monkeypatch, tiny):
    root = mount(tmp_path / "input", "old", tiny[1], tiny[0])
    (root / "aaa").mkdir()
    os.mkfifo(root / "aaa" / "manifest.json")
    assert Cells(monkeypatch, tmp_path, INPUT=root).run(3).names["WEIGHTS"] == root / "lumbar-weights"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_everything_is_found_in_either_layout_without_opening_images(tmp_path, monkeypatch, tiny, layout):
    root = mount(tmp_path / "input", layout, tiny[1], tiny[0])
    opened: list[str] = []
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path=".": opened.append(str(path)) or real(path))
    cells = Cells(monkeypatch, tmp_path, INPUT=root).run(3)
    place, dataset = LAYOUTS[layout]
    assert cells.names["COMPETITION"] == root / place
    assert cells.names["CODE"] == root / dataset.format("code")
    assert cells.names["WEIGHTS"] == root / dataset.format("weights")
    assert cells.names["WHEELS"] is None  # only the trap among the images has the marker
    assert opened
    assert not [path for path in opened if "_images" in path]


def test_places_can_be_named(tmp_path, monkeypatch, tiny):
    cells = Cells(monkeypatch, tmp_path, INPUT=tmp_path / "nothing", COMPETITION=tiny[0], WHEELS=tmp_path).run(3)
    assert cells.names["COMPETITION"] == tiny[0]
    assert cells.names["WHEELS"] == tmp_path
    assert cells.names["CODE"] is None


def test_the_first_submission_needs_no_package_and_covers_folders_and_sample(tmp_path, monkeypatch, tiny):
    cells = Cells(monkeypatch, tmp_path, INPUT=mount(tmp_path / "input", "old", tiny[1], tiny[0])).run(4)
    assert_complete(cells.submission, ["1001", "1002", "1003"])
    table = read_submission(cells.submission)
    worst = table["severe"].idxmax()
    assert worst.startswith("100")
    assert worst.endswith("l4_l5")  # the code's own table, by level


@pytest.mark.parametrize("attached", ["nothing", "no code", "no sample", "no images"])
def test_a_submission_is_left_with_parts_missing(tmp_path, monkeypatch, tiny, attached, capsys):
    competition, upload = tiny
    root = tmp_path / "input"
    if attached != "nothing":
        mount(root, "new", upload, competition)
    place = root / LAYOUTS["new"][0]
    ids = ["1001", "1002", "1003"]
    variables = {"INPUT": root}
    if attached == "no code":
        (root / "datasets" / "someone" / "lumbar-code" / "submit.py").unlink()
    elif attached == "no sample":
        (place / "sample_submission.csv").unlink()
        ids = ["1001", "1002"]
    elif attached == "no images":
        for folder in (place / "test_images").iterdir():
            (folder / "1").rmdir()
            folder.rmdir()
        (place / "test_images").rmdir()
        variables["COMPETITION"] = place
    else:
        ids = []
    cells = Cells(monkeypatch, tmp_path, **variables).run(9 if attached in ("nothing", "no code") else 4)
    assert_complete(cells.submission, ids)
    said = capsys.readouterr().out
    if attached == "nothing":
        assert "competition not attached: Add Input -> Competitions -> RSNA 2024" in " ".join(said.split())
        assert said.splitlines()[-1].startswith("NO ROWS: attach the competition (Add Input -> ")
    elif attached == "no code":
        assert said.splitlines()[-1] == (
            "CLASS FREQUENCIES ONLY: code not attached: Add Input -> Datasets -> lumbar-grading-code"
        )
    assert ("Traceback" in said) == (attached in ("no sample", "no images")), said


def test_without_weights_it_says_so(tmp_path, monkeypatch, tiny, capsys):
    competition, upload = tiny
    root = mount(tmp_path / "input", "old", upload, competition)
    shutil.rmtree(root / "lumbar-weights")
    Cells(monkeypatch, tmp_path, INPUT=root, MINUTES=5).run(9)
    assert capsys.readouterr().out.splitlines()[-1] == (
        "CLASS FREQUENCIES ONLY: weights not attached: Add Input -> Datasets -> lumbar-grading-weights"
    )


def test_relative_places_are_those_of_the_notebook(tmp_path, monkeypatch, tiny, capsys):
    competition, upload = tiny
    places = {"COMPETITION": competition, "CODE": upload / "code", "WEIGHTS": upload / "weights"}
    variables = {name: path.relative_to(tmp_path) for name, path in places.items()}
    monkeypatch.chdir(tmp_path)
    cells = Cells(monkeypatch, tmp_path, INPUT="nowhere", MINUTES=5, OUT="working", **variables).run(9)
    assert "submit.py ended with status 0" in capsys.readouterr().out
    assert json.loads((tmp_path / "working" / "run.json").read_text())["studies"] == 3
    assert_complete(cells.submission, ["1001", "1002", "1003"])


PARTLY = """
import pathlib, sys
table = pathlib.Path(sys.argv[6])
lines = table.read_text().splitlines()
lines[1:11] = [line.split(",")[0] + ",0.1,0.2,0.7" for line in lines[1:11]]
table.write_text("\\n".join(lines))
sys.exit(1)
"""


def test_a_run_that_was_cut_short_counts_what_it_left(tmp_path, monkeypatch, tiny, capsys):
    root = mount(tmp_path / "input", "old", tiny[1], tiny[0])
    (tmp_path / "working").mkdir()
    (tmp_path / "working" / "run.json").write_text('{"of": "a run before"}')
    program = root / "lumbar-code" / "submit.py"
    program.unlink()
    program.write_text(PARTLY)
    Cells(monkeypatch, tmp_path, INPUT=root, MINUTES=5).run(9)
    assert capsys.readouterr().out.splitlines()[-1] == (
        "10 of 75 rows from networks or study context, the rest class frequencies: submit.py ended with status 1"
    )


BROKEN = {
    "gone": lambda path: path.unlink(),
    "empty": lambda path: path.write_text(""),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-200]),
    "a number is not one": lambda path: path.write_text(path.read_text().replace("0.", "x.", 1)),
    "rows do not sum to 1": lambda path: path.write_text(path.read_text().replace(",0.", ",9.")),
    "not text": lambda path: path.write_bytes(b"\xff\xfe\x00row_id"),
}


@pytest.mark.parametrize("damage", BROKEN)
def test_the_last_resort_replaces_a_broken_submission(tmp_path, monkeypatch, tiny, damage, capsys):
    cells = Cells(monkeypatch, tmp_path, INPUT=mount(tmp_path / "input", "old", tiny[1], tiny[0])).run(4)
    BROKEN[damage](cells.submission)
    cells.run_cell(8)
    assert "written again" in capsys.readouterr().out
    assert_complete(cells.submission, ["1001", "1002", "1003"])


def test_the_last_resort_keeps_what_is_valid(tmp_path, monkeypatch, tiny, capsys):
    cells = Cells(monkeypatch, tmp_path, INPUT=mount(tmp_path / "input", "old", tiny[1], tiny[0])).run(4)
    better = cells.submission.read_text().replace(
        "1001_spinal_canal_stenosis_l1_l2,", "1001_spinal_canal_stenosis_l1_l2,"
    )
    cells.submission.write_text(better)
    cells.run_cell(8)
    assert cells.submission.read_text() == better
    assert "submission.csv: every row is there" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import sys; sys.exit(1)", "ended with status 1"),
        ("this is no Python", "ended with status 1"),
        ("import os; os.abort()", "ended with status -6"),
        ("open(__import__('sys').argv[6], 'w').write('row_id')", "ended with status 0"),
    ],
)
def test_a_program_that_cannot_run_costs_nothing(tmp_path, monkeypatch, tiny, program, said, capsys):
    root = mount(tmp_path / "input", "old", tiny[1], tiny[0])
    broken = root / "lumbar-code" / "submit.py"
    broken.unlink()  # its bytes are shared with the build
    broken.write_text(program)
    cells = Cells(monkeypatch, tmp_path, INPUT=root, MINUTES=5).run(9)
    printed = capsys.readouterr().out
    assert said in printed
    assert printed.splitlines()[-1].startswith(f"CLASS FREQUENCIES ONLY: submit.py {said}")
    assert_complete(cells.submission, ["1001", "1002", "1003"])


def test_each_cell_is_small_and_says_why():
    assert 10 <= len(CELLS_OF_CODE) <= 13
    for source in CELLS_OF_CODE:
        assert source.startswith("# Why: ")
        assert len(source.splitlines()) <= 40
