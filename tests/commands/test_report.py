"""``report`` and ``submit.py --report``: pages whatever is missing, and never at the cost of the table."""

from __future__ import annotations

import importlib.util
import json
import shutil

import numpy as np
import pytest

from pipeline.__main__ import main as pipeline_main
from pipeline.commands import on_request
from pipeline.commands import submit as submit_command
from pipeline.report import build, overview, site
from pipeline.report.record import read_run
from tests.run.studies import write_studies


@pytest.fixture(autouse=True)
def _without_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(submit_command, "DEFAULT_WEIGHTS", tmp_path / "no weights here")


def submit(tmp_path, *options):
    call = ["--data", tmp_path / "data", "--out", tmp_path / "run" / "submission.csv", "--workers", 1, "--quiet"]
    return submit_command.main([str(one) for one in (*call, *options)])


def report(tmp_path, *options):
    call = ["report", tmp_path / "run", "--out", tmp_path / "pages", "--workers", 1]
    return pipeline_main([str(one) for one in (*call, *options)])


@pytest.fixture
def graded(tmp_path):
    write_studies(tmp_path / "data", ["9", "10"])
    assert submit(tmp_path, "--stages", tmp_path / "run" / "stages") == 0
    return tmp_path


def test_a_run_without_weights_has_pages_that_say_so(graded, capsys):
    assert report(graded) == 0
    assert "report: 2 studies;" in capsys.readouterr().out
    index = (graded / "pages" / "index.html").read_text()
    assert "No weights were used" in index
    page = (graded / "pages" / "studies" / "0002_9.html").read_text()
    assert "no network for this condition" in page
    assert "not graded on any image" in page
    assert "data:image/webp" in page, "the slices are there"


def test_images_that_are_gone_are_named_and_cost_pictures_alone(graded, capsys):
    shutil.rmtree(graded / "data")
    assert report(graded) == 0
    assert "No pictures: " in (out := capsys.readouterr().out)
    assert "--data" in out
    assert "data:image" not in (graded / "pages" / "studies" / "0001_10.html").read_text()
    assert report(graded, "--data", graded / "data") == 2, "what the user names must be there"


def test_a_study_that_cannot_be_drawn_has_a_page_that_says_why(graded, capsys, monkeypatch):
    def fail(*_):
        raise ValueError("a slice <b>too</b> odd")

    monkeypatch.setattr("pipeline.report.study.viewers", fail)
    assert report(graded) == 0
    assert "2 studies, 2 without a page or without all pictures" in capsys.readouterr().out
    page = (graded / "pages" / "studies" / "0001_10.html").read_text()
    assert "ValueError: a slice &lt;b&gt;too&lt;/b&gt; odd" in page
    assert "a slice &lt;b&gt;" in (graded / "pages" / "index.html").read_text()


def test_truth_gives_the_score_that_score_gives(graded, write_labels, capsys):
    truth = write_labels(np.arange(50.0).reshape(2, 25) % 3, ["9", "10"])
    assert report(graded, "--truth", truth) == 0
    capsys.readouterr()
    assert pipeline_main(["score", str(truth), str(graded / "run" / "submission.csv"), "--json"]) == 0
    score = json.loads(capsys.readouterr().out)["score"]
    assert f"{score:.4f}" in (graded / "pages" / "index.html").read_text()


@pytest.mark.parametrize("missing", ["run.json", "stages"])
def test_a_folder_of_no_run_is_a_wrong_call(graded, missing, capsys):
    if missing == "stages":
        shutil.rmtree(graded / "run" / "stages")
    else:
        (graded / "run" / missing).write_text("{}")
    assert report(graded) == 2
    assert missing in capsys.readouterr().err
    assert not (graded / "pages").exists()


def test_a_folder_of_other_things_is_left_as_it_is(graded, capsys):
    (graded / "pages").mkdir()
    (graded / "pages" / "index.html").write_text("my own")
    assert report(graded) == 2
    assert "was not made by this program" in capsys.readouterr().err
    assert (graded / "pages" / "index.html").read_text() == "my own"


def test_an_earlier_report_makes_room_and_strangers_stay(graded):
    assert report(graded) == 0
    old, own = graded / "pages" / "studies" / "0009_77.html", graded / "pages" / "studies" / "notes.txt"
    library = graded / "pages" / "assets" / "plotly.min.js"  # drew the charts of earlier versions
    old.write_text("old")
    library.write_text("old")
    own.write_text("mine")
    assert report(graded) == 0
    assert not old.exists()
    assert not library.exists()
    assert own.read_text() == "mine"


@pytest.mark.parametrize(("module", "package"), [("itables", "itables"), ("vl_convert", "vl-convert-python")])
def test_a_missing_package_is_named_with_the_line_that_installs_it(graded, monkeypatch, capsys, module, package):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else find(name))
    assert report(graded) == 1
    assert f"a report needs {package}: pip install {package}" in capsys.readouterr().err


def test_submit_makes_the_pages_of_its_run(tmp_path, capsys):
    write_studies(tmp_path / "data", ["9"])
    assert submit(tmp_path, "--report", tmp_path / "pages") == 0
    assert "report: 1 studies" in capsys.readouterr().out
    assert (tmp_path / "pages" / "studies" / "0001_9.html").is_file()
    assert report(tmp_path) == 0, "again, from what the run left"


def test_a_report_that_fails_costs_neither_table_nor_status(tmp_path, monkeypatch, capsys):
    write_studies(tmp_path / "data", ["9"])
    assert submit(tmp_path) == 0
    table = (tmp_path / "run" / "submission.csv").read_bytes()

    def fail(*_):
        raise RuntimeError("the browser ate it")

    monkeypatch.setattr(build, "begin", fail)
    assert submit(tmp_path, "--report", tmp_path / "pages") == 0
    assert "report: RuntimeError: the browser ate it; the table is written" in capsys.readouterr().err
    assert (tmp_path / "run" / "submission.csv").read_bytes() == table


def test_no_page_is_begun_when_the_time_is_over(graded):
    made = build.build_report(read_run(graded / "run"), graded / "pages", workers=1, seconds=-1)
    assert (made.pages, made.poor) == (0, 2)
    assert "no time was left for its page" in (graded / "pages" / "index.html").read_text()


def test_many_studies_are_listed_on_pages_of_their_own(graded, monkeypatch):
    pages = graded / "pages"
    for module in (build, overview):
        monkeypatch.setattr(module, "PART", 1)
    assert report(graded) == 0
    index = (pages / "index.html").read_text()
    assert "studies/0001_10.html" not in index
    assert 'href="studies-0001.html"' in index
    first, second = ((pages / f"studies-000{number}.html").read_text() for number in (1, 2))
    assert 'href="studies/0001_10.html"' in first
    assert 'href="studies/0002_9.html"' in second
    assert 'href="studies-0002.html">next part' in first
    assert 'href="studies-0001.html">previous part' in second
    assert "next part" not in second
    monkeypatch.undo()
    assert report(graded) == 0
    assert not list(pages.glob("studies-*")), "those of the report before are gone"
    assert 'href="studies/0001_10.html"' in (pages / "index.html").read_text()


def test_a_name_that_a_table_has_to_guard_is_found_again(tmp_path):
    write_studies(tmp_path / "data", ["=1+1"])
    assert submit(tmp_path, "--report", tmp_path / "pages") == 0
    assert "Study =1+1" in (tmp_path / "pages" / "studies" / "0001_11.html").read_text()


def test_submit_refuses_a_report_folder_of_other_things_before_it_writes(tmp_path, capsys):
    write_studies(tmp_path / "data", ["9"])
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "holiday.png").write_bytes(b"sea")
    assert submit(tmp_path, "--report", tmp_path / "pages") == 2
    assert not (tmp_path / "run").exists()
    assert submit(tmp_path, "--report", tmp_path / "data" / "pages") == 2, "the images are not written into"


def test_the_mark_of_a_report_is_one_word():
    assert site.KIND == on_request.REPORT_KIND
