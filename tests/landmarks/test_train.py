"""Training of the point networks: examples are made once, folds keep studies apart."""

import argparse
import shutil

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file

from pipeline.__main__ import main
from pipeline.competition import open_competition
from pipeline.config import ConfigError
from pipeline.folds import make_folds
from pipeline.labels import CELL_COLUMNS
from pipeline.landmarks.examples import ExampleSettings
from pipeline.landmarks.prepare import build_examples, read_targets
from pipeline.landmarks.train import held_out_studies, load_train_settings, train
from pipeline.owned import MARK, RefusedError
from pipeline.training.checkpoint import ResumeError
from pipeline.weights.seen import study_hash
from tests.volumes.oracle import SAGITTAL, positions, write_series


@pytest.mark.parametrize("shares", ["[1.0]", "[0.2,0.3,0.5]"])
def test_there_are_as_many_shares_as_folders(shares):
    with pytest.raises(ConfigError, match="shares for 2 folders"):
        load_train_settings("axial", None, [f"data_weights={shares}"], 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six studies of one small sagittal series, with tables; the pixels are the linear oracle."""
    root = tmp_path_factory.mktemp("competition")
    series, coordinates = [], []
    studies = [str(1000 + i) for i in range(6)]
    for study in studies:
        places = positions(SAGITTAL, (5.0, -7.0, 11.0), [-4.0, 0.0, 4.0], (48, 40), (1.5, 1.5))
        write_series(root / "train_images" / study / "7", SAGITTAL, places, shape=(48, 40), spacing=(1.5, 1.5))
        series.append((study, "7", "Sagittal T1"))
        for number, condition in ((1, "Left Neural Foraminal Narrowing"), (3, "Right Neural Foraminal Narrowing")):
            for level, y in (("L1/L2", 10), ("L3/L4", 30)):
                coordinates.append((study, "7", number, condition, level, 12.0, float(y)))
    pd.DataFrame(series, columns=["study_id", "series_id", "series_description"]).to_csv(
        root / "train_series_descriptions.csv", index=False
    )
    names = ["study_id", "series_id", "instance_number", "condition", "level", "x", "y"]
    pd.DataFrame(coordinates, columns=names).to_csv(root / "train_label_coordinates.csv", index=False)
    labels = pd.DataFrame("Normal/Mild", index=pd.Index(studies, name="study_id"), columns=list(CELL_COLUMNS))
    labels.to_csv(root / "train.csv")
    return root


def test_examples_are_decoded_once(folder, tmp_path):
    competition = open_competition(folder, split="train")
    table = build_examples([competition], "sagittal", tmp_path, ExampleSettings(size_px=32))
    assert len(table) == 18
    assert table["study_id"].nunique() == 6
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert len(files) == 12  # of each study the stacks and the examples
    again = build_examples([competition], "sagittal", tmp_path, ExampleSettings(size_px=32))
    assert again.equals(table)
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    build_examples([competition], "sagittal", tmp_path, ExampleSettings(size_px=32, marked_mm=1.0))
    assert len(list(tmp_path.glob("sagittal-*/*/*.safetensors"))) == 12  # other settings, other files
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_a_folder_of_other_things_is_left_as_it_is(folder, tmp_path):
    competition = open_competition(folder, split="train")
    build_examples([competition], "sagittal", tmp_path / "cache", ExampleSettings(size_px=32))
    (made,) = (tmp_path / "cache").glob("sagittal-*/*")
    (made / MARK).unlink()
    (made / "thesis.npz").write_text("years of work")
    before = {path.name: path.read_bytes() for path in made.iterdir()}
    with pytest.raises(RefusedError, match="was not made by this program"):
        build_examples([competition], "sagittal", tmp_path / "cache", ExampleSettings(size_px=32))
    assert {path.name: path.read_bytes() for path in made.iterdir()} == before


def test_other_labels_give_other_examples(folder, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(folder, data)

    def targets():
        table = build_examples(
            [open_competition(data, split="train")], "sagittal", tmp_path, ExampleSettings(size_px=32)
        )
        return np.concatenate([read_targets(file)["points"] for file in table["file"].unique()])

    before = targets()
    labels = pd.read_csv(data / "train_label_coordinates.csv")
    labels.assign(x=labels["x"] + 20.0).to_csv(data / "train_label_coordinates.csv", index=False)
    moved = targets()
    known = (before[..., 0] > 0) & (moved[..., 0] > 0)
    assert known.any()
    assert (moved - before)[known][:, 0] == pytest.approx(np.full(known.sum(), 20 * 1.5 / (48 * 1.5 / 32)), abs=0.01)


def test_a_study_that_is_still_on_its_way_is_read_by_the_next_run(folder, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(folder, data)
    series = data / "train_images" / "1003" / "7"
    files = sorted(series.iterdir())
    whole = [file.read_bytes() for file in files]
    for file in files:
        file.write_bytes(b"")
    competition = open_competition(data, split="train")
    table = build_examples([competition], "sagittal", tmp_path, ExampleSettings(size_px=32))
    assert "1003" not in set(table["study_id"])
    assert "nothing could be read of 1 labelled studies, for example 1003" in capsys.readouterr().out
    for file, content in zip(files, whole, strict=True):
        file.write_bytes(content)
    table = build_examples([competition], "sagittal", tmp_path, ExampleSettings(size_px=32))
    assert (table["study_id"] == "1003").sum() == 3
    assert "nothing" not in capsys.readouterr().out


def test_no_axial_series_gives_no_axial_examples(folder, tmp_path):
    assert build_examples([open_competition(folder, split="train")], "axial", tmp_path, ExampleSettings()).empty


def arguments(folder, tmp_path, fold, *overrides):
    changes = ["model.backbone=test_efficientnet", "model.initial=random", "model.size_px=32", "model.width=8"]
    changes += ["examples.size_px=32", "loop.epochs=1", "loop.batch_size=6", "loop.device=cpu"]
    return argparse.Namespace(
        data=[folder],
        preset=None,
        set=[*changes, *overrides],
        cache=tmp_path / "cache",
        workers=1,
        fold=fold,
        out=tmp_path / "run",
        restart=False,
    )


def test_a_run_leaves_weights_settings_and_the_hashes_of_what_it_saw(folder, tmp_path, capsys):
    assert train("landmarks", arguments(folder, tmp_path, 2)) == 0
    run = tmp_path / "run"
    competition = open_competition(folder, split="train")
    folds = make_folds(competition.labels)
    seen = set((run / "seen.txt").read_text().split())
    assert seen == {study_hash(study) for study in folds.index[folds != 2]}
    assert not seen & {study_hash(study) for study in folds.index[folds == 2]}
    tensors = load_file(run / "last.safetensors")
    assert tensors["heat.weight"].shape == (10, 8, 1, 1)
    assert "test_efficientnet" in (run / "config.yaml").read_text()
    assert list(run.glob("pictures/*"))
    history = pd.read_csv(run / "history.csv")
    assert np.isfinite(history["score"]).all()
    assert "held out (fold 2)" in capsys.readouterr().out


def test_a_run_of_another_fold_is_refused_and_changes_nothing(folder, tmp_path):
    train("landmarks", arguments(folder, tmp_path, 2))
    before = {name: (tmp_path / "run" / name).read_bytes() for name in ("seen.txt", "config.yaml", "complete.ckpt")}
    with pytest.raises(ResumeError, match=r"another run \(studies was"):
        train("landmarks", arguments(folder, tmp_path, 1, "loop.learning_rate=0.001"))
    assert {name: (tmp_path / "run" / name).read_bytes() for name in before} == before


def test_a_study_of_two_folders_is_on_one_side(folder, tmp_path):
    """A folder with some of the same studies has other folds; the study counts where it comes first."""
    part = tmp_path / "part"
    shutil.copytree(folder, part)
    labels = pd.read_csv(part / "train.csv")
    labels.iloc[1:].to_csv(part / "train.csv", index=False)
    given = arguments(folder, tmp_path, 2)
    given.data = [folder, part]
    assert train("landmarks", given) == 0
    folds = make_folds(open_competition(folder, split="train").labels)
    assert set((tmp_path / "run" / "seen.txt").read_text().split()) == {study_hash(s) for s in folds.index[folds != 2]}


def test_a_run_on_everything_holds_nothing_out(folder, tmp_path):
    assert train("landmarks", arguments(folder, tmp_path, None)) == 0
    assert len((tmp_path / "run" / "seen.txt").read_text().split()) == 6
    assert held_out_studies([open_competition(folder, split="train")] * 2, None) == [set(), set()]


def test_a_folder_without_what_is_to_be_learnt_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="no labelled axial slices below"):
        train("axial", arguments(folder, tmp_path, 0))


def test_the_command_line_reaches_the_training(folder, tmp_path):
    given = arguments(folder, tmp_path, 1)
    words = ["train", "landmarks", "--data", str(folder), "--fold", "1", "--out", str(given.out)]
    words += ["--cache", str(given.cache)]
    for change in given.set:
        words += ["--set", change]
    assert main(words) == 0
    assert (given.out / "best.safetensors").is_file()
    assert main(["train", "landmarks", "--data", str(folder), "--set", "model.backbon=x"]) == 2


def test_a_label_that_cannot_be_right_is_no_target_and_is_counted(folder, tmp_path, capsys):
    table = pd.read_csv(folder / "train_label_coordinates.csv")
    own = table.index[(table["study_id"] == table["study_id"].iloc[0]) & (table["instance_number"] == 1)]
    table.loc[own, "y"] = table.loc[own[::-1], "y"].to_numpy()  # L1/L2 below L3/L4
    table.to_csv(folder / "train_label_coordinates.csv", index=False)
    competition = open_competition(folder, split="train")
    examples = build_examples([competition], "sagittal", tmp_path, ExampleSettings(size_px=32))
    assert "1 levels out of order" in capsys.readouterr().out
    weights = {
        study: sum(read_targets(file)["point_weight"].sum() for file in rows["file"].unique())
        for study, rows in examples.groupby("study_id")
    }
    damaged = weights.pop(str(table["study_id"].iloc[0]))
    assert damaged < min(weights.values())
    build_examples([competition], "sagittal", tmp_path, ExampleSettings(size_px=32))
    assert "1 levels out of order" in capsys.readouterr().out, "said again where the examples are taken from the cache"
