"""The wheelhouse is made without a trace elsewhere; what is in it is tested with the rest of the build."""

from __future__ import annotations

from pipeline.commands import ROOT
from pipeline.commands.wheelhouse import _pip_download


def test_pip_keeps_no_copy_in_the_home_folder(tmp_path):
    assert "--no-cache-dir" in _pip_download(tmp_path, ROOT / "requirements-decoders.txt", "3.12")
