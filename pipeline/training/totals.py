"""Sums over the steps of one epoch, kept in the checkpoint so that a resumed epoch reports all of itself."""

from __future__ import annotations

import math

_STARVED = 0.3
"""Share of an epoch spent waiting for batches above which the run says so."""


class EpochTotals:
    """Loss and its parts, images, seconds of work and of waiting; ``values`` is what a checkpoint holds."""

    def __init__(self, values: dict[str, float] | None = None) -> None:
        self.values: dict[str, float] = dict(values or {})

    def add_step(self, losses: dict[str, float], images: int, seconds: float, waited: float) -> None:
        """Count one step: its mean losses, its images, and how long it took, ``waited`` of it for its batch."""
        for name, value in losses.items():
            self._add(f"sum/{name}", value)
        for name, value in (("steps", 1), ("images", images), ("seconds", seconds), ("waited", waited)):
            self._add(name, value)

    def means(self) -> dict[str, float]:
        """Mean of the loss and its parts over the steps so far."""
        steps = self.values.get("steps") or math.nan
        return {name[4:]: total / steps for name, total in self.values.items() if name.startswith("sum/")}

    @property
    def images_per_second(self) -> float:
        """Speed so far."""
        return self.values.get("images", 0.0) / max(self.values.get("seconds", 0.0), 1e-9)

    @property
    def wait_share(self) -> float:
        """Share of the time so far that was spent waiting for the loader."""
        return self.values.get("waited", 0.0) / max(self.values.get("seconds", 0.0), 1e-9)

    def figures(self) -> dict[str, float]:
        """What the history says of the epoch: the means, speed, share of waiting and seconds."""
        seconds = self.values.get("seconds", math.nan)
        speed = {"images_per_s": self.images_per_second, "wait_share": self.wait_share, "seconds": seconds}
        return {**self.means(), **speed}

    def seconds_for(self, steps: int) -> float:
        """How long so many steps take at the speed so far."""
        return steps * self.values["seconds"] / self.values["steps"]

    def starvation(self, device: str, loader_workers: int) -> str | None:
        """A line for the log if the processor starved for data, else None."""
        if self.wait_share <= _STARVED:
            return None
        who = "GPU" if device == "cuda" else "network"
        return (
            f"the {who} starved: {self.wait_share:.0%} of the epoch was spent waiting for the loader; raise "
            f"loader_workers (now {loader_workers}) or make items cheaper to load"
        )

    def _add(self, name: str, value: float) -> None:
        self.values[name] = self.values.get(name, 0.0) + value
