"""Wall and processor time of a call, and a table of times that says how many times ours each of them is.

Processor time is of all threads of the process together: a machine that is busy with other work stretches wall time and
hardly changes it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Timing:
    """The quickest of some rounds, in seconds. ``factor`` is what was extrapolated, 1 where all was measured."""

    wall: float
    cpu: float
    factor: float = 1.0

    def scaled(self, factor: float) -> Timing:
        """The time of ``factor`` times the work."""
        return Timing(self.wall * factor, self.cpu * factor, self.factor * factor)


def quickest(call: Callable[[], Any], rounds: int = 1, warm_up: int = 1) -> Timing:
    """Call ``warm_up`` times unmeasured, then ``rounds`` times; the lowest wall and the lowest processor time."""
    for _ in range(warm_up):
        call()
    walls, cpus = [], []
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return Timing(min(walls), min(cpus))


def table(ours: tuple[str, Timing], theirs: Sequence[tuple[str, Timing]]) -> str:
    """Lines of seconds a study and the ratio of processor times."""
    lines = [f"{'one complete study':<52}{'wall s':>8}{'cpu s':>8}{'x ours':>8}"]
    for name, timing in (ours, *theirs):
        note = "" if timing.factor == 1 else f"  (measured on 1/{timing.factor:.4g} of it)"
        ratio = timing.cpu / ours[1].cpu
        lines.append(f"{name:<52}{timing.wall:>8.2f}{timing.cpu:>8.2f}{ratio:>8.1f}{note}")
    return "\n".join(lines)
