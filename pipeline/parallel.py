"""Worker processes: they end with the main one, a death among them costs one job, and work goes on without any.

joblib's own ``Parallel`` gives up a whole run when the kernel kills one worker, and leaves the workers behind when the
main process is killed.
"""

from __future__ import annotations

import copyreg
import mmap
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from pipeline.console import closed_terminal, complain

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # joblib says what :func:`why_no_workers` says in words for people
    from joblib.externals.loky import ProcessPoolExecutor, get_reusable_executor

T = TypeVar("T")

IDLE_SECONDS = 300
"""A worker without work ends after this time; between two rounds of a run it must not."""
WATCH_SECONDS = 1.0
"""How often a worker looks whether its main process is still there."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""What libraries look at for their number of threads when they are loaded."""


class WorkerLostError(OSError):
    """A job killed its worker, also when nothing else was running."""


class ClusterLostError(OSError):
    """The machines that the work was given to are out of reach."""


def open_executor(workers: int, threads: int = 1, begin: Callable[[], None] | None = None) -> ProcessPoolExecutor:
    """So many workers, each with so many threads a library; those of the last call if they are alike and alive.

    Each worker calls ``begin``, the same object in every call of a pool, before its first job.
    """
    environment = dict.fromkeys(THREAD_VARIABLES, str(threads))
    with _terminal_kept_open():
        return get_reusable_executor(
            workers, timeout=IDLE_SECONDS, env=environment, initializer=_begin_worker, initargs=(os.getpid(), begin)
        )


def open_single(begin: Callable[[Path], None] | None, folder: Path) -> ProcessPoolExecutor:
    """One worker for the thread that asks, beside those of other threads; it calls ``begin(folder)`` first."""
    environment = dict.fromkeys(THREAD_VARIABLES, "1")
    first = None if begin is None else partial(begin, folder)
    return ProcessPoolExecutor(
        1, timeout=IDLE_SECONDS, env=environment, initializer=_begin_worker, initargs=(os.getpid(), first)
    )


@contextmanager
def _terminal_kept_open() -> Iterator[None]:
    """A closed terminal must not end loky's own process that keeps the locks, and which begins here, before this one.

    Windows has neither that process nor masks of signals.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, closed_terminal())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def why_no_workers() -> str | None:
    """What the system lacks for worker processes, in one line; None where it lacks nothing."""
    try:
        # By fork where there is one, because it makes a lock without starting a process that keeps it.
        methods = multiprocessing.get_all_start_methods()
        multiprocessing.get_context("fork" if "fork" in methods else None).Lock()
    except (OSError, ImportError) as error:
        return f"locks between processes cannot be made ({error}): is /dev/shm there, with room?"
    return None


def in_processes(
    function: Callable[..., T], jobs: Sequence[tuple[Any, ...]], workers: int, lost: Callable[..., T] | None = None
) -> Iterator[T]:
    """``function(*job)`` of every job, in their order; one after the other in this process where ``workers`` is 1.

    Args:
        function: importable by a worker.
        jobs: its arguments.
        workers: processes; -1 for one a processor.
        lost: takes the place of ``function`` for a job that kills its worker; without it the work ends there.

    Raises:
        WorkerLostError: as said.
    """
    if workers < 1:
        from joblib import cpu_count

        workers = cpu_count()
    if workers > 1 and (why := why_no_workers()):
        complain(f"no worker processes: {why}")
        workers = 1
    if workers == 1:
        yield from (function(*job) for job in jobs)
        return
    yield from in_order(_as_they_come(function, jobs, workers, lost))


def in_order(answers: Iterator[tuple[int, T]]) -> Iterator[T]:
    """Answers by the numbers of their jobs, from 0, each as soon as all before it are there."""
    done: dict[int, T] = {}
    given = 0
    for number, result in answers:
        done[number] = result
        while given in done:
            yield done.pop(given)
            given += 1


def _as_they_come(
    function: Callable[..., T], jobs: Sequence[tuple[Any, ...]], workers: int, lost: Callable[..., T] | None
) -> Iterator[tuple[int, T]]:
    waiting = deque(range(len(jobs)))
    running: dict[Future[T], int] = {}
    try:
        while waiting or running:
            try:
                while waiting and len(running) < 2 * workers:
                    running[open_executor(workers).submit(function, *jobs[waiting[0]])] = waiting[0]
                    waiting.popleft()
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    result = future.result()
                    yield running.pop(future), result
            except BrokenProcessPool:
                suspects = sorted(running.values())
                running.clear()
                for number in suspects:
                    yield number, _alone(function, jobs[number], lost)
    finally:
        if running:
            open_executor(workers).shutdown(wait=False, kill_workers=True)


def _alone(function: Callable[..., T], job: tuple[Any, ...], lost: Callable[..., T] | None) -> T:
    try:
        return open_executor(1).submit(function, *job).result()
    except BrokenProcessPool as error:
        if lost is None:
            raise WorkerLostError(f"a worker process {how_lost(error)}, and again when it ran alone") from error
        return lost(*job)


def how_lost(error: BrokenProcessPool) -> str:
    """What became of a worker, as the end of a sentence: how it was killed, or why its answer could not be read."""
    text = str(error)
    if found := re.search(r"exit codes of the workers are \{(.+)\}", text):
        return f"was killed ({found[1]}; SIGKILL is mostly a lack of memory)"
    if "unexpectedly terminated" in text:  # on Windows, where no code is known
        return "was killed (mostly for lack of memory)"
    return f"could not hand over its work ({text.partition('. ')[0]}): were packages installed during the run?"


def _begin_worker(main_process: int, begin: Callable[[], None] | None) -> None:
    """Leave Ctrl-C and a closed terminal to the main process, and end when it has ended."""
    for number in (signal.SIGINT, *closed_terminal()):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(main_process,), daemon=True).start()
    if begin is not None:
        begin()


def _end_with(main_process: int) -> None:
    if sys.platform == "win32":  # where the id of the parent outlives it
        if (parent := multiprocessing.parent_process()) is not None:
            parent.join()
    else:
        while os.getppid() == main_process:
            time.sleep(WATCH_SECONDS)
    os._exit(1)


def _reduce_mapped(array: np.memmap[Any, Any]) -> Any:
    """A memory map goes to another process as the path of its file; as an array it would be gigabytes for each.

    Under ``spawn``, which Windows and macOS know alone, every loading process gets what it loads from by pickle.
    """
    if not isinstance(array.base, mmap.mmap) or array.filename is None:  # a part of one, or of a nameless file
        return array.__reduce__()
    mode = "r+" if array.mode == "w+" else array.mode
    order = "C" if array.flags.c_contiguous else "F"
    return np.memmap, (str(array.filename), array.dtype, mode, array.offset, array.shape, order)


copyreg.pickle(np.memmap, _reduce_mapped)  # type: ignore[arg-type]
