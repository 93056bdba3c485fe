"""One protocol says what a run asks of its networks; those of real weights and those of the tests both answer it."""

import inspect

import pytest

from pipeline.ensemble.networks import Networks
from pipeline.run.task import StudyNetworks
from tests.run.studies import FakeNetworks


@pytest.mark.parametrize("kind", [Networks, FakeNetworks])
def test_networks_take_what_the_protocol_says(kind, tmp_path):
    methods = {name: method for name, method in vars(StudyNetworks).items() if inspect.isfunction(method)}
    asked = [name for name in methods if not name.startswith("_")]
    assert {"find_landmarks", "cut", "grade", "combine"} <= set(asked)
    for name in asked:
        expected, found = (list(inspect.signature(getattr(one, name)).parameters) for one in (StudyNetworks, kind))
        assert found == expected, name
    manifest = FakeNetworks.make(tmp_path).manifest
    made = kind(manifest, manifest.members, *([tmp_path] if kind is FakeNetworks else []))
    assert made.manifest.members == made.members
