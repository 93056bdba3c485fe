"""The point networks as a task of the shared training loop: ``landmarks`` with ten channels, ``axial`` with one."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from pipeline.device import usable_cpus
from pipeline.landmarks.examples import ExampleSettings
from pipeline.landmarks.model import PointLossSettings, PointModelSettings, PointNet, point_loss
from pipeline.landmarks.prepare import read_images, read_targets
from pipeline.pictures import grid
from pipeline.training.augment import StackAugmentation
from pipeline.training.task import Batch, Task, decayed_groups
from pipeline.weights.recipe import AugmentSettings, LoopSettings
from pipeline.weights.tensors import read_network


@dataclass(frozen=True)
class LandmarkTrainSettings:
    """Everything ``train landmarks`` and ``train axial`` can be told; sections ``landmarks`` and ``axial`` of a preset.

    Attributes:
        model: the network.
        examples: how slices become examples.
        loss: weights of the loss terms.
        loop: epochs, batches, learning rate, precision.
        augment: changes of the images.
        data_weights: share of the draws by folder, in the order of ``--data``; empty for shares by number of examples.
        encoder_lr: learning rate of the encoder relative to the rest.
        start_from: weights (safetensors) of an earlier run of the same network to continue from; its held-out fold must
            be this run's.
        evaluated: at most this many held-out examples are scored after each epoch.
    """

    model: PointModelSettings = field(default_factory=PointModelSettings)
    examples: ExampleSettings = field(default_factory=ExampleSettings)
    loss: PointLossSettings = field(default_factory=PointLossSettings)
    loop: LoopSettings = field(default_factory=LoopSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    data_weights: tuple[float, ...] = ()
    encoder_lr: float = 1.0
    start_from: str = ""
    evaluated: int = 800


class PointExamples(Dataset[dict[str, Any]]):
    """The cached examples of a table of :func:`pipeline.landmarks.prepare.build_examples`.

    Targets lie in main memory; images are unpacked as they are asked for, by as many threads as there are cores, which
    takes a hundredth of what a network of their size takes for them.
    """

    def __init__(self, table: pd.DataFrame) -> None:
        self.table = table.reset_index(drop=True)
        self.files, self.numbers = self.table["file"].to_numpy(), self.table["index"].to_numpy()
        self.targets: dict[str, np.ndarray] = {}
        for file, places in self.table.groupby("file", sort=False).groups.items():
            for name, values in read_targets(Path(str(file))).items():
                target = self.targets.setdefault(name, np.zeros((len(self.table), *values.shape[1:]), np.float32))
                target[places] = values[self.numbers[places]]

    def fetch(self, indices: np.ndarray) -> dict[str, Any]:
        """Some examples as a batch."""
        with ThreadPoolExecutor(usable_cpus()) as readers:
            images = list(readers.map(self._image, indices))
        batch = {"image": torch.from_numpy(np.stack(images)[:, None])}
        return batch | {name: torch.from_numpy(values[indices]) for name, values in self.targets.items()}

    def _image(self, index: int) -> np.ndarray:
        return read_images(Path(self.files[index]), [int(self.numbers[index])])[0].astype(np.float32)

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {name: values[0] for name, values in self.fetch(np.array([i])).items()}

    def name(self, i: int) -> str:
        """Study and number of an example, for messages."""
        row = self.table.iloc[i]
        return f"study {row['study_id']}, example {row['index']} of {row['file']}"


class PointTask(Task):
    """Trains a :class:`PointNet`; the score is the mean error of visible held-out points in mm.

    Args:
        name: ``landmarks`` or ``axial``.
        settings: of the run.
        train: table of training examples.
        held_out: table of held-out examples, may be empty.
    """

    model: PointNet
    train_set: PointExamples

    def __init__(self, name: str, settings: LandmarkTrainSettings, train: pd.DataFrame, held_out: pd.DataFrame) -> None:
        self.name = name
        self.settings = settings
        self.model = PointNet(replace(settings.model, initial="random") if settings.start_from else settings.model)
        if settings.start_from:
            self.model.load_state_dict(read_network(Path(settings.start_from).read_bytes()))
        self.train_set = PointExamples(train)
        self.held_out = PointExamples(_spread(held_out, settings.evaluated)) if len(held_out) else None
        self.sample_weights = sample_weights(train, settings.data_weights)
        self.augmentation = StackAugmentation(settings.augment)

    def augment(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Move, turn, scale and disturb images; their points go along."""
        changed = self.augmentation(batch["image"], generator, batch["points"])
        return self._framed(batch | {"image": changed.pixels, "points": changed.points})

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """See :func:`pipeline.landmarks.model.point_loss`."""
        output = model(batch["image"].contiguous(memory_format=torch.channels_last))
        return point_loss(
            output,
            batch["points"],
            batch["point_weight"],
            batch["visible"],
            batch["visible_weight"],
            self.model.stride,
            self.settings.loss,
        )

    def evaluate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Errors of the visible points of the held-out slices, slice by slice, before any joint decoding."""
        if self.held_out is None:
            return {"score": float("nan")}
        errors, right, counted = [], 0.0, 0.0
        for batch in self._held_out_batches(device):
            output = model(batch["image"].contiguous(memory_format=torch.channels_last))
            distance = (output["points"] - batch["points"]).norm(dim=-1) * batch["pixel_mm"][:, None]
            errors.append(distance[(batch["point_weight"] >= 1.0)].float().cpu().numpy())
            said = (output["visible"] > 0) == (batch["visible"] > 0.5)
            weight = batch["visible_weight"]
            right += float((said * weight).sum())
            counted += float(weight.sum())
        all_errors = np.concatenate(errors)
        if not len(all_errors):  # slices were held out, but no point is marked on them
            return {"score": float("nan")}
        return {
            "score": float(np.minimum(all_errors, 30.0).mean()),
            "median_mm": float(np.median(all_errors)),
            "p95_mm": float(np.percentile(all_errors, 95)),
            "within_5mm": float((all_errors <= 5).mean()),
            "visible_accuracy": right / max(counted, 1e-6),
        }

    def picture(self, model: nn.Module, device: torch.device) -> np.ndarray | None:
        """Held-out slices, worst first: truth as green circles, predictions as red crosses joined to it."""
        if self.held_out is None:
            return None
        tiles: list[tuple[float, np.ndarray]] = []
        for batch in self._held_out_batches(device):
            predicted = model(batch["image"].contiguous(memory_format=torch.channels_last))["points"]
            for i in range(len(predicted)):
                known = (batch["point_weight"][i] >= 1.0).cpu().numpy()
                if known.any():
                    truth, guess = batch["points"][i].cpu().numpy()[known], predicted[i].float().cpu().numpy()[known]
                    error = float(np.linalg.norm(truth - guess, axis=1).max()) * float(batch["pixel_mm"][i])
                    tiles.append((error, _tile(batch["image"][i, 0].cpu().numpy(), truth, guess, error)))
        tiles.sort(key=lambda pair: -pair[0])
        shown = [tile for _, tile in tiles[:24]]
        if not shown:
            return None
        return grid(shown, 6)

    def item_name(self, index: int) -> str:
        """Study and number of an example."""
        return self.train_set.name(index)

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """The encoder may learn more slowly than the decoder."""
        return decayed_groups(self.model, weight_decay, {"encoder.": self.settings.encoder_lr})

    def _held_out_batches(self, device: torch.device) -> Any:
        assert self.held_out is not None  # both callers have checked
        size = self.settings.loop.batch_size
        for start in range(0, len(self.held_out), size):
            batch = self.held_out.fetch(np.arange(start, min(start + size, len(self.held_out))))
            yield self._framed({name: values.to(device) for name, values in batch.items()})

    def _framed(self, batch: Batch) -> Batch:
        """Cut the middle of the network's size out of a larger canvas; points that fall outside are not asked for."""
        size, have = self.settings.model.size_px, batch["image"].shape[-1]
        start = (have - size) // 2
        image = batch["image"][..., start : start + size, start : start + size]
        points = batch["points"] - start
        inside = ((points >= 0) & (points <= size - 1)).all(dim=-1)
        return batch | {
            "image": image,
            "points": points,
            "point_weight": batch["point_weight"] * inside,
            "visible": batch["visible"] * inside,
        }


def sample_weights(table: pd.DataFrame, data_weights: Sequence[float]) -> np.ndarray | None:
    """How often each example is drawn so that the folders have the wanted shares.

    Args:
        table: examples with their ``competition`` number.
        data_weights: a share for each folder; empty for equal examples.
    """
    if not data_weights:
        return None
    number = table["competition"].to_numpy()
    counts = np.bincount(number, minlength=len(data_weights))
    weights: np.ndarray = np.asarray(data_weights, float)[number] / counts[number]
    return weights


def _spread(table: pd.DataFrame, most: int) -> pd.DataFrame:
    """At most this many rows, evenly over the table and its folders."""
    if len(table) <= most:
        return table
    return table.iloc[np.linspace(0, len(table) - 1, most).round().astype(int)]


def _tile(image: np.ndarray, truth: np.ndarray, guess: np.ndarray, error: float) -> np.ndarray:
    side = 240
    scale = side / image.shape[0]
    grey = (np.clip(cv2.resize(image.astype(np.float32), (side, side)), 0, 1) * 255).astype(np.uint8)  # for the screen
    tile = np.repeat(grey[..., None], 3, axis=2)
    for (tx, ty), (gx, gy) in zip(truth, guess, strict=True):
        a = (round((tx + 0.5) * scale), round((ty + 0.5) * scale))
        b = (round((gx + 0.5) * scale), round((gy + 0.5) * scale))
        cv2.line(tile, a, b, (255, 220, 0), 1)
        cv2.circle(tile, a, 3, (0, 255, 0), 1)
        cv2.drawMarker(tile, b, (255, 60, 60), cv2.MARKER_TILTED_CROSS, 7, 1)
    cv2.putText(tile, f"{error:.1f} mm", (3, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 0), 1)
    return tile
