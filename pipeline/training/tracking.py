"""Where a run can be watched: the log, history.csv, TensorBoard and one picture an epoch."""

from __future__ import annotations

import csv
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pipeline.files import write_atomically
from pipeline.names import shown
from pipeline.pictures import save_png


class Tracker:
    """Writes log.txt, history.csv, tensorboard/ and pictures/ of one run; a quiet one (other ranks) writes nothing."""

    def __init__(self, out: Path, quiet: bool = False) -> None:
        self.out, self.quiet = out, quiet
        self._board: Any = None

    def say(self, line: str) -> None:
        """Print a line above the progress bar and keep it in log.txt with the time."""
        if self.quiet:
            return
        line = shown(line)
        tqdm.write(line)
        with (self.out / "log.txt").open("a", encoding="utf-8") as log:
            log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")

    def board(self) -> Any:
        """TensorBoard's writer, opened at first use (its import takes seconds); None where it is not installed."""
        if self._board is None and not self.quiet:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                self.say("TensorBoard is not installed: scalars go to history.csv only (pip install tensorboard)")
                self.quiet_board()
                return None
            self._board = SummaryWriter(str(self.out / "tensorboard"))
        return self._board or None

    def quiet_board(self) -> None:
        """Stop trying to open TensorBoard."""
        self._board = False

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Log numbers under their names."""
        board = self.board()
        if board is not None:
            for name, value in values.items():
                board.add_scalar(name, value, step)

    def history(self, rows: Sequence[dict[str, float]]) -> None:
        """Rewrite history.csv, one row an epoch; columns are all names that ever occurred."""
        if self.quiet:
            return
        columns = list(dict.fromkeys(name for row in rows for name in row))

        def write(path: Path) -> None:
            with path.open("w", newline="", encoding="utf-8") as handle:
                writer = csv.DictWriter(handle, columns)
                writer.writeheader()
                writer.writerows(rows)

        write_atomically(self.out / "history.csv", write)

    def picture(self, image: np.ndarray, kind: str, epoch: int) -> None:
        """Save (rows, cols, 3) uint8 RGB as pictures/<kind><epoch>.png and show it in TensorBoard."""
        if self.quiet:
            return
        save_png(self.out / "pictures" / f"{kind}{epoch:02d}.png", image)
        board = self.board()
        if board is not None:
            board.add_image(kind, image, epoch, dataformats="HWC")

    def close(self) -> None:
        """Flush TensorBoard's file."""
        if self._board:
            self._board.close()
        self._board = None
