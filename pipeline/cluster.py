"""The workers of a Dask cluster: a process of its own for each of their threads, and jobs that outlive their workers.

Dask runs what it is given in a thread of a worker: no alarm can end it there, and what kills it takes the worker
along. So each thread hands its jobs to a process that it keeps, as the pools of one machine do. A job that kills its
process is known by that, and the worker stays. A worker that goes, with its machine or alone, costs time and nothing
else: the scheduler gives its jobs to others, until a job has lost so many workers (Dask's ``allowed-failures``) that it
must be the cause.

This module alone imports ``distributed``, and it is imported where a cluster was asked for.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import queue
import secrets
import shutil
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from distributed import Client, Future, KilledWorker, WorkerPlugin, get_worker

from pipeline.console import WorkError
from pipeline.parallel import ClusterLostError, WorkerLostError, in_order, open_single
from pipeline.versions import program

T = TypeVar("T")

CONNECT_SECONDS = 30
"""For the scheduler to answer."""
WORKER_SECONDS = 300
"""For the first worker to be there; a batch system may let it wait."""
SLOTS_SECONDS = 2.0
"""How often the scheduler is asked who is there."""
GATHER_SECONDS = 60.0
"""For an answer to arrive; where its worker has died since, the job runs again meanwhile."""
MOST_DEATHS = 3
"""A job that has killed so many processes is given up; the last time it was the only job of the run."""
CLOSE_SECONDS = 10.0


class Done(NamedTuple):
    """A job that came back: what it was called, its answer, seconds on its worker; or why there is no answer."""

    tag: Any
    value: Any
    seconds: float
    lost: str


@dataclass
class _Job:
    tag: Any
    function: Callable[..., Any]
    args: tuple[Any, ...]
    died_on: list[str] = field(default_factory=list)


class Cluster:
    """A connection to a scheduler, and the processes that its workers keep for it.

    Args:
        address: of the scheduler, e.g. ``tcp://10.0.0.1:8786``.
        facts: what a worker must have as this machine has it, by name: code, packages, files. Called here and there.
        begin: called in each process before its first job, with a folder for temporary files that the processes of a
            machine share.

    Raises:
        WorkError: there is no scheduler, no worker, or one that is not fit for the work; the message says why.
    """

    def __init__(
        self, address: str, facts: Callable[[], Mapping[str, str]], begin: Callable[[Path], None] | None = None
    ) -> None:
        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what the user has to know is said in our words
        self._name = f"lumbar-grading-{secrets.token_hex(6)}"
        self._running: dict[Future[Any], _Job] = {}
        self._alone: deque[_Job] = deque()
        self._done: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
        self._number = self._slots = 0
        self._asked = float("-inf")
        try:
            self._client = Client(address, set_as_default=False, timeout=CONNECT_SECONDS)
        except (OSError, ValueError, TypeError) as error:
            raise WorkError(f"--cluster {address}: no Dask scheduler answers there ({error})") from error
        try:
            self._client.wait_for_workers(1, timeout=WORKER_SECONDS)
            self._client.register_plugin(_Processes(self._name, begin, facts, facts()), self._name)
            faults = self._client.run(_fault, self._name)
        except TimeoutError as error:
            self.close()
            raise WorkError(
                f"--cluster {address}: no worker came in {WORKER_SECONDS} s; start `dask worker`"
            ) from error
        except Exception as error:  # whatever a worker that lacks the program raises
            self.close()
            raise WorkError(
                f"--cluster {address}: its workers cannot run this program ({type(error).__name__}: {error}); the same "
                "version of it must be installed for each of them"
            ) from error
        if unfit := {where: why for where, why in faults.items() if why}:
            self.close()
            where, why = next(iter(unfit.items()))
            raise WorkError(f"--cluster {address}: {len(unfit)} of {len(faults)} workers are unfit; {where}: {why}")

    @property
    def slots(self) -> int:
        """Jobs that the workers can do at a time, at least 1: one a thread."""
        if time.monotonic() > self._asked + SLOTS_SECONDS:
            with contextlib.suppress(Exception):  # a scheduler that is gone shows by what it does with the jobs
                self._slots = sum(self._client.nthreads().values())
            self._asked = time.monotonic()
        return max(self._slots, 1)

    @property
    def busy(self) -> int:
        """Jobs under way."""
        return len(self._running) + len(self._alone)

    def submit(self, tag: Any, function: Callable[..., Any], *args: Any) -> None:
        """Give away a job; ``tag`` comes back with its answer."""
        self._give(_Job(tag, function, args))

    def _give(self, job: _Job) -> None:
        self._number += 1
        key = f"{self._name}-{self._number}"
        future = self._client.submit(_in_process, self._name, job.function, job.args, key=key, pure=False)
        self._running[future] = job
        future.add_done_callback(self._done.put)

    def finished(self, seconds: float = float("inf")) -> list[Done]:
        """What is done, as soon as something is; nothing after so many seconds.

        Raises:
            ClusterLostError: the scheduler is gone.
            Exception: whatever a job raised.
        """
        until = time.monotonic() + seconds
        found: list[Done] = []
        while not found:
            if self._alone and not self._running:
                self._give(self._alone.popleft())
            try:
                futures = [self._done.get(timeout=None if until == float("inf") else max(until - time.monotonic(), 0))]
                while True:
                    with contextlib.suppress(queue.Empty):
                        futures.append(self._done.get_nowait())
                        continue
                    break
            except queue.Empty:
                break
            for future in futures:
                if (job := self._running.pop(future, None)) is not None:
                    found += self._outcome(future, job)
        return found

    def _outcome(self, future: Future[Any], job: _Job) -> list[Done]:
        """What became of a job; nothing where it goes on."""
        try:
            if future.status == "error":
                error = future.exception(timeout=GATHER_SECONDS)
                if not isinstance(error, KilledWorker):
                    raise error
                count, last = error.allowed_failures + 1, error.last_worker.address
                return [Done(job.tag, None, 0.0, f"{count} workers died while they had it, the last at {last}")]
            if future.status in ("cancelled", "lost"):
                raise ClusterLostError("the scheduler of the cluster is gone, or gave up what it had to do")
            fault, died_on, value, seconds = future.result(timeout=GATHER_SECONDS)
        except TimeoutError:  # its worker died before the answer was fetched, so the job runs again
            self._running[future] = job
            future.add_done_callback(self._done.put)
            return []
        if fault:
            raise WorkError(f"a worker that came late is unfit: {fault}")
        if not died_on:
            return [Done(job.tag, value, seconds, "")]
        job.died_on.append(died_on)
        if len(job.died_on) == MOST_DEATHS:
            detail = f"it killed its process {MOST_DEATHS} times, on {', '.join(job.died_on)}, the last time alone"
            return [Done(job.tag, None, seconds, detail)]
        if len(job.died_on) < MOST_DEATHS - 1:
            self._give(job)
        else:
            self._alone.append(job)
        return []

    def close(self) -> None:
        """End the processes of the workers, whatever they do, and leave; the workers stay."""

        def end() -> None:
            with contextlib.suppress(Exception):
                self._client.cancel(list(self._running), force=True)
            with contextlib.suppress(Exception):
                self._client.unregister_worker_plugin(self._name)
            with contextlib.suppress(Exception):
                self._client.close(timeout=CLOSE_SECONDS / 2)

        ending = threading.Thread(target=end, daemon=True)  # a worker that does not answer must not hold up the end
        ending.start()
        ending.join(CLOSE_SECONDS)
        self._running.clear()
        self._alone.clear()


def on_cluster(
    function: Callable[..., T],
    jobs: Sequence[tuple[Any, ...]],
    address: str,
    facts: Callable[[], Mapping[str, str]] = program,
    lost: Callable[..., T] | None = None,
) -> Iterator[T]:
    """``function(*job)`` of every job, in their order, as :func:`pipeline.parallel.in_processes` does it here.

    Args:
        function: importable by a worker.
        jobs: its arguments; what it reads or writes lies on storage that all machines share.
        address: of the scheduler.
        facts: see :class:`Cluster`.
        lost: takes the place of ``function`` for a job that kills its process; without it the work ends there.

    Raises:
        WorkError, ClusterLostError: as :class:`Cluster`.
        WorkerLostError: as said.
    """
    yield from in_order(_as_they_come(function, jobs, Cluster(address, facts), lost))


def _as_they_come(
    function: Callable[..., T], jobs: Sequence[tuple[Any, ...]], cluster: Cluster, lost: Callable[..., T] | None
) -> Iterator[tuple[int, T]]:
    waiting = deque(range(len(jobs)))
    try:
        while waiting or cluster.busy:
            while waiting and cluster.busy < 2 * cluster.slots:
                number = waiting.popleft()
                cluster.submit(number, function, *jobs[number])
            for number, value, _, why in cluster.finished():
                if why and lost is None:
                    raise WorkerLostError(f"a job cannot be done: {why}")
                yield number, lost(*jobs[number]) if why and lost is not None else value
    finally:
        cluster.close()


class _Processes(WorkerPlugin):
    """On each worker, also on those that come late: a process for each thread that asks, and their folder."""

    def __init__(
        self,
        name: str,
        begin: Callable[[Path], None] | None,
        facts: Callable[[], Mapping[str, str]],
        expected: Mapping[str, str],
    ) -> None:
        self._folder_name, self._begin, self._facts, self._expected = name, begin, facts, dict(expected)

    def setup(self, worker: Any) -> None:
        """Begin; called by Dask."""
        # Dask's nanny starts workers as daemons, which may have no children; it ends them itself in any case.
        multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
        found = self._facts()
        wrong = [f"{name} is {found.get(name)}, expected {one}" for name, one in self._expected.items()
                 if found.get(name) != one]  # fmt: skip
        self.fault = "; ".join(wrong)[:500]
        self._folder = Path(worker.local_directory).parent / self._folder_name
        self._folder.mkdir(parents=True, exist_ok=True)
        self._own, self._executors = threading.local(), list[Any]()

    def run(self, function: Callable[..., Any], args: tuple[Any, ...]) -> tuple[str, str, Any]:
        """Call a function in the process of this thread: the worker's fault, where the process died, the answer."""
        if self.fault:
            return f"{socket.gethostname()}: {self.fault}", "", None
        executor = getattr(self._own, "executor", None)
        if executor is None:
            executor = self._own.executor = open_single(self._begin, self._folder)
            self._executors.append(executor)
        try:
            return "", "", executor.submit(function, *args).result()
        except BrokenProcessPool:
            self._executors.remove(executor)
            self._own.executor = None
            return "", socket.gethostname(), None

    def teardown(self, worker: Any) -> None:  # noqa: ARG002  # as Dask calls it
        """End; called by Dask."""
        for executor in self._executors:
            with contextlib.suppress(Exception):
                executor.shutdown(wait=False, kill_workers=True)
        shutil.rmtree(self._folder, ignore_errors=True)


def _fault(name: str, dask_worker: Any) -> str:
    return dask_worker.plugins[name].fault


def _in_process(name: str, function: Callable[..., Any], args: tuple[Any, ...]) -> tuple[str, str, Any, float]:
    began = time.monotonic()
    processes: _Processes = get_worker().plugins[name]  # type: ignore[assignment]
    return *processes.run(function, args), time.monotonic() - began
