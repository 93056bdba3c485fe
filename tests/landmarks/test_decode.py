"""Five maps to five levels: exact where they agree, one decision where they do not, honest where they cannot."""

import numpy as np
import pytest

from pipeline.landmarks.decode import DecodeSettings, decode_levels, refine

PIXEL_MM = 1.5
SIDE, STRIDE = 48, 4
STEPS = np.array([0.0, 31.0, 64.0, 98.0, 131.0, 160.0])
DISCS = np.column_stack([96 + 6 * np.sin(STEPS / 40), 30 + STEPS / PIXEL_MM])
"""(6, 2) x, y of L1/L2 to L5/S1 and one disc more below, canvas pixels."""
EMPTY = np.full((SIDE, SIDE), 1 / SIDE**2)


def positions():
    y, x = np.indices((SIDE, SIDE)) * float(STRIDE) + (STRIDE - 1) / 2
    return np.stack([x, y], axis=-1)


def looking_at(*seen):
    """A probability map of (disc or (x, y), share) pairs."""
    result = np.zeros((SIDE, SIDE))
    for disc, share in seen:
        place = DISCS[disc] if np.isscalar(disc) else np.asarray(disc)
        blob = np.exp(-np.square(positions() - place).sum(-1) / (2 * 4.0**2))
        result += share * blob / blob.sum()
    return result + (1 - result.sum()) * EMPTY


def decode(*maps):
    return decode_levels(np.stack(maps), positions(), PIXEL_MM)


def test_clear_maps_give_their_points():
    chain = decode(*(looking_at((level, 0.95)) for level in range(5)))
    assert np.abs(chain.points - DISCS[:5]).max() < 0.2
    assert (chain.mass > 0.65).all()  # a sharp peak's share within 11 mm
    assert chain.shift[1] > 0.99
    assert (chain.confidence > 0.65).all()


def test_the_pixel_size_is_believed_not_the_pixels():
    """The same discs at a tenth of the size cannot be a spine, and the prior says so."""
    maps = np.stack([looking_at((level, 0.3), (min(level + 1, 5), 0.25)) for level in range(5)])
    assert decode_levels(maps, positions(), PIXEL_MM).shift[1] != pytest.approx(
        decode_levels(maps, positions(), PIXEL_MM * 2).shift[1], abs=1e-3
    )


def test_a_sixth_disc_does_not_move_the_others():
    chain = decode(*(looking_at((level, 0.75), (level + 1, 0.15)) for level in range(5)))
    assert np.abs(chain.points - DISCS[:5]).max() < 1.5
    assert chain.shift[1] > 0.9
    assert chain.shift.argmax() == 1


def test_maps_torn_between_two_numberings_are_not_believed():
    torn = decode(*(looking_at((level, 0.47), (level + 1, 0.47)) for level in range(5)))
    assert torn.shift[1] < 0.7
    assert torn.shift.sum() == pytest.approx(1)
    sure = decode(*(looking_at((level, 0.9), (level + 1, 0.05)) for level in range(5)))
    assert sure.shift[1] > torn.shift[1] + 0.25
    assert (torn.confidence < sure.confidence).all()


def test_the_odds_of_another_numbering_are_flattened_because_the_maps_err_together():
    maps = np.stack([looking_at((level, 0.6), (level + 1, 0.3)) for level in range(5)])
    naive, flat = (
        decode_levels(maps, positions(), PIXEL_MM, DecodeSettings(numbering_temperature=temperature)).shift
        for temperature in (1.0, 3.0)
    )
    assert flat[2] / flat[1] == pytest.approx((naive[2] / naive[1]) ** (1 / 3))
    assert flat.sum() == pytest.approx(1)
    with pytest.raises(ValueError, match="numbering_temperature"):
        DecodeSettings(numbering_temperature=0.5)


def test_the_other_numbering_is_named_in_its_direction():
    """A majority one disc too low: the alternative is that the points are one level lower down than named."""
    low = decode(*(looking_at((level, 0.3), (level + 1, 0.6)) for level in range(5)))
    assert np.abs(low.points - DISCS[1:6]).max() < 2
    assert low.shift[2] > low.shift[0]
    high = decode(*(looking_at((level, 0.6), (level + 1, 0.3)) for level in range(5)))
    assert np.abs(high.points - DISCS[:5]).max() < 2
    assert high.shift[0] > high.shift[2]


@pytest.mark.parametrize("astray", range(5))
def test_one_map_astray_is_overruled_by_the_other_four(astray):
    neighbour = astray + 1 if astray < 4 else 3
    maps = [looking_at((level, 0.9)) for level in range(5)]
    maps[astray] = looking_at((neighbour, 0.7), (astray, 0.25))
    chain = decode(*maps)
    assert np.abs(chain.points - DISCS[:5]).max() < 2
    assert chain.mass[astray] < 0.3


def test_levels_never_change_their_order():
    maps = [looking_at((level, 0.9)) for level in range(5)]
    maps[1], maps[2] = looking_at((2, 0.6), (1, 0.3)), looking_at((1, 0.6), (2, 0.3))
    chain = decode(*maps)
    assert np.abs(chain.points - DISCS[:5]).max() < 2
    maps[1], maps[2] = looking_at((2, 0.9)), looking_at((1, 0.9))  # beyond reconciling
    found = decode(*maps).points
    found = found[np.isfinite(found[:, 0]), 1]
    assert len(found) >= 2
    assert (np.diff(found) > 10).all()


def test_a_field_of_view_that_ends_at_l3_gives_the_levels_it_shows():
    """The canvas ends below L2/L3, so nothing is continued."""
    last = int(DISCS[2, 1] / STRIDE) - 1
    maps = np.stack([looking_at((0, 0.9)), looking_at((1, 0.9)), EMPTY, EMPTY, EMPTY])[:, :last]
    chain = decode_levels(maps / maps.sum((1, 2), keepdims=True), positions()[:last], PIXEL_MM)
    assert np.abs(chain.points[:2] - DISCS[:2]).max() < 1
    assert np.isnan(chain.points[2:]).all()
    assert (chain.mass[2:] == 0).all()
    assert (chain.confidence[:2] > 0.5).all()


def test_a_field_of_view_that_begins_at_l4():
    first = int(DISCS[2, 1] / STRIDE) + 2
    maps = np.stack([EMPTY, EMPTY, EMPTY, looking_at((3, 0.9)), looking_at((4, 0.9))])[:, first:]
    chain = decode_levels(maps / maps.sum((1, 2), keepdims=True), positions()[first:], PIXEL_MM)
    assert np.isnan(chain.points[:3]).all()
    assert np.abs(chain.points[3:] - DISCS[3:5]).max() < 1


def test_an_end_that_no_map_sees_is_continued_without_confidence():
    chain = decode(*(looking_at((level, 0.9)) for level in range(4)), EMPTY)
    assert np.abs(chain.points[:4] - DISCS[:4]).max() < 1
    assert np.abs(chain.points[4] - DISCS[4]).max() < 10
    assert chain.confidence[4] < 0.03


def test_blank_maps_are_not_believed():
    assert decode(*[EMPTY] * 5).confidence.max() < 0.03


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_maps_that_hold_nothing_give_no_level(value):
    chain = decode(*[np.full((SIDE, SIDE), value)] * 5)
    assert np.isnan(chain.points).all()
    assert (chain.confidence == 0).all()


def test_a_single_disc_seen_is_a_single_level():
    chain = decode(EMPTY, EMPTY, looking_at((2, 0.9)), EMPTY, EMPTY)
    assert np.flatnonzero(chain.confidence > 0.03).tolist() == [2]


def test_a_step_that_no_spine_takes_loses_to_weaker_evidence_at_a_likely_place():
    near = DISCS[3] + np.array([0.0, 16.0 / PIXEL_MM])
    maps = [looking_at((level, 0.9)) for level in range(4)]
    chain = decode(*maps, looking_at((near, 0.5), (4, 0.4)))
    assert np.abs(chain.points - DISCS[:5]).max() < 3


def test_refine_takes_the_near_peak_only():
    heat = looking_at((1, 0.5), (3, 0.5))
    for start in (DISCS[1] + 3, DISCS[1] - 2):  # wherever in a cell of the map it begins
        point, mass = refine(heat, positions(), start, PIXEL_MM, 15.0)
        assert np.abs(point - DISCS[1]).max() < 0.3
        assert 0.4 < mass < 0.55
    blind, mass = refine(np.zeros((SIDE, SIDE)), positions(), DISCS[1], PIXEL_MM, 15.0)
    assert (blind == DISCS[1]).all()
    assert mass == 0


def test_many_candidates_are_bounded():
    generator = np.random.default_rng(0)
    chain = decode_levels(generator.dirichlet(np.ones(SIDE**2), 5).reshape(5, SIDE, SIDE), positions(), PIXEL_MM)
    assert chain.points.shape == (5, 2)
    assert DecodeSettings().candidates >= 6  # five levels and a sixth
