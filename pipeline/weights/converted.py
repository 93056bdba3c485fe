"""Networks on a CPU by OpenVINO instead of PyTorch: the same numbers in 60 % of the time.

What is converted is the convolutional part of a network, for images of one size in batches of one size; the rest, which
costs next to nothing, stays PyTorch's. It computes in float32 like PyTorch, also where a CPU offers half precision.

A conversion takes 1 to 1.5 s a network, so it is kept in the user's cache folder (``$LUMBAR_CACHE``, else the
system's own place), under the checksum of the network. Nothing is believed unseen: OpenVINO 2026.4 computes a softmax
over a heat map wrongly for batches of two and more, without a word. So a converted part answers an example as PyTorch
did, when it is converted and whenever it is loaded, or it is not used.

OpenVINO's own ``convert_model`` reports to its makers over the network; its front end for PyTorch, which is called here
directly, does not.
"""

from __future__ import annotations

import functools
import re
import struct
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.files import DamagedError, read_sealed, write_sealed
from pipeline.owned import RefusedError, claim, delete_known
from pipeline.weights.manifest import Member
from pipeline.weights.runtime import RuntimeFailedError, cache_folder, conversion_key

TOLERANCE = 1e-4
"""Largest difference of any output of a part, relative to the largest output; a probability moves by less."""
_COMPARED = 4096
"""Outputs that are compared when a kept part is loaded, spread over all of them."""
_MOST_BYTES = 2**30
_MOST_KEPT = 100
"""Parts; the default set has 18, of 7 to 9 MB."""
_KIND = "converted networks"


class Converted(nn.Module):
    """A part of a network, computed by OpenVINO on the CPU in batches of a fixed size; it cannot be trained.

    Args:
        compiled: the part, for images of one size.
        batch: images at a time; a smaller rest is filled up with zeros.
    """

    def __init__(self, compiled: Any, batch: int) -> None:
        super().__init__()
        self._request, self._batch = compiled.create_infer_request(), batch

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to what the part gives, (B, ...) float32.

        Raises:
            RuntimeFailedError: OpenVINO fails.
        """
        given = images.float().contiguous().numpy()
        answers = []
        for first in range(0, len(given), self._batch):
            some = given[first : first + self._batch]
            count = len(some)
            if count < self._batch:
                some = np.concatenate([some, np.zeros((self._batch - count, *some.shape[1:]), np.float32)])
            try:
                answer = self._request.infer([some], share_inputs=True, share_outputs=False)[0]
            except RuntimeError as error:
                raise RuntimeFailedError(f"OpenVINO: {error!s:.500}") from error
            answers.append(answer[:count])
        return torch.from_numpy(answers[0] if len(answers) == 1 else np.concatenate(answers))


def convert(part: nn.Module, shape: tuple[int, int, int, int], member: Member, number: int = 0) -> Converted:
    """A part of a network as OpenVINO computes it, on as many threads as PyTorch has; converted, or as kept before.

    Args:
        part: in evaluation mode; (B, C, H, W) to one tensor (B, ...).
        shape: of a batch of its images.
        member: the network it belongs to.
        number: which of the parts of that network.

    Raises:
        RuntimeFailedError: OpenVINO is missing, cannot convert it, or gives other numbers than PyTorch.
    """
    example = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    try:
        folder, key = cache_folder(), conversion_key(member)
        path = None if folder is None else folder / f"{key}.{number}"
        kept = None if path is None else _read(path, key)
        if kept is not None:
            graph, weights, expected = kept
        else:
            with torch.inference_mode():
                whole = part(example).numpy()
            expected = _spread(whole)
            graph, weights = _converted(part, example)
        model = _core().read_model(graph, _openvino().Tensor(np.frombuffer(weights, np.uint8)))
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": "f32",  # its own choice is bfloat16 where the CPU has it
            "ENABLE_CPU_PINNING": False,  # else every worker takes the first core
        }
        result = Converted(_core().compile_model(model, "CPU", options), shape[0])
        found = result(example).numpy()
        _compare(found if kept is None else _spread(found), whole if kept is None else expected)
        if kept is None and path is not None:
            _keep(path, key, graph, weights, expected)
    except RuntimeFailedError:
        raise
    except Exception as error:  # OpenVINO and torch.jit raise whatever their code runs into
        raise RuntimeFailedError(f"OpenVINO: {type(error).__name__}: {error!s:.500}") from error
    return result


def _openvino() -> Any:
    import openvino

    return openvino


@functools.cache
def _core() -> Any:
    return _openvino().Core()


def _converted(part: nn.Module, example: Tensor) -> tuple[bytes, bytes]:
    """The graph of a part and its weights, as OpenVINO stores them."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the tracer, about branches that the comparison covers
        traced = torch.jit.trace(part.to(memory_format=torch.contiguous_format), example, check_trace=False)  # type: ignore[call-overload]
        front_end = FrontEndManager().load_by_framework("pytorch")
        decoder = TorchScriptPythonDecoder(traced, example_input=(example,))  # which has to outlive the conversion
        model = front_end.convert(front_end.load(decoder))
    model.reshape(list(example.shape))
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "part.xml"
        _openvino().save_model(model, path, compress_to_fp16=False)
        return path.read_bytes(), path.with_suffix(".bin").read_bytes()


def _spread(answer: NDArray[np.float32]) -> NDArray[np.float32]:
    """At most :data:`_COMPARED` outputs, of every image of the batch."""
    flat = answer.reshape(len(answer), -1)
    return flat[:, :: max(1, -(-flat.size // _COMPARED))]


def _compare(found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    if found.shape != expected.shape:
        raise RuntimeFailedError(f"OpenVINO gives {found.shape}, PyTorch {expected.shape}")
    if not (apart := relative_difference(found, expected)) <= TOLERANCE:
        raise RuntimeFailedError(f"OpenVINO differs from PyTorch by {apart:.2g} of the largest output")


def relative_difference(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """The largest difference, relative to the largest of what is expected."""
    return float(np.abs(found - expected).max()) / max(float(np.abs(expected).max()), 1e-6)


def _read(path: Path, key: str) -> tuple[bytes, bytes, NDArray[np.float32]] | None:
    """Graph, weights and expected outputs; None where they are not kept, or damaged."""
    try:
        body = read_sealed(path, key, _MOST_BYTES)
    except DamagedError:
        return None
    if body is None:
        return None
    batch, graph, weights = struct.unpack_from("<3Q", body)
    parts = body[24 : 24 + graph], body[24 + graph : 24 + graph + weights], body[24 + graph + weights :]
    return parts[0], parts[1], np.frombuffer(parts[2], np.float32).reshape(batch, -1)


def _keep(path: Path, key: str, graph: bytes, weights: bytes, expected: NDArray[np.float32]) -> None:
    """Keep a part for later runs, where that is possible; the oldest go when there are too many."""
    head = struct.pack("<3Q", len(expected), len(graph), len(weights))
    try:
        claim(path.parent, _KIND)
        write_sealed(path, key, head + graph + weights + expected.tobytes())
        parts = [one for one in path.parent.iterdir() if re.fullmatch(r"[0-9a-f]{32}\.\d+", one.name)]
        oldest = sorted(parts, key=lambda one: one.stat().st_mtime)[:-_MOST_KEPT]
    except (OSError, RefusedError):
        return
    if oldest:
        delete_known(path.parent, _KIND, re.compile("|".join(re.escape(one.name) for one in oldest)))
