"""The command that makes the table of class frequencies."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.__main__ import main
from pipeline.ensemble import prior
from pipeline.ensemble.prior import read_prior


def test_command_writes_a_table_that_reads_back(write_labels, tmp_path, capsys):
    grades = np.random.default_rng(0).integers(0, 3, (50, 25)).astype(float)
    out = tmp_path / "prior.csv"
    assert main(["prior", str(write_labels(grades)), "--out", str(out)]) == 0
    assert str(out) in capsys.readouterr().out
    counts = np.bincount(grades[:, 3].astype(int), minlength=3) * [1, 2, 4]
    assert read_prior(out)[3] == pytest.approx(counts / counts.sum(), abs=1e-5)


def test_the_packages_own_table_is_replaced_only_by_name(write_labels, tmp_path, monkeypatch, capsys):
    labels = write_labels(np.zeros((10, 25)))
    (tmp_path / "package").mkdir()
    own = tmp_path / "package" / "prior.csv"
    own.write_text("condition,level,normal_mild,moderate,severe,graded\nas it came\n")
    monkeypatch.setattr(prior, "PRIOR_FILE", own)
    monkeypatch.chdir(tmp_path)
    assert main(["prior", str(labels)]) == 0
    assert "written to prior.csv" in capsys.readouterr().out
    assert own.read_text().endswith("as it came\n")
    assert read_prior(tmp_path / "prior.csv").shape == (25, 3)
    assert main(["prior", str(labels), "--out", str(own)]) == 0
    assert own.read_bytes() == (tmp_path / "prior.csv").read_bytes()
