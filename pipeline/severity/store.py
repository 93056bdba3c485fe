"""A trained classifier into a weights folder, with what the manifest has to know of it."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from pipeline.config import ConfigError
from pipeline.device import channels_last, seconds_on_one_thread
from pipeline.labels import Family
from pipeline.preset import load_settings
from pipeline.severity.model import SeverityModel
from pipeline.severity.predict import fuse_encoders, member_config, predict_batch
from pipeline.severity.settings import SeveritySettings, view_name
from pipeline.training.store import store_network
from pipeline.weights.manifest import Manifest

INFERENCE_SETTINGS = ("beside", "flip", "shift_mm", "worst")
"""What may differ between training and use: how many windows are averaged."""


def store_run(
    runs: Sequence[Path], weights: Path, family: Family, name: str, fold: int | None, overrides: Sequence[str] = ()
) -> Manifest:
    """Add the classifier of a training run to a weights folder.

    Args:
        runs: output folder of ``train severity`` for one fold; the weights of several are averaged, and then no score
            is recorded.
        weights: the folder; its manifest must exist.
        family: that it grades.
        name: of the member.
        fold: the held-out fold; None if there was none, and then no score is recorded.
        overrides: ``key=value`` of :data:`INFERENCE_SETTINGS`.

    Raises:
        ConfigError: another setting is to be overridden.
        OSError: a run is not complete.
        WeightsError: the runs are not of one network.
    """
    for override in overrides:
        if override.partition("=")[0] not in INFERENCE_SETTINGS:
            raise ConfigError(f"{override!r}: a trained network can be given only {', '.join(INFERENCE_SETTINGS)}")
    # Where training started from is a path of the machine it ran on and means nothing elsewhere.
    settings = load_settings(SeveritySettings, runs[0] / "config.yaml", "config", list(overrides))
    settings = replace(settings, start_from="", network=replace(settings.network, initial="random"))
    result = json.loads((runs[0] / "result.json").read_text(encoding="utf-8"))
    return store_network(
        runs,
        weights,
        name,
        family.value,
        fold=fold,
        config=member_config(settings, family),
        score=float(result["score"]) if fold is not None and len(runs) == 1 else None,
        seconds_per_study=seconds_per_study(settings, family),
    )


@functools.cache  # the folds of a recipe take alike
def seconds_per_study(settings: SeveritySettings, family: Family) -> float:
    """The time of the family's cells of one complete study through the network, on one CPU thread."""
    views = settings.views_of(family)
    model = SeverityModel.of(settings, family).eval()
    fuse_encoders(model, views)
    cells = settings.cells(family)
    batch: dict[str, torch.Tensor] = {"level": torch.tensor([cell % 5 for cell in cells])}
    for wide in settings.inference_views(family):
        batch[f"pixels_{view_name(wide.kind)}"] = torch.rand(len(cells), wide.slices, wide.pixels, wide.pixels)
        batch[f"present_{view_name(wide.kind)}"] = torch.ones(len(cells), wide.slices, dtype=torch.bool)
    laid_out = channels_last(model)
    return seconds_on_one_thread(lambda: predict_batch(laid_out, batch, views, settings, torch.device("cpu")))
