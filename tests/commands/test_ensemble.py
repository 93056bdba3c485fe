"""``ensemble``: out-of-fold predictions made by the networks of the weights folder, or read from tables."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pipeline.__main__ import main
from pipeline.competition import open_competition
from pipeline.ensemble.networks import Networks
from pipeline.folds import make_folds
from pipeline.labels import CELL_COLUMNS
from pipeline.run.unseen import predicted_tables
from pipeline.scoring.oof import OofTable, read_oof, write_oof
from pipeline.weights.manifest import Manifest
from pipeline.weights.seen import seen_list, seen_studies, write_seen
from tests.run.studies import FakeNetworks, members, write_studies

STUDIES = [f"s{number}" for number in range(20)]


@pytest.fixture
def competition(tmp_path):
    root = write_studies(tmp_path / "data", STUDIES, split="train")
    grades = np.random.default_rng(0).choice(["Normal/Mild", "Moderate", "Severe"], (20, 25), p=[0.7, 0.2, 0.1])
    labels = pd.DataFrame(grades, index=STUDIES, columns=list(CELL_COLUMNS))
    labels.rename_axis("study_id").to_csv(root / "train.csv")
    return open_competition(root, split="train")


@pytest.fixture
def manifest(competition, tmp_path, monkeypatch, request):
    """A canal network a fold, each trained on the other folds, but for the studies of the parameter."""
    nobody = getattr(request, "param", [])
    folder = tmp_path / "weights"
    folder.mkdir()
    manifest = Manifest(folder, "made up", "nothing")
    manifest.save()
    folds = make_folds(competition.labels)
    points = next(member for member in members() if member.task == "landmarks")
    canal = next(member for member in members() if member.task == "canal")
    other = seen_list(seen_studies(["other"]))
    manifest = manifest.add_member(replace(points, seen="points.seen.txt"), b"tensors", other)
    for fold in range(5):
        seen = seen_list(seen_studies(set(folds.index[folds != fold]) - set(nobody)))
        member = replace(canal, name=f"canal-fold{fold}", fold=fold, seen=f"{fold}.seen.txt")
        manifest = manifest.add_member(member, b"tensors", seen)
    networks = FakeNetworks(manifest, manifest.members, tmp_path)
    monkeypatch.setattr(Networks, "open", classmethod(lambda cls, manifest: (networks, [])))
    return manifest


def test_every_study_is_predicted_by_the_network_that_has_not_seen_it(competition, manifest):
    tables = predicted_tables(manifest, [competition])
    assert list(tables) == ["canal"]
    table, folds = tables["canal"], make_folds(competition.labels)
    assert sorted(set(table.study_id)) == sorted(STUDIES)
    assert len(table.study_id) == 20 * 5
    assert all(folds[study] == fold for study, fold in zip(table.study_id, table.fold, strict=True))


def test_the_fit_takes_them_and_keeps_them(competition, manifest, tmp_path, capsys):
    command = ["ensemble", "--weights", str(manifest.folder), "--data", str(competition.root), "--no-context"]
    assert main([*command, "--save-oof", str(tmp_path / "oof")]) == 0
    assert "cross-fitted" in capsys.readouterr().out
    assert (manifest.folder / "ensemble.json").is_file()
    path = tmp_path / "oof" / "canal" / "oof.csv"
    assert len(read_oof(path).cell) == 100
    assert main([*command, "--oof", f"canal={path}"]) == 0


@pytest.mark.parametrize("name", ["ensemble.json", "context.safetensors", "ensemble_report.json", "oof/notes.txt"])
def test_what_is_not_the_programs_own_is_left_as_it_is(competition, manifest, tmp_path, capsys, name):
    theirs = (tmp_path if name.startswith("oof") else manifest.folder) / name
    theirs.parent.mkdir(exist_ok=True)
    theirs.write_text("years of work")
    before = (manifest.folder / "manifest.json").read_bytes()
    command = ["ensemble", "--weights", str(manifest.folder), "--data", str(competition.root)]
    assert main([*command, "--save-oof", str(tmp_path / "oof")]) == 2
    assert "left as it is" in capsys.readouterr().err
    assert theirs.read_text() == "years of work"
    assert (manifest.folder / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("manifest", [["s3"]], indirect=True)
def test_a_study_that_nobody_has_trained_on_gets_the_mean_of_the_folds_and_one_of_them(competition, manifest):
    table = predicted_tables(manifest, [competition])["canal"]
    assert len(table.study_id) == 20 * 5
    assert len(set(table.fold[table.study_id == "s3"])) == 1
    assert np.exp(table.log_p).sum(1) == pytest.approx(1)


def test_a_recipe_that_no_network_has_is_refused(competition, manifest, tmp_path, capsys):
    table = tmp_path / "oof.csv"
    command = ["ensemble", "--weights", str(manifest.folder), "--data", str(competition.root)]
    assert main([*command, "--oof", f"canel={table}"]) == 1
    assert "no network of recipe canel" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--fixed", "canal"], 2, "ensemble: --fixed canal: expected RECIPE=WEIGHT"),
        (["--fixed", "canal="], 2, "--fixed canal=: expected RECIPE=WEIGHT"),
        (["--fixed", "canal=much"], 2, "--fixed canal=much: expected a weight of 0 or more, e.g. canal=0"),
        (["--fixed", "canal=-1"], 2, "--fixed canal=-1: expected a weight of 0 or more"),
        (["--fixed", "canel=0"], 1, "--fixed: no network of recipe canel in"),
        (["--oof", "canal.csv"], 2, "ensemble: --oof canal.csv: expected RECIPE=CSV"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_said(competition, manifest, capsys, options, status, message):
    command = ["ensemble", "--weights", str(manifest.folder), "--data", str(competition.root)]
    assert main([*command, *options]) == status
    assert message in capsys.readouterr().err


def test_a_weight_that_is_given_is_not_fitted(competition, manifest):
    command = ["ensemble", "--weights", str(manifest.folder), "--data", str(competition.root), "--no-context"]
    assert main([*command, "--fixed", "canal=0.25"]) == 0
    assert json.loads((manifest.folder / "ensemble.json").read_text())["recipes"] == {"canal": 0.25}


def test_networks_that_have_seen_everything_cannot_be_fitted(competition, manifest, tmp_path, capsys):
    for fold in range(5):
        write_seen(manifest.folder / f"{fold}.seen.txt", seen_studies(STUDIES))
    assert main(["ensemble", "--weights", str(manifest.folder), "--data", str(competition.root)]) == 1
    assert "no network with a held-out fold answers" in capsys.readouterr().err


@pytest.fixture
def published(competition, tmp_path):
    """Two tables of somebody's networks, one of them packed, the folds and the grades."""
    generator = np.random.default_rng(1)
    for name in ("canal_a.csv", "canal_b.csv.gz"):
        names = [f"{study}_{column}" for study in STUDIES for column in CELL_COLUMNS[:5]]
        p = pd.DataFrame(generator.dirichlet([4, 2, 1], len(names)), names, ["normal_mild", "moderate", "severe"])
        p.rename_axis("row_id").to_csv(tmp_path / name)
    make_folds(competition.labels).to_csv(tmp_path / "folds.csv")
    tables = [str(tmp_path / "canal_a.csv"), str(tmp_path / "canal_b.csv.gz")]
    rest = ["--folds", str(tmp_path / "folds.csv"), "--truth", str(competition.root / "train.csv")]
    return tables, rest


def test_tables_alone_are_fitted_and_every_part_printed_with_its_error(published, capsys):
    tables, rest = published
    assert main(["ensemble", "--tables", *tables, *rest, "--set", "steps=5", "--fixed", "canal_a=0"]) == 0
    out = capsys.readouterr().out
    for part in ("weighted", "calibrated", "calibrated by pattern", "neighbours", "top severe", "context", "all parts"):
        assert sum(line.startswith(f"{part}  ") for line in out.splitlines()) == 2, part
    assert "±" in out
    assert "fitted 2 tables on 20 studies; nothing written" in out


def test_tables_of_trainings_are_taken_as_they_are_and_named_after_their_folders(published, tmp_path, capsys):
    tables, rest = published
    assert main(["ensemble", "--tables", tables[0], *rest, "--no-context"]) == 0
    said = capsys.readouterr().out
    cells = [f"{study}_{column}" for study in STUDIES for column in CELL_COLUMNS[:5]]
    log_p = np.log(pd.read_csv(tables[0], index_col=0).loc[cells].to_numpy())
    cell, bare = np.tile(np.arange(5), len(STUDIES)), np.zeros(len(cells), int)
    (tmp_path / "canal_a").mkdir()
    write_oof(OofTable(np.repeat(STUDIES, 5), cell, bare, bare, bare > 0, log_p), tmp_path / "canal_a")
    assert main(["ensemble", "--tables", str(tmp_path / "canal_a" / "oof.csv"), *rest, "--no-context"]) == 0
    assert capsys.readouterr().out == said


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        (lambda tables, rest: [*tables, *rest[:2]], 2, "--truth missing; expected --weights and --data, or --tables"),
        (lambda tables, rest: [*tables, *rest, "--weights", "w"], 2, "leave out --weights"),
        (lambda tables, rest: [tables[0], tables[0], *rest], 2, "two files of one name"),
        (lambda tables, rest: [*tables, *rest, "--fixed", "canal=0"], 1, "no table of recipe canal; there is canal_a"),
        (lambda tables, rest: [rest[1], *rest], 2, "row_id"),
    ],
)
def test_what_is_wrong_with_tables_is_said(published, capsys, change, status, message):
    assert main(["ensemble", "--tables", *change(*published)]) == status
    assert message in capsys.readouterr().err


def test_a_call_without_weights_or_tables_says_what_it_needs(capsys):
    assert main(["ensemble", "--data", "d"]) == 2
    assert "--weights missing" in capsys.readouterr().err
