"""Networks for other programs: a file in ONNX each, whose answers were compared with PyTorch's.

A point network takes ``images`` and gives ``points``, ``heat`` and ``visible`` (see
:class:`~pipeline.landmarks.model.PointNet`). A classifier takes ``pixels_<view>`` and ``present_<view>`` of each view
and ``level``, and gives ``log_probabilities`` of its families (see :class:`~pipeline.severity.model.SeverityModel`);
windows that are shifted or one slice further, and the blend of networks, are not part of it.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.files import write_atomically
from pipeline.labels import LEVELS
from pipeline.landmarks.load import load_point_net
from pipeline.landmarks.model import PointNet
from pipeline.severity.model import SeverityModel
from pipeline.severity.predict import load_member
from pipeline.weights.converted import TOLERANCE, relative_difference
from pipeline.weights.manifest import LANDMARK_TASKS, Member

OPSET = 17
_COUNT = {"example": 3, "check": 8}
"""Cells or images of the batch that is traced, and of the one that is compared."""


class ExportError(Exception):
    """A network cannot be written as ONNX, or answers differently there."""


def write_network(weights: Path, member: Member, path: Path) -> dict[str, Any]:
    """Write a network as ONNX, once what ONNX Runtime computes from it is what PyTorch computes.

    Args:
        weights: the folder of the set.
        member: the network.
        path: of the file.

    Returns:
        What a program has to know: ``inputs`` and ``outputs`` with their shapes, where None is any number, and the
        largest ``difference`` from PyTorch.

    Raises:
        WeightsError: the file is not what the manifest records, or makes no network.
        ExportError: see there.
        OSError: the file cannot be written.
    """
    if member.task in LANDMARK_TASKS:
        graph: _Points | _Grades = _Points(load_point_net(weights, member))
    else:
        grader = load_member(weights, member, "cpu")
        assert isinstance(grader.model, SeverityModel)
        graph = _Grades(grader.model, [(view.slices, view.pixels) for view in grader.views])
    graph.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    description: dict[str, Any] = {}

    def write(partial: Path) -> None:
        example = graph.batch(_COUNT["example"], 0)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of the tracer; what it says is compared below
            torch.onnx.export(
                graph.eval(),
                tuple(example.values()),
                str(partial),
                dynamo=False,
                opset_version=OPSET,
                input_names=list(example),
                output_names=list(graph.outputs),
                dynamic_axes={name: {0: "batch"} for name in (*example, *graph.outputs)},
            )
        description.update(_compared(graph, partial))

    try:
        write_atomically(path, write)
    except (ExportError, OSError):
        raise
    except Exception as error:  # torch.onnx and ONNX Runtime raise whatever their code runs into
        raise ExportError(f"{member.name}: {type(error).__name__}: {error!s:.500}") from error
    return description


class _Points(nn.Module):
    outputs = ("points", "heat", "visible")

    def __init__(self, network: PointNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        answer = self.network(images)
        return tuple(answer[name] for name in self.outputs)

    def batch(self, count: int, seed: int) -> dict[str, Tensor]:
        size = self.network.settings.size_px
        return {"images": torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(seed))}


class _Grades(nn.Module):
    outputs = ("log_probabilities",)

    def __init__(self, model: SeverityModel, views: list[tuple[int, int]]) -> None:
        super().__init__()
        self.model, self.views = model, views

    def forward(self, *given: Tensor) -> Tensor:
        names = self.model.names
        pixels, present = given[: len(names)], given[len(names) : -1]
        return self.model.log_probabilities(
            dict(zip(names, pixels, strict=True)), dict(zip(names, present, strict=True)), given[-1]
        )

    def batch(self, count: int, seed: int) -> dict[str, Tensor]:
        """Cells of which one lacks a slice and one lacks all slices of the first view."""
        generator = torch.Generator().manual_seed(seed)
        named = list(zip(self.model.names, self.views, strict=True))
        pixels = {f"pixels_{name}": torch.rand(count, s, p, p, generator=generator) for name, (s, p) in named}
        present = {f"present_{name}": torch.ones(count, s, dtype=torch.bool) for name, (s, _) in named}
        first = present[f"present_{self.model.names[0]}"]
        first[0, 0], first[1] = False, False
        return {**pixels, **present, "level": torch.arange(count) % len(LEVELS)}


def _compared(graph: _Points | _Grades, path: Path) -> dict[str, Any]:
    import onnxruntime

    given = graph.batch(_COUNT["check"], 1)
    with torch.inference_mode():
        answer = graph(*given.values())
    expected = [values.numpy() for values in (answer if isinstance(answer, tuple) else (answer,))]
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    found = session.run(None, {name: values.numpy() for name, values in given.items()})
    apart = max(relative_difference(a, b) for a, b in zip(found, expected, strict=True))
    if not apart <= TOLERANCE:
        raise ExportError(f"{path.name}: ONNX Runtime differs from PyTorch by {apart:.2g} of the largest output")
    return {
        "inputs": {name: [None, *values.shape[1:]] for name, values in given.items()},
        "outputs": {name: [None, *values.shape[1:]] for name, values in zip(graph.outputs, expected, strict=True)},
        "difference": apart,
    }
