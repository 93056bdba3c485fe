"""Stage two at inference: the volumes of a study → its 25 level points.

Sagittal T2 gives the canal, sagittal T1 the foramina; each stands in for the other where one is missing. Axial points
hang on the canal points. Where only axial series exist, five stacks are taken for the five levels, with low confidence,
because nothing in an axial slice counts vertebrae. A series whose place or sides are assumed (see ``Volume``) gives
only what does not rest on them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch

from pipeline.config import check_range
from pipeline.labels import CELL_INDEX, CELLS, LEVELS, Cell, Condition, SeriesKind, Side
from pipeline.landmarks.axial import AxialSettings, choose_slice, find_recesses, levels_from_stacks
from pipeline.landmarks.canvas import WIDEST_FIELD_MM, field_mm, unit
from pipeline.landmarks.decode import DecodeSettings
from pipeline.landmarks.landmarks import ABSENT, Landmarks, certain_numbering
from pipeline.landmarks.model import PointNet
from pipeline.landmarks.numbering import agree
from pipeline.landmarks.sagittal import (
    SLICES_A_BATCH,
    VISIBLE_CANAL_T2,
    LevelPoints,
    SliceOutput,
    canal_points,
    foraminal_points,
    midline_from,
    run_network,
    sees_canal,
)
from pipeline.volumes import StudyVolumes, Volume

LEAST = 0.01
"""The confidence of a point that the network did not see, continued from its neighbours."""
DOUBTFUL = 0.25
"""The median confidence of five points below which their levels are said to be doubtful: that of 1 to 3 % of the real
studies at hand, where about 0.8 is usual; 0.13 on two phantoms with a field of view that reached into the chest, where
the points were a level off."""
GUESSED = 0.05
"""The confidence of a point that rests on the order of axial stacks alone."""
GUESSED_NUMBERING = (0.3, 0.4, 0.3)
"""The belief in the numbering of such points: nothing in an axial slice counts vertebrae."""
SIDES_UNKNOWN = "which of its slices are on the left is not measured: no foraminal row is graded on it"


@dataclass(frozen=True)
class LandmarkSettings:
    """How stage two reads a study.

    Attributes:
        decode: prior along the spine.
        axial: slices and windows of the axial series.
        least_confidence: a group of points whose best confidence is below it is no spine, and none of it is kept.
        sure: foramina with at least this confidence have a say in the numbering of the canal.
        canal_back_mm: canal points are moved backward by this, at a right angle to the spine. For a network that has
            learnt another convention than the one wanted: SPIDER marks the posterior margin of the disc, RSNA the
            middle of the canal behind it.
        below_foramina_mm: where nothing shows the canal, its points are taken to lie this far down the spine from the
            middle of the two foramina, whose points lie above the disc: by 6.5, 5.4, 3.4, 6.5 and 0.5 mm on the one
            complete labelled study at hand (100206310), whose marked axial slices lie 3 to 8 mm below.
    """

    decode: DecodeSettings = field(default_factory=DecodeSettings)
    axial: AxialSettings = field(default_factory=AxialSettings)
    least_confidence: float = 0.03
    sure: float = 0.15
    canal_back_mm: float = 0.0
    below_foramina_mm: float = 4.0

    def __post_init__(self) -> None:
        check_range(self, "least_confidence", "sure", least=0, most=1)
        check_range(self, "canal_back_mm", "below_foramina_mm", least=-100, most=100)


class LandmarkPredictor:
    """Finds the level points of studies.

    Args:
        sagittal: the ten-channel network; None finds nothing on sagittal series.
        axial: the one-channel network; None places axial points by geometry alone.
        device: where both are run.
        settings: how a study is read.
    """

    def __init__(
        self,
        sagittal: PointNet | None,
        axial: PointNet | None,
        device: torch.device | str = "cpu",
        settings: LandmarkSettings | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.settings = settings or LandmarkSettings()
        self.sagittal = _ready(sagittal, self.device)
        self.axial = _ready(axial, self.device)

    def predict(self, study: StudyVolumes, batch: int = SLICES_A_BATCH) -> Landmarks:
        """Find the points of one study; a study in which nothing is found gives empty landmarks and says why.

        Args:
            study: its volumes.
            batch: at most so many slices go through the network at a time.
        """
        table = _Table(study.study_id)
        notes: list[str] = []
        canal = self._sagittal(study, table, notes, batch)
        axial = []
        for volume in study.of_kind(SeriesKind.AXIAL_T2):
            if volume.is_placed and volume.knows_sides:
                axial.append(volume.thickened)
            else:
                notes.append(f"series {volume.series_id}: which levels its axial slices show is not measured: not used")
        if axial:
            if canal is None:
                canal = levels_from_stacks(axial)
                known = np.isfinite(canal).any()
                how = "from the order of the axial stacks" if known else "of the axial slices are not known"
                notes.append(f"no sagittal level found: levels {how}")
                guessed = True
            else:
                guessed = False
            self._axial(axial, canal, guessed, table, notes)
        return table.landmarks(tuple(notes))

    def _sagittal(self, study: StudyVolumes, table: _Table, notes: list[str], batch: int) -> np.ndarray | None:
        """Fill canal and foraminal points; returns (5, 3) canal points in mm or None."""
        if self.sagittal is None:
            return None
        outputs: dict[SeriesKind, list[SliceOutput]] = {}
        for kind in (SeriesKind.SAGITTAL_T2, SeriesKind.SAGITTAL_T1):
            stacks = [volume.thickened for volume in study.of_kind(kind)]
            shown = [volume for volume in stacks if np.ptp(volume.pixels) > 0]
            notes.extend(f"series {v.series_id} is blank" for v in stacks if v not in shown)
            notes.extend(_impossible_field(volume) for volume in shown if field_mm(volume) > WIDEST_FIELD_MM)
            outputs[kind] = [run_network(self.sagittal, volume, self.device, batch) for volume in shown]
        t2, t1 = outputs[SeriesKind.SAGITTAL_T2], outputs[SeriesKind.SAGITTAL_T1]
        decode = self.settings.decode
        canal = _best([canal_points(output, decode) for output in t2 if sees_canal(output, VISIBLE_CANAL_T2)])
        # A canal that is hardly seen may still give the levels, but not the midline: sides hang on it.
        sees_midline = any(map(sees_canal, t2 if canal is not None else t1))
        if canal is None:
            canal = _best([canal_points(output, decode) for output in t1 if sees_canal(output)])
            if canal is not None:
                notes.append("canal points from sagittal T1: no canal found on T2")
        if canal is not None and canal.confidence.max() < self.settings.least_confidence:
            canal = None
        foramina: dict[Side, LevelPoints] = {}
        for kind, group in ((SeriesKind.SAGITTAL_T1, t1), (SeriesKind.SAGITTAL_T2, t2)):
            found = []
            for output in group:
                if not output.canvases.volume.knows_sides:
                    notes.append(f"series {output.canvases.volume.series_id}: {SIDES_UNKNOWN}")
                    continue
                seen = canal if sees_midline and _share_sides(canal, output) else None
                midline, how = midline_from(output, seen)
                found.append(foraminal_points(output, midline, decode, at_levels=how == "canal"))
            for side in Side:
                best = _best([sides[side] for sides in found if side in sides])
                if best is None or side in foramina or best.confidence.max() < self.settings.least_confidence:
                    continue
                foramina[side] = best
                if kind is SeriesKind.SAGITTAL_T2:
                    notes.append(f"{side} foraminal points from sagittal T2: none found on T1")
        sure = {side: found for side, found in foramina.items() if found.confidence.max() >= self.settings.sure}
        canal, sure, note = agree(canal, sure)
        if note:
            notes.append(note)
        if canal is not None and canal.volume.kind is SeriesKind.SAGITTAL_T2:
            notes.extend(_doubts("canal and axial", canal))
        for side, points in (foramina | sure).items():
            notes.extend(_doubts(f"{side} foraminal", points))
            table.fill(Condition.LEFT_FORAMINAL if side is Side.LEFT else Condition.RIGHT_FORAMINAL, points)
        if canal is not None:
            canal = move_back(canal, self.settings.canal_back_mm)
            table.fill(Condition.CANAL, canal)
            if not canal.volume.is_placed:
                placed = [output for output in (*t2, *t1) if output.canvases.volume.is_placed and sees_canal(output)]
                canal = _best([canal_points(output, decode) for output in placed])
                canal = None if canal is None else move_back(canal, self.settings.canal_back_mm)
        if canal is not None:
            return canal.points_mm
        if not all(points.volume.is_placed for points in foramina.values()):
            return None
        return _canal_from_foramina(table, self.settings.below_foramina_mm)

    def _axial(self, volumes: list[Volume], canal: np.ndarray, guessed: bool, table: _Table, notes: list[str]) -> None:
        settings = self.settings.axial
        places, levels = [], []
        for level in range(len(LEVELS)):
            if not np.isfinite(canal[level]).all():
                continue
            chosen = choose_slice(volumes, canal[level], _along(canal, level), settings)
            if chosen is None:
                notes.append(f"{LEVELS[level]}: no axial slice within {settings.reach_mm:g} mm")
                continue
            places.append((chosen[0], chosen[1], canal[level]))
            levels.append(level)
        for level, found in zip(levels, find_recesses(self.axial, volumes, places, self.device, settings), strict=True):
            for side, condition in enumerate((Condition.LEFT_SUBARTICULAR, Condition.RIGHT_SUBARTICULAR)):
                confidence = GUESSED if guessed else float(found.confidence[side])
                table.set(condition, level, found.volume, found.slice_index, found.points_mm[side], confidence)
                numbering = GUESSED_NUMBERING if guessed else table.sagittal_numbering(level)
                table.numbering[CELL_INDEX[Cell(condition, LEVELS[level])]] = numbering


class _Table:
    """The 25 points while they are being filled in."""

    def __init__(self, study_id: str) -> None:
        self.study_id = study_id
        self.points_mm = np.full((len(CELLS), 3), np.nan)
        self.confidence = np.zeros(len(CELLS))
        self.series: list[str | None] = [None] * len(CELLS)
        self.instance = np.full(len(CELLS), ABSENT)
        self.x, self.y = np.full(len(CELLS), np.nan), np.full(len(CELLS), np.nan)
        self.beside = np.full((len(CELLS), 2), np.nan)
        self.numbering = certain_numbering()

    def sagittal_numbering(self, level: int) -> np.ndarray:
        """(3,) the numbering of the canal point of a level, or of a foramen where there is no such point."""
        for condition in (Condition.CANAL, Condition.LEFT_FORAMINAL, Condition.RIGHT_FORAMINAL):
            i = CELL_INDEX[Cell(condition, LEVELS[level])]
            if np.isfinite(self.points_mm[i, 0]):
                break
        return self.numbering[i]

    def fill(self, condition: Condition, found: LevelPoints) -> None:
        for level in range(len(LEVELS)):
            if found.slice_index[level] >= 0:
                self.set(
                    condition,
                    level,
                    found.volume,
                    int(found.slice_index[level]),
                    found.points_mm[level],
                    max(LEAST, float(found.confidence[level])),
                )
                self.beside[CELL_INDEX[Cell(condition, LEVELS[level])]] = found.beside[level]
                self.numbering[CELL_INDEX[Cell(condition, LEVELS[level])]] = found.chain.shift

    def set(
        self, condition: Condition, level: int, volume: Volume, index: int, point_mm: np.ndarray, confidence: float
    ) -> None:
        i = CELL_INDEX[Cell(condition, LEVELS[level])]
        x, y = volume.to_source_pixel(point_mm[None], np.array([index]))
        self.points_mm[i], self.confidence[i] = point_mm, confidence
        self.series[i], self.instance[i] = volume.series_id, volume.instance_numbers[index]
        self.x[i], self.y[i] = x[0], y[0]

    def landmarks(self, notes: tuple[str, ...]) -> Landmarks:
        return Landmarks(
            self.study_id,
            self.points_mm,
            self.confidence,
            tuple(self.series),
            self.instance,
            self.x,
            self.y,
            notes,
            self.beside,
            self.numbering,
        )


def _doubts(what: str, points: LevelPoints) -> list[str]:
    median = float(np.median(points.confidence))
    if median >= DOUBTFUL:
        return []
    return [f"{what} points were hardly recognised (median confidence {median:.2f}): their levels may be wrong"]


def _impossible_field(volume: Volume) -> str:
    return (
        f"series {volume.series_id}: pixel spacing {volume.spacing_mm[0]:.2f} mm makes a field of view of "
        f"{field_mm(volume):.0f} mm, more than any scanner has; levels are looked for as if it were usual"
    )


def _ready(model: PointNet | None, device: torch.device) -> PointNet | None:
    return None if model is None else model.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload, no-any-return]


def _share_sides(canal: LevelPoints | None, output: SliceOutput) -> bool:
    """Whether left and right of the canal points is left and right on another series' slices, too."""
    return canal is not None and (canal.volume.knows_sides or canal.volume is output.canvases.volume)


def _best(found: list[LevelPoints]) -> LevelPoints | None:
    return max(found, key=lambda points: float(points.confidence.sum()), default=None)


def _along(canal: np.ndarray, level: int) -> np.ndarray:
    """(3,) unit vector along the spine at a level, from the canal points beside it; patient z where there are none."""
    known = [i for i in (level - 1, level, level + 1) if 0 <= i < len(canal) and np.isfinite(canal[i]).all()]
    if len(known) < 2:
        return np.array([0.0, 0.0, 1.0])
    return unit(canal[known[0]] - canal[known[-1]])


def move_back(found: LevelPoints, distance_mm: float) -> LevelPoints:
    """Points moved within their slices to the patient's back, at a right angle to the spine at their level.

    Args:
        found: canal points.
        distance_mm: how far.
    """
    moved = found.points_mm.copy()
    for level in np.nonzero(np.isfinite(moved).all(axis=1))[0]:
        back = np.array([0.0, 1.0, 0.0])
        for direction in (_along(found.points_mm, int(level)), found.volume.normal):
            back -= (back @ direction) * direction
        moved[level] += distance_mm * unit(back)
    return replace(found, points_mm=moved)


def _canal_from_foramina(table: _Table, below_mm: float) -> np.ndarray | None:
    """(5, 3) canal points between the foramina of the two sides and so much below them; NaN where one is missing."""
    left, right = (
        table.points_mm[[CELL_INDEX[Cell(condition, level)] for level in LEVELS]]
        for condition in (Condition.LEFT_FORAMINAL, Condition.RIGHT_FORAMINAL)
    )
    middle: np.ndarray = (left + right) / 2
    if not np.isfinite(middle).any():
        return None
    return middle - below_mm * np.array([_along(middle, level) for level in range(len(LEVELS))])
