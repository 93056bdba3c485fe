"""Every benchmark can be started: the test command runs none of them, and a moved module is noticed here."""

import importlib
import pkgutil

import pytest

import tests.benchmarks


@pytest.mark.parametrize("name", [module.name for module in pkgutil.iter_modules(tests.benchmarks.__path__)])
def test_a_benchmark_finds_all_it_imports(name):
    assert importlib.import_module(f"tests.benchmarks.{name}").__doc__
