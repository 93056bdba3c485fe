"""The room that training takes on the disk, reckoned before anything is decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from pipeline.competition import Competition
from pipeline.files import check_space
from pipeline.labels import FOLDS, Family, SeriesKind
from pipeline.landmarks.model import PointNet
from pipeline.landmarks.prepare import TYPICAL_STACK_BYTES, ExamplesOf
from pipeline.landmarks.task import LandmarkTrainSettings
from pipeline.severity.model import SeverityModel
from pipeline.severity.recipes import Recipe
from pipeline.severity.settings import SeveritySettings

TYPICAL = {SeriesKind.SAGITTAL_T1: (17, 26000, 0.6), SeriesKind.SAGITTAL_T2: (17, 26000, 0.6),
           SeriesKind.AXIAL_T2: (35, 9900, 0.4)}  # fmt: skip
"""Of what is kept of a usual study, by kind: slices, their area in square mm and the size of their pixels in mm."""
_STRAY = 2
"""Slices more, because the points of a study do not lie in one plane."""
_PACKED, _STATE = 0.3, 8
"""Of a network's weights: what it takes in the set (8 bits a number), and the state to go on from (network, average and
two moments) of the one that runs, of which a new one is written before the old one goes."""


@dataclass(frozen=True)
class Space:
    """What a run of all networks writes, in bytes.

    Attributes:
        studies: that are trained on.
        examples: of the point networks.
        cache: what stays in the training cache.
        unpacked: the largest working copy, which ends with the step that needs it.
        runs: networks of all folds with their states; of two rounds of a recipe the worse one goes.
        packed: the set they are packed into, after the last training.
    """

    studies: int
    examples: tuple[ExamplesOf, ...]
    cache: int
    unpacked: int
    runs: int
    packed: int

    @property
    def most(self) -> int:
        """The most that is there at once: nothing is unpacked any more when the set is written."""
        return self.cache + self.runs + max(self.unpacked, self.packed)

    @property
    def bytes_per_study(self) -> int:
        """Of the training cache, for a usual study."""
        return bytes_per_study(self.examples)

    @classmethod
    def of(
        cls,
        competitions: Sequence[Competition],
        points: Mapping[str, LandmarkTrainSettings],
        recipes: Sequence[Recipe],
        studies: int = 0,
    ) -> Space:
        """The space for training on the labelled studies of some folders.

        Args:
            competitions: the folders.
            points: settings of ``landmarks`` and ``axial``, as far as they are trained.
            recipes: of the classifiers that are trained.
            studies: to reckon with, 0 for the labelled ones of the folders.
        """
        tables = [c.coordinates for c in competitions if c.coordinates is not None]
        studies = studies or len({study for table in tables for study in table["study_id"]})
        examples = tuple(
            ExamplesOf("axial" if name == "axial" else "sagittal", one.examples) for name, one in points.items()
        )
        working = [_window_bytes(recipe.settings, recipe.family) for recipe in recipes]
        points_nets: list[nn.Module] = [PointNet(replace(one.model, initial="random")) for one in points.values()]
        sizes = [_weight_bytes(network) for network in points_nets]
        kept = [(1 + one.loop.keep_best) / 2 for one in points.values()]  # in half precision
        again = 0.0
        for recipe in recipes:
            sizes.append(_weight_bytes(SeverityModel.of(recipe.settings, recipe.family)))
            kept.append((1 + recipe.settings.loop.keep_best) / 2)
            again = max(again, (recipe.rounds - 1) * kept[-1] * sizes[-1])
        runs = FOLDS * (sum(size * share for size, share in zip(sizes, kept, strict=True)) + again)
        return cls(
            studies,
            examples,
            studies * bytes_per_study(examples),
            studies * max(working, default=0),
            round(runs + _STATE * max(sizes, default=0)),
            round(FOLDS * _PACKED * sum(sizes)),
        )

    def check(self, cache: Path, out: Path) -> None:
        """See that the disks have room, less what an earlier call has written already.

        Raises:
            OSError: they have not; the message says how much is needed for what.
        """
        there = [sum(file.stat().st_size for file in folder.rglob("*.*") if file.is_file()) for folder in (cache, out)]
        of_cache, of_runs, of_both = (
            max(0, needed - have)
            for needed, have in ((self.cache, there[0]), (self.runs, there[1]), (self.runs + self.packed, there[1]))
        )
        places = [next(p for p in (path, *path.parents) if p.exists()) for path in (cache.absolute(), out.absolute())]
        text = f"{self.studies} studies: {self.cache / 1e9:.1f} GB of cache, {self.unpacked / 1e9:.1f} GB unpacked"
        if places[0].stat().st_dev == places[1].stat().st_dev:
            text += f", {self.runs / 1e9:.1f} GB of runs (--cache may be on another disk)"
            check_space(places[0], of_cache + max(of_runs + self.unpacked, of_both), text)
        else:
            check_space(places[0], of_cache + self.unpacked, f"{text} (--cache)")
            check_space(places[1], of_both, f"{(self.runs + self.packed) / 1e9:.1f} GB of runs and their set (--out)")


def bytes_per_study(examples: Sequence[ExamplesOf]) -> int:
    """Of the training cache, for a usual study: its stacks, and the slices of these point networks."""
    return TYPICAL_STACK_BYTES + sum(one.typical_bytes for one in examples)


def _weight_bytes(network: nn.Module) -> int:
    return 4 * sum(parameter.numel() for parameter in network.parameters())


def _window_bytes(settings: SeveritySettings, family: Family) -> int:
    """Of the prepared slices of a usual study, half floats at the recipe's resolution where that is coarser.

    Only the slices that windows show: around the midline, around both rows of foramina, or around each of five levels.
    """
    total, shown_of = 0.0, settings.pictured(family)
    rows = (Family.CANAL in shown_of) + 2 * (len(set(shown_of) - {Family.CANAL}) > 0)
    for view in settings.views_of(family):
        slices, area, pixel_mm = TYPICAL[view.kind]
        places = 5 if view.kind is SeriesKind.AXIAL_T2 else rows
        shown = min(slices, places * (view.slices + 2 * settings.margin_slices) + _STRAY)
        total += 2 * shown * area / max(pixel_mm, view.spacing_mm if view.spacing_mm > 1.3 * pixel_mm else 0) ** 2
    return round(total)
