"""The training loop of both trained stages, on one CPU, one GPU or several (``torchrun``, ``accelerate launch``).

Read :class:`_Run` from top to bottom: an epoch is a row of optimiser steps, then an evaluation. What is worth knowing:

* **Everything random is a function of (seed, epoch, step).** Order, items, augmentation and dropout are seeded from the
  position, so there is no generator or scheduler state to save, and a run that was interrupted anywhere continues bit
  for bit as if it had not been (on a CPU; GPU kernels add in no fixed order).
* **Accelerate** finds the processes, the device, the precision and the gradient scaler; the module
  :mod:`pipeline.training.processes` says why gradients are averaged without DistributedDataParallel.
* **Out of memory** repeats the step with smaller micro-batches (:mod:`pipeline.training.learner`).
* **The averaged weights** (EMA) are the ones evaluated, drawn and saved (``best.safetensors``, ``last.safetensors``).
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from tqdm import tqdm

from pipeline.console import clock_after
from pipeline.device import release_memory
from pipeline.files import write_text
from pipeline.training import checkpoint
from pipeline.training.accelerator import describe, open_accelerator, peak_megabytes
from pipeline.training.charts import draw_curves
from pipeline.training.checkpoint import ResumeError
from pipeline.training.folder import claim_run, clear_run, is_begun
from pipeline.training.interruption import StopRequest, TrainingStopped, pause_file
from pipeline.training.learner import Learner
from pipeline.training.loading import Loading
from pipeline.training.sampling import BatchOrder
from pipeline.training.task import FitResult, Task
from pipeline.training.totals import EpochTotals
from pipeline.training.tracking import Tracker
from pipeline.weights.recipe import LoopSettings
from pipeline.weights.seen import write_seen


def fit(
    task: Task,
    settings: LoopSettings,
    out: Path,
    *,
    config: dict[str, Any] | None = None,
    seen: Sequence[str] = (),
    resume: bool = True,
) -> FitResult:
    """Train a task and leave its weights, history and pictures in a folder.

    Args:
        task: what to train.
        settings: how.
        out: folder of the run; made if needed. A file ``.pause`` there (:func:`pause_file`) parks the run.
        config: whatever else is needed to build the network again; saved in config.yaml.
        seen: the :func:`~pipeline.weights.seen.seen_studies` of the run; saved in seen.txt. A run continues only
            with the same studies.
        resume: continue from ``out/last.ckpt`` if there is one; otherwise start over and remove the old run's files.

    Raises:
        TrainingStopped: (a SystemExit) after SIGTERM or Ctrl-C, with the checkpoint written.
        ResumeError: if the checkpoint is of another run.
        RefusedError: if the folder holds what no run of this program wrote.
        FloatingPointError: if the loss or the gradient is not finite.
        ValueError: if ``evaluate`` gives no ``score`` or an infinite one.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    return _Run(task, settings, out, config or {}, seen, resume).train()


_POSITION = ("epoch", "step", "stale", "best", "best_epoch", "history")
"""What of a run its checkpoint holds beside the tensors."""
_UNSAID = ("epoch", "wait_share", "seconds", "peak_mb", "score_", "precision_", "recall_", "f1_")
"""How figures begin that the line of an epoch leaves to history.csv and TensorBoard."""


class _Run:
    """The state of one run; ``epoch`` and ``step`` are the next to do, from 0."""

    def __init__(
        self, task: Task, settings: LoopSettings, out: Path, config: dict[str, Any], seen: Sequence[str], resume: bool
    ) -> None:
        self.task, self.settings, self.out, self.seen = task, settings, out, seen
        self.accelerator = open_accelerator(settings.device, settings.precision)
        self.device = self.accelerator.device
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True
            torch.set_float32_matmul_precision("high")
        self.main = self.accelerator.is_main_process
        self.tracker = Tracker(out, quiet=not self.main)
        plain = json.loads(json.dumps(config, default=str))
        self.config = {"task": task.name, "loop": asdict(settings), "config": plain}

        self.order = BatchOrder(
            len(task.train_set),  # type: ignore[arg-type]
            settings.batch_size * settings.accumulate,
            weights=task.sample_weights,
            batches=settings.batches_per_epoch,
            seed=settings.seed,
            rank=self.accelerator.process_index,
            ranks=self.accelerator.num_processes,
        )
        self.learner = Learner(task, settings, self.accelerator, self.tracker.say)
        self.processes = self.learner.processes

        self.epoch = self.step = self.stale = 0
        self.best, self.best_epoch = math.inf, 0
        self.history: list[dict[str, float]] = []
        self.totals = EpochTotals()
        self.saved_at = time.monotonic()
        self._open_folder(resume)
        self.tracker.say(f"{task.name}: {describe(self.accelerator)}")
        pinned = self.device.type == "cuda"
        self.loading = Loading(task, self.order, settings.loader_workers, pinned=pinned, say=self.tracker.say)

    # -- the run --------------------------------------------------------------------------------------------------

    def train(self) -> FitResult:
        """Run to the end, or to the signal that stops it."""
        with StopRequest() as self.request:
            while not self._is_over():
                self._train_epoch()
                self._finish_epoch()
        if self.main:
            self._complete()
        self.tracker.close()
        self.accelerator.wait_for_everyone()  # or another process would read weights that are not written yet
        return FitResult(self.best, self.best_epoch, tuple(self.history), self.out / "last.safetensors")

    def _is_over(self) -> bool:
        return self.epoch >= self.settings.epochs or 0 < self.settings.patience <= self.stale

    def _train_epoch(self) -> None:
        """The remaining steps of this epoch."""
        self.learner.model.train()
        title = f"{self.task.name} {self.epoch + 1}/{self.settings.epochs}"
        bar = tqdm(total=self.order.batches, initial=self.step, desc=title, unit="step", disable=not self.main)
        began = time.monotonic()
        with bar:
            for batch in self.loading.batches(self.epoch, self.step):
                waited = time.monotonic() - began
                learnt = self.learner.learn(batch, self.epoch, self.step, self.order.batches)
                if self.main and self.step % 20 == 0:
                    figures = {f"train/{name}": getattr(learnt, name) for name in ("loss", "learning_rate", "gradient")}
                    self.tracker.scalars(figures, self.epoch * self.order.batches + self.step)
                self.step += 1
                seconds = time.monotonic() - began
                self.totals.add_step({"loss": learnt.loss, **learnt.parts}, self.order.batch_size, seconds, waited)
                shown = f"loss {self.totals.means()['loss']:.4f}, {self.totals.images_per_second:.0f} images/s"
                if left := (self.settings.epochs - self.epoch) * self.order.batches - self.step:
                    shown += f", run ends {clock_after(self.totals.seconds_for(left))}"
                bar.set_postfix_str(shown, refresh=False)
                bar.update()
                self._obey(bar)
                began = time.monotonic()

    def _finish_epoch(self) -> None:
        """Evaluate, draw and save; a checkpoint before it makes a stop during evaluation cost nothing."""
        self._save()
        totals = self.totals
        row = {"epoch": self.epoch + 1, **totals.figures(), "peak_mb": peak_megabytes(self.device)}
        if line := totals.starvation(self.device.type, self.settings.loader_workers):
            self.tracker.say(line)
        last = self.epoch + 1 == self.settings.epochs
        if last or (self.epoch + 1) % self.settings.evaluate_every == 0:
            figures = self._evaluate() if self.main else {}
            score = self.processes.from_main(figures.get("score", math.nan))
            row.update(figures)
            unmeasured = math.isnan(score) and math.isinf(self.best)
            better = unmeasured or score < self.best
            if math.isnan(score) and not unmeasured:
                self.tracker.say(f"{self.task.name}: score is not a number; {self.best_epoch} remains the best epoch")
            self.stale = 0 if better else self.stale + 1
            if better:
                self.best, self.best_epoch = self.best if unmeasured else score, self.epoch + 1
                if self.settings.keep_best:
                    self._save_weights("best.safetensors", score)
            self._save_weights("last.safetensors", score)
        self.history.append(row)
        self.epoch, self.step, self.totals = self.epoch + 1, 0, EpochTotals()
        self.tracker.history(self.history)
        self.tracker.scalars({f"epoch/{name}": value for name, value in row.items()}, self.epoch)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in row.items() if not name.startswith(_UNSAID))
        self.tracker.say(f"{self.task.name} epoch {self.epoch}/{self.settings.epochs}: {shown}; best {self.best:.4g}")
        self._save()

    def _evaluate(self) -> dict[str, float]:
        model = self.learner.averaged.model.eval()
        with self.request.at_once(), torch.no_grad(), self.accelerator.autocast():
            figures = {name: float(value) for name, value in self.task.evaluate(model, self.device).items()}
            images = {"epoch": self.task.picture(model, self.device), "chart": self.task.chart()}
        if math.isinf(figures.get("score", math.inf)):
            raise ValueError(
                f"{self.task.name}: evaluate() must give a finite 'score' (lower is better; not a number where nothing "
                f"was held out), gave {figures}"
            )
        for kind, image in images.items():
            if image is not None:
                self.tracker.picture(image, kind, self.epoch + 1)
        return figures

    # -- between steps --------------------------------------------------------------------------------------------

    def _obey(self, bar: tqdm[Any]) -> None:
        """Checkpoints that are due, a pause file, a request to stop: agreed between the processes."""
        due = time.monotonic() - self.saved_at > 60 * self.settings.checkpoint_minutes
        stopped = self.processes.anywhere(bool(self.request.number))
        paused = self.processes.anywhere(self.main and pause_file(self.out) is not None)
        if due or stopped or paused:
            self._save()
        if paused and not stopped:
            bar.clear()
            stopped = self._pause()
        if stopped:
            self.tracker.say(f"stopped at epoch {self.epoch + 1}, step {self.step}; the same command continues there")
            self.tracker.close()
            raise TrainingStopped(self.request.number or 15, f"stopped; {self.out / 'last.ckpt'} continues")

    def _pause(self) -> bool:
        """Leave the accelerator to others until the pause file is gone; True if asked to stop meanwhile."""
        file = pause_file(self.out)
        self.tracker.say(f"paused at step {self.step}, accelerator freed; remove {file} to continue")
        self.learner.move(torch.device("cpu"))
        release_memory()
        stopped = False
        while not stopped and self.processes.anywhere(self.main and pause_file(self.out) is not None):
            time.sleep(0.2)
            stopped = self.processes.anywhere(bool(self.request.number))
        if not stopped:
            self.learner.move(self.device)
            self.tracker.say("continuing")
        return stopped

    # -- state ----------------------------------------------------------------------------------------------------

    def _fingerprint(self) -> dict[str, Any]:
        """What must agree for a run to continue; other settings may be changed on the way (a line says so)."""
        kept = {name: getattr(self.settings, name) for name in ("batch_size", "accumulate", "seed", "ema_decay")}
        studies = hashlib.sha256("\n".join(self.seen).encode()).hexdigest()[:16]
        size = {"steps": self.order.batches, "items": len(self.order.weights)}
        return {"task": self.task.name, "studies": studies, **size, **kept}

    def _state(self) -> dict[str, Any]:
        """Where the run is, without its tensors."""
        return {
            "fingerprint": self._fingerprint(),
            "settings": asdict(self.settings),
            "config": self.config["config"],
            **{name: getattr(self, name) for name in _POSITION},
            "totals": self.totals.values,
        }

    def _save(self) -> None:
        self.saved_at = time.monotonic()
        if self.main:
            checkpoint.save_state(self.out / "last.ckpt", self._state() | self.learner.state())

    def _complete(self) -> None:
        """Draw the curves, and leave of the checkpoint, several times the network's size, what a repetition needs."""
        draw_curves({self.task.name: [self.history]}, self.out / "curves.png")
        checkpoint.save_state(self.out / "complete.ckpt", self._state())
        (self.out / "last.ckpt").unlink(missing_ok=True)

    def _open_folder(self, resume: bool) -> None:
        """Make or clear the folder and, if it holds a checkpoint to continue, load it."""
        if self.main:
            claim_run(self.out)
            if not resume or not is_begun(self.out):
                clear_run(self.out)
        self.accelerator.wait_for_everyone()
        if is_begun(self.out):
            self._load()
        self.accelerator.wait_for_everyone()
        # Only now: a run that was refused has changed nothing of the one that was there.
        if self.main:
            write_text(self.out / "config.yaml", yaml.safe_dump(self.config, sort_keys=False))
            write_seen(self.out / "seen.txt", self.seen)

    def _load(self) -> None:
        """Continue from a checkpoint, or find that there is nothing left to do.

        Raises:
            ResumeError: it is of another run, or of one that ended earlier than this one would.
        """
        complete = (self.out / "complete.ckpt").exists()
        path = self.out / ("complete.ckpt" if complete else "last.ckpt")
        state = checkpoint.load_state(path)
        if changed := checkpoint.changes_since(path, state, self._state()):
            self.tracker.say(f"settings changed since {path.name} was written: {changed}")
        for name in _POSITION:
            setattr(self, name, state[name])
        self.totals = EpochTotals(state["totals"])
        if complete:
            if not self._is_over():
                raise ResumeError(
                    f"{path}: the run is complete after {self.epoch} epochs, and {self.settings.epochs} are asked for; "
                    f"go on in another --out (start_from={self.out / 'last.safetensors'}), or --restart"
                )
            self.tracker.say(f"{self.task.name}: complete after {self.epoch} epochs; nothing is left to train")
            return
        try:
            self.learner.load(state)
        except (RuntimeError, ValueError) as error:
            raise ResumeError(f"{path}: the network is another one; use --restart or another --out. {error}") from error
        self.tracker.say(f"continuing {path} at epoch {self.epoch + 1}, step {self.step}")

    def _save_weights(self, name: str, score: float) -> None:
        if self.main:
            metadata = {"task": self.task.name, "epoch": str(self.epoch + 1), "score": f"{score:.6g}"}
            checkpoint.save_weights(self.out / name, self.learner.averaged.model, metadata)
