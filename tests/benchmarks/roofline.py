"""A complete study beside the limits of the machine: ``python -m tests.benchmarks.roofline STUDY``.

Every stage on two threads with each runtime that is installed, and the least that the machine could take for it, from
what the same run measures of it: the study's files at the speed of the disk (read anew, not from the cache), what
sampling reads and writes at the speed of memory, the networks' arithmetic at the speed of a large matrix product in
float32. In the last line the same work is done as it usually is: SimpleITK's reader for the series, then one
EfficientNet-B0 a family in PyTorch on five slices of 224 px of each cell, with points and windows for nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.device import limit_threads, limit_torch_threads
from pipeline.labels import CELLS
from pipeline.volumes import read_study
from tests.benchmarks.one_study import THREADS, task_of
from tests.benchmarks.test_read_speed import by_simpleitk
from tests.benchmarks.test_severity_speed import PUBLISHED_PX, SLICES, TIMED_CELLS, cells_time
from tests.benchmarks.timing import Timing, quickest

ROUNDS = 5


def from_disk(files: list[Path]) -> float:
    """Bytes a second of files that are read anew."""
    for file in files:
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    taken = quickest(lambda: [file.read_bytes() for file in files], warm_up=0)
    return sum(file.stat().st_size for file in files) / taken.wall


def memory() -> float:
    """Bytes a second that are read and written by a copy."""
    source = np.zeros(2**26, np.float32)
    target = np.empty_like(source)
    return 2 * source.nbytes / quickest(lambda: np.copyto(target, source), ROUNDS).wall


def arithmetic() -> float:
    """Operations a second of a product of matrices in float32."""
    size = 2048
    left, right = torch.rand(size, size), torch.rand(size, size)
    return 2 * size**3 / quickest(lambda: left @ right, ROUNDS).wall


def operations(call: Callable[[], object]) -> int:
    """Floating point operations of PyTorch's convolutions and products in a call."""
    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


def stages(study_folder: Path, runtime: str) -> tuple[dict[str, Callable[[], object]], int]:
    """Every stage as a call, and the bytes of all windows that stage three cuts."""
    task, networks = task_of(study_folder, runtime)  # type: ignore[arg-type]
    volumes = read_study(task.study)
    points, _ = networks.find_landmarks(volumes, task.landmarks, "cpu", THREADS)
    cubes = networks.cut(volumes, points, task.names)

    def find() -> None:
        for volume in volumes.volumes:
            vars(volume).pop("normalised", None)
        networks.find_landmarks(volumes, task.landmarks, "cpu", THREADS)

    calls: dict[str, Callable[[], object]] = {
        "one, read": lambda: read_study(task.study),
        "two, points": find,
        "three, windows": lambda: networks.cut(volumes, points, task.names),
        "four, grades": lambda: [networks.grade(name, cubes, "cpu", THREADS) for name in task.names],
    }
    windows = sum(cube.pixels.nbytes for one in cubes.values() for found in one.cubes.values() for cube in found)
    return calls, windows


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path)
    args = parser.parse_args(argv)
    limit_threads(THREADS)
    limit_torch_threads(THREADS)
    files = sorted(args.study.rglob("*.dcm"))
    disk, copies, peak = from_disk(files), memory(), arithmetic()
    read = sum(file.stat().st_size for file in files)
    runtimes = ["torch", *(["openvino"] if importlib.util.find_spec("openvino") else [])]
    calls = {runtime: stages(args.study, runtime) for runtime in runtimes}
    by_torch, windows = calls["torch"]
    flops = {name: operations(by_torch[name]) for name in ("two, points", "four, grades")}
    work = {
        "one, read": (read / disk, f"{read / 1e6:.0f} MB from the disk at {disk / 1e9:.2f} GB/s"),
        "three, windows": (5 * windows / copies, f"{5 * windows / 1e6:.0f} MB of memory at {copies / 1e9:.1f} GB/s"),
    }
    for name, count in flops.items():
        work[name] = (count / peak, f"{count / 1e9:.1f} GFLOP at {peak / 1e9:.0f} GFLOP/s")
    print(f"{'stage':<18}" + "".join(f"{one + ', s':>14}{'x limit':>9}" for one in runtimes) + "   limit, s")
    total = dict.fromkeys(runtimes, 0.0)
    for name in by_torch:
        limit, why = work[name]
        line = f"{name:<18}"
        for runtime in runtimes:
            wall = quickest(calls[runtime][0][name], ROUNDS).wall
            total[runtime] += wall
            line += f"{wall:>14.3f}{wall / limit:>9.1f}"
        print(f"{line}   {limit:.3f}: {why}", flush=True)
    limit = sum(seconds for seconds, _ in work.values())
    print(f"{'together':<18}" + "".join(f"{t:>14.3f}{t / limit:>9.1f}" for t in total.values()) + f"   {limit:.3f}")
    usual = _usual(args.study)
    line = f"{'as usual':<18}" + "".join(f"{usual.wall:>14.3f}{usual.wall / t:>9.1f}" for t in total.values())
    print(f"{line}   times ours: SimpleITK's reader, one EfficientNet-B0 a family at {PUBLISHED_PX} px")
    return 0


def _usual(study: Path) -> Timing:
    """Reading every series with SimpleITK, and the forward passes of three networks on the cells of a study."""
    series = sorted(study.iterdir())
    reading = quickest(lambda: [by_simpleitk(one) for one in series])
    networks = cells_time("efficientnet_b0", PUBLISHED_PX, TIMED_CELLS)
    print(f"as usual: {reading.wall:.2f} s to read, {networks.wall:.2f} s for {len(CELLS)} cells x {SLICES} slices")
    return Timing(reading.wall + networks.wall, reading.cpu + networks.cpu)


if __name__ == "__main__":
    sys.exit(main())
