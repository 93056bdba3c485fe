"""The shared loop: resuming is exact, stopping is polite, failures say what to do."""

import csv
import dataclasses
import os
import threading
import time

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file
from torch.utils.data import get_worker_info

from pipeline.owned import RefusedError
from pipeline.training.checkpoint import ResumeError, load_state, save_state, save_weights
from pipeline.training.loop import TrainingStopped, fit
from tests.training.toy import SETTINGS, Ramp, ToyTask

TIMES = {"images_per_s", "wait_share", "seconds", "peak_mb"}


def untimed(history):
    return [{name: value for name, value in row.items() if name not in TIMES} for row in history]


def stopped_run(out, stop_at=7):
    """A run that was stopped, so that its checkpoint is there."""
    with pytest.raises(TrainingStopped):
        fit(ToyTask(stop_at=stop_at), SETTINGS, out)


def assert_same_weights(first, second):
    one, two = load_file(first), load_file(second)
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name


@pytest.mark.parametrize("stop_at", [1, 5, 8])
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path, monkeypatch, stop_at):
    monkeypatch.setattr("pipeline.training.loop._Run._complete", lambda run: None)  # keeps the checkpoint
    whole = fit(ToyTask(), SETTINGS, tmp_path / "whole")
    with pytest.raises(TrainingStopped) as stopped:
        fit(ToyTask(stop_at=stop_at), SETTINGS, tmp_path / "parts")
    assert stopped.value.code == 128 + 15
    state = load_state(tmp_path / "parts" / "last.ckpt")
    assert state["epoch"] * 5 + state["step"] == stop_at, "the step under way is finished, no more"
    parts = fit(ToyTask(), SETTINGS, tmp_path / "parts")
    assert untimed(parts.history) == untimed(whole.history)
    assert (parts.best_score, parts.epoch) == (whole.best_score, whole.epoch)
    for name in ("last.safetensors", "best.safetensors"):
        assert_same_weights(tmp_path / "whole" / name, tmp_path / "parts" / name)
    optimizers = [load_state(tmp_path / run / "last.ckpt")["optimizer"]["state"] for run in ("whole", "parts")]
    for key, moments in optimizers[0].items():
        assert all(torch.equal(value, optimizers[1][key][name]) for name, value in moments.items())


def test_loading_processes_draw_the_same_items_as_the_training_process(tmp_path):
    fit(ToyTask(), SETTINGS, tmp_path / "alone")
    fit(ToyTask(), dataclasses.replace(SETTINGS, loader_workers=2), tmp_path / "workers")
    assert_same_weights(tmp_path / "alone" / "last.safetensors", tmp_path / "workers" / "last.safetensors")


def without_room(index):
    """As where /dev/shm is full: an item comes from the training process alone, and the first ones from any."""
    if index > 30 and get_worker_info() is not None:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")


def without_locks(*_, **__):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("at_the_start", [False, True])
def test_loading_processes_that_fail_cost_no_batch(tmp_path, monkeypatch, capsys, at_the_start):
    fit(ToyTask(), SETTINGS, tmp_path / "alone")
    item = Ramp.__getitem__
    if at_the_start:
        monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", without_locks)
    else:
        monkeypatch.setattr(Ramp, "__getitem__", lambda self, index: without_room(index) or item(self, index))
    fit(ToyTask(), dataclasses.replace(SETTINGS, loader_workers=2), tmp_path / "workers")
    assert_same_weights(tmp_path / "alone" / "last.safetensors", tmp_path / "workers" / "last.safetensors")
    printed = capsys.readouterr().out
    assert printed.count("so this one loads") == 1
    assert "No space left on device" in printed


def test_a_loading_process_that_hangs_costs_no_batch(tmp_path, monkeypatch, capsys):
    fit(ToyTask(), SETTINGS, tmp_path / "alone")
    item = Ramp.__getitem__
    monkeypatch.setattr("pipeline.training.loading.STALLED_SECONDS", 3.0)
    hang = lambda index: time.sleep(600) if index > 30 and get_worker_info() is not None else None  # noqa: E731
    monkeypatch.setattr(Ramp, "__getitem__", lambda self, index: hang(index) or item(self, index))
    fit(ToyTask(), dataclasses.replace(SETTINGS, loader_workers=2), tmp_path / "workers")
    assert_same_weights(tmp_path / "alone" / "last.safetensors", tmp_path / "workers" / "last.safetensors")
    assert "loading processes failed, so this one loads (DataLoader timed out" in capsys.readouterr().out


def test_a_temporary_folder_too_deep_for_sockets_costs_no_batch(tmp_path, monkeypatch, capsys):
    """Loading processes hand over tensors through a socket below it; without one, training waited without end."""
    fit(ToyTask(), SETTINGS, tmp_path / "alone")
    (deep := tmp_path / ("a" * 90)).mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    fit(ToyTask(), dataclasses.replace(SETTINGS, loader_workers=2), tmp_path / "workers")
    assert_same_weights(tmp_path / "alone" / "last.safetensors", tmp_path / "workers" / "last.safetensors")
    assert f"the path of {deep} is too long for sockets; set TMPDIR" in capsys.readouterr().out


def test_training_learns_and_leaves_everything_that_the_folder_promises(tmp_path):
    settings = dataclasses.replace(SETTINGS, epochs=12)
    result = fit(ToyTask(), settings, tmp_path, config={"backbone": "toy"})
    assert result.best_score < 0.5 * result.history[0]["score"]
    assert result.best_score == min(row["score"] for row in result.history)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"complete.ckpt", "best.safetensors", "last.safetensors", "config.yaml", "history.csv", "log.txt"} <= names
    assert "last.ckpt" not in names
    assert (tmp_path / "complete.ckpt").stat().st_size < 20_000
    assert (tmp_path / "curves.png").stat().st_size > 5_000
    assert len(list((tmp_path / "pictures").glob("epoch*.png"))) == 12
    log = (tmp_path / "log.txt").read_text()
    assert "toy: on the CPU with 1 threads, fp32" in log.splitlines()[0]
    assert list((tmp_path / "tensorboard").iterdir())
    with (tmp_path / "history.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 12
    assert all(float(row["seconds"]) > 0 for row in rows)
    assert all(50 < float(row["peak_mb"]) < 20_000 for row in rows)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert config["config"] == {"backbone": "toy"}
    assert config["loop"]["epochs"] == 12


def test_a_finished_run_is_not_trained_again_but_restart_is(tmp_path):
    first = fit(ToyTask(), SETTINGS, tmp_path)
    task = ToyTask()
    assert fit(task, SETTINGS, tmp_path).best_score == first.best_score
    assert task.calls == 0
    with pytest.raises(ResumeError, match="complete after 3 epochs, and 4 are asked for"):
        fit(task, dataclasses.replace(SETTINGS, epochs=4), tmp_path)
    assert fit(task, SETTINGS, tmp_path).history == first.history
    fit(task, SETTINGS, tmp_path, resume=False)
    assert task.calls == 15


def test_out_of_memory_halves_the_micro_batch_and_keeps_the_step(tmp_path, capsys):
    task = ToyTask(fail_above=3, batch_norm=False)
    task.model[5] = torch.nn.Identity()
    fit(task, SETTINGS, tmp_path / "small")
    assert max(task.sizes) == 2
    assert len(task.sizes) == 15 * 4
    assert "micro-batch halved to 2 items, accumulation doubled to 4" in (tmp_path / "small" / "log.txt").read_text()


def test_an_item_that_does_not_fit_alone_ends_the_run_with_advice(tmp_path):
    task = ToyTask()
    task.loss = lambda model, batch: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory."))
    with pytest.raises(MemoryError, match="not one item fits into memory; choose a smaller"):
        fit(task, SETTINGS, tmp_path)


class Plain(ToyTask):
    """No dropout, batch norm or augmentation: gradients must not depend on how a batch is cut."""

    def __init__(self):
        super().__init__(batch_norm=False)
        self.model[5] = torch.nn.Identity()

    def augment(self, batch, generator):
        return batch


def test_accumulation_gives_the_gradient_of_the_large_batch(tmp_path):
    fit(Plain(), SETTINGS, tmp_path / "large")
    fit(Plain(), dataclasses.replace(SETTINGS, batch_size=2, accumulate=4), tmp_path / "cut")
    large, cut = (load_file(tmp_path / run / "last.safetensors") for run in ("large", "cut"))
    for name in large:
        torch.testing.assert_close(large[name], cut[name], rtol=1e-4, atol=1e-5)


def test_a_loss_that_is_not_finite_names_the_items(tmp_path):
    with pytest.raises(FloatingPointError, match=r"study 17.*learning_rate") as error:
        fit(ToyTask(poison=17), SETTINGS, tmp_path)
    assert "loss is nan" in str(error.value)


def test_an_item_with_values_that_are_not_finite_is_named_alone(tmp_path):
    class Holed(Ramp):
        def __getitem__(self, index):
            item = super().__getitem__(index)
            return {**item, "image": item["image"] * torch.inf} if index == 23 else item

    task = ToyTask()
    task.train_set = Holed()
    with pytest.raises(FloatingPointError, match=r"not finite: study 23\. Lower"):
        fit(task, SETTINGS, tmp_path)


def test_a_score_that_is_lost_on_the_way_is_not_the_best(tmp_path):
    task, scores = ToyTask(), iter([0.5, 0.4, float("nan"), 0.45])
    task.evaluate = lambda model, device: {"score": next(scores)}
    result = fit(task, dataclasses.replace(SETTINGS, epochs=4), tmp_path)
    assert (result.best_score, result.epoch) == (0.4, 2)
    with safe_open(tmp_path / "best.safetensors", "pt") as file:
        assert file.metadata()["epoch"] == "2"
    assert "score is not a number; 2 remains the best epoch" in (tmp_path / "log.txt").read_text()


def test_a_run_goes_on_with_the_same_network_and_inputs_only(tmp_path):
    before = {"model": {"size_px": 96}, "loss": {"huber": 2.0}}
    fit(ToyTask(), SETTINGS, tmp_path, config=before)
    with pytest.raises(ResumeError, match=r"model was {'size_px': 96}, is {'size_px': 64}; use --restart"):
        fit(ToyTask(), SETTINGS, tmp_path, config={**before, "model": {"size_px": 64}})
    assert "96" in (tmp_path / "config.yaml").read_text()
    fit(ToyTask(), SETTINGS, tmp_path, config={**before, "loss": {"huber": 3.0}})
    assert "loss was {'huber': 2.0}, is {'huber': 3.0}" in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize("place", ["run/canal/fold3", "run/canal", "run"])
def test_a_pause_file_parks_the_run_until_it_is_removed(tmp_path, place):
    fit(ToyTask(), SETTINGS, tmp_path / "whole")
    out = tmp_path / "run" / "canal" / "fold3"
    out.mkdir(parents=True)
    pause = tmp_path / place / ".pause"
    pause.touch()
    calls_while_paused = []
    task = ToyTask()

    def resume():
        deadline = time.monotonic() + 20
        while not (out / "last.ckpt").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        before = task.calls
        time.sleep(0.5)
        calls_while_paused.append(task.calls - before)
        pause.unlink()

    thread = threading.Thread(target=resume)
    thread.start()
    fit(task, SETTINGS, out)
    thread.join()
    assert calls_while_paused == [0]
    assert f"paused at step 1, accelerator freed; remove {pause} to" in (out / "log.txt").read_text()
    assert_same_weights(tmp_path / "whole" / "last.safetensors", out / "last.safetensors")


def test_slow_loading_is_reported_and_fast_loading_is_not(tmp_path):
    class Slow(Ramp):
        def __getitem__(self, index):
            time.sleep(0.003)
            return super().__getitem__(index)

    task = ToyTask()
    task.train_set = Slow()
    result = fit(task, dataclasses.replace(SETTINGS, epochs=1), tmp_path / "slow")
    assert result.history[0]["wait_share"] > 0.3
    assert "waiting for the loader; raise loader_workers (now 0)" in (tmp_path / "slow" / "log.txt").read_text()

    class Busy(ToyTask):
        def augment(self, batch, generator):
            time.sleep(0.2)
            return batch

    fit(Busy(), dataclasses.replace(SETTINGS, epochs=1), tmp_path / "busy")
    assert "loader" not in (tmp_path / "busy" / "log.txt").read_text()


def test_patience_ends_a_run_that_no_longer_improves(tmp_path):
    task = ToyTask()
    task.evaluate = lambda model, device: {"score": 1.0}
    result = fit(task, dataclasses.replace(SETTINGS, epochs=9, patience=2), tmp_path)
    assert (len(result.history), result.epoch) == (3, 1)


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    stopped_run(tmp_path)
    with pytest.raises(ResumeError, match=r"seed was 0, is 5.*--restart"):
        fit(ToyTask(), dataclasses.replace(SETTINGS, seed=5), tmp_path)
    other = ToyTask()
    other.model[0] = torch.nn.Conv2d(1, 8, 5)
    with pytest.raises(ResumeError, match="the network is another one"):
        fit(other, SETTINGS, tmp_path)
    (tmp_path / "last.ckpt").write_bytes(b"half a file")
    with pytest.raises(ResumeError, match="not a readable checkpoint"):
        fit(ToyTask(), SETTINGS, tmp_path)


@pytest.mark.parametrize("resume", [True, False])
def test_a_folder_of_other_things_is_left_as_it_is(tmp_path, resume):
    for name in ("pictures/holiday.png", "tensorboard/notes.txt", "history.csv", "best.safetensors", "thesis.txt"):
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_text("years of work")
        with pytest.raises(RefusedError, match="was not made by this program"):
            fit(ToyTask(), SETTINGS, tmp_path / "out", resume=resume)
    assert all(path.read_text() == "years of work" for path in tmp_path.rglob("*") if path.is_file())
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 5


def test_a_restart_deletes_the_runs_own_results_alone(tmp_path):
    fit(ToyTask(), SETTINGS, tmp_path / "out")
    theirs, elsewhere = tmp_path / "out" / "pictures" / "holiday.png", tmp_path / "elsewhere"
    theirs.write_text("years of work")
    elsewhere.mkdir()
    (elsewhere / "epoch01.png").write_text("years of work")
    (tmp_path / "out" / "tensorboard").rename(tmp_path / "moved")
    (tmp_path / "out" / "tensorboard").symlink_to(elsewhere)
    fit(ToyTask(), dataclasses.replace(SETTINGS, epochs=1), tmp_path / "out", resume=False)
    assert theirs.read_text() == (elsewhere / "epoch01.png").read_text() == "years of work"
    assert sorted(path.name for path in theirs.parent.iterdir()) == ["epoch01.png", "holiday.png"]


def test_a_checkpoint_carries_nothing_that_could_run(tmp_path):
    stopped_run(tmp_path)
    content = (tmp_path / "last.ckpt").read_bytes()
    with safe_open(tmp_path / "last.ckpt", "pt") as file:
        assert file.keys()
    assert b"PK\x03\x04" not in content[:4]
    state = {"tuple": (1, 2.5, None), 3: [float("inf"), {"x": torch.ones(2)}], "empty": {}, "flag": True}
    save_state(tmp_path / "state", state)
    again = load_state(tmp_path / "state")
    assert torch.equal(again[3][1].pop("x"), state[3][1].pop("x"))
    assert again == state
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ResumeError, match="no regular file"):
        load_state(tmp_path / "pipe")


def test_a_score_is_demanded(tmp_path):
    task = ToyTask()
    task.evaluate = lambda model, device: {"accuracy": 1.0}
    with pytest.raises(ValueError, match=r"finite 'score'.*accuracy"):
        fit(task, SETTINGS, tmp_path)


def test_without_held_out_studies_the_last_weights_count_as_the_best(tmp_path):
    task = ToyTask()
    task.evaluate = lambda model, device: {"score": float("nan")}
    result = fit(task, dataclasses.replace(SETTINGS, patience=1), tmp_path)
    assert (len(result.history), result.epoch) == (3, 3)
    assert_same_weights(tmp_path / "best.safetensors", tmp_path / "last.safetensors")


@pytest.mark.parametrize(
    ("name", "value"), [("epochs", 0), ("warmup", 1.5), ("schedule", "linear"), ("precision", "half"), ("ema_decay", 1)]
)
def test_settings_that_make_no_sense_are_refused(name, value):
    with pytest.raises(ValueError, match=name):
        dataclasses.replace(SETTINGS, **{name: value})


def test_saved_weights_are_half_as_large_where_that_fits_and_the_best_are_kept_only_if_asked(tmp_path):
    task = ToyTask()
    matrices = {name for name, tensor in task.model.state_dict().items() if tensor.ndim >= 2}
    fit(task, dataclasses.replace(SETTINGS, epochs=1, keep_best=False), tmp_path)
    saved = load_file(tmp_path / "last.safetensors")
    assert {name for name, tensor in saved.items() if tensor.dtype == torch.float16} == matrices
    assert not (tmp_path / "best.safetensors").exists()
    large = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(large.weight, 1e6)
    save_weights(tmp_path / "large.safetensors", large, {})
    assert load_file(tmp_path / "large.safetensors")["weight"].dtype == torch.float32


def test_a_network_is_compiled_where_it_is_asked_for_and_saved_under_its_own_names(tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(self))
    task = ToyTask()
    fit(task, dataclasses.replace(SETTINGS, epochs=1), tmp_path / "plain")
    assert not compiled
    fit(task, dataclasses.replace(SETTINGS, epochs=1, compile=True), tmp_path / "compiled")
    assert compiled == [task.model]
    assert load_file(tmp_path / "compiled" / "last.safetensors").keys() == task.model.state_dict().keys()
