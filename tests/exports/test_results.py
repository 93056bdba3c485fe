"""``results.json`` against its schema, and against the tables that say the same."""

from __future__ import annotations

import copy
import doctest
import json

import jsonschema
import pandas as pd
import pytest

from pipeline.commands.submit import main
from pipeline.exports import naming
from pipeline.exports.results import SCHEMA, study_content, write_results
from pipeline.labels import CELLS
from tests.exports.graded import graded
from tests.run.studies import write_studies

WEIGHTS = {"set": "phantom", "description": "synthetic", "folder": "/somewhere", "members": []}


def schema() -> jsonschema.Draft202012Validator:
    content = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(content)
    return jsonschema.Draft202012Validator(content)


def test_the_file_is_as_its_schema_says_and_a_changed_one_is_not(tmp_path):
    write_studies(tmp_path / "data", ["9"])
    study = graded(tmp_path / "data")
    write_results(tmp_path, [study, study], WEIGHTS)
    content = json.loads((tmp_path / "results.json").read_text())
    schema().validate(content)
    assert len(content["studies"]) == 2
    cells = {(cell["condition"], cell["level"]): cell for cell in content["studies"][0]["cells"]}
    lost, found = cells[CELLS[0].condition, "l1_l2"], cells[CELLS[2].condition, "l3_l4"]
    assert (lost["point"], lost["reason"], lost["source"]) == (None, "level not found", "prior")
    assert found["point"]["patient_mm"] == pytest.approx(study.points().points_mm[2], abs=1e-3)
    assert found["weighted"] == {"normal_mild": 0.02, "moderate": 0.08, "severe": 0.9}
    assert found["plain"]["severe"] == pytest.approx(0.9 / 4 / (0.9 / 4 + 0.08 / 2 + 0.02), abs=1e-6)
    assert found["grade"] == "severe"
    for change in ("source", "point", "plain"):
        wrong = copy.deepcopy(content)
        wrong["studies"][1]["cells"][3][change] = "other"
        assert not schema().is_valid(wrong)


def test_a_run_writes_it_beside_the_other_tables_of_the_stages(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.commands.submit.DEFAULT_WEIGHTS", tmp_path / "none")
    write_studies(tmp_path / "data", ["9", "10"])
    arguments = ["--data", tmp_path / "data", "--out", tmp_path / "out" / "s.csv", "--stages", tmp_path / "stages"]
    arguments = [*map(str, arguments), "--workers", "1", "--quiet"]
    assert main(arguments) == 0
    content = json.loads((tmp_path / "stages" / "results.json").read_text())
    schema().validate(content)
    assert content["weights"] is None
    told = [cell["row_id"] for study in content["studies"] for cell in study["cells"]]
    table = pd.read_csv(tmp_path / "stages" / "probabilities.csv")
    assert told == list(table["row_id"])
    values = [cell["plain"]["severe"] for study in content["studies"] for cell in study["cells"]]
    assert values == pytest.approx(table["plain_severe"].tolist(), abs=1e-4)
    assert main(arguments) == 0, "its own file is replaced"
    (tmp_path / "stages" / "results.json").write_text("mine")
    assert main(arguments) == 2
    assert (tmp_path / "stages" / "results.json").read_text() == "mine"


def test_two_studies_never_have_one_files_name():
    assert doctest.testmod(naming).failed == 0
    assert len({naming.file_stem(name) for name in ("ab", "a/b", "a-b", "a" * 40, "a" * 41)}) == 5


def test_every_cell_is_there_in_the_order_of_the_table(tmp_path):
    write_studies(tmp_path / "data", ["9"])
    rows = [cell["row_id"] for cell in study_content(graded(tmp_path / "data"))["cells"]]
    assert rows == sorted(rows)
    assert len(set(rows)) == 25
