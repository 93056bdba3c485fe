"""The vocabulary: what stands in it once, and the names that go both ways."""

from __future__ import annotations

import pytest

from pipeline.labels import (
    CELLS,
    CONDITIONS,
    FAMILY_COLUMNS,
    LEVELS,
    MIRROR,
    NEEDED,
    Cell,
    Condition,
    Family,
    SeriesKind,
    companion,
    condition_from_title,
    level_from_title,
    level_title,
    row_id,
    study_of,
)


def test_every_cell_is_of_one_family_and_every_family_is_graded_on_some_series():
    assert sorted(index for columns in FAMILY_COLUMNS.values() for index in columns) == list(range(25))
    assert [len(FAMILY_COLUMNS[family]) for family in Family] == [5, 10, 10]
    assert NEEDED.keys() == set(Family)
    assert {kind for kinds in NEEDED.values() for kind in kinds} == set(SeriesKind) - {SeriesKind.UNKNOWN}


def test_the_mirror_of_a_cell_is_on_the_other_side():
    for cell, other in zip(CELLS, (CELLS[place] for place in MIRROR), strict=True):
        assert other.level == cell.level
        swapped = {"left": "right", "right": "left"}
        side, _, rest = cell.condition.value.partition("_")
        assert other.condition.value == (f"{swapped[side]}_{rest}" if side in swapped else cell.condition.value)


@pytest.mark.parametrize("study", ["4003253", "a_b", "spinal_canal_stenosis_l1_l2", "_"])
def test_a_row_id_names_its_study(study):
    assert {study_of(row_id(study, cell)) for cell in CELLS} == {study}


@pytest.mark.parametrize("row", ["", "4003253", "_spinal_canal_stenosis_l1_l2", "1_spinal_canal_stenosis_l1_l3"])
def test_a_row_id_of_no_cell_or_no_study_is_refused(row):
    with pytest.raises(ValueError, match=r"expected e\.g\. 4003253_spinal_canal_stenosis_l1_l2"):
        study_of(row)


def test_titles_go_both_ways():
    assert [condition_from_title(condition.title) for condition in CONDITIONS] == list(CONDITIONS)
    assert [level_from_title(level_title(level)) for level in LEVELS] == list(LEVELS)


def test_the_companion_of_a_cell_is_on_its_side():
    cell = Cell(Condition.RIGHT_FORAMINAL, "l4_l5")
    assert companion(cell, Family.SUBARTICULAR) == Cell(Condition.RIGHT_SUBARTICULAR, "l4_l5")
    assert companion(cell, Family.CANAL) == Cell(Condition.CANAL, "l4_l5")
    with pytest.raises(ValueError, match="has no side"):
        companion(Cell(Condition.CANAL, "l4_l5"), Family.FORAMINAL)
