"""Items of several cells: the cells of a level or a study go through a network together and are graded each."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.cubes import Cube, StudyCubes
from pipeline.labels import CELL_COLUMNS, CELL_INDEX, CELLS, LEVELS, MIRROR, Cell, Condition, Family, SeriesKind
from pipeline.severity.data import SeverityData
from pipeline.severity.heads import Neighbours
from pipeline.severity.items import cell_table
from pipeline.severity.model import SeverityModel
from pipeline.severity.plan import make_plan
from pipeline.severity.predict import SeverityGrader, member_config
from pipeline.severity.recipes import Recipe
from pipeline.severity.settings import JitterSettings, SeveritySettings
from pipeline.severity.space import Space
from pipeline.severity.task import SeverityTask
from pipeline.severity.train import train_fold
from pipeline.weights.recipe import NO_CHANGE
from tests.severity.test_task import SETTINGS, VIEW, cache_of

ALL = (Family.FORAMINAL, Family.SUBARTICULAR)
LEVEL = replace(SETTINGS, item="level", also=ALL, also_weight=1.0, sampling="uniform")
STUDY = replace(LEVEL, item="study")
STILL = JitterSettings(sd_mm=0, turn_degrees=0, scale=0, slice_drop=0, slice_share=0)
KIND = VIEW.kind


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def make_data(settings, bright, studies=20, seed=0):
    """Windows of all 25 cells, bright in the middle by the grade of the cell that ``bright`` gives for each."""
    generator = np.random.default_rng(seed)
    cells = settings.cells(Family.CANAL)
    names = tuple(f"s{n:02d}" for n in range(studies))
    grades = generator.choice(3, (studies, len(CELLS)), p=[0.5, 0.3, 0.2]).astype(float)
    wide = VIEW.widened(2.0, 1)
    shape = (studies, len(cells), wide.slices, wide.pixels, wide.pixels)
    pixels = generator.normal(0.35, 0.05, shape).astype(np.float16)
    shown = 0.4 * grades[:, [bright(cell) for cell in cells]]
    pixels[..., 12:24, 12:24] += shown[..., None, None, None].astype(np.float16)
    cache = cache_of(names, cells, pixels, np.ones(shape[:3], dtype=bool))
    labels = pd.DataFrame(grades, index=pd.Index(names, name="study_id"), columns=list(CELL_COLUMNS))
    folds = pd.Series(np.arange(studies) % 5, index=labels.index, name="fold")
    return SeverityData(cache, cell_table(cache, labels), labels, folds)


def task_of(settings, data, folder):
    return SeverityTask(Family.CANAL, settings, data.cache, data.cells, data.cells, folder, "test")


def network(settings):
    torch.manual_seed(0)
    model = SeverityModel.of(settings, Family.CANAL)
    torch.nn.init.normal_(model.classify.weight, std=1.0)
    return model.eval()


def rows_of(settings, items=2, seed=0):
    """Input of a network: pixels, masks and levels of some items."""
    count = items * len(settings.one_item(Family.CANAL))
    pixels = torch.rand(count, VIEW.slices, VIEW.pixels, VIEW.pixels, generator=torch.Generator().manual_seed(seed))
    return (
        {"sagittal_t1": pixels},
        {"sagittal_t1": torch.ones(count, VIEW.slices, dtype=torch.bool)},
        torch.arange(count) % 5,
    )


def cubes_of(seed=0, without=()):
    """A cube of every cell but some."""
    generator = np.random.default_rng(seed)
    unknown, axis = np.full(3, np.nan), np.eye(3)
    cubes = {}
    for cell in range(len(CELLS)):
        pixels = generator.random((VIEW.slices, VIEW.pixels, VIEW.pixels)).astype(np.float32)
        if cell not in without:
            present = np.ones(VIEW.slices, bool)
            cubes[cell, KIND] = (Cube(pixels, present, np.zeros(3), axis[0], axis[1], 1.0, 0.0, "1", unknown),)
    return StudyCubes("s", cubes)


def test_an_item_holds_the_cells_of_a_level_or_of_all_five_on_both_sides():
    first = [CELLS[cell].column for cell in LEVEL.one_item(Family.CANAL)]
    assert first == [f"{condition}_l1_l2" for condition in Condition]
    cells = LEVEL.cells(Family.CANAL)
    assert sorted(cells) == list(range(25))
    assert [CELLS[cell].level for cell in cells] == [level for level in LEVELS for _ in range(5)]
    assert (len(STUDY.one_item(Family.CANAL)), STUDY.cells(Family.CANAL)) == (25, cells)
    for settings in (LEVEL, STUDY):
        item, partners = settings.one_item(Family.CANAL), settings.partners(Family.CANAL)
        assert [item[partner] for partner in partners] == [MIRROR[cell] for cell in item]
    assert SETTINGS.one_item(Family.FORAMINAL) == (CELL_INDEX[Cell(Condition.LEFT_FORAMINAL, "l1_l2")],)
    assert replace(LEVEL, also=()).cells(Family.SUBARTICULAR)[:2] == (15, 20)


def test_what_items_cannot_have_is_refused():
    with pytest.raises(ValueError, match="sampling 'grade' draws cells one by one"):
        replace(LEVEL, sampling="grade")
    assert LEVEL.families(Family.CANAL) == (Family.CANAL, *ALL), "the canal's can hold the sides"
    assert replace(LEVEL, flip=True, also=()).families(Family.FORAMINAL) == (Family.FORAMINAL,)


@pytest.mark.parametrize("settings", [LEVEL, STUDY], ids=["level", "study"])
def test_every_cell_sees_the_others_of_its_item_and_no_other_item(settings):
    model, (pixels, present, level) = network(settings), rows_of(settings)
    size = len(settings.one_item(Family.CANAL))
    before = model(pixels, present, level)
    assert before.shape == (2 * size, 1, 3)
    pixels["sagittal_t1"][1] += 1.0
    changed = (model(pixels, present, level) - before).abs().amax((1, 2)) > 1e-4
    assert changed.tolist() == [True] * size + [False] * size


def test_each_cell_is_graded_by_its_own_family_s_part_of_the_last_layer():
    model, given = network(LEVEL), rows_of(LEVEL)
    before = model(*given)
    with torch.no_grad():
        model.classify.bias[3:6] += 1.0
    changed = (model(*given) - before).abs().amax((1, 2)) > 0.5
    assert changed.tolist() == [False, True, True, False, False] * 2, "both foramina"


def test_a_cell_that_no_series_shows_has_no_say(monkeypatch):
    model, (pixels, present, level) = network(LEVEL), rows_of(LEVEL)
    present["sagittal_t1"][1] = False
    before = model(pixels, present, level)
    pixels["sagittal_t1"][1] = 5.0
    torch.testing.assert_close(model(pixels, present, level), before)
    present["sagittal_t1"][5:] = False
    assert model(pixels, present, level).isfinite().all(), "an item without anything"


def test_a_view_is_dropped_of_all_cells_of_an_item_but_never_the_last_of_a_cell():
    other = replace(VIEW, kind=SeriesKind.AXIAL_T2)
    settings = replace(LEVEL, views=(VIEW, other), network=replace(LEVEL.network, view_drop=0.5))
    model = SeverityModel.of(settings, Family.CANAL).train()
    masks = [torch.ones(200, 3, dtype=torch.bool), torch.ones(200, 3, dtype=torch.bool)]
    masks[1][::5] = False  # the canal's
    first, second = (mask.any(1).view(40, 5) for mask in model._kept(masks))
    assert first[:, 0].all()
    assert (first[:, 1:] | second[:, 1:]).all()
    for dropped in (first[:, 1:], second[:, 1:]):
        assert ((dropped.all(1)) | (~dropped).all(1)).all()
        assert 0 < int(dropped.all(1).sum()) < 40


@pytest.mark.parametrize("levels", [1, 5])
def test_neighbours_learn_to_look_at_the_other_side(levels):
    """Each token shows the grade of the other side of its level; alone a cell could only be guessed."""
    torch.manual_seed(0)
    partner = torch.arange(5 * levels).view(levels, 5)[:, [0, 2, 1, 4, 3]].flatten()
    layers, shown, classify = Neighbours(64, levels, 5), torch.randn(3, 64), torch.nn.Linear(64, 3)
    optimizer = torch.optim.AdamW([*layers.parameters(), *classify.parameters()], lr=2e-3)
    losses = []
    for _ in range(200):
        grades = torch.randint(3, (80 // len(partner), len(partner)))
        tokens = (shown[grades] + 0.3 * torch.randn(*grades.shape, 64)).flatten(0, 1)
        logits = classify(layers(tokens, torch.ones(len(tokens), dtype=torch.bool)))
        loss = torch.nn.functional.cross_entropy(logits, grades[:, partner].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[:5]) > 0.9
    assert np.mean(losses[-20:]) < 0.2


@pytest.mark.parametrize("settings", [LEVEL, STUDY], ids=["level", "study"])
def test_a_network_of_items_is_trained_scored_and_reported(settings, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.training.loop.draw_curves", lambda *_: None)
    monkeypatch.setattr("pipeline.severity.task.confusion_chart", lambda *_: None)
    loop = replace(settings.loop, epochs=3, batches_per_epoch=20, evaluate_every=3)
    loop = replace(loop, batch_size=10 if settings is LEVEL else 2)
    settings = replace(settings, loop=loop, mix=replace(settings.mix, kind="mixup", share=0.3))
    table = train_fold(make_data(settings, lambda cell: cell), Family.CANAL, settings, 1, tmp_path)
    losses = pd.read_csv(tmp_path / "history.csv")["loss"].to_numpy()
    assert losses[-1] < 0.8 * losses[0]
    right = table.log_p.argmax(1) == table.grade
    families = np.array([CELLS[cell].condition.family for cell in table.cell])
    assert len(table.cell) == 4 * 25
    for family in Family:
        assert right[families == family].mean() > 0.7, family
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["cells"], set(result["further"])) == (4 * 5, {"foraminal", "subarticular"})


def test_cells_without_a_grade_are_shown_and_not_learnt_from(tmp_path, monkeypatch):
    data = make_data(LEVEL, lambda cell: cell)
    data.labels.iloc[0, :] = np.nan
    data.labels.iloc[0, 0] = 2.0
    data = replace(data, cells=cell_table(data.cache, data.labels))
    taught = data.cells.grade.copy()
    taught[25 : 25 + 5] = -1
    seen = {}
    monkeypatch.setattr("pipeline.severity.train.review", lambda *_: None)

    def fit(task, *_, **__):
        seen.update(table=task.train_table, batch=task.train_set.fetch(np.array([0])))
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.severity.train.fit", fit)
    with pytest.raises(KeyboardInterrupt):
        train_fold(data, Family.CANAL, LEVEL, 4, tmp_path, taught=taught)
    assert len(seen["table"]) == 16 * 25 - 4 * 5 - 5, "levels without any grade to learn from are left out"
    assert seen["batch"]["grade"].tolist() == [[2, -1, -1, -1, -1]]
    assert seen["batch"]["present_sagittal_t1"].shape == (1, 5, 3)
    assert seen["batch"]["present_sagittal_t1"].all()


def test_a_cell_that_is_not_shown_learns_nothing_of_the_one_that_is_mixed_into_it(tmp_path):
    settings = replace(LEVEL, jitter=STILL, mix=replace(LEVEL.mix, kind="mixup", share=1.0))
    data = make_data(settings, lambda cell: cell)
    hidden = data.cells.study % 2 == 0
    hidden &= np.array(data.cache.cells)[data.cells.cell] < 5  # the canal's of every second study
    data.cache.places[KIND, "true"].slices[data.cells.study[hidden], data.cells.cell[hidden]] = -1
    data.cache.places[KIND, "true"].first[data.cells.study[hidden], data.cells.cell[hidden]] = -1
    data = replace(data, cells=cell_table(data.cache, data.labels))
    task = task_of(settings, replace(data, cells=data.cells.items(data.cells.true, 5)), tmp_path)
    batch = task.augment(task.train_set.fetch(np.arange(40)), torch.Generator().manual_seed(0))
    absent = ~batch["present_sagittal_t1"].any(-1)
    assert (batch["other_grade"][absent] >= 0).any()
    before, _ = task.loss(task.model.eval(), batch)
    batch["other_grade"] = torch.where(absent, (batch["other_grade"] + 1) % 3, batch["other_grade"])
    torch.testing.assert_close(task.loss(task.model, batch)[0], before)


@pytest.mark.parametrize("settings", [LEVEL, STUDY], ids=["level", "study"])
def test_the_mirror_image_of_a_patient_has_its_sides_and_their_grades_exchanged(settings, tmp_path):
    settings = replace(settings, jitter=STILL, augment=NO_CHANGE)
    data = make_data(settings, lambda cell: cell)
    plain = task_of(settings, data, tmp_path)
    mirrored = task_of(replace(settings, jitter=replace(STILL, mirror=1.0)), data, tmp_path)
    batch = plain.train_set.fetch(np.arange(3))
    one, other = (task.augment(dict(batch), torch.Generator().manual_seed(1)) for task in (plain, mirrored))
    partners = list(settings.partners(Family.CANAL))
    assert torch.equal(other["grade"], one["grade"][:, partners])
    assert torch.equal(other["level"], one["level"])
    before, after = one["pixels_sagittal_t1"], other["pixels_sagittal_t1"]
    for place, partner in enumerate(partners):
        expected = before[:, place].flip(1) if partner == place else before[:, partner]
        assert torch.equal(after[:, place], expected)


def test_flips_average_over_the_mirror_image_of_the_patient():
    views = (replace(VIEW, kind=SeriesKind.AXIAL_T2),)
    plain, flip = (replace(LEVEL, views=views, flip=on) for on in (False, True))
    model = network(plain)
    image = cubes_of()
    axial = SeriesKind.AXIAL_T2
    here = {(cell, axial): cubes for (cell, _), cubes in image.cubes.items()}
    there = {}
    for (cell, kind), (cube,) in here.items():
        canal = MIRROR[cell] == cell
        there[MIRROR[cell], kind] = (replace(cube, pixels=cube.pixels[..., ::-1].copy()) if canal else cube,)
    graders = [SeverityGrader(model, settings, Family.CANAL) for settings in (plain, flip)]
    first, second = (graders[0].predict(StudyCubes("s", cubes)) for cubes in (here, there))
    mean = (first + second[list(MIRROR)]) / 2
    assert not np.allclose(first, mean, atol=1e-3)
    found = graders[1].predict(StudyCubes("s", here))
    np.testing.assert_allclose(found, mean - np.log(np.exp(mean).sum(1, keepdims=True)), atol=1e-5)


@pytest.mark.parametrize("settings", [LEVEL, STUDY], ids=["level", "study"])
def test_cells_that_no_series_shows_get_no_grade_and_the_others_theirs(settings):
    grader = SeverityGrader(network(settings), settings, Family.CANAL)
    whole = grader.predict(cubes_of())
    assert np.isfinite(whole).all()
    np.testing.assert_allclose(np.exp(whole).sum(1), 1, atol=1e-6)
    without = [*range(15, 25), CELL_INDEX[Cell(Condition.CANAL, "l4_l5")]]
    some = grader.predict(cubes_of(without=without))
    assert np.flatnonzero(np.isnan(some).any(1)).tolist() == sorted(without)
    levels = [cell for cell in range(25) if cell % 5 == 2]
    level = grader.predict(cubes_of(without=[cell for cell in range(25) if cell not in levels]))
    assert np.flatnonzero(np.isfinite(level).all(1)).tolist() == levels
    assert np.allclose(level[levels], whole[levels], atol=1e-5) == (settings is LEVEL), "a level does not see others"


def test_the_manifest_names_the_cubes_of_every_family_of_an_item():
    cubes = member_config(LEVEL, Family.CANAL)["cubes"]
    assert cubes["canal"] == cubes["foraminal"] == cubes["subarticular"]
    assert cubes["canal"][0]["size_mm"] == VIEW.size_mm
    alone = member_config(SETTINGS, Family.FORAMINAL)["cubes"]
    assert alone["canal"] == member_config(SeveritySettings(), Family.FORAMINAL)["cubes"]["canal"]


def test_the_plan_measures_items_and_counts_the_slices_of_all_their_cells():
    recipe = Recipe(Family.CANAL, "level", replace(LEVEL, loop=replace(LEVEL.loop, batches_per_epoch=None, epochs=1)))
    space = Space.of([], {}, [recipe], 100)
    alone = Space.of([], {}, [replace(recipe, settings=replace(recipe.settings, also=()))], 100)
    assert alone.unpacked < space.unpacked
    *_, step = make_plan(space, {}, [recipe], 1)["steps"]
    assert (step["items"], step["steps"]) == (16, 100 * 5 * 4 // 5 // 16)
    assert step["images_per_s"] > 0
