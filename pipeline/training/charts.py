"""Charts of a training: curves over epochs, of one run or several beside each other, and confusion matrices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipeline.files import write_atomically
from pipeline.labels import GRADES


def draw_curves(runs: Mapping[str, Sequence[Sequence[Mapping[str, float]]]], path: Path) -> None:
    """Draw a PNG: a colour a name, a line a run.

    Args:
        runs: by name, the rows of history.csv of each run.
        path: of the picture.

    Raises:
        OSError: it cannot be written.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, kind in zip(figure.subplots(1, 2), ("loss", "score"), strict=True):
        for number, (name, histories) in enumerate(runs.items()):
            for place, history in enumerate(histories):
                points = [(row["epoch"], row[kind]) for row in history if not math.isnan(row.get(kind, math.nan))]
                epochs, values = zip(*points, strict=True) if points else ((), ())
                axes.plot(epochs, values, f"C{number % 10}.-", label=None if place else name)
        axes.set(xlabel="epoch", ylabel=kind)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    canvas = FigureCanvasAgg(figure)
    write_atomically(path, lambda partial: canvas.print_png(partial))


def confusion_chart(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Confusion matrices side by side, true grades downwards and predicted ones across, each row's shares in colour.

    Args:
        rows: of :func:`pipeline.scoring.figures.level_figures`.

    Returns:
        (rows, cols, 3) uint8.
    """
    figure = Figure(figsize=(2.2 * len(rows), 2.4), dpi=80, layout="constrained")
    names = [grade.partition("_")[0] for grade in GRADES]
    for axes, row in zip(figure.subplots(1, len(rows), squeeze=False)[0], rows, strict=True):
        counts = np.asarray(row["confusion"], dtype=np.int64)
        axes.imshow(counts / np.maximum(counts.sum(1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
        for (true, predicted), count in np.ndenumerate(counts):
            axes.text(predicted, true, str(count), ha="center", va="center", fontsize="small")
        axes.set_title(f"{row['level']}, F1 {row['macro_f1']:.2f}", fontsize="medium")
        axes.set_xticks(range(len(names)), names, fontsize="x-small")
        axes.set_yticks(range(len(names)), names, fontsize="x-small", rotation=90, va="center")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()
