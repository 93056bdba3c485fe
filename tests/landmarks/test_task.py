"""The task of the point networks: augmentation keeps points on their images, scores are millimetres."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from pipeline.landmarks.examples import Targets
from pipeline.landmarks.model import PointModelSettings
from pipeline.landmarks.prepare import store_examples
from pipeline.landmarks.task import LandmarkTrainSettings, PointExamples, PointTask, sample_weights
from pipeline.weights.recipe import AugmentSettings, LoopSettings

SETTINGS = LandmarkTrainSettings(
    model=PointModelSettings("test_efficientnet", "random", channels=2, size_px=64, width=16),
    loop=LoopSettings(epochs=1, batch_size=4, device="cpu"),
)
DOTS = np.array([[20.0, 60.0], [66.0, 30.0]])
"""x, y on a canvas of 96 px, of which the network sees the middle 64."""


def write_examples(folder, count=6, size=96, points=DOTS):
    """A cache file as build_examples writes it: a bright dot under each point."""
    y, x = np.indices((size, size))
    image = sum(np.exp(-((x - px) ** 2 + (y - py) ** 2) / 8) for px, py in points)
    path, channels = folder / "100.safetensors", len(points)
    ones = np.ones((count, channels), np.float32)
    targets = Targets(np.repeat(points[None], count, 0).astype(np.float32), ones, ones, ones)
    store_examples(path, np.repeat(image[None], count, 0), np.full(count, 1.5), targets)
    return pd.DataFrame({"competition": 0, "study_id": "100", "file": str(path), "index": range(count)})


@pytest.fixture
def task(tmp_path):
    table = write_examples(tmp_path, points=np.array([[40.0, 60.0], [60.0, 35.0]]))
    augment = AugmentSettings(
        inversion_share=0.0, bias_share=0.0, ghosting_share=0.0, noise_share=0.0, contrast_share=0
    )
    return PointTask("landmarks", replace(SETTINGS, augment=augment), table, table)


def batch_of(task):
    items = [task.train_set[i] for i in range(len(task.train_set))]
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


def dot_near(image, point, reach=5):
    """Where the brightest dot around a point (x, y) is."""
    y, x = np.indices(image.shape)
    weight = np.where((abs(x - point[0]) < reach) & (abs(y - point[1]) < reach), image, 0) ** 2
    return np.array([(weight * x).sum(), (weight * y).sum()]) / max(weight.sum(), 1e-9)


def assert_dots_under_points(batch):
    seen = 0
    for image, points, weight in zip(batch["image"], batch["points"], batch["point_weight"], strict=True):
        for point, known in zip(points.numpy(), weight, strict=True):
            inside = (point > 5).all() and (point < image.shape[-1] - 6).all()
            if known and inside:
                assert np.abs(dot_near(image[0].numpy(), point) - point).max() < 0.5
                seen += 1
    assert seen >= 8


def test_augmentation_moves_image_and_points_together(task):
    batch = batch_of(task)
    changed = task.augment(batch, torch.Generator().manual_seed(3))
    assert changed["image"].shape == (6, 1, 64, 64)
    moved = (changed["points"] - (batch["points"] - 16)).abs()
    assert moved.max() > 3
    assert_dots_under_points(changed)


def test_exchanged_x_and_y_would_be_noticed(task):
    changed = task.augment(batch_of(task), torch.Generator().manual_seed(3))
    with pytest.raises(AssertionError):
        assert_dots_under_points(changed | {"points": changed["points"].flip(-1)})


def test_the_network_sees_the_middle_of_a_larger_canvas(tmp_path):
    task = PointTask("landmarks", SETTINGS, write_examples(tmp_path), pd.DataFrame())
    framed = task._framed(batch_of(task))
    assert framed["image"].shape == (6, 1, 64, 64)
    assert framed["points"][0].tolist() == [[4.0, 44.0], [50.0, 14.0]]
    outside = replace(SETTINGS, model=replace(SETTINGS.model, size_px=48))
    framed = PointTask("landmarks", outside, task.train_set.table, pd.DataFrame())._framed(batch_of(task))
    assert framed["point_weight"][0].tolist() == [0.0, 1.0]  # the first dot fell off
    assert framed["visible"][0].tolist() == [0.0, 1.0]


def test_evaluation_measures_millimetres(task):
    exact = batch_of(task)["points"] - 16

    class Off(torch.nn.Module):
        def forward(self, images):
            points = exact[: len(images)] + torch.tensor([3.0, 4.0])
            return {"points": points, "visible": torch.ones(len(images), 2)}

    figures = task.evaluate(Off(), torch.device("cpu"))
    assert figures["score"] == figures["median_mm"] == pytest.approx(7.5)  # 5 px of 1.5 mm
    assert figures["within_5mm"] == 0
    assert figures["visible_accuracy"] == 1
    assert task.picture(Off(), torch.device("cpu")).shape[2] == 3


def test_weights_to_go_on_from_are_taken_and_no_other_initial_weights_are_asked_for(tmp_path):
    before = PointTask("landmarks", SETTINGS, write_examples(tmp_path), pd.DataFrame()).model.state_dict()
    save_file(before, tmp_path / "best.safetensors")
    model = replace(SETTINGS.model, initial=str(tmp_path / "gone.pth"))
    further = replace(SETTINGS, model=model, start_from=str(tmp_path / "best.safetensors"))
    after = PointTask("landmarks", further, write_examples(tmp_path), pd.DataFrame()).model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_nothing_held_out_has_no_score(tmp_path):
    task = PointTask("landmarks", SETTINGS, write_examples(tmp_path), pd.DataFrame())
    assert np.isnan(task.evaluate(task.model, torch.device("cpu"))["score"])
    assert task.picture(task.model, torch.device("cpu")) is None


def test_held_out_slices_without_a_marked_point_have_no_score(tmp_path):
    table = write_examples(tmp_path)
    task = PointTask("landmarks", SETTINGS, table, table)
    task.held_out.targets["point_weight"] *= 0.3
    with torch.no_grad():
        assert np.isnan(task.evaluate(task.model, torch.device("cpu"))["score"])


def test_images_are_unpacked_as_they_are_asked_for_and_nothing_is_written(tmp_path):
    examples = PointExamples(write_examples(tmp_path))
    item = examples[2]
    assert item["image"].shape == (1, 96, 96)
    assert item["image"].dtype == torch.float32
    assert torch.equal(examples.fetch(np.array([3, 2]))["image"][1], item["image"])
    assert sum(values.nbytes for values in vars(examples).values() if isinstance(values, np.ndarray)) < 96**2
    assert [path.name for path in tmp_path.iterdir()] == ["100.safetensors"]
    assert examples.name(2).startswith("study 100, example 2 of ")


def test_folders_have_the_shares_they_were_given():
    table = pd.DataFrame({"competition": [0] * 30 + [1] * 10})
    weights = sample_weights(table, (1.0, 3.0))
    assert weights[:30].sum() == pytest.approx(1)
    assert weights[30:].sum() == pytest.approx(3)
    assert sample_weights(table, ()) is None
