"""The batches of an epoch, loaded by processes of their own or by the one that trains."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader

from pipeline.parallel import why_no_workers
from pipeline.training.sampling import BatchOrder, SeededItems
from pipeline.training.task import Batch, Task

STALLED_SECONDS = 300.0
"""A loading process that gives nothing for so long has hung; then this one loads."""
_SOCKET_BYTES = 108 if sys.platform == "linux" else 104
"""Of the path of a Unix socket with the zero at its end: sun_path on Linux, and on macOS."""
_SOCKET_NAME = "/pymp-12345678/listener-12345678"
"""What multiprocessing puts below the temporary folder; PyTorch's own names are shorter."""


def why_no_loaders() -> str | None:
    """What the system lacks for loading processes, in one line; None where it lacks nothing.

    They hand over tensors through a socket in the temporary folder. Where its path is too long, the process that loads
    prints an error and drops the batch, and the one that trains waits for it without end.
    """
    folder = tempfile.gettempdir()
    if hasattr(socket, "AF_UNIX") and len(os.fsencode(folder + _SOCKET_NAME)) >= _SOCKET_BYTES:
        longest = _SOCKET_BYTES - len(_SOCKET_NAME) - 1
        return f"the path of {folder} is too long for sockets; set TMPDIR to one of at most {longest} bytes"
    return why_no_workers()


class Loading:
    """Where the batches of a run come from.

    Args:
        task: whose items are loaded.
        order: of the items.
        workers: loading processes; 0 loads in this one.
        pinned: whether what they load is copied to a GPU.
        say: takes a line for the log.
    """

    def __init__(
        self, task: Task, order: BatchOrder, workers: int, *, pinned: bool, say: Callable[[str], None]
    ) -> None:
        self.task, self.order, self.pinned, self.say = task, order, pinned, say
        if workers and (why := why_no_loaders()):
            say(f"no loading processes, so this one loads: {why}")
            workers = 0
        self.loader = self._open(workers)

    def _open(self, workers: int) -> DataLoader[Any]:
        return DataLoader(
            SeededItems(self.task.train_set),
            batch_sampler=self.order,
            collate_fn=self.task.collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            timeout=STALLED_SECONDS if workers else 0,
            pin_memory=self.pinned and workers > 0,
        )

    def batches(self, epoch: int, step: int) -> Iterator[Batch]:
        """The batches of an epoch from ``step`` on; where loading processes fail, the rest of them from this one."""
        self.order.place(epoch, step)
        try:
            for batch in self.loader:
                yield batch
                step += 1
        except (RuntimeError, OSError) as error:
            if not self.loader.num_workers:
                raise
            reason = str(error).strip().splitlines()[-1]
            self.say(f"loading processes failed, so this one loads ({reason}); has /dev/shm enough room?")
            self.loader = self._open(0)
            self.order.place(epoch, step)
            yield from self.loader
