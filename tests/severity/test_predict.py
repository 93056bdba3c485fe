"""A stored classifier grades cubes: the right cells, several series averaged, unusable cubes refused."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.cubes import Cube, StudyCubes, ViewSettings
from pipeline.labels import CELL_INDEX, LEVELS, Cell, Condition, Family, SeriesKind
from pipeline.landmarks.landmarks import certain_numbering
from pipeline.severity.model import SeverityModel
from pipeline.severity.predict import SeverityGrader, fuse_encoders, over_numberings
from pipeline.severity.settings import JitterSettings, NetworkSettings, SeveritySettings

VIEW = ViewSettings(SeriesKind.AXIAL_T2, size_mm=32, pixels=32, slices=3)
SETTINGS = SeveritySettings(
    views=(VIEW,), network=NetworkSettings(backbone="test_resnet.r160_in1k", width=32), shift_mm=2.0
)


@pytest.fixture
def grader():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = SeverityModel(SETTINGS.network, (VIEW,))
    torch.nn.init.normal_(model.classify.weight, std=1.0)
    return SeverityGrader(model, SETTINGS, Family.SUBARTICULAR)


def cube(seed, pixels=36):
    generator = np.random.default_rng(seed)
    values = generator.random((3, pixels, pixels)).astype(np.float32)
    axis = np.eye(3)
    unknown = np.full(3, np.nan)
    return Cube(values, np.ones(3, dtype=bool), np.zeros(3), axis[0], axis[1], 1.0, 0.0, str(seed), unknown)


def test_it_grades_the_cells_of_its_family_that_have_a_cube(grader):
    left = CELL_INDEX[Cell(Condition.LEFT_SUBARTICULAR, "l3_l4")]
    cubes = {(left, SeriesKind.AXIAL_T2): (cube(1),), (0, SeriesKind.AXIAL_T2): (cube(2),)}
    log_p = grader.predict(StudyCubes("s", cubes))
    assert np.flatnonzero(np.isfinite(log_p).all(1)).tolist() == [left]
    np.testing.assert_allclose(np.exp(log_p[left]).sum(), 1, rtol=1e-6)
    assert np.isnan(grader.predict(StudyCubes("s", {}))).all()


def test_the_answer_does_not_depend_on_the_other_cells(grader):
    a, b = (CELL_INDEX[Cell(Condition.RIGHT_SUBARTICULAR, level)] for level in ("l1_l2", "l5_s1"))
    key = SeriesKind.AXIAL_T2
    both = grader.predict(StudyCubes("s", {(a, key): (cube(1),), (b, key): (cube(2),)}))
    one = grader.predict(StudyCubes("s", {(b, key): (cube(2),)}))
    np.testing.assert_allclose(both[b], one[b], atol=1e-5)
    assert not np.allclose(both[a], both[b])


def test_several_series_are_averaged(grader):
    cell = CELL_INDEX[Cell(Condition.LEFT_SUBARTICULAR, "l1_l2")]
    key = (cell, SeriesKind.AXIAL_T2)
    first = grader.predict(StudyCubes("s", {key: (cube(1),)}))[cell]
    second = grader.predict(StudyCubes("s", {key: (cube(2),)}))[cell]
    both = grader.predict(StudyCubes("s", {key: (cube(1), cube(2))}))[cell]
    mean = (first + second) / 2
    np.testing.assert_allclose(both, mean - np.log(np.exp(mean).sum()), atol=1e-5)


def test_a_cell_gets_what_the_cells_say_that_may_show_its_level():
    cells = [CELL_INDEX[Cell(Condition.CANAL, level)] for level in LEVELS]
    p = np.full((25, 3), np.nan)
    p[cells] = [[0.9, 0.1, 0.0], [0.1, 0.9, 0.0], [0.0, 0.2, 0.8], [0.3, 0.3, 0.4], [0.6, 0.2, 0.2]]
    with np.errstate(divide="ignore"):
        log_p = np.log(p)
    numbering = certain_numbering()
    numbering[cells] = (0.1, 0.6, 0.3)
    log_p = np.maximum(log_p, -30)
    found = np.exp(over_numberings(log_p, numbering))
    p = np.exp(log_p)
    assert found[cells[2]] == pytest.approx(0.6 * p[cells[2]] + 0.1 * p[cells[3]] + 0.3 * p[cells[1]])
    assert found[cells[0]] == pytest.approx((0.6 * p[cells[0]] + 0.1 * p[cells[1]]) / 0.7)
    assert np.isnan(found[5:]).all()
    assert found[cells].sum(1) == pytest.approx(1)
    assert over_numberings(log_p, certain_numbering()) == pytest.approx(log_p, nan_ok=True)


@pytest.mark.parametrize("encoder", ["multichannel", "sequence", "3d"])
def test_fused_batch_norms_give_the_same_answer(encoder):
    torch.manual_seed(0)
    network = replace(SETTINGS.network, backbone="test_efficientnet", encoder=encoder)
    model = SeverityModel(network, (VIEW,))
    torch.nn.init.normal_(model.classify.weight, std=1.0)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # as after training, not as made
            torch.nn.init.uniform_(module.weight, 0.5, 2.0)
            torch.nn.init.normal_(module.running_mean, std=0.2)
    one = SeverityGrader(copy.deepcopy(model), SETTINGS, Family.SUBARTICULAR)
    fuse_encoders(model.eval(), (VIEW,))
    assert encoder == "3d" or not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    key = (CELL_INDEX[Cell(Condition.LEFT_SUBARTICULAR, "l1_l2")], SeriesKind.AXIAL_T2)
    cubes = StudyCubes("s", {key: (cube(3),)})
    np.testing.assert_allclose(
        SeverityGrader(model, SETTINGS, Family.SUBARTICULAR).predict(cubes), one.predict(cubes), atol=1e-4
    )


def test_cubes_of_another_size_are_refused(grader):
    key = (CELL_INDEX[Cell(Condition.LEFT_SUBARTICULAR, "l1_l2")], SeriesKind.AXIAL_T2)
    with pytest.raises(ValueError, match="cut it with the settings"):
        grader.predict(StudyCubes("s", {key: (cube(1, pixels=32),)}))
    smaller = SeverityGrader(grader.model, replace(SETTINGS, shift_mm=0.0), Family.SUBARTICULAR)
    assert np.isfinite(smaller.predict(StudyCubes("s", {key: (cube(1, pixels=32),)}))).any()


def test_windows_one_slice_beside_count_by_their_weight_and_by_how_bad_they_look(grader):
    key = (CELL_INDEX[Cell(Condition.LEFT_SUBARTICULAR, "l1_l2")], SeriesKind.AXIAL_T2)
    wide = replace(
        cube(3), pixels=np.random.default_rng(3).random((5, 32, 32)).astype(np.float32), present=np.ones(5, bool)
    )
    answers = {}
    for first in (0, 1, 2):
        plain = SeverityGrader(grader.model, replace(SETTINGS, shift_mm=0.0), Family.SUBARTICULAR)
        part = replace(wide, pixels=wide.pixels[first : first + 3], present=np.ones(3, bool))
        answers[first] = plain.predict(StudyCubes("s", {key: (part,)}))[key[0]]
    p = np.exp([answers[first] for first in (0, 1, 2)])
    for worst in (0.0, 1.5):
        settings = replace(SETTINGS, shift_mm=0.0, beside=0.4, worst=worst)
        found = SeverityGrader(grader.model, settings, Family.SUBARTICULAR).predict(StudyCubes("s", {key: (wide,)}))
        weights = np.array([0.2, 0.6, 0.2]) * np.exp(worst * (p[:, 1] + 2 * p[:, 2]))
        np.testing.assert_allclose(np.exp(found[key[0]]), weights @ p / weights.sum(), atol=1e-5)
        assert not np.allclose(found[key[0]], answers[1], atol=1e-4)
    # What stage two believes of the slices counts instead of the setting, where it says so.
    believed = replace(wide, shares=np.array([0.7, 0.3, 0.0]))
    found = SeverityGrader(grader.model, settings, Family.SUBARTICULAR).predict(StudyCubes("s", {key: (believed,)}))
    weights = np.array([0.7, 0.3, 0.0]) * np.exp(1.5 * (p[:, 1] + 2 * p[:, 2]))
    np.testing.assert_allclose(np.exp(found[key[0]]), weights @ p / weights.sum(), atol=1e-5)
    with pytest.raises(ValueError, match="beside"):
        replace(SETTINGS, beside=1.0)


@pytest.mark.parametrize("kind", [SeriesKind.AXIAL_T2, SeriesKind.SAGITTAL_T2])
def test_flips_average_over_the_mirror_image(kind):
    torch.manual_seed(0)
    view = replace(VIEW, kind=kind)
    settings = replace(SETTINGS, views=(view,), shift_mm=0.0)
    model = SeverityModel(replace(settings.network, encoder="multichannel", head="mean"), (view,))
    torch.nn.init.normal_(model.classify.weight, std=1.0)
    key = (CELL_INDEX[Cell(Condition.CANAL, "l3_l4")], kind)
    plain, flip = (SeverityGrader(model, replace(settings, flip=on), Family.CANAL) for on in (False, True))
    image = cube(1, pixels=32)
    other = replace(image, pixels=np.flip(image.pixels, 2 if kind is SeriesKind.AXIAL_T2 else 0).copy())
    apart = np.stack([plain.predict(StudyCubes("s", {key: (one,)}))[key[0]] for one in (image, other)])
    assert not np.allclose(*apart, atol=1e-3)
    mean = apart.mean(0) - np.log(np.exp(apart.mean(0)).sum())
    for one in (image, other):
        np.testing.assert_allclose(flip.predict(StudyCubes("s", {key: (one,)}))[key[0]], mean, atol=1e-5)
    for settings in (replace(SETTINGS, flip=True), replace(SETTINGS, jitter=JitterSettings(mirror=0.5))):
        with pytest.raises(ValueError, match="the mirror image of subarticular is another side"):
            settings.families(Family.SUBARTICULAR)
