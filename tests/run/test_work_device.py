"""GPUs by stand-ins: spread over the workers, tried before they are used."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from pipeline.device import usable_gpus
from pipeline.run.work import WorkFolder, work_device

ONES = torch.ones


@pytest.fixture
def gpus(monkeypatch):
    """A machine with so many GPUs, or Apple's, some of which fail at the first operation."""

    def install(count, broken=(), apple=False):
        class Layer:
            def __init__(self, *_):
                self.device = ""

            def to(self, device):
                self.device = device
                return self

            def __call__(self, images):
                if self.device in broken:
                    raise RuntimeError("CUDA error: no kernel image is available for execution on the device")
                return images

        monkeypatch.setattr("torch.cuda.is_available", lambda: count > 0)
        monkeypatch.setattr("torch.backends.mps.is_available", lambda: apple)
        monkeypatch.setattr("torch.cuda.device_count", lambda: count)
        monkeypatch.setattr("torch.nn.Conv2d", Layer)
        monkeypatch.setattr("torch.ones", lambda *size, device: ONES(*size))

    return install


def devices(tmp_path, workers, choice="auto", run="run"):
    """What so many worker processes would each settle on."""
    work = WorkFolder.of(tmp_path, {})
    found = []
    for _ in range(workers):
        work_device.cache_clear()  # each worker is a process of its own
        found.append(work_device(choice, work, run))
    work_device.cache_clear()
    return found


def test_two_gpus_share_the_workers_evenly(tmp_path, gpus):
    gpus(2)
    assert devices(tmp_path, 4) == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert Counter(devices(tmp_path, 2, run="the next run")) == {"cuda:0": 1, "cuda:1": 1}


def test_a_worker_keeps_its_gpu(tmp_path, gpus):
    gpus(2)
    work = WorkFolder.of(tmp_path, {})
    work_device.cache_clear()
    assert {work_device("auto", work, "run") for _ in range(5)} == {"cuda:0"}
    work_device.cache_clear()


def test_a_gpu_that_fails_at_its_first_operation_is_not_given_out(tmp_path, gpus):
    gpus(2, broken=("cuda:0",))
    assert usable_gpus() == ["cuda:1"]
    assert devices(tmp_path, 3) == ["cuda:1"] * 3
    gpus(2, broken=("cuda:0", "cuda:1"))
    assert devices(tmp_path, 2, "cuda") == ["cpu", "cpu"]


def test_without_a_gpu_and_where_none_is_wanted_it_is_the_cpu(tmp_path, gpus, monkeypatch):
    gpus(0)
    assert devices(tmp_path, 2) == ["cpu", "cpu"]
    monkeypatch.setattr("pipeline.run.work.usable_gpus", lambda: pytest.fail("a GPU was tried"))
    assert devices(tmp_path, 2, "cpu") == ["cpu", "cpu"]


def test_apples_gpu_is_tried_and_given_to_every_worker(tmp_path, gpus):
    gpus(0, apple=True)
    assert usable_gpus() == ["mps"]
    assert devices(tmp_path, 2) == devices(tmp_path, 2, "mps") == ["mps", "mps"]
    assert devices(tmp_path, 2, "cuda") == ["cpu", "cpu"]
    gpus(0, broken=("mps",), apple=True)
    assert devices(tmp_path, 2, "mps") == ["cpu", "cpu"]
