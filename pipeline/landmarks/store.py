"""The network of a landmark training in a weights folder, with what the manifest has to know of it."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from pipeline.config import to_dict
from pipeline.device import seconds_on_one_thread
from pipeline.landmarks.model import PointModelSettings, PointNet
from pipeline.landmarks.predict import LandmarkSettings
from pipeline.landmarks.task import LandmarkTrainSettings
from pipeline.preset import load_settings
from pipeline.training.store import store_network
from pipeline.weights.manifest import Manifest

SAGITTAL_SLICES = 36
"""Slices of the two sagittal series of a typical study, 18 each."""
AXIAL_WINDOWS = 10
"""Two sides of five levels."""


def store_run(
    runs: Sequence[Path], weights: Path, task: str, name: str, fold: int | None, overrides: Sequence[str] = ()
) -> Manifest:
    """Add the network of a training run to a weights folder.

    Args:
        runs: output folder of ``train landmarks`` or ``train axial``; the weights of several are averaged, and then no
            score is recorded.
        weights: the folder; its manifest must exist.
        task: ``landmarks`` or ``axial``.
        name: of the member.
        fold: the held-out fold; None if there was none.
        overrides: ``key=value`` of :class:`LandmarkSettings`, how studies are read with this network. The sagittal
            network's count, for its axial companion too.

    Raises:
        ConfigError: a setting that does not exist.
        OSError: a run is not complete.
        WeightsError: the runs are not of one network.
    """
    settings = load_settings(LandmarkTrainSettings, runs[0] / "config.yaml", "config")
    return store_network(
        runs,
        weights,
        name,
        task,
        fold=fold,
        config={
            "model": {**to_dict(settings.model), "initial": "random"},
            "pixel_mm": settings.examples.axial_pixel_mm,
            **({"settings": to_dict(load_settings(LandmarkSettings, overrides=overrides))} if overrides else {}),
        },
        score=_best_score(runs[0] / "history.csv") if len(runs) == 1 else None,
        seconds_per_study=seconds_per_study(settings.model, task),
    )


@functools.cache  # the folds of a network take alike
def seconds_per_study(settings: PointModelSettings, task: str) -> float:
    """The time of a complete study's slices through the network, on one CPU thread."""
    model = PointNet(replace(settings, initial="random")).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    slices = AXIAL_WINDOWS if task == "axial" else SAGITTAL_SLICES
    images = torch.rand(slices, 1, settings.size_px, settings.size_px).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        return seconds_on_one_thread(lambda: model(images))


def _best_score(history: Path) -> float | None:
    """The lowest held-out score of a run; None where nothing was held out."""
    if not history.is_file():
        return None
    best = float(pd.read_csv(history)["score"].min())
    return best if math.isfinite(best) else None
