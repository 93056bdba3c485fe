"""Names of any bytes: what is shown of them is harmless, and no two share an id."""

from __future__ import annotations

import doctest

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import names
from pipeline.names import guarded, plain_id, shown, shown_all, stem, unguarded
from pipeline.tables import guarded_frame, read_written

SIGNS = st.sampled_from([b"\\", b"x", b"u", b"U", b"9", b"0", b"\xe9", b"\xc3\xa9", b"\n", b"\x1b", b"\xc2\x9b", b" "])
NAMES = st.lists(SIGNS, max_size=8).map(lambda signs: b"".join(signs).decode("utf-8", "surrogateescape"))
HOSTILE = ["a\nb", "\x1b[31mred", "\rover", "\u202egnp.exe", "caf\udce9", "\x9b2J", "\u2028", "a\0b", "\ufeffx"]


@given(NAMES, NAMES)
def test_two_names_never_have_the_same_id(one, two):
    assert (plain_id(one) == plain_id(two)) == (one == two)


@given(NAMES)
def test_an_id_can_be_shown_and_written_and_is_the_name_where_that_can_be(name):
    result = plain_id(name)
    assert result.isprintable()
    assert result.encode().decode() == result
    assert shown(result) == result == result.strip()
    assert result == name or not name.isprintable() or "\\" in name or name != name.strip()


@pytest.mark.parametrize("name", ["1234", "a b", "../../etc", "Müller", "=1+1", "-5", "back\\slash", 'a,"b'])
def test_a_name_that_can_be_written_stays_as_it_is(name):
    assert plain_id(name) == name == shown(name)


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_shown_is_one_line_that_steers_no_terminal(name):
    assert shown(f"study {name}: {name}").isprintable()
    assert plain_id(name) != name


def test_a_very_long_name_is_shown_in_part():
    text = shown("x" * 1_000_000)
    assert len(text) <= 2000
    assert text.endswith("x... (1000000 characters)")
    assert shown(text) == text


def test_nested_content_is_shown_whole_and_numbers_stay_numbers():
    content = {"a\x1b": ["\udce9", 1, None, {"b": (2.5, "\n")}]}
    assert shown_all(content) == {"a\\x1b": ["\\xe9", 1, None, {"b": [2.5, "\\x0a"]}]}


@given(st.text(st.sampled_from("'=+-@\uff1d1a"), max_size=6))
def test_a_guarded_cell_is_no_formula_and_reads_back(cell):
    assert guarded(cell)[:1] not in set("=+-@\uff1d")
    assert unguarded(guarded(cell)) == cell


def test_ids_of_a_guarded_table_read_back_as_they_were_and_numbers_are_left_alone(tmp_path):
    ids = ["=1+1", "-5", "'=x", "NA", "null", "007", "@x"]
    frame = pd.DataFrame({"study_id": ids, "x": -np.arange(7.0), "note": ["-1", None, *"abcde"]})
    guarded_frame(frame).to_csv(tmp_path / "table.csv", index=False)
    assert (tmp_path / "table.csv").read_text().splitlines()[1] == "'=1+1,-0.0,'-1"
    back = read_written(tmp_path / "table.csv", ("study_id",), ("x",), "a test")
    assert list(back["study_id"]) == ids
    assert back["x"].dtype == float
    assert list(frame["study_id"]) == ids  # the frame itself is not changed


def test_a_file_is_named_after_letters_and_digits_only():
    assert stem("../\x1b[1m12/ab" + "x" * 300) == "1m12ab" + "x" * 34


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(names) == (0, 4)
