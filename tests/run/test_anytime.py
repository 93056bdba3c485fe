"""The budget, the kill and the full disk, small: networks that only sleep (large: ``tests.benchmarks.anytime``)."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest

from pipeline.ensemble.prior import read_prior
from pipeline.submission import ROW_ORDER
from tests.benchmarks.anytime import ROOT, assert_valid, killed_at_random, within_budget
from tests.run.studies import write_studies

IDS = [str(number) for number in range(6)]
SLEEPY = """
import sys, time
from pathlib import Path
from pipeline.run import session
from pipeline.commands.submit import main
from tests.run.studies import FakeNetworks
session.open_networks = lambda *_: FakeNetworks.make(Path({scratch!r}), copies=4, seconds={seconds})
sys.exit(main(sys.argv[1:], time.monotonic()))
"""
"""``submit.py`` with networks of known cost; its clock starts after the imports, which a loaded machine draws out."""


@pytest.fixture
def program(tmp_path):
    """Makes the program for networks that take so many seconds a study."""
    (tmp_path / "scratch").mkdir()
    write_studies(tmp_path / "data", IDS)
    return lambda seconds: ["-c", SLEEPY.format(scratch=str(tmp_path / "scratch"), seconds=seconds)]


def test_a_budget_for_a_fraction_ends_in_time_with_every_row_explained(tmp_path, program):
    # 6 studies, 4 rounds of 3 networks of 0.2 s: 14.4 s of grading, of which some 8 fit beside the start.
    out = tmp_path / "out" / "submission.csv"
    # Seconds mean little where many programs wait for each core; the rows are checked all the same.
    starved = os.getloadavg()[0] > 2 * (os.cpu_count() or 1)
    options = ["--workers", "1"]
    run = within_budget(
        tmp_path / "data", IDS, out, 16 / 60, options, program(0.2), own_clock=True, slack=60 if starved else 0
    )
    counts = run.rows_by_networks
    assert sum(counts.values()) == 25 * len(IDS)
    assert set(counts) != {4}, "the budget sufficed for everything, so nothing was tested"
    assert set(counts) != {0} or starved, "no network ran"
    assert not {0} < set(counts) & {0, 2, 3, 4}, "a second network helped a study before a first helped every one"
    assert "ended early: time over" in run.line


def test_a_run_over_its_budget_is_noticed(tmp_path, program):
    with pytest.raises(AssertionError, match="took"):
        within_budget(tmp_path / "data", IDS, tmp_path / "out" / "submission.csv", 0.001, (), program(0.0))


def test_a_kill_at_any_moment_leaves_a_whole_file_and_the_next_run_goes_on(tmp_path, program):
    out = tmp_path / "killed" / "submission.csv"
    data = tmp_path / "data"
    assert len(killed_at_random(data, IDS, out, 3, 2.5, random.Random(1), ["--workers", "1"], program(0.1))) == 3
    command = [sys.executable, *program(0.0), "--data", str(data), "--out", str(out), "--workers", "1", "--quiet"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    table = assert_valid(out, IDS)
    assert abs(table.to_numpy() - read_prior()[list(ROW_ORDER) * len(IDS)]).max() > 0.01


FULL = """
mount -t tmpfs -o size=16k tmpfs "$1" && shift && "$@"; status=$?
cp "$OUT" "$COPY"; exit $status
"""


def test_a_full_disk_leaves_the_table_of_before(tmp_path):
    """A disk of four pages holds the first table (three) and not the one that should replace it."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespace can be made here")
    write_studies(tmp_path / "data", IDS)
    disk = tmp_path / "disk"
    disk.mkdir()
    command = [sys.executable, "submit.py", "--data", str(tmp_path / "data"), "--out", str(disk / "submission.csv")]
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", FULL, "sh", str(disk), *command, "--workers", "1", "--quiet"],
        env={**os.environ, "OUT": str(disk / "submission.csv"), "COPY": str(tmp_path / "copy.csv")},
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert_valid(tmp_path / "copy.csv", IDS)
