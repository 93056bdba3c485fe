"""``evaluate severity``: studies go to networks that have not seen them; the figures are written beside the text."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pipeline.__main__ import main
from pipeline.ensemble.networks import Networks
from pipeline.labels import CELL_COLUMNS
from pipeline.scoring.evidence import GRADINGS
from pipeline.weights.manifest import Manifest
from pipeline.weights.seen import seen_list, seen_studies
from tests.run.studies import FakeNetworks, members, write_studies

STUDIES = [f"s{number}" for number in range(10)]


@pytest.fixture
def data(tmp_path):
    """A labelled folder of ten studies in which s0 is the only severe one."""
    root = write_studies(tmp_path / "data", STUDIES, split="train")
    labels = pd.DataFrame("Normal/Mild", index=STUDIES, columns=list(CELL_COLUMNS))
    labels.loc["s0", CELL_COLUMNS[3]] = "Severe"
    labels.rename_axis("study_id").to_csv(root / "train.csv")
    return root


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A weights folder whose canal network has seen s1; its networks grade (0.2, 0.3, 0.5)."""
    folder = tmp_path / "weights"
    folder.mkdir()
    Manifest(folder, "made up", "nothing").save()
    for member in members():
        name = f"{member.name}.seen.txt"
        seen = seen_list(seen_studies(["s1"] if member.name == "canal-0" else ["other"]))
        manifest = Manifest.load(folder).add_member(replace(member, seen=name), b"tensors", seen)
    networks = FakeNetworks(manifest, manifest.members, tmp_path)
    monkeypatch.setattr(Networks, "open", classmethod(lambda cls, manifest: (networks, [])))
    return folder


def test_figures_come_from_networks_that_have_not_seen_the_study(data, weights, tmp_path, capsys):
    rows = [(study, "L4/L5", number % 2, 1, number % 3, 1 + number % 5) for number, study in enumerate(STUDIES)]
    pd.DataFrame(rows, columns=["study_id", "level", *GRADINGS]).to_csv(tmp_path / "gradings.csv", index=False)
    out = tmp_path / "out"
    command = ["evaluate", "severity", "--data", str(data), "--weights", str(weights), "--out", str(out)]
    assert main([*command, "--gradings", str(tmp_path / "gradings.csv")]) == 0
    figures = json.loads((out / "severity.json").read_text())
    assert figures["studies"] == 10
    assert figures["cells"] == {"canal": 45, "foraminal": 100, "subarticular": 100}
    assert figures["terms"]["foraminal"]["score"] == pytest.approx(-np.log(0.2))
    assert figures["terms"]["canal"]["score"] == pytest.approx((44 * -np.log(0.2) + 4 * -np.log(0.5)) / 48)
    assert figures["terms"]["canal"]["levels"][-1]["confusion"] == [[0, 0, 44], [0, 0, 0], [0, 0, 1]]
    herniation = figures["gradings"]["disc_herniation"]
    assert herniation["L4/L5"]["pairs"] == 9, "s1 was seen"
    assert herniation["L4/L5"]["rank_correlation"] is None, "the made-up networks say the same of all"
    assert figures["context"] == {}
    table = pd.read_csv(out / "predictions.csv")
    assert len(table) == 245
    assert table["network_severe"].between(0.499, 0.501).all()
    said = capsys.readouterr().out
    assert "leak guard: 1 of 4 networks" in said
    assert "canal severity and pfirrman_grade" in said


def test_a_folder_of_other_things_is_left_as_it_is(data, weights, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "predictions.csv").write_text("years of work")
    command = ["evaluate", "severity", "--data", str(data), "--weights", str(weights), "--out", str(tmp_path / "out")]
    assert main(command) == 2
    assert "was not made by this program" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["predictions.csv"]
    assert (tmp_path / "out" / "predictions.csv").read_text() == "years of work"


def test_one_fold_and_a_limit(data, weights, tmp_path):
    command = ["evaluate", "severity", "--data", str(data), "--weights", str(weights), "--out", str(tmp_path / "out")]
    assert main([*command, "--fold", "0", "--limit", "1"]) == 0
    assert json.loads((tmp_path / "out" / "severity.json").read_text())["studies"] == 1


def test_bad_calls_say_what_is_wrong(data, weights, tmp_path, capsys, monkeypatch):
    command = ["evaluate", "severity", "--data", str(data), "--weights", str(weights), "--out", str(tmp_path / "out")]
    assert main([*command, "--gradings", str(tmp_path / "none.csv")]) == 2
    assert "none.csv: cannot be read" in capsys.readouterr().err
    monkeypatch.setattr(FakeNetworks, "grade", lambda *args: np.full((25, 3), np.nan))
    assert main(command) == 1
    assert "no network that has not seen these studies" in capsys.readouterr().err
    assert main([*command, "--weights", str(tmp_path / "nowhere")]) == 1
    assert "expected the manifest" in capsys.readouterr().err
