"""How much one study may cost: the bounds under which files of unknown origin are read.

A header can declare any size, and a kilobyte of deflate can hold a gigabyte, so every bound is checked before the
memory or the time is spent. What is past a bound becomes a :class:`~pipeline.problem.Problem`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from pipeline.config import check_range


@dataclass(frozen=True)
class ReadLimits:
    """Bounds for reading one study. The defaults hold ten times the largest competition study."""

    file_bytes: int = 512 * 2**20
    """Largest file that is opened."""
    inflated_bytes: int = 128 * 2**20
    """Largest data set that a deflated file may inflate to."""
    file_items: int = 100_000
    """Items in one file: of sequences (a frame has about twenty), and fragments of compressed pixel data."""
    sequence_bytes: int = 16 * 2**20
    """Largest sequence of functional groups in a multi-frame file (a frame needs about 2 kB)."""
    series_bytes: int = 1024 * 2**20
    """Sum of the file sizes of one series."""
    series_slices: int = 4096
    """Files that are looked at in one series folder, and frames in all of them."""
    frame_pixels: int = 4096 * 4096
    """Pixels (rows x columns) of one slice."""
    frame_seconds: float = 10.0
    """Wall-clock seconds for decoding one compressed slice; a decoder that is not done by then is ended."""
    series_pixels: int = 128 * 2**20
    """Pixels of all slices of one series; a float32 takes four bytes of memory."""
    study_pixels: int = 256 * 2**20
    """Pixels of all slices of one study."""
    study_seconds: float = 60.0
    """Wall-clock seconds for one study; looked at before each file, each slice and each read of the parser."""

    def __post_init__(self) -> None:
        check_range(self, *self.__dataclass_fields__, above=0)


@dataclass
class Budget:
    """What is left of a study's :class:`ReadLimits` while it is being read."""

    limits: ReadLimits
    pixels: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def deadline(self) -> float:
        """The ``time.monotonic()`` at which the study's seconds are over."""
        return self.started + self.limits.study_seconds

    @property
    def frame_seconds(self) -> float:
        """What the next slice may take; never 0, which would be no limit."""
        return max(min(self.limits.frame_seconds, self.deadline - time.monotonic()), 0.01)

    @property
    def out_of_time(self) -> bool:
        """Whether the study has used up its seconds."""
        return time.monotonic() > self.deadline

    def take_pixels(self, count: int) -> bool:
        """Account for ``count`` more pixels; False, and nothing taken, if the study may not have them."""
        if self.pixels + count > self.limits.study_pixels:
            return False
        self.pixels += count
        return True


DEFAULT_LIMITS = ReadLimits()
