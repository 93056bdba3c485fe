"""Training on a small cache: what is drawn, what is dropped, what is learnt, and that a fold is held out."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.cubes import ViewSettings
from pipeline.cubes.cache import Places, WindowCache
from pipeline.labels import CELL_COLUMNS, CELLS, Family, SeriesKind, family_cells
from pipeline.scoring.oof import OofTable, read_oof
from pipeline.severity.data import SeverityData
from pipeline.severity.items import WindowItems, cell_table, draw_weights, dropped_rows
from pipeline.severity.review import taught_grades
from pipeline.severity.settings import JitterSettings, NetworkSettings, SeveritySettings
from pipeline.severity.task import SeverityTask
from pipeline.severity.train import train_fold
from pipeline.severity.windows import cut_windows
from pipeline.stacks.scratch import Scratch
from pipeline.training.ladder import LadderError
from pipeline.training.sampling import Draw, SeededItems
from pipeline.weights.recipe import NO_CHANGE, InPlaneSettings, LoopSettings

VIEW = ViewSettings(SeriesKind.SAGITTAL_T1, size_mm=32, pixels=32, slices=3)
SETTINGS = SeveritySettings(
    views=(VIEW,),
    margin_mm=2.0,
    margin_slices=1,
    network=NetworkSettings(backbone="test_resnet.r160_in1k", encoder="multichannel", head="mean", width=32),
    jitter=JitterSettings(sd_mm=0.5, limit_mm=2),
    loop=LoopSettings(epochs=2, batch_size=16, batches_per_epoch=12, learning_rate=3e-3, device="cpu", threads=1),
    sampling="grade",
)


def cache_of(names, cells, pixels, present):
    """Windows of :data:`VIEW`, each amid a little stack of its own: (studies, cells, slices, rows, cols)."""
    scratch = Scratch(Path(tempfile.gettempdir()), (pixels.size,), np.float16, "a test")
    scratch.values[:] = pixels.ravel()
    count, (rows, cols) = pixels[0, 0].size, pixels.shape[3:]
    first = np.arange(pixels[..., 0, 0, 0].size).reshape(pixels.shape[:2]) * count
    slices = np.where(present, np.arange(pixels.shape[2]), -1).astype(np.int16)
    matrix = np.zeros((*present.shape, 2, 3), np.float32)
    matrix[..., 0, 0] = matrix[..., 1, 1] = 1 / VIEW.spacing_mm
    matrix[..., 2] = (np.array([cols, rows]) - 1) / 2
    shown = present[:, :, present.shape[2] // 2]
    extent = np.broadcast_to([rows, cols], (*first.shape, 2)).copy()
    places = Places(np.where(shown, first, -1), extent, slices, matrix)
    kind = VIEW.kind
    return WindowCache(Family.FORAMINAL, names, cells, (VIEW,), 1, {kind: scratch}, {(kind, "true"): places})


def pixels_of(cache):
    """The pixels of :func:`cache_of`, to be changed."""
    (places,) = cache.places.values()
    return cache.pixels[VIEW.kind].values.reshape(*places.slices.shape, *places.extent[0, 0])


def middles(batch):
    """(B, S) the pixel at the middle of every window, as it was."""
    return cut_windows(batch["around_sagittal_t1"], batch["place_sagittal_t1"], 3, 0.1)[..., 1, 1]


def make_data(studies=20, blank=False, seed=0):
    """Cubes whose middle is as bright as their grade, five folds; one cell has no grade and one no cube."""
    generator = np.random.default_rng(seed)
    cells = family_cells(Family.FORAMINAL)
    names = tuple(f"s{n:02d}" for n in range(studies))
    grades = generator.choice(3, (studies, len(CELLS)), p=[0.6, 0.25, 0.15]).astype(float)
    grades[0, cells[0]] = np.nan
    wide = VIEW.widened(2.0, 1)
    shape = (studies, len(cells), wide.slices, wide.pixels, wide.pixels)
    pixels = generator.normal(0.35, 0.05, shape).astype(np.float16)
    if not blank:
        brighter = 0.4 * np.nan_to_num(grades[:, list(cells)])
        pixels[..., 12:24, 12:24] += brighter[..., None, None, None].astype(np.float16)
    present = np.ones(shape[:3], dtype=bool)
    present[1, 2] = False
    cache = cache_of(names, cells, pixels, present)
    labels = pd.DataFrame(grades, index=pd.Index(names, name="study_id"), columns=list(CELL_COLUMNS))
    folds = pd.Series(np.arange(studies) % 5, index=labels.index, name="fold")
    return SeverityData(cache, cell_table(cache, labels), labels, folds)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def test_every_dropped_cell_has_a_reason():
    counts = dropped_rows(make_data().cells)
    assert list(counts.values()) == [1, 1]


def test_drawing_by_grade_and_by_level():
    table = make_data().cells
    table = table.rows(table.grade >= 0)
    assert draw_weights(table, "uniform") is None
    assert set(draw_weights(table, "grade")[table.grade == 2]) == {4.0}
    balanced = draw_weights(table, "condition_level")
    group = table.cell * 3 + table.grade
    sums = [balanced[group == g].sum() for g in np.unique(group)]
    np.testing.assert_allclose(sums, 1.0)


def test_slices_are_shifted_only_to_where_there_is_one():
    data = make_data()
    pixels_of(data.cache)[:] = np.arange(5, dtype=np.float16)[:, None, None]
    data.cache.places[VIEW.kind, "true"].slices[:, :, 3] = -1
    items = WindowItems(data.cache, data.cells, 0.0, jitter_slices=1.0)
    found = {float(middles(items.fetch(np.array([30])))[0, 1]) for _ in range(40)}
    assert found == {1.0, 2.0}


def test_slices_beside_are_kept_as_far_as_the_cache_has_them():
    data = make_data()
    assert WindowItems(data.cache, data.cells, 0.0, beside=1)[0]["around_sagittal_t1"].shape[0] == 5
    with pytest.raises(ValueError, match="margin of 1 slices, 2 are asked for"):
        WindowItems(data.cache, data.cells, 0.0, beside=2)


def test_batches_have_one_shape_whatever_is_missing():
    data = make_data()
    data.cache.places[VIEW.kind, "true"].slices[3, 3, 1:] = -1
    items = WindowItems(data.cache, data.cells, 2.0)
    whole, gaps = items.fetch(np.array([0, 1])), items.fetch(np.array([12, 33]))
    assert [value.shape for value in whole.values()] == [value.shape for value in gaps.values()]
    assert gaps["present_sagittal_t1"].tolist() == [[False] * 3, [False] * 3]
    assert not gaps["around_sagittal_t1"].any()


def test_a_batch_is_what_its_items_are_and_is_decided_by_the_first_seed():
    data = make_data()
    items = WindowItems(data.cache, data.cells, 2.0)
    batch = items.fetch(np.array([4, 0, 31]))
    for row, index in enumerate((4, 0, 31)):
        for name, value in items[index].items():
            assert torch.equal(batch[name][row], value), name
    seeded = SeededItems(WindowItems(data.cache, data.cells, 2.0, jitter_slices=0.5))
    once, again, other = (
        seeded.__getitems__([Draw(n, seed) for n in range(40)])["around_sagittal_t1"] for seed in (1, 1, 2)
    )
    assert torch.equal(once, again)
    assert not torch.equal(once, other)


def test_a_cell_that_has_both_points_is_taken_at_either_and_without_its_own_at_the_other():
    data = make_data()
    pixels = pixels_of(data.cache)
    pixels[:] = 0
    pixels[:, :, 4] = 1  # of which the windows at predicted points have three
    true = data.cache.places[VIEW.kind, "true"]
    begin = np.arange(true.first.size).reshape(true.first.shape) * pixels[0, 0].size
    guessed = true._replace(first=begin, slices=np.full_like(true.slices, 4))
    other = replace(data.cache, places={**data.cache.places, (VIEW.kind, "predicted"): guessed})
    table = cell_table(other, data.labels)
    values = middles(WindowItems(other, table, 0.0, predicted_share=0.3).fetch(np.arange(len(table)))).amax(1).numpy()
    assert set(values[table.true]) == {0.0, 1.0}
    assert 0.2 < values[table.true].mean() < 0.4
    assert (values[~table.true] == 1).all()


def test_further_families_are_trained_scored_and_reported_at_their_own_cells(tmp_path):
    data = make_data()
    loop = replace(SETTINGS.loop, epochs=5)
    settings = replace(
        SETTINGS, also=(Family.SUBARTICULAR, Family.CANAL), also_weight=1.0, sampling="uniform", loop=loop
    )
    labels = data.labels.copy()
    for condition in ("left_subarticular_stenosis", "right_subarticular_stenosis", "spinal_canal_stenosis"):
        for level in ("l1_l2", "l2_l3", "l3_l4", "l4_l5", "l5_s1"):
            side = "right" if condition.startswith("right") else "left"
            labels[f"{condition}_{level}"] = 2 - labels[f"{side}_neural_foraminal_narrowing_{level}"]
    data = replace(data, labels=labels, cells=cell_table(data.cache, labels, settings.also))
    first = data.cells.rows(np.arange(len(data.cells)) == 1)
    assert first.also.tolist() == [
        [labels.iloc[0][f"left_subarticular_stenosis_{level}"], labels.iloc[0][f"spinal_canal_stenosis_{level}"]]
        for level in ("l2_l3",)
    ]
    table = train_fold(data, Family.FORAMINAL, settings, 1, tmp_path)
    families = np.array([CELLS[cell].condition.family for cell in table.cell])
    for family in (Family.FORAMINAL, Family.SUBARTICULAR):
        mine = (families == family) & (table.grade >= 0)
        assert (table.log_p[mine].argmax(1) == table.grade[mine]).mean() > 0.65, family
    assert (families == Family.CANAL).sum() == 4 * 5, "one row a level: the mean of both sides"
    np.testing.assert_allclose(np.exp(table.log_p).sum(1), 1, atol=1e-6)
    result = json.loads((tmp_path / "result.json").read_text())
    assert set(result["further"]) == {"subarticular", "canal"}


def test_the_corners_of_a_turned_window_are_seen():
    turned = replace(SETTINGS, jitter=JitterSettings(rotation=30, resize=0.25))
    assert SETTINGS.seen_beyond_mm(Family.FORAMINAL) == SETTINGS.margin_mm
    corner = torch.tensor([[0.75**0.5, -0.5], [0.5, 0.75**0.5]]) @ torch.tensor([16.0, 16.0]) * 1.25
    assert turned.seen_beyond_mm(Family.FORAMINAL) == pytest.approx(2.0 + float(corner.abs().max()) - 16.0, abs=1e-4)
    data = make_data()
    near, far = (WindowItems(data.cache, data.cells, s.seen_beyond_mm(Family.FORAMINAL)) for s in (SETTINGS, turned))
    assert far.sides[0] - near.sides[0] == 2 * 12


def test_the_ladder_climbs_on_the_device_that_trains(tmp_path, monkeypatch):
    """The device without memory stands in for a GPU."""

    def review(task, *_):
        raise LadderError(str({parameter.device.type for parameter in task.model.parameters()}))

    monkeypatch.setattr("pipeline.severity.train.working_gpu", lambda: True)
    monkeypatch.setattr("pipeline.severity.train.own_gpu", lambda: torch.device("meta"))
    monkeypatch.setattr("pipeline.severity.train.review", review)
    settings = replace(SETTINGS, loop=replace(SETTINGS.loop, device="auto"))
    with pytest.raises(LadderError, match=r"^\{'meta'\}$"):
        train_fold(make_data(), Family.FORAMINAL, settings, 1, tmp_path)


def test_evaluation_cuts_its_windows_where_the_network_is(tmp_path):
    """The device without memory stands in for a GPU: nothing can be computed there on the CPU first."""
    data = make_data()
    settings = replace(SETTINGS, shift_mm=1.0, beside=0.3)
    task = SeverityTask(Family.FORAMINAL, settings, data.cache, data.cells, data.cells, tmp_path, "test")
    batches = list(task.exact_windows(data.cells, torch.device("meta")))
    assert {value.device.type for batch in batches for value in batch.values()} == {"meta"}
    (wide,) = settings.inference_views(Family.FORAMINAL)
    assert [batch["pixels_sagittal_t1"].shape[1:] for batch in batches] == [(5, wide.pixels, wide.pixels)]


def test_what_a_classifier_cannot_grade_besides_is_refused():
    with pytest.raises(ValueError, match="cannot grade that besides"):
        replace(SETTINGS, also=(Family.FORAMINAL,)).families(Family.FORAMINAL)
    with pytest.raises(ValueError, match="cannot grade that besides"):
        replace(SETTINGS, also=(Family.FORAMINAL,)).families(Family.CANAL)
    with pytest.raises(ValueError, match="twice"):
        replace(SETTINGS, also=(Family.CANAL, Family.CANAL))


def test_half_of_the_canals_training_windows_are_mirrored_all_views_of_a_cell_alike(tmp_path):
    data = make_data()
    still = JitterSettings(sd_mm=0, turn_degrees=0, scale=0, slice_drop=0, slice_share=0, mirror=0.5)
    settings = replace(SETTINGS, jitter=still, augment=NO_CHANGE)
    rows = data.cells.rows(data.cells.true)
    task = SeverityTask(Family.CANAL, settings, data.cache, rows, rows, tmp_path, "test")
    batch = task.train_set.fetch(np.arange(40))
    plain = SeverityTask(
        Family.CANAL, replace(settings, jitter=replace(still, mirror=0)), data.cache, rows, rows, tmp_path, "test"
    ).augment(dict(batch), torch.Generator().manual_seed(1))["pixels_sagittal_t1"]
    found = task.augment(dict(batch), torch.Generator().manual_seed(1))["pixels_sagittal_t1"]
    mirrored = torch.tensor([bool(torch.equal(one, other.flip(0))) for one, other in zip(found, plain, strict=True)])
    same = torch.tensor([bool(torch.equal(one, other)) for one, other in zip(found, plain, strict=True)])
    assert (mirrored ^ same).all()
    assert 10 < int(mirrored.sum()) < 30


def test_labels_that_are_ruled_out_or_given_change_what_is_trained_on_and_not_what_is_scored(tmp_path, monkeypatch):
    data, seen = make_data(), {}
    (bare,) = np.flatnonzero(data.cells.grade < 0)[[-1]]
    assert not data.in_fold(1)[bare]
    taught = data.cells.grade.copy()
    taught[::10] = -1
    taught[bare] = 2
    monkeypatch.setattr("pipeline.severity.train.review", lambda task, data, fold, out, told: seen.update(told))

    def fit(task, *_, **__):
        seen.update(training=task.train_table.grade.tolist(), held_out=task.held_out.grade.tolist())
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.severity.train.fit", fit)
    with pytest.raises(KeyboardInterrupt):
        train_fold(data, Family.FORAMINAL, SETTINGS, 1, tmp_path, taught=taught)
    held, own = data.in_fold(1), data.cells.grade
    assert seen == {
        "label ruled out": int(((taught < 0) & ~held & (own >= 0) & data.cells.true).sum()),
        "pseudo-label": 1,
        "training": taught[(taught >= 0) & ~held & data.cells.true].tolist(),
        "held_out": own[(own >= 0) & held & data.cells.true].tolist(),
    }


def test_in_plane_changes_are_the_same_for_all_slices_in_float_and_decided_by_the_seed():
    data = make_data()
    array = pixels_of(data.cache)
    array[:] = np.random.default_rng(0).uniform(-0.4, 1.4, (*array.shape[:2], 1, *array.shape[3:]))
    settings = InPlaneSettings(affine_share=1, holes_share=0.5, blur_share=0.5, gain_share=1)
    items = SeededItems(WindowItems(data.cache, data.cells, 0.0, in_plane=settings))
    pixels = [items[Draw(3, seed)]["around_sagittal_t1"] for seed in (1, 1, 2)]
    assert pixels[0].is_floating_point()
    assert (pixels[0] - pixels[0][:1]).abs().max() < 1e-3, "every slice alike"
    assert len(np.unique(pixels[0][0])) > 256, "no 8-bit steps"
    assert np.array_equal(pixels[0], pixels[1])
    assert not np.array_equal(pixels[0], pixels[2])


def test_in_plane_changes_are_for_training_alone(tmp_path):
    data = make_data()
    keep = (data.cells.grade >= 0) & data.cells.true
    cells = data.cells.rows(keep)
    settings = replace(SETTINGS, in_plane=InPlaneSettings(affine_share=1))
    task = SeverityTask(Family.FORAMINAL, settings, data.cache, cells, cells, tmp_path, "test")
    plain = SeverityTask(Family.FORAMINAL, SETTINGS, data.cache, cells, cells, tmp_path, "test")
    assert not np.array_equal(task.train_set[0]["around_sagittal_t1"], plain.train_set[0]["around_sagittal_t1"])
    np.testing.assert_array_equal(*(t.predict(t.model.eval(), torch.device("cpu"), cells) for t in (task, plain)))


def test_a_fold_learns_and_is_reported(tmp_path, capsys):
    data = make_data()
    table = train_fold(data, Family.FORAMINAL, SETTINGS, 1, tmp_path)
    assert {str(name) for name in table.study_id} == {"s01", "s06", "s11", "s16"}
    known = table.grade >= 0
    assert (table.log_p[known].argmax(1) == table.grade[known]).mean() > 0.85
    back = read_oof(tmp_path / "oof.csv")
    np.testing.assert_allclose(back.log_p, table.log_p, atol=1e-4)
    for name in (
        "best.safetensors",
        "result.json",
        "review.json",
        "seen.txt",
        "augmented.png",
        "figures/last.txt",
    ):
        assert (tmp_path / name).exists(), name
    assert len((tmp_path / "seen.txt").read_text().split()) == 16
    said = capsys.readouterr().out
    assert "sanity ladder passed" in said
    assert "studies per fold" in said

    gone = replace(SETTINGS.network, initial=str(tmp_path / "gone.pth"))  # not asked for where weights are given
    again = replace(SETTINGS, start_from=str(tmp_path / "best.safetensors"), loop=replace(SETTINGS.loop, epochs=1))
    again = replace(again, network=gone)
    further = train_fold(data, Family.FORAMINAL, again, 1, Path(tmp_path / "more"))
    before, after = (np.exp(t.log_p[known, t.grade[known]]).mean() for t in (table, further))
    assert after > before


def test_images_that_say_nothing_break_the_ladder_or_stay_near_the_prior(tmp_path):
    data = make_data(blank=True)
    pixels_of(data.cache)[:] = 0
    with pytest.raises((LadderError, ValueError), match=r"constant|one batch|same prediction"):
        train_fold(
            data, Family.FORAMINAL, replace(SETTINGS, network=replace(SETTINGS.network, level_width=0)), 0, tmp_path
        )


def test_a_network_that_says_the_same_of_every_cell_ends_the_run(tmp_path, capsys):
    data = make_data()
    cells = data.cells.rows((data.cells.grade >= 0) & data.cells.true)
    task = SeverityTask(Family.FORAMINAL, SETTINGS, data.cache, cells, cells, tmp_path, "test")
    with torch.no_grad():
        torch.nn.init.normal_(task.model.classify.weight, std=1e-3)
    task.evaluate(task.model.eval(), torch.device("cpu"))
    assert "is the likeliest grade of all 198 held-out cells" in capsys.readouterr().out
    with torch.no_grad():
        task.model.classify.weight.zero_()
    with pytest.raises(ValueError, match="the same prediction for all 198 held-out cells; nothing was learnt"):
        task.evaluate(task.model.eval(), torch.device("cpu"))


def test_a_second_round_loses_labels_that_are_ruled_out_and_gains_those_that_are_sure_and_says_so(capsys):
    data = make_data()
    cells = data.cells
    log_p = np.log(np.full((len(cells), 3), 0.05))
    log_p[np.arange(len(cells)), np.maximum(cells.grade, 0)] = np.log(0.9)
    wrong = 25
    log_p[wrong] = np.log([0.05, 0.05, 0.05])
    log_p[wrong, (cells.grade[wrong] + 1) % 3] = np.log(0.9)
    table = OofTable(
        np.array([data.cache.study_ids[s] for s in cells.study]),
        np.array([data.cache.cells[c] for c in cells.cell]),
        cells.study % 5,
        cells.grade,
        cells.predicted,
        log_p,
    )
    taught = taught_grades(data, table, replace(SETTINGS, label_noise=0.8))
    assert np.flatnonzero(taught != cells.grade).tolist() == [wrong]
    assert taught[wrong] == -1
    assert "1 of 200 cells removed" in capsys.readouterr().out
    assert np.array_equal(taught_grades(data, table, SETTINGS), cells.grade)
    bare = replace(cells, grade=np.where(np.arange(len(cells)) < 3, -1, cells.grade))
    log_p[0], log_p[1] = np.log([0.03, 0.04, 0.93]), np.nan
    taught = taught_grades(replace(data, cells=bare), table, replace(SETTINGS, pseudo_labels=0.92))
    assert np.flatnonzero(taught != bare.grade).tolist() == [0]
    assert taught[0] == 2
    assert f"1 of {(bare.grade < 0).sum()} cells without a grade get one" in capsys.readouterr().out
