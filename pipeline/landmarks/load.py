"""Point networks in a weights folder: how they are stored, and how a predictor is made of them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from pipeline.config import ConfigError, from_dict
from pipeline.labels import LEVELS
from pipeline.landmarks.axial import AxialSettings
from pipeline.landmarks.model import AXIAL_CHANNELS, SAGITTAL_CHANNELS, FeatureNet, PointModelSettings, PointNet
from pipeline.landmarks.predict import LandmarkPredictor, LandmarkSettings
from pipeline.weights.fused import fuse
from pipeline.weights.manifest import LANDMARK_TASKS, Manifest, Member, WeightsError
from pipeline.weights.runtime import Chosen
from pipeline.weights.seen import study_hash
from pipeline.weights.tensors import load_network

CHANNELS = {"landmarks": SAGITTAL_CHANNELS, "axial": AXIAL_CHANNELS}
"""Maps of a network, by its task."""
IMAGES_AT_ONCE = {"landmarks": 3, "axial": 2 * len(LEVELS)}
"""In OpenVINO's batches of one size: few of a stack of any number of slices, so that hardly any is filled up; all
windows of a study."""


def load_predictor(weights: Path, device: str = "cpu", unseen: str | None = None) -> LandmarkPredictor:
    """The predictor of a weights folder: its first sagittal and its first axial network that may be used.

    Args:
        weights: folder with ``manifest.json``.
        device: where the networks run.
        unseen: a study id; networks that were trained on that study are passed over.

    Raises:
        pipeline.weights.manifest.WeightsError: no manifest, or a file that is not what the manifest records.
    """
    manifest = Manifest.load(weights)
    usable = [
        m for m in manifest.of_task(*LANDMARK_TASKS) if unseen is None or study_hash(unseen) not in manifest.seen(m)
    ]
    return make_predictor(weights, usable, device)


def make_predictor(
    weights: Path, members: Sequence[Member], device: str, runtime: Chosen = "torch"
) -> LandmarkPredictor:
    """The predictor of at most one sagittal and one axial network of a weights folder.

    Raises:
        RuntimeFailedError: ``runtime`` is not PyTorch and cannot compute one.
        WeightsError: a file is not what the manifest records, or settings or tensors make no network.
    """
    sagittal, axial = (next((member for member in members if member.task == task), None) for task in LANDMARK_TASKS)
    try:
        settings = from_dict(LandmarkSettings, {} if sagittal is None else sagittal.config.get("settings", {}))
        if axial is not None and "pixel_mm" in axial.config:
            seen = from_dict(AxialSettings, {"pixel_mm": axial.config["pixel_mm"]})
            settings = replace(settings, axial=replace(settings.axial, pixel_mm=seen.pixel_mm))
    except ConfigError as error:
        raise WeightsError(f"{weights}: networks {', '.join(member.name for member in members)}: {error}") from error
    networks = [
        None if member is None else load_point_net(weights, member, device, runtime) for member in (sagittal, axial)
    ]
    return LandmarkPredictor(networks[0], networks[1], device, settings)


@functools.lru_cache(maxsize=12)
def load_point_net(weights: Path, member: Member, device: str = "cpu", runtime: Chosen = "torch") -> PointNet:
    """The network of a member; what is bytes or half precision on disk becomes float.

    Raises:
        WeightsError: the file is not what the manifest records, or settings or tensors make no such network.
        RuntimeFailedError: as of :func:`make_predictor`.
    """
    try:
        settings = replace(from_dict(PointModelSettings, member.config.get("model"), "model."), initial="random")
        if settings.channels != (maps := CHANNELS[member.task]):
            raise ConfigError(f"model.channels is {settings.channels}, a network of task {member.task} has {maps}")
    except ConfigError as error:
        raise WeightsError(f"network {member.name}: {error}") from error
    network = load_network(member.name, member.read(weights), lambda: PointNet(settings))
    if runtime == "openvino":
        from pipeline.weights.converted import convert

        batch = IMAGES_AT_ONCE[member.task]
        network.convert(convert(FeatureNet(network), (batch, 1, settings.size_px, settings.size_px), member))
        return network
    example = torch.rand(1, 1, settings.size_px, settings.size_px, generator=torch.Generator().manual_seed(0))
    return fuse(network, example).to(torch.device(device))  # type: ignore[return-value]
