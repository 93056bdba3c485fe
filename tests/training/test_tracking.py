"""Pictures, history and the log."""

import csv
import sys

import numpy as np

from pipeline.training.tracking import Tracker


def test_history_has_every_column_that_ever_occurred(tmp_path):
    Tracker(tmp_path).history([{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0, "score": 0.5}])
    with (tmp_path / "history.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert rows[0]["score"] == ""
    assert float(rows[1]["score"]) == 0.5


def test_without_tensorboard_a_run_goes_on_and_says_so_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    tracker = Tracker(tmp_path)
    tracker.scalars({"loss": 1.0}, 0)
    tracker.scalars({"loss": 1.0}, 1)
    tracker.close()
    assert (tmp_path / "log.txt").read_text().count("TensorBoard is not installed") == 1


def test_a_quiet_tracker_writes_nothing(tmp_path):
    tracker = Tracker(tmp_path, quiet=True)
    tracker.say("hello")
    tracker.scalars({"loss": 1.0}, 0)
    tracker.history([{"epoch": 1.0}])
    tracker.picture(np.zeros((2, 2, 3), np.uint8), "a", 0)
    assert not list(tmp_path.iterdir())
