"""What a classifier looked at: Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391), by captum.

Of the middle window alone, which is the network's main look; the grades are means over windows shifted by some
millimetres. The map is that of the deepest layer that still has :data:`LEAST_SIDE` places a side.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.cubes import StudyCubes
from pipeline.labels import CELL_INDEX, CELLS, GRADES, SeriesKind, companion
from pipeline.severity.predict import SeverityGrader
from pipeline.severity.settings import view_name
from pipeline.severity.windows import middle_window, slices_around

LEAST_SIDE = 6
"""Places a side of the map; deeper layers of a network of 96 px have 3, a third of the window each."""

Maps = dict[tuple[int, int, SeriesKind], NDArray[np.float32]]
"""(slices, h, w), 0 to 1, by the cell that is graded, the cell whose window is looked at, and the view."""


def attend(grader: SeverityGrader, cubes: StudyCubes, cells: Sequence[int], called: NDArray[np.int64]) -> Maps:
    """Where in its windows a classifier found what speaks for the grade that was called.

    Args:
        grader: the network.
        cubes: of the study, cut for it.
        cells: positions in ``CELLS`` of the cells that go through it, of :meth:`SeverityGrader.rows`.
        called: (25,) the grade of each cell.
    """
    from captum.attr import LayerGradCam

    views, model = grader.views, cast("Any", grader.model)  # to a type checker what a module holds is any tensor
    kinds = [view.kind for view in views]
    batch = grader.batch(cubes, list(cells), kinds, 0)
    names = [view_name(kind) for kind in kinds]
    pixels: list[Tensor] = []
    present: dict[str, Tensor] = {}
    for view, name in zip(views, names, strict=True):
        window = middle_window(batch[f"pixels_{name}"], view.pixels)
        window, present[name] = slices_around(window, batch[f"present_{name}"], view.slices, 0)
        pixels.append(window.clone())

    def answer(*windows: Tensor) -> Tensor:
        """(B, families * 3) log-probabilities."""
        given = dict(zip(names, windows, strict=True))
        return model.log_probabilities(given, present, batch["level"]).flatten(1)

    maps: Maps = {}
    for number, family in enumerate(grader.settings.answers(grader.family)):
        targets = [CELL_INDEX[companion(CELLS[cell], family)] if number else cell for cell in cells]
        wanted = [number * len(GRADES) + int(called[target]) for target in targets]
        for view, name in zip(views, names, strict=True):
            layer = _layer(model.encoder(name), pixels[names.index(name)], present[name])
            if layer is None or not bool(present[name].any()):  # a view that no cell has is not computed
                continue
            with warnings.catch_warnings(), torch.enable_grad():
                warnings.simplefilter("ignore")  # captum sets requires_grad and says so
                found = LayerGradCam(answer, layer).attribute(tuple(pixels), target=wanted, relu_attributions=True)
            shown = _by_slice(found.detach().float(), present[name])
            for row, (cell, target) in enumerate(zip(cells, targets, strict=True)):
                if bool(present[name][row].any()):
                    maps[target, cell, view.kind] = shown[row]
    return maps


def _layer(encoder: nn.Module, pixels: Tensor, present: Tensor) -> nn.Module | None:
    """The deepest module of an encoder whose output is a map with enough places; None where it has none."""
    found: list[nn.Module] = []

    def look(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim in (4, 5) and min(output.shape[-2:]) >= LEAST_SIDE:
            found.append(module)

    hooks = [module.register_forward_hook(look) for module in encoder.modules() if not list(module.children())]
    try:
        with torch.inference_mode():
            encoder(pixels[:1], present[:1] | True)
    finally:
        for hook in hooks:
            hook.remove()
    modules: Mapping[int, nn.Module] = {id(module): module for module in found}
    return list(modules.values())[-1] if modules else None


def _by_slice(maps: Tensor, present: Tensor) -> list[NDArray[np.float32]]:
    """A (slices, h, w) map a cell, divided by its largest value, from the layer's output, whatever its batch was.

    A 3D network has one entry a cell, with slices; one that takes slices as channels one a cell that it saw, which
    then holds for all of them; one that takes each slice alone one a slice that is there. On a GPU what is absent has
    an entry, too.
    """
    cells, slices = present.shape
    size = maps.shape[-2:]
    whole = maps.new_zeros(cells, slices, *size)
    seen = present.any(1)
    if maps.ndim == 5:
        whole = maps[:, 0]
    elif len(maps) in (cells, int(seen.sum())) and len(maps) != int(present.sum()):
        whole[seen if len(maps) < cells else slice(None)] = maps.expand(-1, slices, *size)
    else:
        whole.flatten(0, 1)[present.flatten() if len(maps) < cells * slices else slice(None)] = maps[:, 0]
    return [(one / one.max().clamp(min=1e-12)).numpy().astype(np.float32) for one in whole]
