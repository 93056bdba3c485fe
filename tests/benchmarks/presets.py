"""What a preset's networks cost on a CPU: ``python -m tests.benchmarks.presets kaggle``.

The preset's real networks with random weights, which change no time, one fold, one thread: the point networks on a few
slices and each family's classifier on all cells of a complete study, once; slices and further windows of the same study
are scaled, for they run one after the other. Printed are million parameters, images a study, processor seconds a study,
and the peak memory of the process after each network, which is what inference needs beside the study's own pixels.
"""

from __future__ import annotations

import argparse
import resource
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from pipeline.labels import CELLS, LEVELS, Family, family_cells
from pipeline.landmarks.model import AXIAL_CHANNELS, SAGITTAL_CHANNELS, PointNet
from pipeline.landmarks.store import AXIAL_WINDOWS, SAGITTAL_SLICES
from pipeline.landmarks.task import LandmarkTrainSettings
from pipeline.preset import load_settings
from pipeline.severity.model import SeverityModel
from pipeline.severity.predict import channels_last, predict_batch
from pipeline.severity.recipes import Recipe, load_recipes
from pipeline.severity.settings import view_name
from tests.benchmarks.timing import quickest

TIMED_SLICES = 2


def points(preset: str, section: str, rounds: int) -> tuple[nn.Module, int, float]:
    """The network, images and processor seconds of a study in ``landmarks`` or ``axial``."""
    channels, images = (AXIAL_CHANNELS, AXIAL_WINDOWS) if section == "axial" else (SAGITTAL_CHANNELS, SAGITTAL_SLICES)
    settings = replace(load_settings(LandmarkTrainSettings, preset, section).model, initial="random", channels=channels)
    model = PointNet(settings).eval().to(memory_format=torch.channels_last)
    pixels = torch.rand(TIMED_SLICES, 1, settings.size_px, settings.size_px).contiguous(
        memory_format=torch.channels_last
    )
    with torch.inference_mode():
        seconds = quickest(lambda: model(pixels), rounds).cpu
    return model, images, seconds / TIMED_SLICES * images


def grades(recipe: Recipe, rounds: int) -> tuple[nn.Module, int, float]:
    """The same of a recipe's classifier."""
    settings, family = recipe.settings, recipe.family
    alone = replace(settings, shift_mm=0.0, beside=0.0, flip=False)
    views, cells = settings.views_of(family), family_cells(family)
    model = channels_last(SeverityModel(replace(settings.network, initial="random"), views).eval())
    batch: dict[str, torch.Tensor] = {"level": torch.tensor([LEVELS.index(CELLS[cell].level) for cell in cells])}
    for view in views:
        batch[f"pixels_{view_name(view.kind)}"] = torch.rand(len(cells), view.slices, view.pixels, view.pixels)
        batch[f"present_{view_name(view.kind)}"] = torch.ones(len(cells), view.slices, dtype=torch.bool)
    run: Callable[[], object] = lambda: predict_batch(model, batch, views, alone, torch.device("cpu"))  # noqa: E731
    windows = (5 if settings.shift_mm else 1) * (3 if settings.beside else 1) * (2 if settings.flip else 1)
    images = len(cells) * sum(view.slices for view in views) * windows
    return model, images, quickest(run, rounds, warm_up=0).cpu * windows


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("preset")
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    total = 0.0
    print(f"{args.preset:<26}{'M parameters':>14}{'images':>8}{'cpu s':>9}{'peak MB':>9}")
    runs: dict[str, Callable[[], tuple[nn.Module, int, float]]] = {
        name: partial(points, args.preset, name, args.rounds) for name in ("landmarks", "axial")
    }
    for recipe in load_recipes(args.preset, list(Family), {}):
        runs[recipe.name] = partial(grades, recipe, args.rounds)
    for name, run in runs.items():
        model, images, seconds = run()
        total += seconds
        millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{name:<26}{millions:>14.1f}{images:>8}{seconds:>9.2f}{peak:>9.0f}", flush=True)
    print(f"one study, one fold: {total:.1f} s on one thread")
    return 0


if __name__ == "__main__":
    sys.exit(main())
