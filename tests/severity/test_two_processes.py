"""``torchrun -m pipeline train severity``: the first process alone predicts and writes, with the best weights."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.labels import Family
from pipeline.scoring.oof import read_oof
from pipeline.severity.train import train_fold
from pipeline.training.processes import is_main_process, main_process_first
from tests.severity.test_task import SETTINGS, make_data
from tests.training.toy import in_two_processes


def train(out: Path) -> None:
    torch.set_num_threads(1)
    with main_process_first():
        (out / ("first" if is_main_process() else "second")).write_text(str((out / "first").exists()))
    settings = replace(SETTINGS, loop=replace(SETTINGS.loop, epochs=1))
    table = train_fold(make_data(), Family.FORAMINAL, settings, 1, out / "run")
    assert (table is not None) == is_main_process()


@pytest.mark.slow
def test_two_processes_leave_one_table_of_the_best_weights(tmp_path):
    assert in_two_processes(train, tmp_path) == [0, 0]
    assert (tmp_path / "first").read_text() == "False"
    assert (tmp_path / "second").read_text() == "True"
    assert len(read_oof(tmp_path / "run" / "oof.csv").study_id) == 4 * 10 - 1  # one cell is on no slice
