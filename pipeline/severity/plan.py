"""What ``train all`` would do and what that would take, before anything is decoded.

Space is reckoned (:mod:`pipeline.severity.space`). Time comes from a short measurement: two optimiser steps of every
network on random pixels, on the device at hand and with its precision, times the steps that the settings ask for;
scoring held-out cells is taken as a third of a training step an image, because it has no gradients. So that a plan made
on one machine says something of another, operations are counted too: a forward pass's, by PyTorch's counter, three
times for a training step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from pipeline.device import channels_last, half_precision, own_gpu, release_memory, usable_cpus, wait_for, working_gpu
from pipeline.labels import FOLDS, Family
from pipeline.landmarks.model import PointNet
from pipeline.landmarks.task import LandmarkTrainSettings
from pipeline.severity.model import SeverityModel
from pipeline.severity.recipes import Recipe
from pipeline.severity.settings import SeveritySettings, view_name
from pipeline.severity.space import Space
from pipeline.weights.recipe import LoopSettings

DECODE_SECONDS = 1.2
"""Of processor, to decode a usual study and to keep what is trained on; measured, see README."""
FIND_SECONDS = 0.6
"""Of processor and study, to find the points out of fold with a small localiser on a CPU, and to read the study."""
_SLICES = {"landmarks": 34, "axial": 35}
"""Examples of a usual study, by point network."""
_CPU_ITEMS = 4
"""A batch that is measured on a CPU, where an item takes as long in a batch of any size."""


@dataclass(frozen=True)
class Step:
    """One step of the run.

    Attributes:
        name: what is done.
        trainings: of how many folds; 0 where nothing is trained.
        steps: optimiser steps of one training.
        items: of a step.
        images_per_s: items a second, measured; None where nothing is trained.
        hours: of the whole step.
        operations: floating-point operations (a multiplication and an addition are two) of the whole step.
        gpu_bytes: the most that was held of the GPU. Where that is not measured (cpu, mps): what a GPU has to hold in
            single precision, which is more than it holds in half: weights, gradients, two moments and the average, and
            what is kept of a batch for the gradients. None where nothing is trained.
    """

    name: str
    trainings: int
    steps: int
    items: int
    images_per_s: float | None
    hours: float
    operations: float
    gpu_bytes: int | None


class _Training(NamedTuple):
    """A network on random pixels: the loss of so many items, and a whole optimiser step on them."""

    model: nn.Module
    forward: Callable[[int], Tensor]
    run: Callable[[int], None]


def make_plan(
    space: Space,
    points: Mapping[str, LandmarkTrainSettings],
    recipes: Sequence[Recipe],
    workers: int = 0,
) -> dict[str, Any]:
    """The plan as JSON holds it.

    Its fields: ``studies``, ``device``, ``bytes_per_study``, ``disk`` in bytes, ``steps`` (see :class:`Step`),
    ``hours`` and ``operations``.

    Args:
        space: that the run takes.
        points: settings of the point networks that are trained.
        recipes: of the classifiers that are trained.
        workers: processes that decode, 0 for one a core.
    """
    gpu = working_gpu()
    device = own_gpu() if gpu else torch.device("cpu")
    processes = workers or usable_cpus()
    steps = [_plain("decode every series once", DECODE_SECONDS * space.studies / processes)]
    for name, own in points.items():
        size = own.model.size_px
        items = _SLICES[name] * space.studies
        scored = min(items // FOLDS, own.evaluated)
        title = f"{name}, {own.model.backbone} at {size} px"
        steps.append(_training(title, _point_step(own, device), own.loop, items, scored, device))
    steps.append(_plain("points of unseen studies", FIND_SECONDS * space.studies / processes))
    for recipe in recipes:
        family, one = recipe.family, recipe.settings
        views = ", ".join(f"{view.slices} x {view.pixels} px" for view in one.views_of(family))
        items = len(one.cells(family)) // len(one.one_item(family)) * space.studies
        looks = (5 if one.shift_mm else 1) * (3 if one.beside else 1) * (2 if one.flip else 1)
        name = f"{recipe.name}, {one.network.backbone} at {views}"
        step = _training(name, _grader_step(one, family, device), one.loop, items, items // FOLDS * looks, device)
        steps += [step, replace(step, name=f"{name}, second round")][: recipe.rounds]
    return {
        "studies": space.studies,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "bytes_per_study": space.bytes_per_study,
        "disk": {
            "cache": space.cache,
            "unpacked": space.unpacked,
            "runs": space.runs,
            "packed": space.packed,
            "most": space.most,
        },
        "steps": [asdict(step) for step in steps],
        "hours": sum(step.hours for step in steps),
        "operations": sum(step.operations for step in steps),
    }


def plan_lines(plan: Mapping[str, Any]) -> list[str]:
    """The plan for people, with its arithmetic."""
    disk = plan["disk"]
    lines = [
        f"{plan['studies']} studies, on {plan['device']}",
        f"disk: {disk['most'] / 1e9:.1f} GB = {plan['studies']} x {plan['bytes_per_study'] / 1e6:.1f} MB kept "
        f"({disk['cache'] / 1e9:.1f}) + {disk['runs'] / 1e9:.1f} of runs + {disk['unpacked'] / 1e9:.1f} unpacked while "
        f"it is trained on, or {disk['packed'] / 1e9:.1f} of the set when that is over",
    ]
    for number, step in enumerate(plan["steps"], 1):
        text = f"{number}. {step['name']}: {step['hours']:.2f} h"
        if step["trainings"]:
            text += (
                f" = {step['trainings']} folds x {step['steps']} steps x {step['items']} items at "
                f"{step['images_per_s']:.3g} a second, and scoring"
            )
            held = f"{step['gpu_bytes'] / 2**30:.1f} GiB"
            held = f"at most {held} of a GPU" if plan["device"] in ("cpu", "mps") else f"{held} of the GPU"
            text += f"; {step['operations'] / 1e15:.1f} PFLOP; {held}"
        lines.append(text)
    total, taken = plan["operations"], max(1, sum(step["trainings"] * step["steps"] for step in plan["steps"]))
    return [
        *lines,
        f"together {plan['hours']:.1f} h on this machine; {total / 1e15:.0f} PFLOP in {taken:,} optimiser steps, which "
        f"is ten hours at {total / 3.6e16:.1f} TFLOP/s and {3.6e7 / taken:.0f} ms a step",
    ]


def _plain(name: str, seconds: float) -> Step:
    return Step(name, 0, 0, 0, None, seconds / 3600, 0.0, None)


def _training(
    name: str, training: _Training, loop: LoopSettings, items: int, scored: int, device: torch.device
) -> Step:
    """A network trained on four of five folds, five times."""
    batch = loop.batch_size * loop.accumulate
    steps = loop.epochs * (loop.batches_per_epoch or max(1, items * (FOLDS - 1) // FOLDS // batch))
    measured = loop.batch_size if device.type == "cuda" else min(_CPU_ITEMS, loop.batch_size)
    training.run(measured)  # chooses algorithms, loads libraries
    operations = _operations(training, measured)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    wait_for(device)
    began = time.perf_counter()
    training.run(measured)
    wait_for(device)
    seconds = (time.perf_counter() - began) / measured
    evaluations = -(-loop.epochs // loop.evaluate_every) + 1  # the last one is of the packed predictions
    if device.type == "cuda":
        held = int(torch.cuda.max_memory_allocated(device))
    else:
        weights = sum(weight.nbytes for weight in training.model.parameters())
        held = 5 * weights + int(loop.batch_size * _kept_bytes(training, measured))
    release_memory()
    trained = FOLDS * (steps * batch + evaluations * scored / 3)  # items, counting what scoring takes
    return Step(name, FOLDS, steps, batch, 1 / seconds, trained * seconds / 3600, 3 * trained * operations, held)


def _operations(training: _Training, items: int) -> float:
    """Of a forward pass, for each of ``items``."""
    with FlopCounterMode(display=False) as counter:
        training.forward(items)
    return counter.get_total_flops() / items


def _kept_bytes(training: _Training, items: int) -> float:
    """What a forward pass keeps for the backward pass, for each of ``items``."""
    weights = {weight.untyped_storage().data_ptr() for weight in training.model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = 0 if storage.data_ptr() in weights else storage.nbytes()
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        loss = training.forward(items)  # held, so that no storage is freed and used again
    del loss
    return sum(kept.values()) / items


def _grader_step(settings: SeveritySettings, family: Family, device: torch.device) -> _Training:
    views, cells = settings.views_of(family), len(settings.one_item(family))
    model = SeverityModel.of(replace(settings, network=replace(settings.network, initial="random")), family)

    def forward(items: int) -> Tensor:
        rows = items * cells
        pixels = {view_name(v.kind): torch.rand(rows, v.slices, v.pixels, v.pixels, device=device) for v in views}
        present = {
            name: torch.ones(*values.shape[:2], dtype=torch.bool, device=device) for name, values in pixels.items()
        }
        logits: Tensor = model(pixels, present, torch.zeros(rows, dtype=torch.int64, device=device))
        return logits.float().square().mean()

    return _step(model, forward, device)


def _point_step(settings: LandmarkTrainSettings, device: torch.device) -> _Training:
    model, size = PointNet(replace(settings.model, initial="random")), settings.model.size_px

    def forward(items: int) -> Tensor:
        answers = model(torch.rand(items, 1, size, size, device=device))
        return torch.stack([value.float().square().mean() for value in answers.values()]).sum()

    return _step(model, forward, device)


def _step(model: nn.Module, forward: Callable[[int], Tensor], device: torch.device) -> _Training:
    """How a network is trained on the device."""
    model = channels_last(model.to(device)).train()
    optimizer = torch.optim.AdamW(model.parameters())

    def run(items: int) -> None:
        with half_precision(device):
            loss = forward(items)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return _Training(model, forward, run)
