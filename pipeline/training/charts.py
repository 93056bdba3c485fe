"""Charts of a training: curves over epochs, of one run or several beside each other, and confusion matrices."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.files import write_atomically
from pipeline.labels import GRADES

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_curves(runs: Mapping[str, Sequence[Sequence[Mapping[str, float]]]], path: Path) -> None:
    """Draw a PNG: a colour a name, a line a run.

    Args:
        runs: by name, the rows of history.csv of each run.
        path: of the picture.

    Raises:
        OSError: it cannot be written.
    """
    figure = _new_figure(10, 4, 100)
    for axes, kind in zip(figure.subplots(1, 2), ("loss", "score"), strict=True):
        for number, (name, histories) in enumerate(runs.items()):
            for place, history in enumerate(histories):
                points = [(row["epoch"], row[kind]) for row in history if not math.isnan(row.get(kind, math.nan))]
                epochs, values = zip(*points, strict=True) if points else ((), ())
                axes.plot(epochs, values, f"C{number % 10}.-", label=None if place else name)
        axes.set(xlabel="epoch", ylabel=kind)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    write_atomically(path, lambda partial: figure.savefig(partial, format="png"))


def confusion_chart(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Confusion matrices side by side, true grades downwards and predicted ones across, each row's shares in colour.

    Args:
        rows: of :func:`pipeline.scoring.figures.level_figures`.

    Returns:
        (rows, cols, 3) uint8.
    """
    figure = _new_figure(2.2 * len(rows), 2.4, 80)
    names = [grade.partition("_")[0] for grade in GRADES]
    for axes, row in zip(figure.subplots(1, len(rows), squeeze=False)[0], rows, strict=True):
        counts = np.asarray(row["confusion"], dtype=np.int64)
        axes.imshow(counts / np.maximum(counts.sum(1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
        for (true, predicted), count in np.ndenumerate(counts):
            axes.text(predicted, true, str(count), ha="center", va="center", fontsize="small")
        axes.set_title(f"{row['level']}, F1 {row['macro_f1']:.2f}", fontsize="medium")
        axes.set_xticks(range(len(names)), names, fontsize="x-small")
        axes.set_yticks(range(len(names)), names, fontsize="x-small", rotation=90, va="center")
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[:, :, :3].copy()  # type: ignore[attr-defined]


def _new_figure(width: float, height: float, dpi: int) -> Figure:
    """An empty figure of so many inches, drawn without a screen."""
    _import_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


@functools.cache
def _import_matplotlib() -> None:
    """Import it where its list of fonts is written into a folder that is gone afterwards, and not into the user's."""
    before = os.environ.get("MPLCONFIGDIR")
    folder = Path(tempfile.mkdtemp())
    os.environ["MPLCONFIGDIR"] = before or str(folder)
    import matplotlib.font_manager  # noqa: F401

    if before is None:
        del os.environ["MPLCONFIGDIR"]
    with contextlib.suppress(OSError):
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
