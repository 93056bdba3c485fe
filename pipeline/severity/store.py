"""A trained classifier into a weights folder, with what the manifest has to know of it."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from pipeline.config import load_settings
from pipeline.cubes.cache import family_cells
from pipeline.ensemble.manifest import Manifest, Member
from pipeline.labels import Family
from pipeline.severity.model import SeverityModel
from pipeline.severity.predict import channels_last, member_config
from pipeline.severity.settings import SeveritySettings, view_name
from pipeline.severity.task import predict_batch

_STATISTICS = ("running_mean", "running_var")
"""Kept in full precision: a small variance would lose its digits, and these tensors are short."""


def store_run(run: Path, weights: Path, family: Family, name: str, fold: int | None) -> Manifest:
    """Add the classifier of a training run to a weights folder, in half precision.

    Args:
        run: output folder of ``train severity`` for one fold.
        weights: the folder; its manifest must exist.
        family: that it grades.
        name: of the member.
        fold: the held-out fold; None if there was none, and then no score is recorded.

    Raises:
        OSError: the run is not complete.
    """
    # Where training started from is a path of the machine it ran on and means nothing elsewhere.
    settings = load_settings(SeveritySettings, run / "config.yaml", "config")
    settings = replace(settings, start_from="", network=replace(settings.network, initial="random"))
    tensors = {
        key: (tensor if not tensor.is_floating_point() or key.endswith(_STATISTICS) else tensor.half()).contiguous()
        for key, tensor in load_file(run / "best.safetensors").items()
    }
    save_file(tensors, weights / f"{name}.safetensors")
    shutil.copyfile(run / "seen.txt", weights / f"{name}.seen.txt")
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    member = Member(
        name=name,
        task=family.value,
        file=f"{name}.safetensors",
        sha256="",
        family=family.value,
        fold=fold,
        config=member_config(settings, family),
        seen=f"{name}.seen.txt",
        score=float(result["score"]) if fold is not None else None,
        seconds_per_study=seconds_per_study(settings, family),
    )
    return Manifest.load(weights).add_member(member)


def seconds_per_study(settings: SeveritySettings, family: Family) -> float:
    """The time of the family's cells of one complete study through the network, on one CPU thread."""
    views = settings.views_of(family)
    model = channels_last(SeverityModel(settings.network, views).eval())
    cells = family_cells(family)
    batch: dict[str, torch.Tensor] = {"level": torch.tensor([cell % 5 for cell in cells])}
    for wide in settings.inference_views(family):
        batch[f"pixels_{view_name(wide.kind)}"] = torch.rand(len(cells), wide.slices, wide.pixels, wide.pixels)
        batch[f"present_{view_name(wide.kind)}"] = torch.ones(len(cells), wide.slices, dtype=torch.bool)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        taken = []
        for _ in range(3):
            began = time.perf_counter()
            predict_batch(model, batch, views, settings, torch.device("cpu"))
            taken.append(time.perf_counter() - began)
    finally:
        torch.set_num_threads(threads)
    return min(taken)
