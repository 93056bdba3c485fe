"""What computes the committed networks quickest on a CPU: ``python -m tests.benchmarks.runtimes``.

The parts that cost time, on as many images as a complete study has, by eager PyTorch as it stands in the pipeline
(batch norms fused, channels last), ONNX Runtime, and OpenVINO in float32 and, where the CPU computes it, bfloat16.
Printed are milliseconds of wall clock and of the processor, and the largest difference from PyTorch relative to the
largest output. What is not installed is left out; ``--compile`` adds ``torch.compile``, which takes minutes to compile.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.landmarks.load import load_point_net
from pipeline.landmarks.model import FeatureNet
from pipeline.severity.predict import load_member
from pipeline.weights.converted import _converted
from pipeline.weights.manifest import Manifest
from tests.benchmarks.one_study import THREADS, WEIGHTS
from tests.benchmarks.timing import quickest

ROUNDS = 7
IMAGES = {"landmarks-fold0": 18, "axial-fold0": 10, "foraminal-fold0": 30, "subarticular-fold0": 10}
"""Of each network a series or a study; a study has two sagittal series and ten, five networks of the last two kinds."""


def part_of(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    """The part of a network that costs time, and the shape of its images."""
    member = next(member for member in Manifest.load(WEIGHTS).members if member.name == name)
    if name.startswith(("landmarks", "axial")):
        network = load_point_net(WEIGHTS, member)
        return FeatureNet(network), (1, network.settings.size_px, network.settings.size_px)
    grader = load_member(WEIGHTS, member, "cpu")
    (encoder,), (view,) = grader.model.encoders.values(), grader.views
    return encoder.backbone, (view.slices, view.pixels, view.pixels)  # type: ignore[return-value]


def by_onnx_runtime(part: nn.Module, images: Tensor, threads: int) -> Callable[[], Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "part.onnx"
        torch.onnx.export(part, (images,), str(path), dynamo=False, input_names=["images"])
        session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"images": images.numpy()})[0]


def by_openvino(part: nn.Module, images: Tensor, threads: int, precision: str) -> Callable[[], Any]:
    import openvino

    graph, weights = _converted(part, images)
    core = openvino.Core()
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise RuntimeError("this CPU has no bfloat16")
    model = core.read_model(graph, openvino.Tensor(np.frombuffer(weights, np.uint8)))
    options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": precision, "ENABLE_CPU_PINNING": False}
    request = core.compile_model(model, "CPU", options).create_infer_request()
    return lambda: request.infer([images.numpy()], share_inputs=True)[0]


def by_compiler(part: nn.Module, images: Tensor) -> Callable[[], Any]:
    compiled, laid_out = torch.compile(part), images.to(memory_format=torch.channels_last)
    return lambda: compiled(laid_out).numpy()


def runtimes(
    part: nn.Module, images: Tensor, threads: int, compiler: bool
) -> dict[str, Callable[[], Callable[[], Any]]]:
    """What makes a call of each runtime that is installed."""
    found: dict[str, Callable[[], Callable[[], Any]]] = {}
    if compiler:
        found["torch.compile"] = lambda: by_compiler(part, images)
    if importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("onnx"):
        found["ONNX Runtime"] = lambda: by_onnx_runtime(part, images, threads)
    if importlib.util.find_spec("openvino"):
        found["OpenVINO"] = lambda: by_openvino(part, images, threads, "f32")
        found["OpenVINO, bf16"] = lambda: by_openvino(part, images, threads, "bf16")
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=THREADS)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args(argv)
    threads = args.threads
    torch.set_num_threads(threads)
    print(f"{'network':<22}{'runtime':<18}{'wall ms':>9}{'cpu ms':>9}{'x eager':>9}{'difference':>12}")
    for name, count in IMAGES.items():
        part, shape = part_of(name)
        part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        images = torch.rand(count, *shape, generator=torch.Generator().manual_seed(0))
        laid_out = images.to(memory_format=torch.channels_last)
        with torch.inference_mode():
            expected = part(laid_out).numpy()
            eager = quickest(lambda: part(laid_out), ROUNDS)  # noqa: B023
            print(f"{name:<22}{'eager':<18}{1e3 * eager.wall:>9.0f}{1e3 * eager.cpu:>9.0f}{1:>9.2f}", flush=True)
        for runtime, make in runtimes(part, images, threads, args.compile).items():
            try:
                with torch.no_grad():
                    call = make()
                    apart = float(np.abs(call() - expected).max() / np.abs(expected).max())
                    taken = quickest(call, ROUNDS)
            except RuntimeError as error:
                print(f"{name:<22}{runtime:<18} {str(error).splitlines()[0]}")
                continue
            ratio = eager.cpu / taken.cpu
            line = f"{name:<22}{runtime:<18}{1e3 * taken.wall:>9.0f}{1e3 * taken.cpu:>9.0f}{ratio:>9.2f}{apart:>12.1e}"
            print(line, flush=True)
            part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return 0


if __name__ == "__main__":
    sys.exit(main())
