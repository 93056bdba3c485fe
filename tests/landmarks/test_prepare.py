"""The files of the point networks' examples, and what is prepared of which study."""

from dataclasses import fields

import numpy as np
import pandas as pd
import pytest

from pipeline.competition import open_competition
from pipeline.landmarks.examples import ExampleSettings, Targets
from pipeline.landmarks.prepare import ExamplesOf, build_examples, prepare, read_images, read_targets, store_examples
from pipeline.stacks import read_stacks
from tests.volumes.oracle import SAGITTAL, positions, write_series

COLUMNS = ["study_id", "series_id", "instance_number", "condition", "level", "x", "y"]


def test_examples_come_back_one_by_one_and_twice_as_finely_as_a_network_in_bf16_sees_them(tmp_path):
    rng = np.random.default_rng(0)
    images = np.repeat(rng.uniform(-0.5, 1.5, (3, 20, 20)), 2, 0)
    images[1::2] = images[::2, :, ::-1]
    targets = Targets(*(rng.random((6, 1, 2)[: 3 if name == "points" else 2]) for name in ("points", "a", "b", "c")))
    store_examples(tmp_path / "one", images, np.full(6, 1.5), targets, mirrored=True)
    back, values = read_images(tmp_path / "one", range(6)), read_targets(tmp_path / "one")
    assert back.dtype == np.float16
    assert np.abs(back - images).max() < 0.0015
    assert np.array_equal(read_images(tmp_path / "one", [5, 2]), back[[5, 2]])
    for field in fields(Targets):
        assert np.array_equal(values[field.name], getattr(targets, field.name))
    store_examples(tmp_path / "all", images, np.full(6, 1.5), targets)
    assert np.array_equal(read_images(tmp_path / "all", range(6)), back)
    assert (tmp_path / "one").stat().st_size < (tmp_path / "all").stat().st_size


def test_examples_that_are_damaged_are_named(tmp_path):
    (tmp_path / "one.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"one\.safetensors: a damaged cache .* remove the file"):
        read_images(tmp_path / "one.safetensors", [0])
    targets = Targets.blank(1, 1)
    store_examples(tmp_path / "two.safetensors", np.zeros((1, 8, 8)), np.ones(1), targets)
    with pytest.raises(ValueError, match=r"two\.safetensors: a damaged cache"):
        read_images(tmp_path / "two.safetensors", [1])


@pytest.fixture
def folder(tmp_path):
    """Two studies of one sagittal series each; only the first is labelled."""
    root = tmp_path / "data"
    for study in ("1", "2"):
        places = positions(SAGITTAL, (0, 0, 0), np.arange(5) * 4.0, (96, 80), (1.0, 1.0))
        write_series(root / "train_images" / study / "7", SAGITTAL, places, shape=(96, 80), spacing=(1.0, 1.0))
    rows = [(study, "7", "Sagittal T1") for study in ("1", "2")]
    names = ["study_id", "series_id", "series_description"]
    pd.DataFrame(rows, columns=names).to_csv(root / "train_series_descriptions.csv", index=False)
    labels = [("1", "7", 2, "Spinal Canal Stenosis", level, 40.0, y) for level, y in (("L1/L2", 20.0), ("L2/L3", 50.0))]
    pd.DataFrame(labels, columns=COLUMNS).to_csv(root / "train_label_coordinates.csv", index=False)
    return root


def test_a_study_without_labels_is_kept_around_its_predicted_points_and_teaches_no_localiser(folder, tmp_path):
    competition = open_competition(folder, split="train")
    examples = [ExamplesOf("sagittal", ExampleSettings(size_px=32))]
    assert [files.ref.study_id for files in prepare([competition], tmp_path / "cache", examples)] == ["1"]
    point = ("2", "7", 2, "Spinal Canal Stenosis", "L3/L4", 40.0, 48.0, 8.0, 40.0, -48.0)
    predicted = pd.DataFrame([point], columns=[*COLUMNS, "x_mm", "y_mm", "z_mm"])
    first, second = prepare([competition], tmp_path / "cache", examples, predicted)
    assert (first.labelled, second.labelled) == (True, False)
    assert len(read_stacks(first.stacks).points) == 2
    assert len(read_stacks(second.stacks).stacks) == 1
    assert read_stacks(second.stacks).points.empty
    assert (first.examples[0].exists(), second.examples[0].exists()) == (True, False)
    assert set(build_examples([competition], "sagittal", tmp_path / "cache", examples[0].settings)["study_id"]) == {"1"}
