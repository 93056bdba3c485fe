"""Threads, memory layouts and the time of a network on one thread."""

from __future__ import annotations

import os
import re

import pytest
import torch

import pipeline
from pipeline.device import (
    GpuFallback,
    channels_last,
    half_precision,
    half_type,
    seconds_on_one_thread,
    torch_threads,
    usable_cpus,
)


def test_a_volumetric_network_keeps_its_layout():
    plane, volume = torch.nn.Conv2d(3, 4, 3), torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv3d(1, 2, 3))
    assert channels_last(plane).weight.is_contiguous(memory_format=torch.channels_last)
    assert channels_last(volume)[0].weight.is_contiguous()


def test_cores_are_counted_where_the_system_knows_no_affinity(monkeypatch):
    here = usable_cpus()
    monkeypatch.delattr("os.sched_getaffinity")
    assert usable_cpus() >= here >= 1


def test_threads_are_as_before_afterwards():
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_time_is_taken_on_one_thread_and_threads_come_back():
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        seconds = seconds_on_one_thread(lambda: seen.append(torch.get_num_threads()))
        assert seen == [1, 1, 1]
        assert torch.get_num_threads() == 2
        assert seconds >= 0
        with pytest.raises(ZeroDivisionError):
            seconds_on_one_thread(lambda: 1 / 0)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_what_apples_gpu_refuses_is_done_on_the_cpu():
    """It has no double precision, and says so with a TypeError."""
    tried, told = [], []

    def work(device, parts):
        tried.append(device)
        if device == "mps":
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")
        return parts

    gpus = GpuFallback(lambda: None, told.append)
    assert [gpus.run("canal", "mps", work), gpus.run("canal", "mps", work)] == [1, 1]
    assert tried == ["mps", "cpu", "cpu"], "and not tried again"
    (text,) = told
    assert re.match(
        "mps failed at canal: TypeError: Cannot convert .*; it is not used again; the CPU computes it$", text
    )


def test_operations_that_mps_lacks_are_the_cpus():
    assert pipeline.__version__
    assert os.environ["PYTORCH_ENABLE_MPS_FALLBACK"] == "1"


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), torch.float16), ((8, 0), torch.bfloat16)])
def test_half_precision_is_what_the_gpu_computes_in(monkeypatch, capability, expected):
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: capability)
    assert half_type(torch.device("cuda", 0)) is expected
    assert half_type(torch.device("cpu")) is None


def test_a_cpu_computes_in_full_precision():
    with half_precision(torch.device("cpu")):
        assert torch.nn.Linear(3, 2)(torch.ones(1, 3)).dtype is torch.float32
