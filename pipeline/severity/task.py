"""A family's classifier as a task of the shared training loop."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.console import say
from pipeline.cubes.cache import WindowCache
from pipeline.cubes.settings import ViewSettings
from pipeline.files import write_text
from pipeline.labels import CELLS, GRADE_WEIGHTS, GRADES, Family
from pipeline.pictures import contact_sheet
from pipeline.scoring.figures import family_score, level_figures, level_lines
from pipeline.severity.items import CellTable, WindowItems, draw_weights
from pipeline.severity.losses import severity_loss
from pipeline.severity.model import SeverityModel
from pipeline.severity.predict import predict_batch
from pipeline.severity.settings import Loss, SeveritySettings, view_name
from pipeline.severity.windows import cut_windows, draw_jitter, drop_slices, middle_window, mirrored, mix
from pipeline.training.augment import StackAugmentation
from pipeline.training.charts import confusion_chart
from pipeline.training.task import Batch, Task, decayed_groups
from pipeline.weights.tensors import read_network

_EVALUATION_BATCH = 256
_WINDOW = "around", "place", "present"
RATES = ("precision", "recall", "f1")


class SeverityTask(Task):
    """Train on the cells of some studies, score on those of others.

    Args:
        family: the condition family.
        settings: of its classifier.
        cache: the windows.
        train: cells to learn from, all graded and shown.
        held_out: graded and shown cells of the held-out studies.
        out: where each epoch's figures are written.
        name: of the run, e.g. ``foraminal fold 0``.
    """

    train_set: WindowItems
    model: SeverityModel

    def __init__(
        self,
        family: Family,
        settings: SeveritySettings,
        cache: WindowCache,
        train: CellTable,
        held_out: CellTable,
        out: Path,
        name: str,
    ) -> None:
        self.name, self.family, self.settings, self.cache, self.out = name, family, settings, cache, out
        self.views: tuple[ViewSettings, ...] = settings.views_of(family)
        self.families, self.cells = settings.families(family), len(settings.one_item(family))
        torch.manual_seed(settings.loop.seed)
        self.model = SeverityModel.of(settings, family, not settings.start_from)
        self.weights = [1.0] + [settings.also_weight] * len(settings.also)
        learnt = self.by_family(train, np.zeros((len(train), len(self.families), len(GRADES))))
        starts = [starting_point(grades, settings.loss.kind) for _, _, grades, _ in learnt]
        self.prior = [value for start, _ in starts for value in start]
        losses = [loss for _, loss in starts]
        self.prior_loss = None if None in losses else float(np.average(losses, weights=self.weights))  # type: ignore[arg-type]
        if settings.start_from:
            self.model.load_state_dict(read_network(Path(settings.start_from).read_bytes()))
            self.prior_loss = None  # a trained network is better than the prior
        else:
            self.model.start_at(self.prior)
        jitter = settings.jitter
        self.augmentation = StackAugmentation(settings.augment)
        self.train_table, self.held_out = train, held_out
        shares = jitter.predicted_share, jitter.slice_share
        self.train_set = WindowItems(
            cache, train, settings.seen_beyond_mm(family), *shares, settings.in_plane, cells=self.cells
        )
        self.sample_weights = draw_weights(train, settings.sampling)
        self._evaluations = 0
        self._levels: list[dict[str, Any]] = []

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Embeddings are tables, not matrices, but few enough that decay does not hurt them."""
        return decayed_groups(self.model, weight_decay)

    def augment(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Windows jittered in plane and in contrast; items mirrored with their grades."""
        changed, jitter = dict(batch), self.settings.jitter
        mirror = None
        if jitter.mirror:
            chance = torch.rand(len(batch["level"]), device=generator.device, generator=generator)
            mirror = (chance < jitter.mirror).repeat_interleave(self.cells)
            if self.cells > 1:
                partners = list(self.model.partners)
                changed["grade"] = torch.where(
                    (chance < jitter.mirror)[:, None], batch["grade"][:, partners], batch["grade"]
                )
        for view in self.views:
            name = view_name(view.kind)
            around, place, present = (self._flat(changed.pop(f"{part}_{name}")) for part in _WINDOW)
            present = drop_slices(present, jitter.slice_drop, generator)
            change = draw_jitter(len(present), jitter, generator)
            window = cut_windows(around, place, view.pixels, view.spacing_mm, change)
            if mirror is not None:
                window, present = (
                    torch.where(mirror.view(-1, *[1] * (whole.ndim - 1)), other, whole)
                    for whole, other in zip(
                        (window, present),
                        mirrored(window, present, view.kind, self.model.mirror_rows(len(window), window.device)),
                        strict=True,
                    )
                )
            pixels = self.augmentation(window, generator, present=present).pixels
            changed[f"pixels_{name}"], changed[f"present_{name}"] = self._of_items(pixels), self._of_items(present)
        return mix(changed, [view_name(view.kind) for view in self.views], self.settings.mix, generator)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """The configured loss on a batch of windows, averaged over families; mixed as the windows are."""
        logits = self._of_items(model(*self.inputs(batch)))
        if self.cells > 1:
            logits = logits[:, :, 0]
        numbers = self.model.together or range(len(self.families))
        reweighted = self.settings.sampling == "grade" and self.settings.loss.kind == "weighted"
        targets = [(batch["grade"], 1.0)]
        if "other_grade" in batch:
            share = float(batch["other_share"][0])
            targets = [(batch["grade"], 1 - share), (batch["other_grade"], share)]
        if self.cells > 1:  # a cell that is not shown learns nothing of one that was mixed into it
            present = [batch[f"present_{view_name(view.kind)}"].any(-1) for view in self.views]
            shown = torch.stack(present).any(0)
            targets = [(grades.where(shown, -1), share) for grades, share in targets]
        total = logits.new_zeros(())
        for number, weight in enumerate(self.weights):
            columns = [column for column, family in enumerate(numbers) if family == number]
            for grades, share in targets:
                own = number == 0 and reweighted
                total = total + weight * share * severity_loss(
                    logits[:, columns].flatten(0, 1), grades[:, columns].flatten(), self.settings.loss, own
                )
        return total / sum(self.weights), {}

    def evaluate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """The competition's term on the held-out cells; tables per level go to ``figures/``."""
        found = self.by_family(self.held_out, self.predict(model, device, self.held_out))
        (_, log_p, grades, levels), *others = found
        self._evaluations += 1
        rows = self._levels = level_figures(log_p, grades, levels)
        folder = self.out / "figures"
        write_text(folder / f"evaluation{self._evaluations:02d}.json", json.dumps(rows, indent=1))
        write_text(folder / "last.txt", "\n".join(level_lines(rows)) + "\n")
        spread = float(np.exp(log_p).std(axis=0).max())
        if spread < 1e-4 and len(log_p) > 1:
            raise ValueError(
                f"{self.name}: the same prediction for all {len(log_p)} held-out cells; nothing was learnt"
            )
        likeliest = np.unique(log_p.argmax(1))
        if len(likeliest) == 1 and len(np.unique(grades)) > 1:
            say(f"{self.name}: {GRADES[likeliest[0]]} is the likeliest grade of all {len(log_p)} held-out cells")
        everything = rows[-1]
        further = {str(family): family_score(values, known) for family, values, known, _ in others if len(known)}
        loss = severity_loss(torch.from_numpy(log_p), torch.from_numpy(grades), self.settings.loss)
        return {
            "score": family_score(log_p, grades),
            "f1": float(everything["macro_f1"]),
            **further,
            "validation_loss": float(loss),
            **{f"score_{row['level']}": row["score"] for row in rows[:-1] if row["score"] is not None},
            **{f"{name}_{grade}": everything[name][n] for name in RATES for n, grade in enumerate(GRADES)},
        }

    def by_family(self, table: CellTable, log_p: np.ndarray) -> list[tuple[Family, np.ndarray, np.ndarray, np.ndarray]]:
        """Each family with what is said of its graded cells, (n, 3), and their grades and levels, (n,).

        Args:
            table: the cells.
            log_p: of :meth:`predict`.
        """
        result = []
        conditions = np.array([CELLS[cell].condition.family for cell in self.cache.cells])[table.cell]
        for number, family in enumerate(self.families):
            column = number if self.cells == 1 else 0
            grades = table.grades[:, column]
            known = (grades >= 0) & (self.cells == 1 or conditions == family)
            result.append((family, log_p[known, column], grades[known], table.level[known]))
        return result

    def predict(self, model: nn.Module, device: torch.device, table: CellTable) -> np.ndarray:
        """(N, families, 3) log-probabilities of the cells at their predicted points, else at their labelled ones.

        In items of several cells (N, 1, 3), each cell's own.
        """
        results = [np.zeros((0, len(self.settings.answers(self.family)), len(GRADES)))]
        for batch in self.exact_windows(table, device):
            results.append(predict_batch(model, batch, self.views, self.settings, device))
        return np.concatenate(results)

    def chart(self) -> np.ndarray | None:
        """The confusion matrices of the last evaluation, a level each and one of all."""
        return confusion_chart(self._levels) if self._levels else None

    def exact_windows(self, table: CellTable, device: torch.device) -> Iterator[dict[str, Tensor]]:
        """Batches of the cells' windows as grading cuts them, with the margins of ``inference_views``."""
        settings = self.settings
        items = WindowItems(self.cache, table, settings.shift_mm + 1.0, beside=1 if settings.beside else 0)
        wide = settings.inference_views(self.family)
        step = max(1, _EVALUATION_BATCH // self.cells) * self.cells
        for first in range(0, len(table), step):
            batch = items.fetch(np.arange(first, min(first + step, len(table))))
            batch = {name: values.to(device) for name, values in batch.items()}
            for view in wide:
                name = view_name(view.kind)
                around, place = batch.pop(f"around_{name}"), batch.pop(f"place_{name}")
                batch[f"pixels_{name}"] = cut_windows(around, place, view.pixels, view.spacing_mm)
            yield batch

    def picture(self, model: nn.Module, device: torch.device) -> np.ndarray | None:
        """The middle slices of a few held-out cells with their grade and the predicted probabilities."""
        items = len(self.held_out) // self.cells
        if not items:
            return None
        chosen = np.zeros(items, dtype=bool)
        chosen[np.random.default_rng(0).choice(items, min(-(-32 // self.cells), items), replace=False)] = True
        table = self.held_out.rows(chosen.repeat(self.cells))
        p = np.exp(self.predict(model, device, table)[:, 0])
        (batch,) = self.exact_windows(table, device)
        cubes = batch[f"pixels_{view_name(self.views[0].kind)}"]
        tiles = list(middle_window(cubes[:, cubes.shape[1] // 2], self.views[0].pixels).cpu().numpy())
        titles = [f"{g}: " + " ".join(f"{100 * v:.0f}" for v in row) for g, row in zip(table.grade, p, strict=True)]
        return contact_sheet(tiles, titles)

    def item_name(self, index: int) -> str:
        """Study and cell, or the first of its cells."""
        row = index * self.cells
        cell = CELLS[self.cache.cells[int(self.train_table.cell[row])]]
        return f"study {self.cache.study_ids[int(self.train_table.study[row])]} {cell.column}"

    def inputs(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        """The network's pixels and masks by view, and the levels, of all cells."""
        pixels, present = (
            {name: self._flat(batch[f"{part}_{name}"]) for name in (view_name(view.kind) for view in self.views)}
            for part in ("pixels", "present")
        )
        return pixels, present, batch["level"].flatten()

    def _flat(self, values: Tensor) -> Tensor:
        """Items (B, cells, ...) to cells; a cell alone is one."""
        return values if self.cells == 1 else values.flatten(0, 1)

    def _of_items(self, values: Tensor) -> Tensor:
        return values if self.cells == 1 else values.unflatten(0, (-1, self.cells))


def starting_point(grades: np.ndarray, loss: Loss) -> tuple[list[float], float | None]:
    """The best constant answer (3 probabilities) for training cells, and its loss where that is an entropy."""
    counts = np.maximum(np.bincount(grades, minlength=len(GRADES)), 0.5)
    shares = counts * np.asarray(GRADE_WEIGHTS) if loss == "weighted" else counts
    p = shares / shares.sum()
    return p.tolist(), float(-(p * np.log(p)).sum()) if loss in ("weighted", "plain") else None
