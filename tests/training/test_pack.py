"""``pack``: how runs are named on the command line, and what may be changed of a trained network."""

import argparse
from pathlib import Path

import pytest

from pipeline.config import ConfigError
from pipeline.labels import Family
from pipeline.severity.store import store_run
from pipeline.training.pack import packed_run


@pytest.mark.parametrize(
    ("text", "member"),
    [
        ("landmarks:0=runs/a", "landmarks-fold0"),
        ("canal:none=runs/a", "canal-all"),
        ("foraminal.again:3=runs/a", "foraminal-again-fold3"),
    ],
)
def test_a_member_is_named_by_task_recipe_and_fold(text, member):
    packed = packed_run(text)
    assert packed.member == member
    assert packed.run == Path("runs/a")


@pytest.mark.parametrize(
    "text", ["foraminal=run", "knee:0=run", "canal.:0=run", "canal.a/b:0=run", "canal:x=run", "canal:0"]
)
def test_what_is_not_a_run_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="TASK"):
        packed_run(text)


def test_only_settings_of_inference_may_be_changed(tmp_path):
    with pytest.raises(ConfigError, match="only beside, shift_mm, worst"):
        store_run([tmp_path], tmp_path, Family.CANAL, "canal-fold0", 0, ["network.width=8"])
