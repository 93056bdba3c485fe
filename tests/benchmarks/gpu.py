"""What the presets' trainings do on the GPU at hand: ``python -m tests.benchmarks.gpu [--json FILE]``, 8 minutes.

Every network of ``kaggle`` and ``winner`` takes real optimiser steps on phantoms that it makes itself, their cells
repeated to those of 1,975 studies: images (items of a step) a second, the most memory that was held, and the share of
the time that was spent waiting for batches; then again compiled, as far as the minutes allow. After that one fold of
``winner`` as ``train severity`` runs it: through the sanity ladder, in half precision, scored, killed once and resumed.
Weights start at random, which changes no time. ``--tiny`` shows on any machine that all of it runs, and measures
nothing.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from pipeline.competition import Competition, open_competition
from pipeline.device import own_gpu, release_memory, working_gpu
from pipeline.labels import Family
from pipeline.landmarks.prepare import build_examples
from pipeline.landmarks.task import PointTask
from pipeline.landmarks.train import load_train_settings
from pipeline.phantom import make_phantom
from pipeline.severity.data import SeverityData, load_data
from pipeline.severity.recipes import Recipe, load_recipes
from pipeline.severity.task import SeverityTask
from pipeline.training.accelerator import open_accelerator
from pipeline.training.learner import Learner
from pipeline.training.loading import Loading
from pipeline.training.sampling import BatchOrder
from pipeline.training.task import Task
from pipeline.weights.backbones import has_fixed_size
from pipeline.weights.manifest import LANDMARK_TASKS
from pipeline.weights.recipe import LoopSettings
from tests.commands.mounts import ROOT

STUDIES, REPEATED_TO = 5, 1975
STEPS, SECONDS, WARM_UP = 40, 3.0, 3
FOLD_SECONDS = 100.0
"""Kept for the fold at the end."""
PRESETS = ("kaggle", "winner")


@dataclass(frozen=True)
class Row:
    """One network: its preset and name, whether it was compiled, and what was measured; None where nothing was."""

    preset: str
    network: str
    compiled: bool
    images_per_s: float | None
    gigabytes: float | None
    wait_share: float | None
    note: str = ""


def tiny_settings(preset: str) -> list[str]:
    """``section.key=value`` for networks and windows that any machine trains in moments."""
    result = [f"loop.{key}" for key in ("batch_size=4", "device=cpu", "loader_workers=0", "threads=1", "accumulate=1")]
    for name, key, size in (("landmarks", "size_px", 64), ("axial", "axial_size_px", 96)):
        result += [f"{name}.model.backbone=test_resnet.r160_in1k", f"{name}.model.size_px=64", f"{name}.model.width=16"]
        result += [f"{name}.examples.{key}={size}"]
    for recipe in load_recipes(preset, list(Family), {}):
        tiny = "test_coatnet" if has_fixed_size(recipe.settings.network.backbone) else "test_resnet.r160_in1k"
        views = [
            {"kind": view.kind.value, "size_mm": 48, "pixels": 32, "slices": view.slices}
            for view in recipe.settings.views_of(recipe.family)
        ]
        result += [f"{recipe.name}.network.backbone={tiny}", f"{recipe.name}.views={json.dumps(views)}"]
    return result


def tasks(
    preset: str, settings: Sequence[str], competition: Competition, cache: Path
) -> Iterator[tuple[str, Callable[[], Task], LoopSettings]]:
    """Every network of a preset: its name, what makes it, and how it is trained."""

    def told(*names: str) -> list[str]:
        everywhere = [text for text in settings if text.startswith("loop.")]
        return everywhere + [text.partition(".")[2] for text in settings if text.partition(".")[0] in names]

    for name in LANDMARK_TASKS:
        own = load_train_settings(name, preset, [*told(name), "model.initial=random"], 1)
        table = build_examples([competition], "axial" if name == "axial" else "sagittal", cache, own.examples, 1)
        table = pd.concat([table] * -(-REPEATED_TO // STUDIES))
        yield name, lambda name=name, own=own, table=table: PointTask(name, own, table, table[:0]), own.loop
    overrides = {
        recipe.name: [*told(recipe.name, recipe.family.value), "network.initial=random"]
        for recipe in load_recipes(preset, list(Family), {})
    }
    ready: dict[object, SeverityData] = {}
    for recipe in load_recipes(preset, list(Family), overrides):
        yield recipe.name, lambda recipe=recipe: _grader(recipe, competition, cache, ready), recipe.settings.loop


def _grader(recipe: Recipe, competition: Competition, cache: Path, ready: dict[object, SeverityData]) -> SeverityTask:
    """The training of a recipe; recipes of the same windows share them."""
    key = recipe.family, recipe.settings.views, recipe.settings.margin_slices
    if key not in ready:
        ready[key] = load_data([competition], recipe.family, recipe.settings, cache, [], None, 1)
    data = ready[key]
    size = len(recipe.settings.one_item(recipe.family))
    cells = data.cells.items((data.cells.grade >= 0) & data.cells.true, size)
    many = replace(
        cells,
        **{
            name: np.concatenate([getattr(cells, name)] * -(-REPEATED_TO // STUDIES))
            for name in cells.__dataclass_fields__
        },
    )
    return SeverityTask(recipe.family, recipe.settings, data.cache, many, cells, cache, recipe.name)


def measure(preset: str, name: str, make: Callable[[], Task], loop: LoopSettings, steps: int) -> Row:
    """Take some steps and see how fast they are; what fails becomes the row's note."""
    gpu = loop.device != "cpu" and working_gpu()
    try:
        task = make()
        accelerator = open_accelerator(loop.device, loop.precision)
        learner = Learner(task, loop, accelerator, print)
        learner.model.train()
        order = BatchOrder(
            len(task.train_set), loop.batch_size * loop.accumulate, weights=task.sample_weights, batches=10**4
        )
        batches = Loading(task, order, loop.loader_workers, pinned=gpu, say=print).batches(0, 0)
        if gpu:
            torch.cuda.reset_peak_memory_stats()
        waited, began, taken = 0.0, time.perf_counter(), 0
        for number in itertools.count():
            asked = time.perf_counter()
            batch = next(batches)
            got = time.perf_counter()
            learner.learn(batch, 0, number, 10**4)  # the loss is read, so the step is over
            if number < min(WARM_UP, steps):
                waited, began, taken = 0.0, time.perf_counter(), 0
                continue
            waited, taken = waited + got - asked, taken + 1
            seconds = time.perf_counter() - began
            if taken >= steps or seconds > SECONDS:
                break
        held = torch.cuda.max_memory_allocated() / 1e9 if gpu else None
        note = f"micro-batches of 1/{learner.split}: out of memory" if learner.split > 1 else ""
        return Row(preset, name, loop.compile, taken * order.batch_size / seconds, held, waited / seconds, note)
    except Exception as error:  # whatever a network fails with on this machine is a result, and the others go on
        return Row(
            preset, name, loop.compile, None, None, None, f"{type(error).__name__}: {str(error).splitlines()[0]}"
        )
    finally:
        release_memory()


def fold(data: Path, folder: Path, settings: Sequence[str], batches: int) -> dict[str, object]:
    """One fold of ``winner``, killed in its first epoch and resumed by the same command."""
    out = folder / "fold"
    told = ["network.initial=random", f"loop.batches_per_epoch={batches}", "loop.epochs=2", "loop.evaluate_every=1"]
    told += ["loop.checkpoint_minutes=0", "loop.loader_workers=0"]
    told += [text.removeprefix("foraminal-convnext.") for text in settings if "." in text]
    command = [sys.executable, "-m", "pipeline", "train", "severity", "--condition", "foraminal", "--preset", "winner"]
    command += ["--recipe", "convnext", "--data", str(data), "--cache", str(folder / "cache"), "--out", str(out)]
    command += [part for text in told for part in ("--set", text)]
    began = time.monotonic()
    first = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while first.poll() is None and not (out / "last.ckpt").exists():
        time.sleep(0.02)
    killed = first.poll() is None
    first.kill()
    first.wait()
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    said = ran.stdout + ran.stderr
    if ran.returncode:
        return {"ok": False, "killed": killed, "note": " ".join(said.strip().splitlines()[-1:])}
    log = (out / "log.txt").read_text(encoding="utf-8")
    with (out / "history.csv").open(encoding="utf-8") as file:
        last = list(csv.DictReader(file))[-1]
    return {
        "ok": killed and "continuing" in log,
        "killed": killed,
        "resumed": "continuing" in log,
        "ladder": json.loads((out / "review.json").read_text(encoding="utf-8"))["ladder"],
        "precision": log.partition("foraminal fold 0: on ")[2].partition("\n")[0],
        "images_per_s": float(last["images_per_s"]),
        "wait_share": float(last["wait_share"]),
        "score": json.loads((out / "result.json").read_text(encoding="utf-8"))["score"],
        "seconds": time.monotonic() - began,
    }


def lines(rows: Sequence[Row], of_fold: dict[str, object]) -> list[str]:
    """The table for people."""
    found = [f"{'network':<34}{'compiled':>9}{'images/s':>10}{'GB':>7}{'waiting':>9}"]
    for row in rows:
        figures = zip((row.images_per_s, row.gigabytes, row.wait_share), ("10.0f", "7.1f", "9.0%"), strict=True)
        told = "".join(f"{'-':>{form.partition('.')[0]}}" if one is None else f"{one:>{form}}" for one, form in figures)
        found.append(
            f"{f'{row.preset} {row.network}':<34}{'yes' if row.compiled else 'no':>9}{told}  {row.note}".rstrip()
        )
    told = ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in of_fold.items()
    )
    return [*found, f"one fold of winner: {told}"]


def main(argv: list[str] | None = None) -> int:
    """Measure, print the table and write the JSON; 1 where a network or the fold fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--minutes", type=float, default=8.0, help="compiled networks are left out beyond these")
    parser.add_argument("--tiny", action="store_true", help="tiny networks on the CPU, one step each")
    args = parser.parse_args(argv)
    if not args.tiny and not working_gpu():
        print("no GPU works here; --tiny shows on the CPU that everything runs")
        return 2
    ends = time.monotonic() + 60 * args.minutes - FOLD_SECONDS
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = make_phantom(folder / "phantom", STUDIES, seed=3, size="small", workers=1 if args.tiny else STUDIES)
        competition = open_competition(data, split="train")
        settings = {preset: tiny_settings(preset) if args.tiny else [] for preset in PRESETS}
        every = [
            (preset, *one)
            for preset in PRESETS
            for one in tasks(preset, settings[preset], competition, folder / "cache")
        ]
        for preset, network, make, loop in every:
            rows.append(measure(preset, network, make, replace(loop, compile=False), 1 if args.tiny else STEPS))
            print(*lines(rows[-1:], {})[1:2], flush=True)
        for preset, network, make, loop in () if args.tiny else every:
            if time.monotonic() > ends:
                break
            rows.append(measure(preset, network, make, replace(loop, compile=True), STEPS))
            print(*lines(rows[-1:], {})[1:2], flush=True)
        own = [
            text
            for text in (tiny_settings("winner") if args.tiny else ())
            if text.startswith(("loop.", "foraminal-convnext."))
        ]
        of_fold = fold(data, folder, own, 6 if args.tiny else 30)
    if (left := 2 * len(every) - len(rows)) and not args.tiny:
        print(f"{left} networks were not compiled, because the {args.minutes:g} minutes were over")
    print(*lines(rows, of_fold), sep="\n")
    if args.json:
        device = "cpu" if args.tiny else torch.cuda.get_device_name(own_gpu())
        content = {"device": device, "torch": torch.__version__, "rows": [asdict(row) for row in rows], "fold": of_fold}
        args.json.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return int(not of_fold["ok"] or any(row.images_per_s is None for row in rows))


if __name__ == "__main__":
    sys.exit(main())
