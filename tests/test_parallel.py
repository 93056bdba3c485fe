"""Worker processes: order, deaths, no locks, and no orphans."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline import parallel
from pipeline.parallel import WorkerLostError, in_processes, why_no_workers

ROOT = Path(__file__).parents[1]


def slow_first(number, folder):
    time.sleep(0.3 if number == 0 else 0)
    (folder / f"{number}.{os.getpid()}").touch()
    return 10 * number


def deadly(number, which):
    if number == which:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def deadly_in_company(number, folder):
    """Dies where it is not alone for the first time, as a process that the kernel takes for another's greed."""
    mark = folder / "died"
    if number == 1 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


class Unreadable:
    def __reduce__(self):
        return int, ("no number",)


def unreadable(_):
    return Unreadable()


def wrong(number):
    raise ValueError(f"job {number}")


def linger(folder):
    (folder / f"{os.getpid()}.started").touch()
    time.sleep(60)


def test_results_come_in_the_order_of_the_jobs_from_more_than_one_process(tmp_path):
    assert list(in_processes(slow_first, [(n, tmp_path) for n in range(6)], 2)) == [0, 10, 20, 30, 40, 50]
    pids = {path.suffix for path in tmp_path.iterdir()}
    assert f".{os.getpid()}" not in pids
    assert len(pids) == 2


def test_minus_one_worker_is_one_a_processor(tmp_path):
    assert list(in_processes(slow_first, [(n, tmp_path) for n in range(4)], -1)) == [0, 10, 20, 30]


def test_one_worker_is_this_process():
    assert list(in_processes(lambda n: (n, os.getpid()), [(1,), (2,)], 1)) == [(1, os.getpid()), (2, os.getpid())]


@pytest.mark.slow
def test_a_job_that_kills_its_worker_costs_itself_alone(tmp_path):
    jobs = [(n, 2) for n in range(5)]
    assert list(in_processes(deadly, jobs, 2, lost=lambda number, _: -number)) == [0, 1, -2, 3, 4]
    assert list(in_processes(deadly_in_company, [(n, tmp_path) for n in range(3)], 2)) == [0, 1, 2]
    with pytest.raises(WorkerLostError, match=r"was killed \(SIGKILL.*again when it ran alone"):
        list(in_processes(deadly, jobs, 2))


@pytest.mark.slow
def test_an_answer_that_cannot_be_read_is_not_called_a_lack_of_memory():
    """As when a package is installed during a run: the workers have it, this process has not."""
    with pytest.raises(WorkerLostError, match="could not hand over its work"):
        list(in_processes(unreadable, [(0,), (1,)], 2))


def test_an_error_of_a_job_is_raised():
    with pytest.raises(ValueError, match="job 0"):
        list(in_processes(wrong, [(0,), (0,)], 2))


def test_without_locks_the_work_is_done_one_after_the_other(monkeypatch, capsys):
    def refuse(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", refuse)
    assert "No space left on device" in why_no_workers()
    monkeypatch.setattr(parallel, "open_executor", None)
    assert list(in_processes(deadly, [(1, 0), (2, 0)], 2)) == [1, 2]
    assert "/dev/shm" in capsys.readouterr().err


MAIN = """
import sys
from pathlib import Path
from tests.test_parallel import linger
from pipeline.parallel import in_processes
list(in_processes(linger, [(Path(sys.argv[1]),)] * 2, 2))
"""


def test_no_worker_outlives_a_main_process_that_was_killed(tmp_path):
    main = subprocess.Popen([sys.executable, "-c", MAIN, str(tmp_path)], cwd=ROOT, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 180
    while len(found := list(tmp_path.glob("*.started"))) < 2:
        assert time.monotonic() < until, "no worker started"
        time.sleep(0.05)
    main.kill()
    main.wait()
    workers = [int(path.stem) for path in found]
    until = time.monotonic() + 30
    while any(is_running(pid) for pid in workers):
        assert time.monotonic() < until, "a worker is still there"
        time.sleep(0.05)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("order", [np.ascontiguousarray, np.asfortranarray])
def test_a_memory_map_travels_as_the_path_of_its_file(tmp_path, order):
    """Under spawn what a loading process reads from is pickled: as an array it would be gigabytes."""
    whole = order(np.arange(300_000, dtype=np.float32).reshape(3, 1000, 100))
    np.save(tmp_path / "cubes.npy", whole)
    mapped = np.load(tmp_path / "cubes.npy", mmap_mode="r")
    sent = pickle.dumps({"pixels": mapped})
    assert len(sent) < 1000
    there = pickle.loads(sent)["pixels"]
    assert isinstance(there, np.memmap)
    assert np.array_equal(there, whole)
    assert not there.flags.writeable
    assert np.array_equal(pickle.loads(pickle.dumps(mapped[1:2])), whole[1:2]), "a part of one goes as it is"


def test_without_signals_of_a_terminal_workers_begin_all_the_same(tmp_path, monkeypatch):
    for name in ("SIGHUP", "pthread_sigmask"):
        monkeypatch.delattr(signal, name)
    monkeypatch.setattr("multiprocessing.get_all_start_methods", lambda: ["spawn"])
    assert why_no_workers() is None
    assert list(in_processes(slow_first, [(n, tmp_path) for n in range(4)], 2)) == [0, 10, 20, 30]
