"""Devices and precisions that cannot be are refused; memory errors are recognised."""

import dataclasses

import pytest
import torch

from pipeline.config import ConfigError
from pipeline.device import working_gpu
from pipeline.training.accelerator import describe, is_out_of_memory, move_optimizer, on_device, open_accelerator
from pipeline.training.loop import fit
from tests.training.toy import SETTINGS, ToyTask


def test_a_gpu_that_fails_at_its_first_operation_is_not_used(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)

    def fail(self, *args, **kwargs):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")

    monkeypatch.setattr("torch.nn.Module.to", fail)
    assert not working_gpu()
    assert open_accelerator("auto", "auto").device.type == "cpu"
    with pytest.raises(ConfigError, match=r"device=cuda .* use device=auto"):
        open_accelerator("cuda", "auto")


def test_fp16_is_refused_on_a_cpu():
    with pytest.raises(ValueError, match="precision=fp16 needs a GPU"):
        open_accelerator("cpu", "fp16")


def test_apples_gpu_computes_in_single_precision_and_is_no_cuda(monkeypatch):
    monkeypatch.setattr("pipeline.training.accelerator.working_gpu", lambda: True)
    monkeypatch.setattr("pipeline.training.accelerator.own_gpu", lambda: torch.device("mps"))
    asked = {}
    monkeypatch.setattr("pipeline.training.accelerator.Accelerator", lambda **given: asked.update(given))
    open_accelerator("auto", "auto")
    assert (asked["cpu"], asked["mixed_precision"]) == (False, "no")
    open_accelerator("mps", "auto")
    with pytest.raises(ConfigError, match="device=cuda was asked for"):
        open_accelerator("cuda", "auto")
    with pytest.raises(ConfigError, match="on mps use auto, fp32 or bf16"):
        open_accelerator("mps", "fp16")


def test_mps_gets_no_double_precision(monkeypatch):
    sent = []
    monkeypatch.setattr("torch.Tensor.to", lambda self, device, **_: sent.append(self.dtype))
    batch = {"weight": torch.zeros(2, dtype=torch.float64), "level": torch.zeros(2, dtype=torch.int64), "name": ["a"]}
    assert on_device(batch, torch.device("mps"))["name"] == ["a"]
    on_device(batch, torch.device("cpu"))
    assert sent == [torch.float32, torch.int64, torch.float64, torch.int64]


def test_bf16_trains_on_a_cpu_with_weights_in_fp32(tmp_path):
    task = ToyTask()
    result = fit(task, dataclasses.replace(SETTINGS, precision="bf16"), tmp_path)
    assert result.best_score < 1
    assert {parameter.dtype for parameter in task.model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB"), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            True,
        ),
        (MemoryError(), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GB, other allocations: 1.00 GB)"), True),
        (RuntimeError("shape mismatch"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_what_counts_as_out_of_memory(error, answer):
    assert is_out_of_memory(error) is answer


def test_moving_an_optimizer_moves_its_moments():
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimizer.step()
    move_optimizer(optimizer, torch.device("meta"))
    state = optimizer.state[parameter]
    assert (state["exp_avg"].device.type, state["exp_avg_sq"].device.type) == ("meta", "meta")
    assert state["step"].device.type == "cpu"


@pytest.mark.parametrize(
    ("driver", "cuda", "said"),
    [
        (None, None, ""),
        ("/usr/bin/nvidia-smi", None, "was built without CUDA, as PyPI's is for Windows"),
        ("/usr/bin/nvidia-smi", "12.6", "but no GPU works with torch"),
    ],
)
def test_the_first_line_warns_of_a_gpu_that_torch_cannot_use(monkeypatch, driver, cuda, said):
    monkeypatch.setattr("shutil.which", lambda name: driver)
    monkeypatch.setattr("torch.version.cuda", cuda)
    monkeypatch.setattr("pipeline.training.accelerator.working_gpu", lambda: False)
    line = describe(open_accelerator("auto", "auto"))
    assert line.startswith(f"on the CPU with {torch.get_num_threads()} threads, fp32")
    assert (said in line) if said else ("WARNING" not in line)
