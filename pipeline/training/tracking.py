"""Where a run can be watched: the log, history.csv, TensorBoard and one picture an epoch."""

from __future__ import annotations

import csv
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from pipeline.files import write_atomically
from pipeline.names import shown


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

    def picture(self, image: np.ndarray, name: str, step: int) -> None:
        """Save (rows, cols, 3) uint8 RGB as pictures/<name>.png and show it in TensorBoard."""
        if self.quiet:
            return
        save_png(self.out / "pictures" / f"{name}.png", image)
        board = self.board()
        if board is not None:
            board.add_image("predictions", image, step, dataformats="HWC")

    def close(self) -> None:
        """Flush TensorBoard's file."""
        if self._board:
            self._board.close()
        self._board = None


def save_png(path: Path, image: np.ndarray) -> None:
    """Write (rows, cols, 3) uint8 RGB.

    Raises:
        ValueError: if the array is not such an image.
        OSError: if it cannot be written.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"{path.name}: a picture is (rows, cols, 3) uint8, not {image.shape} {image.dtype}")
    # Not imwrite, which ends the process where a folder's name is not UTF-8.
    content = cv2.imencode(".png", np.ascontiguousarray(image[:, :, ::-1]))[1].tobytes()
    write_atomically(path, lambda partial: partial.write_bytes(content), sync=False)


def to_rgb(pixels: np.ndarray) -> np.ndarray:
    """A float slice (rows, cols), any range, as (rows, cols, 3) uint8 between its 1st and 99th percentiles."""
    finite = np.nan_to_num(np.asarray(pixels, dtype=np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = np.percentile(finite, [1, 99])
    grey = np.clip((finite - low) / max(float(high - low), 1e-6), 0, 1) * 255
    return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)


def contact_sheet(
    tiles: Sequence[np.ndarray], titles: Sequence[str] | None = None, columns: int = 8, gap: int = 2
) -> np.ndarray:
    """Images side by side, titles above them, as one (rows, cols, 3) uint8 image.

    Args:
        tiles: (rows, cols) float or (rows, cols, 3) uint8; sizes may differ, each is centred in the largest.
        titles: one short text a tile.
        columns: tiles in a row.
        gap: pixels between tiles.

    Raises:
        ValueError: without tiles or with a different number of titles.
    """
    if not len(tiles) or (titles is not None and len(titles) != len(tiles)):
        raise ValueError(f"{len(tiles)} tiles and {len(titles or ())} titles make no contact sheet")
    images = [tile if tile.ndim == 3 else to_rgb(tile) for tile in tiles]
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    head = 12 if titles is not None else 0
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    sheet = np.full((rows * (height + head + gap) + gap, columns * (width + gap) + gap, 3), 24, np.uint8)
    for number, image in enumerate(images):
        top = gap + number // columns * (height + head + gap)
        left = gap + number % columns * (width + gap)
        if titles is not None:
            text = np.full((head, width, 3), 24, np.uint8)
            cv2.putText(text, titles[number], (1, 9), cv2.FONT_HERSHEY_SIMPLEX, 0.32, (255, 255, 255), 1, cv2.LINE_AA)
            sheet[top : top + head, left : left + width] = text
        top += head + (height - image.shape[0]) // 2
        left += (width - image.shape[1]) // 2
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return sheet
