"""``train all``: the order of its steps, what it leaves out, and whose settings go where; nothing is trained."""

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from pipeline.__main__ import main
from pipeline.commands import train_all, train_graders
from pipeline.labels import FAMILY_COLUMNS, Family
from pipeline.landmarks.errors import EVALUATION
from pipeline.owned import claim
from pipeline.scoring.oof import OofTable, read_oof, write_oof
from pipeline.training.folder import claim_run
from pipeline.weights.manifest import Manifest, Member, WeightsError

TITLES = ["spinal_canal_stenosis", "left_neural_foraminal_narrowing", "right_subarticular_stenosis"]


@pytest.fixture
def commands(monkeypatch):
    """The steps that are taken, each of which succeeds; ``evaluate`` leaves errors of canal points."""
    steps, stored, found, skill = [], [], list(TITLES), dict.fromkeys(Family, 2.0)

    def evaluate(data, weights, out, workers):
        steps.append(("evaluate", SimpleNamespace(data=data, weights=weights, workers=workers)))
        claim(out, EVALUATION)
        row = {"study_id": "1", "series_id": "2", "in_plane_mm": 1.5, "slices": 0.0}
        pd.DataFrame([{**row, "condition": title} for title in found]).to_csv(out / "errors.csv", index=False)

    def fit_and_save(weights, data, tables, fixed, overrides):
        told = SimpleNamespace(weights=weights, data=data, tables=tables, fixed=fixed, set=overrides)
        steps.append(("ensemble", told))

    monkeypatch.setattr(train_all, "train_points", lambda task, options: steps.append((task, options)) or 0)

    def train_classifier(options):
        steps.append((options.out.relative_to(options.out.parents[options.oof is not None]).as_posix(), options))
        family = Family(options.condition)
        grades = np.tile([0, 1, 2], 20)
        logits = skill.get(steps[-1][0], skill[family]) * np.eye(3)[grades]
        claim_run(options.out)
        for fold in range(5):
            claim_run(run := options.out / f"fold{fold}")
            for name in ("complete.ckpt", "last.safetensors"):
                (run / name).touch()
        write_oof(
            OofTable(
                study_id=np.arange(60).astype(str),
                cell=np.resize(FAMILY_COLUMNS[family], 60),
                fold=grades * 0,
                grade=grades,
                predicted_point=grades > -1,
                log_p=logits - np.log(np.exp(logits).sum(1, keepdims=True)),
            ),
            options.out,
        )

    monkeypatch.setattr(train_graders, "train_classifier", train_classifier)
    monkeypatch.setattr(train_all, "evaluate", evaluate)
    monkeypatch.setattr(train_all, "_fill_cache", lambda args, *_: steps.append(("cache", args)))
    monkeypatch.setattr(train_all, "fit_and_save", fit_and_save)
    monkeypatch.setattr(
        "pipeline.landmarks.store.store_run", lambda runs, weights, task, name, fold: stored.append((*runs, name))
    )
    monkeypatch.setattr(
        "pipeline.severity.store.store_run", lambda runs, weights, family, name, fold: stored.append((*runs, name))
    )
    return SimpleNamespace(steps=steps, stored=stored, found=found, skill=skill)


def names(commands):
    return [name for name, _ in commands.steps]


def folder(monkeypatch, conditions):
    table = pd.DataFrame({"condition": conditions})
    monkeypatch.setattr(train_all, "open_competition", lambda path, split: SimpleNamespace(coordinates=table))


def test_the_steps_in_order_and_every_network_into_the_weights(commands, monkeypatch, tmp_path):
    folder(monkeypatch, TITLES)
    options = ["--preset", "cpu"]
    for setting in ("canal.loop.epochs=3", "axial.loop.seed=4", "context.steps=9"):
        options += ["--set", setting]
    assert main(["train", "all", "--data", "d", "--out", str(tmp_path), "--restart", "--workers", "3", *options]) == 0
    order = ["cache", "landmarks", "axial", "evaluate", "canal", "foraminal", "subarticular", "ensemble"]
    assert names(commands) == order
    steps, weights, points = dict(commands.steps), tmp_path / "weights", tmp_path / "points"
    for name, settings in {
        "landmarks": [],
        "axial": ["loop.seed=4"],
        "canal": ["loop.epochs=3"],
        "foraminal": [],
    }.items():
        told = steps[name]
        assert (told.data, told.out, told.preset, told.set) == ([Path("d")], tmp_path / name, "cpu", settings)
        assert (told.folds, told.workers, told.restart) == ("all", 3, True)
    assert steps["canal"].landmarks == [points / "label_coordinates.csv"]
    assert steps["canal"].landmark_errors == weights / "landmark_errors.json"
    assert (steps["evaluate"].data, steps["evaluate"].weights, steps["evaluate"].workers) == ([Path("d")], weights, 3)
    tables = {family: [tmp_path / family / "oof.csv"] for family in order[4:7]}
    assert (steps["ensemble"].weights, steps["ensemble"].data) == (weights, [Path("d")])
    assert (steps["ensemble"].tables, steps["ensemble"].set) == (tables, ["steps=9"])
    assert len(commands.stored) == 5 * 5
    assert (tmp_path / "canal" / "fold4", "canal-fold4") in commands.stored
    assert json.loads((weights / "landmark_errors.json").read_text())["canal"]["in_plane_sd_mm"] > 0
    assert Manifest.load(weights).file("landmark_errors.json") is not None


def test_a_second_call_does_not_measure_the_landmarks_again(commands, monkeypatch, tmp_path):
    folder(monkeypatch, TITLES)
    for _ in range(2):
        assert main(["train", "all", "--data", "d", "--out", str(tmp_path)]) == 0
    assert names(commands).count("evaluate") == 1


def test_localisers_that_were_trained_again_are_measured_again(commands, monkeypatch, tmp_path):
    folder(monkeypatch, TITLES)
    assert main(["train", "all", "--data", "d", "--out", str(tmp_path)]) == 0
    best = tmp_path / "axial" / "fold3" / "last.safetensors"
    claim_run(best.parent)
    best.touch()
    os.utime(best, (time.time() + 60,) * 2)
    assert main(["train", "all", "--data", "d", "--out", str(tmp_path), "--restart"]) == 0
    assert names(commands).count("evaluate") == 2


@pytest.mark.parametrize("name", ["landmarks", "canal/fold4", "points", "weights", "."])
def test_a_folder_of_other_things_is_said_before_the_first_step(commands, monkeypatch, tmp_path, capsys, name):
    folder(monkeypatch, TITLES)
    theirs = tmp_path / "out" / name / "thesis.txt"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("years of work")
    assert main(["train", "all", "--data", "d", "--out", str(tmp_path / "out"), "--restart"]) == 2
    assert "was not made by this program" in capsys.readouterr().err
    assert not commands.steps
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == [theirs]


def test_networks_that_no_folder_has_labels_for_are_left_out(commands, monkeypatch, tmp_path, capsys):
    folder(monkeypatch, TITLES[:2])
    assert main(["train", "all", "--data", "d", "--out", str(tmp_path)]) == 0
    assert names(commands) == ["cache", "landmarks", "evaluate", "canal", "foraminal", "ensemble"]
    assert "no folder has subarticular points" in capsys.readouterr().out


def test_a_step_that_fails_ends_the_run(commands, monkeypatch, tmp_path, capsys):
    folder(monkeypatch, TITLES)

    def fail(options):
        raise WeightsError("canal-fold0.pt: is empty")

    monkeypatch.setattr(train_graders, "train_classifier", fail)
    assert main(["train", "all", "--data", "d", "--out", str(tmp_path)]) == 1
    assert "train all: canal-fold0.pt: is empty" in capsys.readouterr().err
    assert names(commands) == ["cache", "landmarks", "axial", "evaluate"]
    assert not [name for _, name in commands.stored if name.startswith("canal")]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("subarticular.loop.epoch=3", "did you mean loop.epochs"),
        ("canal.network.backbone=mobilnetv2_100", "near it: mobilenetv2_100"),
        ("foraminal.network.initial=gone.pt", "gone.pt: no such weights file"),
        ("axial.data_weights=[0.5,0.5]", "data_weights has 2 shares for 1 folders"),
        ("context.step=3", "did you mean steps"),
    ],
)
def test_a_setting_that_is_wrong_is_said_before_the_first_step(
    commands, monkeypatch, tmp_path, capsys, setting, message
):
    folder(monkeypatch, TITLES)
    options = ["--out", str(tmp_path), "--preset", "cpu", "--set", setting]
    assert main(["train", "all", "--data", "d", *options]) == 2
    assert message in capsys.readouterr().err
    assert not commands.steps


def test_disks_without_room_for_the_whole_run_are_said_before_anything_is_decoded(monkeypatch, tmp_path, capsys):
    table = pd.DataFrame({"study_id": [str(n) for n in range(1975)], "condition": (TITLES * 659)[:1975]})
    competition = SimpleNamespace(coordinates=table)
    monkeypatch.setattr(train_all, "open_competition", lambda path, split: competition)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=9 * 10**9))
    arguments = ["--preset", "cpu", "--cache", str(tmp_path / "c"), "--out", str(tmp_path / "o")]
    assert main(["train", "all", "--data", "d", *arguments]) == 1
    error = capsys.readouterr().err
    assert "GB are needed for 1975 studies" in error
    assert "of runs (--cache may be on another disk), 9.0 GB are free" in error
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("option", ["--fold", "--sweep"])
def test_there_is_no_fold_to_choose_and_nothing_to_sweep(commands, monkeypatch, tmp_path, capsys, option):
    folder(monkeypatch, TITLES)
    assert main(["train", "all", "--data", "d", "--out", str(tmp_path), option, "2"]) == 2
    assert f"unrecognized arguments: {option} 2" in capsys.readouterr().err
    assert not commands.steps


def test_a_localiser_that_finds_nothing_ends_the_run(commands, monkeypatch, tmp_path, capsys):
    folder(monkeypatch, TITLES)
    commands.found[:] = [title for title in TITLES if "subarticular" not in title]
    assert main(["train", "all", "--data", "d", "--out", str(tmp_path)]) == 1
    assert "of the labelled subarticular points the localisers found none" in capsys.readouterr().err
    assert names(commands) == ["cache", "landmarks", "axial", "evaluate"]
    assert main(["train", "all", "--data", "d", "--out", str(tmp_path), "--force"]) == 0
    assert "WARNING: of the labelled subarticular points" in capsys.readouterr().out
    assert names(commands)[-1] == "ensemble"
    assert dict(commands.steps)["subarticular"].landmark_errors is None
    assert dict(commands.steps)["foraminal"].landmark_errors is not None


def test_networks_that_are_worse_than_class_frequencies_are_not_packed(commands, monkeypatch, tmp_path, capsys):
    folder(monkeypatch, TITLES)
    commands.skill[Family.CANAL] = -1.0
    assert main(["train", "all", "--data", "d", "--out", str(tmp_path)]) == 1
    assert "the canal networks score 1.86" in (said := capsys.readouterr().err)
    assert "worse than class frequencies (0.956)" in said
    assert "ensemble" not in names(commands)
    assert not [name for *_, name in commands.stored if name.startswith("canal")]
    assert main(["train", "all", "--data", "d", "--out", str(tmp_path), "--force"]) == 0
    assert [name for *_, name in commands.stored if name.startswith("canal")]


def test_a_setting_of_every_network_needs_no_section(commands, monkeypatch, tmp_path):
    folder(monkeypatch, TITLES)
    assert main(["train", "all", "--data", "d", "--out", str(tmp_path), "--set", "loop.epochs=3"]) == 0
    trainings = [options for name, options in commands.steps if name not in ("cache", "evaluate", "ensemble")]
    assert [options.set for options in trainings] == [["loop.epochs=3"]] * 5


def test_a_setting_must_name_its_section(commands, monkeypatch, tmp_path, capsys):
    folder(monkeypatch, TITLES)
    assert main(["train", "all", "--data", "d", "--out", str(tmp_path), "--set", "network.width=3"]) == 2
    assert "must start with one of landmarks, axial, canal" in capsys.readouterr().err


def test_a_plan_says_what_would_be_done_and_does_nothing(commands, monkeypatch, tmp_path, capsys):
    folder(monkeypatch, TITLES[:2])
    options = ["--preset", "cpu", "--set", "loop.epochs=2", "--set", "canal.network.backbone=test_resnet.r160_in1k"]
    assert (
        main(["train", "all", "--data", "d", "--out", str(tmp_path / "o"), *options, "--plan", "1000", "--json"]) == 0
    )
    plan = json.loads(capsys.readouterr().out)
    assert (plan["studies"], plan["left_out"]) == (1000, ["subarticular"])
    assert plan["disk"]["cache"] == 1000 * plan["bytes_per_study"]
    assert [step["trainings"] for step in plan["steps"]] == [0, 5, 0, 5, 5]
    canal = plan["steps"][3]
    assert canal["name"].startswith("canal, test_resnet.r160_in1k at ")
    assert (canal["steps"], canal["items"]) == (2 * 280, 32)
    alone = 5 * canal["steps"] * canal["items"] / canal["images_per_s"] / 3600
    assert alone < canal["hours"] < 2 * alone
    for total in ("hours", "operations"):
        assert plan[total] == pytest.approx(sum(step[total] for step in plan["steps"]))
    assert not commands.steps
    assert not (tmp_path / "o").exists()
    assert main(["train", "all", "--data", "d", "--out", str(tmp_path / "o"), *options, "--plan", "1000"]) == 0
    said = capsys.readouterr().out
    assert "5 folds x 560 steps x 32 items at" in said
    assert f"{canal['operations'] / 1e15:.1f} PFLOP; at most {canal['gpu_bytes'] / 2**30:.1f} GiB of a GPU" in said
    assert "left out: subarticular" in said


RECIPES = """base: cpu
foraminal:
  recipes:
    wide: {}
    zoom:
      views: [{kind: Sagittal T1, size_mm: 48, pixels: 64, slices: 3}]
      network: {backbone: test_resnet.r160_in1k}
"""


@pytest.fixture
def recipes(tmp_path, monkeypatch):
    """The start of a command with two recipes for the foramina and the folder of its runs."""
    folder(monkeypatch, TITLES[:2])
    (tmp_path / "own.yaml").write_text(RECIPES)
    out = tmp_path / "out"
    return ["train", "all", "--data", "d", "--preset", str(tmp_path / "own.yaml"), "--out", str(out)], out


def test_every_recipe_is_trained_packed_and_blended(commands, recipes):
    command, out = recipes
    settings = ["foraminal.loop.epochs=3", "foraminal-zoom.sampling=uniform", "loop.seed=1"]
    assert main([*command, *(text for one in settings for text in ("--set", one))]) == 0
    order = ["canal", "foraminal-wide", "foraminal-zoom"]
    assert names(commands) == ["cache", "landmarks", "evaluate", *order, "ensemble"]
    steps = dict(commands.steps)
    assert [(steps[name].condition, steps[name].recipe, steps[name].out) for name in order] == [
        ("canal", "", out / "canal"),
        ("foraminal", "wide", out / "foraminal-wide"),
        ("foraminal", "zoom", out / "foraminal-zoom"),
    ]
    assert steps["canal"].set == ["loop.seed=1"]
    assert steps["foraminal-wide"].set == ["loop.epochs=3", "loop.seed=1"]
    assert steps["foraminal-zoom"].set == ["loop.epochs=3", "sampling=uniform", "loop.seed=1"]
    assert steps["ensemble"].tables == {name: [out / name / "oof.csv"] for name in order}
    assert (out / "foraminal-zoom" / "fold2", "foraminal-zoom-fold2") in commands.stored
    assert len(commands.stored) == 4 * 5


def test_a_recipe_that_learnt_nothing_is_left_out_where_its_family_has_another(commands, recipes, capsys):
    command, out = recipes
    commands.skill["foraminal-zoom"] = -1.0
    claim_run(out)
    Manifest.open(out / "weights", "own", "").add_member(
        Member("foraminal-old-fold0", "foraminal", "old.safetensors", "", fold=0), b"of an earlier call"
    )
    assert main(command) == 0
    assert "WARNING: the foraminal-zoom networks score 1.86" in capsys.readouterr().out
    assert not [name for *_, name in commands.stored if name.startswith("foraminal-zoom")]
    assert list(dict(commands.steps)["ensemble"].tables) == ["canal", "foraminal-wide"]
    assert dict(commands.steps)["ensemble"].fixed == {"foraminal-old": 0.0}
    commands.skill["foraminal-wide"] = -1.0
    assert main(command) == 1
    assert "foraminal-wide networks score 1.86" in (said := capsys.readouterr().err)
    assert "foraminal-zoom networks score 1.86" in said


def test_a_second_round_leaves_out_what_the_first_rules_out_and_the_better_round_is_packed(commands, recipes, capsys):
    command, out = recipes
    command += ["--set", "foraminal.label_noise=0.85"]
    commands.skill |= {"second/foraminal-zoom": 3.0, "second/foraminal-wide": 1.0}
    assert main(command) == 0
    again = ["second/foraminal-wide", "second/foraminal-zoom"]
    assert names(commands)[-4:] == ["foraminal-zoom", *again, "ensemble"]
    table = out / "second" / "oof.csv"
    assert [dict(commands.steps)[name].oof for name in ["foraminal-wide", *again]] == [None, table, table]
    assert dict(commands.steps)["second/foraminal-zoom"].recipe == "zoom"
    assert len(read_oof(table).cell) == 120, "what all networks say, the canal's too"
    kept = {"foraminal-wide": out / "foraminal-wide", "foraminal-zoom": out / "second" / "foraminal-zoom"}
    assert dict(commands.steps)["ensemble"].tables == {
        "canal": [out / "canal" / "oof.csv"], **{name: [path / "oof.csv"] for name, path in kept.items()}
    }  # fmt: skip
    assert {run.parent for run, name in commands.stored if name.startswith("foraminal-zoom")} == {
        out / "second/foraminal-zoom"
    }
    assert "foraminal-wide scores" in capsys.readouterr().out

    runs = [*(out / "second" / "foraminal-zoom").glob("fold*"), *(out / "foraminal-wide").glob("fold*")]
    assert len(runs) == 10
    assert [(run / "last.safetensors").exists() for run in runs] == [True] * 10
    worse = [*(out / "foraminal-zoom").glob("fold*"), *(out / "second" / "foraminal-wide").glob("fold*")]
    assert [(run / "last.safetensors").exists() for run in worse] == [False] * 10, "of two rounds one stays"
    run = runs[0]
    before = table.stat().st_mtime_ns
    commands.steps.clear()
    assert main(command) == 0
    assert names(commands)[3:-1] == ["foraminal-wide", "second/foraminal-zoom"], "the others are trained and gone"
    assert "foraminal-zoom are trained, and those of the other round are better" in capsys.readouterr().out
    assert (table.stat().st_mtime_ns, (run / "complete.ckpt").exists()) == (before, True), "it goes on where it was"
    for run in runs[:5]:
        (run / "history.csv").write_text("of a run by other labels")
    commands.skill["foraminal-wide"] = 0.5
    assert main([*command, "--restart"]) == 0
    assert "the second one" in capsys.readouterr().out
    assert not any((run / "history.csv").exists() for run in runs[:5]), "they were trained without other labels"


def test_a_plan_counts_recipes_and_rounds(commands, recipes, capsys):
    command, _ = recipes
    tiny = {"backbone": "test_resnet.r160_in1k"}
    small = [f"{name}.network={json.dumps(tiny)}" for name in ("canal", "foraminal")]
    small += ["landmarks.model.backbone=test_resnet.r160_in1k", "foraminal-zoom.label_noise=0.85"]
    assert main([*command, *(text for one in small for text in ("--set", one)), "--plan", "100", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [step["name"].partition(",")[0] for step in plan["steps"]][3:] == [
        "canal", "foraminal-wide", "foraminal-zoom", "foraminal-zoom"
    ]  # fmt: skip
    assert plan["steps"][-1]["name"].endswith("second round")
    assert plan["steps"][-1]["hours"] == plan["steps"][-2]["hours"] > 0
