"""Point networks in a weights folder: how they are stored, and how a predictor is made of them."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from pipeline.config import from_dict, load_settings, to_dict
from pipeline.ensemble.manifest import Manifest, Member, study_hash
from pipeline.landmarks.model import PointModelSettings, PointNet
from pipeline.landmarks.predict import LandmarkPredictor, LandmarkSettings
from pipeline.training.fold import folded
from pipeline.training.store import read_network, seconds_on_one_thread, store_network

SAGITTAL_SLICES = 36
"""Slices of the two sagittal series of a typical study, 18 each."""
AXIAL_WINDOWS = 10
"""Two sides of five levels."""


def load_point_net(path: Path, settings: PointModelSettings) -> PointNet:
    """A network from its safetensors file; what is bytes or half precision on disk becomes float.

    Raises:
        RuntimeError: if the tensors are not those of the settings' network.
    """
    model = PointNet(replace(settings, initial="random"))
    model.load_state_dict(read_network(path))
    return model.eval()


def load_predictor(
    weights: Path, names: Sequence[str] | None = None, device: str = "cpu", unseen: str | None = None
) -> LandmarkPredictor:
    """The predictor of a weights folder: its first sagittal and its first axial network that may be used.

    Args:
        weights: folder with ``manifest.json``.
        names: only members of these names; None for all.
        device: where the networks run.
        unseen: a study id; networks that were trained on that study are passed over.

    Raises:
        pipeline.ensemble.manifest.WeightsError: no manifest, or a file that is not what the manifest records.
    """
    manifest = Manifest.load(weights)
    sagittal = _first(manifest, "landmarks", names, unseen)
    axial = _first(manifest, "axial", names, unseen)
    settings = LandmarkSettings()
    recorded = (sagittal.config if sagittal else {}).get("settings")
    if recorded:
        settings = from_dict(LandmarkSettings, recorded)
    if axial is not None:
        pixel_mm = float(axial.config.get("pixel_mm", settings.axial.pixel_mm))
        settings = replace(settings, axial=replace(settings.axial, pixel_mm=pixel_mm))
    return LandmarkPredictor(_network(manifest, sagittal, device), _network(manifest, axial, device), device, settings)


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
    from pipeline.landmarks.train import LandmarkTrainSettings

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


def seconds_per_study(settings: PointModelSettings, task: str) -> float:
    """The time of a complete study's slices through the network, on one CPU thread."""
    model = PointNet(replace(settings, initial="random")).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    slices = AXIAL_WINDOWS if task == "axial" else SAGITTAL_SLICES
    images = torch.rand(slices, 1, settings.size_px, settings.size_px).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        return seconds_on_one_thread(lambda: model(images))


def _first(manifest: Manifest, task: str, names: Sequence[str] | None, unseen: str | None) -> Member | None:
    """The first member of a task that is among ``names`` and has not seen a study."""
    for member in manifest.of_task(task):
        named = names is None or member.name in names
        if named and (unseen is None or study_hash(unseen) not in manifest.seen(member)):
            return member
    return None


def _network(manifest: Manifest, member: Member | None, device: str) -> PointNet | None:
    if member is None:
        return None
    settings = from_dict(PointModelSettings, member.config["model"])
    return _cached_network(manifest.verify(member), settings, device)


@functools.lru_cache(maxsize=12)
def _cached_network(path: Path, settings: PointModelSettings, device: str) -> PointNet:
    network = load_point_net(path, settings)
    example = torch.rand(1, 1, settings.size_px, settings.size_px, generator=torch.Generator().manual_seed(0))
    return folded(network, example).to(torch.device(device))  # type: ignore[return-value]


def _best_score(history: Path) -> float | None:
    """The lowest held-out score of a run; None where nothing was held out."""
    if not history.is_file():
        return None
    best = float(pd.read_csv(history)["score"].min())
    return best if math.isfinite(best) else None
