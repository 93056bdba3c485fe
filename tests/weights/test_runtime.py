"""OpenVINO is used where it is installed and saves time, and never without being asked where it does not."""

import importlib.util
import sys

import pytest
from torch import nn

from pipeline.config import ConfigError
from pipeline.preset import load_settings
from pipeline.run.settings import RunSettings
from pipeline.weights import runtime
from pipeline.weights.converted import convert
from pipeline.weights.manifest import Member

MEMBERS = (Member("a", "canal", "a", "0" * 64), Member("b", "canal", "b", "1" * 64))


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """A machine with OpenVINO, whose cache is empty."""
    monkeypatch.setenv("LUMBAR_CACHE", str(tmp_path))
    monkeypatch.setattr(runtime, "version", lambda name: f"{name} 1")
    monkeypatch.setattr(runtime.importlib.util, "find_spec", lambda name: name)
    return tmp_path


def test_without_openvino_pytorch_computes_and_asking_for_it_names_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert runtime.choose_runtime("auto", MEMBERS, 10_000) == "torch"
    with pytest.raises(ConfigError, match=r"pip install -r requirements-runtime\.txt"):
        load_settings(RunSettings, overrides=["runtime=openvino"])


def test_a_few_studies_do_not_pay_for_a_conversion_and_many_do(installed):
    assert runtime.choose_runtime("auto", MEMBERS, 1) == "torch"
    assert runtime.choose_runtime("auto", MEMBERS, runtime.PAYS_FROM) == "openvino"
    assert runtime.choose_runtime("torch", MEMBERS, 10_000) == "torch"
    assert runtime.choose_runtime("openvino", MEMBERS, 1) == "openvino"


def test_one_study_is_enough_where_all_networks_were_converted_before(installed):
    for number, member in enumerate(MEMBERS):
        assert runtime.choose_runtime("auto", MEMBERS, 0) == "torch", number
        (installed / f"{runtime.conversion_key(member)}.0").touch()
    assert runtime.choose_runtime("auto", MEMBERS, 0) == "openvino"


@pytest.mark.parametrize(
    "other", [Member("a", "canal", "a", "2" * 64), Member("a", "canal", "a", "0" * 64, config={"severity": {}})]
)
def test_other_weights_or_settings_are_another_conversion(installed, other):
    assert runtime.conversion_key(MEMBERS[0]) != runtime.conversion_key(other)


def test_a_worker_without_openvino_says_so_and_leaves_it_to_pytorch(monkeypatch):
    """One of a cluster, say, where the machine that began the run has it."""
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(runtime.RuntimeFailedError, match="openvino"):
        convert(nn.Conv2d(1, 2, 3).eval(), (2, 1, 8, 8), MEMBERS[0])
