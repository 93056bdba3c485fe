"""Stage four at inference: a trained classifier and a study's cubes give log-probabilities of its family's cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.config import from_dict, to_dict
from pipeline.cubes import Cube, CubeSettings, StudyCubes
from pipeline.cubes.settings import ViewSettings
from pipeline.device import channels_last, half_precision
from pipeline.labels import CELL_INDEX, CELLS, GRADES, LEVELS, Cell, Family, SeriesKind, companion
from pipeline.severity.encoders import ChannelsEncoder, PlaneEncoder
from pipeline.severity.model import SeverityModel
from pipeline.severity.settings import SeveritySettings, view_name
from pipeline.severity.windows import middle_window, mirrored, slices_around
from pipeline.weights.fused import fuse
from pipeline.weights.manifest import Member, WeightsError
from pipeline.weights.runtime import Chosen
from pipeline.weights.tensors import load_network

WINDOWS_A_CALL = 256
"""So many go through a network at once: for the cells of one study 7 to 20 % quicker on a CPU than a call a slice."""

LEAST_PROBABILITY = 1e-12
"""Keeps logarithms finite; a grade that rare costs what the metric's own clipping makes of it."""


def member_config(settings: SeveritySettings, family: Family) -> dict[str, Any]:
    """What a manifest keeps of a classifier: the cubes to cut for it, and its settings.

    Args:
        settings: of the classifier.
        family: its condition family.
    """
    views = settings.inference_views(family)
    cubes = CubeSettings(**{one.value: views for one in settings.pictured(family)})  # type: ignore[arg-type]
    return {"cubes": to_dict(cubes), "severity": to_dict(settings)}


def load_member(folder: Path, member: Member, device: str, runtime: Chosen = "torch") -> SeverityGrader:
    """A member of a manifest on a device.

    Raises:
        RuntimeFailedError: ``runtime`` is not PyTorch and cannot compute it.
        WeightsError: its settings or tensors do not make a classifier.
    """
    family = Family(member.task)
    try:
        settings = from_dict(SeveritySettings, member.config.get("severity"), "severity.")
        views = settings.views_of(family)
        settings.inference_views(family)
        settings.families(family)
    except ValueError as error:
        raise WeightsError(f"network {member.name}: {error}") from error
    model = load_network(member.name, member.read(folder), lambda: SeverityModel.of(settings, family))
    if runtime == "openvino":
        convert_encoders(model, views, member)
    else:
        fuse_encoders(model, views)
    return SeverityGrader(model, settings, family, device)


def fuse_encoders(model: SeverityModel, views: Sequence[ViewSettings]) -> None:
    """Fuse the batch norms of the encoders' backbones (:func:`~pipeline.weights.fused.fuse`), in place."""
    for encoder, channels, pixels in _backbones(model, views):
        generator = torch.Generator().manual_seed(0)
        encoder.backbone = fuse(encoder.backbone, torch.rand(1, channels, pixels, pixels, generator=generator))


def convert_encoders(model: SeverityModel, views: Sequence[ViewSettings], member: Member) -> None:
    """Let OpenVINO compute the encoders' backbones, in place; a volumetric encoder stays PyTorch's.

    Raises:
        RuntimeFailedError: it cannot.
    """
    from pipeline.weights.converted import convert

    for number, (encoder, channels, pixels) in enumerate(_backbones(model, views)):
        encoder.backbone = convert(encoder.backbone, (len(LEVELS), channels, pixels, pixels), member, number)


def _backbones(model: SeverityModel, views: Sequence[ViewSettings]) -> Iterator[tuple[PlaneEncoder, int, int]]:
    """The encoders that have a backbone, each once, with the channels and the side in pixels of its images."""
    by_name = {view_name(view.kind): view for view in views}
    for name, encoder in model.encoders.items():
        if isinstance(encoder, PlaneEncoder):
            view = by_name[name]
            yield encoder, view.slices if isinstance(encoder, ChannelsEncoder) else 1, view.pixels


def by_cell(cells: Sequence[int], log_p: np.ndarray, families: Sequence[Family]) -> np.ndarray:
    """What a classifier says of a study's cells; of a further family's cell, the mean of what is said of it.

    Args:
        cells: positions in ``CELLS`` of the classifier's own cells.
        log_p: (len(cells), families, 3) log-probabilities.
        families: its own first.

    Returns:
        (25, 3) normalised log-probabilities, NaN rows where nothing was said.
    """
    total, counted = np.zeros((len(CELLS), len(GRADES))), np.zeros((len(CELLS), 1))
    for row, cell in enumerate(cells):
        for number, family in enumerate(families):
            target = CELL_INDEX[companion(CELLS[cell], family)] if number else cell
            total[target] += log_p[row, number]
            counted[target] += 1
    with np.errstate(invalid="ignore"):
        mean = total / counted
    return mean - np.log(np.exp(mean).sum(1, keepdims=True))


def over_numberings(log_p: np.ndarray, numbering: np.ndarray) -> np.ndarray:
    """The grades of the levels where it is not certain which of them the cells show.

    What a cell's images say belongs to the level above, to the cell's own or to the level below with the probabilities
    that stage two gives; a level's grade is the mean over the cells that may show it.

    Args:
        log_p: (25, 3) log probabilities of the cells as they are called, NaN rows where there is no answer.
        numbering: (25, 3) as in :class:`~pipeline.landmarks.landmarks.Landmarks`.

    Returns:
        (25, 3) log probabilities, NaN in the same rows.
    """
    result = log_p.copy()
    answered = np.isfinite(log_p).all(axis=1)
    for i, cell in enumerate(CELLS):
        level = LEVELS.index(cell.level)
        shown_by: list[tuple[int, float]] = []
        for step, index in ((0, 1), (1, 0), (-1, 2)):  # the cell called a level lower shows this one if it is higher
            if 0 <= level + step < len(LEVELS):
                source = CELL_INDEX[Cell(cell.condition, LEVELS[level + step])]
                if answered[source] and numbering[source, index] > 0:
                    shown_by.append((source, float(numbering[source, index])))
        if answered[i] and len(shown_by) > 1:
            sources, beliefs = zip(*shown_by, strict=True)
            weights = np.array(beliefs) / sum(beliefs)
            result[i] = np.log(np.maximum(weights @ np.exp(log_p[list(sources)]), LEAST_PROBABILITY))
    return result


class SeverityGrader:
    """One classifier, ready to grade.

    Args:
        model: the trained network.
        settings: it was trained with.
        family: it grades.
        device: where it runs, e.g. ``cpu``.
    """

    def __init__(self, model: SeverityModel, settings: SeveritySettings, family: Family, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self.model = channels_last(model.to(self.device).eval())
        self.settings, self.family = settings, family
        self.views = settings.views_of(family)
        self.sees_all_levels = settings.item == "study"

    def predict(self, cubes: StudyCubes) -> np.ndarray:
        """(25, 3) log-probabilities; NaN rows where there is no cube or the cell is of a family it does not grade.

        Where several series of a kind show a cell, the mean of their log-probabilities (normalised).
        """
        kinds = [view.kind for view in self.views]
        cells, families = self.rows(cubes), self.settings.answers(self.family)
        if not cells:
            return by_cell([], np.zeros((0, len(families), len(GRADES))), families)
        rounds = max(len(cubes.get(CELLS[c], kind)) for c in cells for kind in kinds)
        total = np.zeros((len(cells), len(families), len(GRADES)))
        counted = np.zeros((len(cells), 1, 1))
        for number in range(rounds):
            # An item with fewer series sits out the further rounds.
            chosen = self._of_items([any(len(cubes.get(CELLS[c], k)) > number for k in kinds) for c in cells])
            batch = self.batch(cubes, [cells[n] for n in chosen], kinds, number)
            with half_precision(self.device):
                total[chosen] += predict_batch(self.model, batch, self.views, self.settings, self.device)
            counted[chosen] += 1
        unseen = [not any(cubes.get(CELLS[c], kind) for kind in kinds) for c in cells]
        total[unseen] = np.nan
        return by_cell(cells, total / counted, families)

    def rows(self, cubes: StudyCubes) -> list[int]:
        """Positions in ``CELLS`` of the cells that go through the network: those of every item with a cube."""
        cells = self.settings.cells(self.family)
        there = self._of_items([any(cubes.get(CELLS[c], view.kind) for view in self.views) for c in cells])
        return [cells[n] for n in there]

    def _of_items(self, wanted: Sequence[bool]) -> list[int]:
        """The places of all cells of the items of which some are wanted."""
        size = len(self.settings.one_item(self.family))
        return [n for n in range(len(wanted)) if any(wanted[n - n % size : n - n % size + size])]

    def batch(
        self, cubes: StudyCubes, cells: list[int], kinds: list[SeriesKind], number: int
    ) -> dict[str, torch.Tensor]:
        """What :func:`predict_batch` takes of some cells (positions in ``CELLS``), cut from series ``number``."""
        levels = [LEVELS.index(CELLS[cell].level) for cell in cells]
        batch: dict[str, torch.Tensor] = {"level": torch.tensor(levels)}
        for wide, kind in zip(self.settings.inference_views(self.family), kinds, strict=True):
            pixels = np.zeros((len(cells), wide.slices, wide.pixels, wide.pixels), dtype=np.float32)
            present = np.zeros((len(cells), wide.slices), dtype=bool)
            shares = np.full((len(cells), 3), np.nan)
            for row, cell in enumerate(cells):
                found: tuple[Cube, ...] = cubes.get(CELLS[cell], kind)
                if found:
                    cube = found[min(number, len(found) - 1)]
                    if cube.pixels.shape != pixels.shape[1:]:
                        raise ValueError(
                            f"study {cubes.study_id} {CELLS[cell].column}: cube {cube.pixels.shape}, the network "
                            f"needs {pixels.shape[1:]}; cut it with the settings in the manifest"
                        )
                    pixels[row], present[row], shares[row] = cube.pixels, cube.present, cube.shares
            batch[f"pixels_{view_name(kind)}"] = torch.from_numpy(pixels)
            batch[f"present_{view_name(kind)}"] = torch.from_numpy(present)
            batch[f"shares_{view_name(kind)}"] = torch.from_numpy(shares)
        return batch


def predict_batch(
    model: nn.Module,
    batch: Mapping[str, Tensor],
    views: Sequence[ViewSettings],
    settings: SeveritySettings,
    device: torch.device,
) -> np.ndarray:
    """(B, families, 3) log-probabilities: the mean of shifted windows (as logits) and of slices (as probabilities).

    Args:
        model: a :class:`SeverityModel` in evaluation mode.
        batch: ``pixels_<view>`` (B, S, H, W) with the margin of ``settings.inference_views``, ``present_<view>``,
            ``level``, and if known ``shares_<view>`` (B, 3): the belief in the slice before, the middle one and the one
            after, NaN where nothing is known.
        views: of the network, without margin.
        settings: ``shift_mm``, ``beside``, ``flip`` and ``worst`` say what is averaged and how.
        device: of the network.
    """
    beliefs = _slice_weights(batch, views, settings.beside)
    # Once, and not for each window cut from it; the beliefs are in double precision, which mps does not have.
    batch = {name: values.to(device) for name, values in batch.items() if not name.startswith("shares_")}
    level = batch["level"]
    shifts = [(0, 0)] if not settings.shift_mm else [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)]
    steps = (-1, 0, 1) if settings.beside else (0,)
    sides = (False, True) if settings.flip else (False,)
    partner = model.mirror_rows(len(level), device) if settings.flip else None  # type: ignore[operator]
    looks = [(step, shift, side) for step in steps for shift in shifts for side in sides]
    at_once = max(1, WINDOWS_A_CALL // len(level))
    answers = []
    with torch.inference_mode():
        for first in range(0, len(looks), at_once):
            some = looks[first : first + at_once]
            pixels, present = {}, {}
            for view in views:
                name, shift_px = view_name(view.kind), round(settings.shift_mm / view.spacing_mm)
                whole, there = batch[f"pixels_{name}"], batch[f"present_{name}"]
                windows = [
                    slices_around(
                        middle_window(whole, view.pixels, (rows * shift_px, cols * shift_px)), there, view.slices, step
                    )
                    for step, (rows, cols), _ in some
                ]
                windows = [
                    mirrored(*window, view.kind, partner) if side else window
                    for window, (*_, side) in zip(windows, some, strict=True)
                ]
                pixels[name] = torch.cat([window for window, _ in windows])
                present[name] = torch.cat([mask for _, mask in windows])
            said = model.log_probabilities(pixels, present, level.repeat(len(some)))  # type: ignore[operator]
            for log_p, (*_, side) in zip(said.split(len(level)), some, strict=True):
                answers.append(log_p if partner is None or not side else log_p[partner])
        of_looks = torch.cat(answers).unflatten(0, (len(steps), len(shifts) * len(sides), len(level)))
        log_p = torch.log_softmax(of_looks.mean(1), -1).cpu().double()  # mps has no double precision
        expected_grade = (log_p.exp() * torch.arange(len(GRADES))).sum(-1)
        believed = beliefs[:, [step + 1 for step in steps]].T.clamp(min=1e-9).log()[..., None]
        weights = torch.log_softmax(believed + settings.worst * expected_grade, 0)
        mean = torch.logsumexp(log_p + weights[..., None], 0)
    return np.asarray(torch.log_softmax(mean, -1).numpy(), dtype=np.float64)


def _slice_weights(batch: Mapping[str, Tensor], views: Sequence[ViewSettings], beside: float) -> Tensor:
    """(B, 3) what the slice before, the middle one and the one after count: as believed, else as ``beside`` says.

    In double precision, so on the CPU, wherever the batch is.
    """
    each = torch.tensor([beside / 2, 1 - beside, beside / 2], dtype=torch.float64)
    weights = each.repeat(len(batch["level"]), 1)
    for view in views:
        shares = batch.get(f"shares_{view_name(view.kind)}")
        if shares is not None:
            shares = shares.cpu().double()
            weights = torch.where(shares.isfinite(), shares, weights)
    return weights
