"""For each cell the windows that the networks saw, cut again as the run cut them, and what they looked at in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.cubes import Cube, StudyCubes
from pipeline.cubes.cut import place_cell
from pipeline.cubes.settings import ViewSettings
from pipeline.labels import CELL_INDEX, CELLS, SeriesKind, companion, level_title
from pipeline.report.record import StudyRecord
from pipeline.report.slices import webp
from pipeline.report.words import FINDINGS
from pipeline.volumes import StudyVolumes, Volume

if TYPE_CHECKING:
    from pipeline.ensemble.networks import Networks
    from pipeline.report.attention import Maps
    from pipeline.severity.predict import SeverityGrader

SHOWN_PX = 96
"""Side of a window on the page, as small as the networks see it."""


@dataclass(frozen=True)
class Seen:
    """One strip of windows, a slice each, of one network and view.

    Attributes:
        network: whose windows; others of its recipe saw the same ones.
        of: the cell whose window it is, in words, where it is not the graded cell's own.
        kind, series, instances: where the slices come from; None where the stack ends.
        size_mm: side of a window.
        image, heat: addresses of the pictures; ``heat`` is empty without attention.
        outline: for the viewer: kind, stack, slices, and the window's corners in pixels of the stack.
    """

    network: str
    of: str
    kind: str
    series: str
    instances: tuple[int | None, ...]
    size_mm: float
    image: str
    heat: str
    outline: dict[str, Any]


class Looks:
    """Cuts the windows of studies with one set of networks, and asks these what they look at."""

    def __init__(self, networks: Networks, attention: bool) -> None:
        self.networks, self.attention = networks, attention
        self._graders: dict[str, SeverityGrader] = {}

    def of_study(self, study: StudyRecord, volumes: StudyVolumes) -> list[list[Seen]]:
        """25 lists, in the order of ``CELLS``: what was seen of each cell, by one network a recipe."""
        result: list[list[Seen]] = [[] for _ in CELLS]
        names = self._chosen(study)
        cut = self.networks.cut(volumes, study.landmarks, names)
        thick = {kind: [volume.thickened for volume in volumes.of_kind(kind)] for kind in SeriesKind}
        for name in names:
            grader = self._grader(name)
            cubes = cut[self.networks.cube_settings(name)]
            cells = grader.rows(cubes)
            maps: Maps = {}
            if cells and self.attention:
                from pipeline.report.attention import attend

                maps = attend(grader, cubes, cells, study.called)
            for cell in cells:
                for number, family in enumerate(grader.settings.answers(grader.family)):
                    target = CELL_INDEX[companion(CELLS[cell], family)] if number else cell
                    if name not in study.members(target):
                        continue
                    result[target] += self._strips(name, grader, volumes, thick, study, cubes, cell, target, maps)
        return result

    def _grader(self, name: str) -> SeverityGrader:
        from pipeline.severity.predict import load_member

        if name not in self._graders:
            self._graders[name] = load_member(self.networks.manifest.folder, self.networks.named(name), "cpu")
        return self._graders[name]

    def _chosen(self, study: StudyRecord) -> list[str]:
        """One network a recipe of those that graded the study."""
        known = {member.name for member in self.networks.members}
        graded = dict.fromkeys(name for cell in range(len(CELLS)) for name in study.members(cell) if name in known)
        by_recipe: dict[str, str] = {}
        for name in graded:
            by_recipe.setdefault(self.networks.named(name).recipe, name)
        return list(by_recipe.values())

    def _strips(
        self,
        name: str,
        grader: SeverityGrader,
        volumes: StudyVolumes,
        thick: Mapping[SeriesKind, Sequence[Volume]],
        study: StudyRecord,
        cubes: StudyCubes,
        cell: int,
        target: int,
        maps: Maps,
    ) -> list[Seen]:
        strips = []
        settings = self.networks.cube_settings(name)
        wide = settings.of(grader.family)
        unplaced = {volume.series_id for volume in volumes.volumes if not volume.is_placed}
        for view, around in zip(grader.views, wide, strict=True):
            found = cubes.get(CELLS[cell], view.kind)
            if not found:
                continue
            place = place_cell(CELLS[cell], around, thick[view.kind], study.landmarks, settings, unplaced)[0]
            spare = (len(place.slices) - view.slices) // 2
            indices = place.slices[spare : spare + view.slices]
            heat = maps.get((target, cell, view.kind))
            own = CELLS[cell]
            strips.append(
                Seen(
                    network=name,
                    of="" if cell == target else f"window of {level_title(own.level)} {FINDINGS[own.condition]}",
                    kind=view.kind.value,
                    series=found[0].series_id,
                    instances=tuple(None if i is None else int(place.volume.instance_numbers[i]) for i in indices),
                    size_mm=view.size_mm,
                    image=webp(_strip(found[0], view)),
                    heat="" if heat is None else webp(_heat(heat), 60),
                    outline=_outline(found[0], view, place.volume, indices, volumes.of_kind(view.kind)),
                )
            )
        return strips


def _strip(cube: Cube, view: ViewSettings) -> NDArray[np.uint8]:
    """The middle windows of a cube side by side, (view.pixels, slices * view.pixels)."""
    spare, edge = (len(cube.pixels) - view.slices) // 2, (cube.pixels.shape[1] - view.pixels) // 2
    inner = cube.pixels[spare : spare + view.slices, edge : edge + view.pixels, edge : edge + view.pixels]
    return np.round(np.clip(np.hstack(list(inner)) / 1.15, 0, 1) * 255).astype(np.uint8)


def _heat(maps: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The maps of a strip's windows in colour, transparent where nothing was looked at: (h, slices * w, 4)."""
    large = np.hstack([cv2.resize(one, (SHOWN_PX, SHOWN_PX), interpolation=cv2.INTER_CUBIC) for one in maps])
    strength = np.round(np.clip(large, 0, 1) * 255).astype(np.uint8)
    colour = cv2.applyColorMap(strength, cv2.COLORMAP_INFERNO)[:, :, ::-1]
    return np.dstack([colour, (strength * 0.6).astype(np.uint8)])


def _outline(
    cube: Cube, view: ViewSettings, volume: Volume, indices: Sequence[int | None], stacks: Sequence[Volume]
) -> dict[str, Any]:
    """Where the windows lie on the stacks of their kind, as the viewer shows them."""
    half = view.spacing_mm * view.pixels / 2
    signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    corners = np.array([cube.centre_mm + half * (a * cube.right + b * cube.down) for a, b in signs])
    instances = [int(volume.instance_numbers[index]) for index in indices if index is not None]
    for number, stack in enumerate(stacks):
        here = [int(n) for n in np.flatnonzero(np.isin(stack.instance_numbers, instances))]
        if stack.series_id == volume.series_id and here:
            col, row, _ = stack.to_pixel(corners, np.full(4, here[len(here) // 2]))
            places = [[round(float(x), 2), round(float(y), 2)] for x, y in zip(col, row, strict=True)]
            return {"kind": view.kind.value, "stack": number, "slices": here, "corners": places}
    return {}
