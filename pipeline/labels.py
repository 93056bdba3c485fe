"""The vocabulary of the competition: conditions, levels, grades, cells and row ids.

Everything else in the package speaks in these terms. A *cell* is one condition at one level (25 a study); tables
of probabilities are arrays of shape (25, 3) in the order of :data:`CELLS` and :data:`GRADES`.
Source of names and weights: the RSNA 2024 Lumbar Spine Degenerative Classification data and evaluation pages.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

FOLDS = 5
"""Folds of studies, in every training and every set of weights; made by :func:`pipeline.folds.make_folds`."""


class Condition(StrEnum):
    """The five graded conditions, named as in the columns of ``train.csv``."""

    CANAL = "spinal_canal_stenosis"
    LEFT_FORAMINAL = "left_neural_foraminal_narrowing"
    RIGHT_FORAMINAL = "right_neural_foraminal_narrowing"
    LEFT_SUBARTICULAR = "left_subarticular_stenosis"
    RIGHT_SUBARTICULAR = "right_subarticular_stenosis"

    @property
    def family(self) -> Family:
        """The condition with left and right pooled, as the metric pools them."""
        return _FAMILY_OF[self]

    @property
    def side(self) -> Side | None:
        """The patient's side, or None for the canal."""
        if self is Condition.CANAL:
            return None
        return Side.LEFT if self.value.startswith("left") else Side.RIGHT

    @property
    def title(self) -> str:  # type: ignore[override]  # the word the competition's table uses, not str.title()
        """The name as ``train_label_coordinates.csv`` writes it, e.g. ``Left Subarticular Stenosis``."""
        return self.value.replace("_", " ").title()


class Family(StrEnum):
    """The three condition families; each has one classifier and one term of the metric."""

    CANAL = "canal"
    FORAMINAL = "foraminal"
    SUBARTICULAR = "subarticular"


class Side(StrEnum):
    """A side of the patient. In LPS millimetres +x points to the patient's left."""

    LEFT = "left"
    RIGHT = "right"


class SeriesKind(StrEnum):
    """What a series shows, as ``*_series_descriptions.csv`` writes it; UNKNOWN where it could not be told."""

    SAGITTAL_T1 = "Sagittal T1"
    SAGITTAL_T2 = "Sagittal T2/STIR"
    AXIAL_T2 = "Axial T2"
    UNKNOWN = "unknown"


NEEDED: dict[Family, tuple[SeriesKind, ...]] = {
    Family.CANAL: (SeriesKind.SAGITTAL_T2, SeriesKind.AXIAL_T2),
    Family.FORAMINAL: (SeriesKind.SAGITTAL_T1,),
    Family.SUBARTICULAR: (SeriesKind.AXIAL_T2,),
}
"""The series a family is graded on; any one of them is enough."""


_FAMILY_OF = {
    Condition.CANAL: Family.CANAL,
    Condition.LEFT_FORAMINAL: Family.FORAMINAL,
    Condition.RIGHT_FORAMINAL: Family.FORAMINAL,
    Condition.LEFT_SUBARTICULAR: Family.SUBARTICULAR,
    Condition.RIGHT_SUBARTICULAR: Family.SUBARTICULAR,
}

CONDITIONS: tuple[Condition, ...] = tuple(Condition)
LEVELS: tuple[str, ...] = ("l1_l2", "l2_l3", "l3_l4", "l4_l5", "l5_s1")
GRADES: tuple[str, ...] = ("normal_mild", "moderate", "severe")
GRADE_NAMES: tuple[str, ...] = ("Normal/Mild", "Moderate", "Severe")
"""The grades as ``train.csv`` writes them, in the order of :data:`GRADES`."""
GRADE_WEIGHTS: tuple[int, ...] = (1, 2, 4)
"""Sample weight by true grade in the competition's metric."""


class Cell(NamedTuple):
    """One condition at one level."""

    condition: Condition
    level: str

    @property
    def column(self) -> str:
        """The column of ``train.csv``, e.g. ``left_subarticular_stenosis_l4_l5``."""
        return f"{self.condition.value}_{self.level}"

    @property
    def title(self) -> str:
        """The cell in the competition's words, e.g. ``Left Subarticular Stenosis L4/L5``."""
        return f"{self.condition.title} {level_title(self.level)}"


CELLS: tuple[Cell, ...] = tuple(Cell(condition, level) for condition in CONDITIONS for level in LEVELS)
"""The 25 cells in the order of the columns of ``train.csv``: condition first, level second."""

FAMILY_COLUMNS: Mapping[Family, list[int]] = {
    family: [index for index, cell in enumerate(CELLS) if cell.condition.family is family] for family in Family
}
"""Positions in ``CELLS`` of each family's cells: canal 5, foraminal 10, subarticular 10."""

CELL_COLUMNS: tuple[str, ...] = tuple(cell.column for cell in CELLS)
CELL_INDEX: dict[Cell, int] = {cell: index for index, cell in enumerate(CELLS)}


def _mirrored(cell: Cell) -> Cell:
    sides = (condition for condition in CONDITIONS if condition.family is cell.condition.family)
    return Cell(next((c for c in sides if c.side is not cell.condition.side), cell.condition), cell.level)


MIRROR: tuple[int, ...] = tuple(CELL_INDEX[_mirrored(cell)] for cell in CELLS)
"""For each cell the position of the one on the other side; canal cells are their own."""


def companion(cell: Cell, family: Family) -> Cell:
    """The cell of a family at the level of another cell, on its side where the family has sides.

    Raises:
        ValueError: the family has sides and the cell has none.
    """
    for condition in CONDITIONS:
        if condition.family is family and condition.side in (None, cell.condition.side):
            return Cell(condition, cell.level)
    raise ValueError(f"{cell.column} has no side, so no {family} cell goes with it")


def level_title(level: str) -> str:
    """``l1_l2`` as ``train_label_coordinates.csv`` writes it: ``L1/L2``."""
    return level.replace("_", "/").upper()


def level_from_title(title: str) -> str:
    """The inverse of :func:`level_title`.

    Raises:
        ValueError: if ``title`` is not one of the five levels.
    """
    level = title.strip().lower().replace("/", "_")
    if level not in LEVELS:
        raise ValueError(f"unknown level {title!r}; expected one of {', '.join(map(level_title, LEVELS))}")
    return level


def condition_from_title(title: str) -> Condition:
    """The inverse of :attr:`Condition.title`.

    Raises:
        ValueError: if ``title`` is not one of the five conditions.
    """
    name = title.strip().lower().replace(" ", "_")
    try:
        return Condition(name)
    except ValueError:
        known = ", ".join(condition.title for condition in CONDITIONS)
        raise ValueError(f"unknown condition {title!r}; expected one of {known}") from None


def row_id(study_id: str, cell: Cell) -> str:
    """The row id of a cell in ``submission.csv``, e.g. ``44036939_spinal_canal_stenosis_l1_l2``."""
    return f"{study_id}_{cell.column}"


def study_of(row: str) -> str:
    """The inverse of :func:`row_id`: the study of a row.

    Raises:
        ValueError: it does not end in a condition and a level, or has nothing before them.
    """
    for column in CELL_COLUMNS:
        if row.endswith(f"_{column}") and len(row) > len(column) + 1:
            return row[: -len(column) - 1]
    raise ValueError(f"row id {row!r} names no study, condition and level; expected e.g. {row_id('4003253', CELLS[0])}")


def family_cells(family: Family) -> tuple[int, ...]:
    """Positions in ``CELLS`` of a family's cells."""
    return tuple(FAMILY_COLUMNS[family])
