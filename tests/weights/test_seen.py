"""What weights have seen goes on to those that start from them."""

from __future__ import annotations

import pytest

from pipeline.weights.manifest import WeightsError
from pipeline.weights.seen import seen_studies, study_hash, write_seen


def test_weights_that_go_on_from_others_have_seen_what_those_have(tmp_path):
    write_seen(tmp_path / "canal-fold0.seen.txt", seen_studies(["a", "b"]))
    start = str(tmp_path / "canal-fold0.safetensors")
    assert set(seen_studies(["c"], start, ["d"])) == {study_hash(name) for name in "abc"}
    with pytest.raises(
        WeightsError, match=r"1 of the held-out studies, the first is b; start from weights of the same"
    ):
        seen_studies(["c"], start, ["d", "b"])
    start = str(tmp_path / "run" / "best.safetensors")
    (tmp_path / "run").mkdir()
    with pytest.raises(WeightsError, match="nobody knows which studies"):
        seen_studies(["c"], start)
    write_seen(tmp_path / "run" / "seen.txt", seen_studies(["e"]))
    assert set(seen_studies(["c"], start)) == {study_hash(name) for name in "ce"}
