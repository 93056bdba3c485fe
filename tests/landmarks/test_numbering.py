"""Canal and foramina count the vertebrae alike."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.labels import SeriesKind, Side
from pipeline.landmarks.decode import Chain
from pipeline.landmarks.numbering import agree, renumber
from pipeline.landmarks.sagittal import LevelPoints
from pipeline.volumes.volume import ASSUMED_PLACE
from tests.landmarks.spine import CANAL, FORAMEN, MIRROR, sagittal

VOLUME = sagittal(SeriesKind.SAGITTAL_T1, "1", np.array([-12.0, 4.0, 20.0]))
DISCS = np.vstack([CANAL, CANAL[4] + (CANAL[4] - CANAL[3])])
"""(6, 3) the five levels and what a numbering one disc too low takes for L5/S1."""


BESIDE = np.column_stack([np.arange(5) / 10, np.zeros(5)])


def points_at(places, shift=(0.1, 0.8, 0.1)):
    chain = Chain(np.asarray(places)[:, :2].copy(), np.full(5, 0.9), np.array(shift))
    confidence = np.array([0.5, 0.6, 0.7, 0.8, 0.9])
    return LevelPoints(VOLUME, np.array(places, float), np.arange(5) % 3, confidence, BESIDE, chain)


def sides(places, shift=(0.1, 0.8, 0.1)):
    return {
        Side.LEFT: points_at(places + FORAMEN, shift),
        Side.RIGHT: points_at(places + FORAMEN * MIRROR, shift),
    }


def heights(points):
    return points.points_mm[:, 2]


def test_numberings_that_agree_stay():
    canal, foramina = points_at(CANAL), sides(CANAL)
    same, kept, note = agree(canal, foramina)
    assert same is canal, "of the same volume: there is no second opinion"
    assert kept is foramina
    assert note is None


def test_two_series_that_agree_believe_in_it_together():
    canal = replace(points_at(CANAL, (0.1, 0.8, 0.1)), volume=replace(VOLUME, series_id="2"))
    same, kept, note = agree(canal, sides(CANAL, (0.0, 0.7, 0.3)))
    assert note is None
    assert heights(same) == pytest.approx(CANAL[:, 2])
    for points in (same, *kept.values()):
        assert points.chain.shift == pytest.approx([0.0, 0.949, 0.051], abs=1e-3)


@pytest.mark.parametrize(
    ("canal", "foramina"), [((0.001, 0.998, 0.001), (0.0, 0.75, 0.25)), ((0.0, 0.75, 0.25), (0.001, 0.998, 0.001))]
)
def test_a_numbering_that_was_rejected_is_not_believed_afterwards(canal, foramina):
    places = (CANAL, DISCS[1:]) if canal[1] > foramina[1] else (DISCS[1:], CANAL)
    found, moved, note = agree(points_at(places[0], canal), sides(places[1], foramina))
    assert "renumbered" in note
    for points in (found, *moved.values()):
        assert points.chain.shift[1] > 0.9


def test_foramina_less_sure_than_the_canal_give_way():
    canal = points_at(CANAL, (0.01, 0.98, 0.01))
    low = sides(DISCS[1:], (0.45, 0.54, 0.01))  # may well be one level higher up
    found, moved, note = agree(canal, low)
    assert heights(found) == pytest.approx(heights(canal))
    # what was called L1/L2 lies at L2/L3, so it is one level further down
    assert heights(moved[Side.LEFT])[1:] == pytest.approx(CANAL[1:, 2] + FORAMEN[2])
    assert "foramina renumbered by +1" in note


def test_a_canal_less_sure_than_the_foramina_gives_way():
    canal = points_at(DISCS[1:], (0.01, 0.55, 0.44))  # says that it may be one level lower down
    foramina = sides(CANAL, (0.01, 0.98, 0.01))
    moved, kept, note = agree(canal, foramina)
    assert heights(kept[Side.LEFT]) == pytest.approx(heights(foramina[Side.LEFT]))
    assert heights(moved)[1:] == pytest.approx(CANAL[1:, 2])
    assert "canal renumbered by +1" in note


def test_other_direction():
    canal = points_at(CANAL, (0.44, 0.55, 0.01))
    foramina = sides(DISCS[1:], (0.01, 0.98, 0.01))
    moved, _, note = agree(canal, foramina)
    assert heights(moved)[:4] == pytest.approx(CANAL[1:, 2])
    assert "canal renumbered by -1" in note


@pytest.mark.parametrize("away", [np.array([0, 0, 60.0]), np.array([0, 80.0, 20.0])])
def test_points_that_lie_near_no_level_of_the_other_series_renumber_nothing(away):
    """Renumbered to the nearer end they would still be a level and more away."""
    canal, foramina = points_at(CANAL, (0.3, 0.4, 0.3)), sides(CANAL + away, (0.01, 0.98, 0.01))
    same, kept, note = agree(canal, foramina)
    assert same is canal
    assert kept is foramina
    assert "mm apart" in note


@pytest.mark.parametrize("which", ["canal", "foramina"])
def test_a_series_whose_place_is_assumed_has_no_say(which):
    adrift = replace(VOLUME, series_id="2", flags=(ASSUMED_PLACE,))
    canal, foramina = points_at(DISCS[1:], (0.0, 0.5, 0.5)), sides(CANAL, (0.01, 0.98, 0.01))
    if which == "canal":
        canal = replace(canal, volume=adrift)
    else:
        foramina = {side: replace(points, volume=adrift) for side, points in foramina.items()}
    assert agree(canal, foramina) == (canal, foramina, None)


def test_one_family_alone_stays():
    canal, foramina = points_at(CANAL), sides(CANAL)
    assert agree(canal, {}) == (canal, {}, None)
    assert agree(None, foramina) == (None, foramina, None)


def test_renumbering_loses_one_end_and_continues_the_other():
    points = points_at(CANAL, (0.0, 0.3, 0.7))
    down = renumber(points, 1)
    assert heights(down)[1:] == pytest.approx(CANAL[:4, 2])
    assert down.points_mm[0] == pytest.approx(2 * CANAL[0] - CANAL[1])
    assert down.confidence.tolist() == [0.0, 0.5, 0.6, 0.7, 0.8]
    assert down.beside[1:].tolist() == BESIDE[:4].tolist()
    assert np.isnan(down.beside[0]).all()
    assert down.slice_index.tolist()[1:] == [0, 1, 2, 0]
    # what spoke for one level lower down now speaks for the numbering, and the old numbering for one level higher up
    assert down.chain.shift == pytest.approx([0.3, 0.7, 0.0])
    up = renumber(points_at(CANAL, (0.7, 0.3, 0.0)), -1)
    assert heights(up)[:4] == pytest.approx(CANAL[1:, 2])
    assert up.chain.shift == pytest.approx([0.0, 0.7, 0.3])


def test_nothing_is_continued_beyond_the_image():
    top = points_at(CANAL + np.array([0, 0, 25.0]))
    down = renumber(top, 1)
    assert np.isnan(down.points_mm[0]).all()
    assert down.slice_index[0] == -1


def test_absent_levels_do_not_count():
    canal = points_at(CANAL)
    partial = replace(canal, points_mm=np.where(np.arange(5)[:, None] < 2, np.nan, CANAL))
    same, _, note = agree(partial, sides(CANAL))
    assert same is partial
    assert note is None
