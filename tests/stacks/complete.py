"""The two complete real studies with their points: labelled ones of the first, those of the committed localiser of the
second, which has no labels."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from pipeline.competition import Competition, open_competition
from pipeline.landmarks.load import load_predictor
from pipeline.volumes import read_study
from tests.commands.mounts import ROOT


def complete_studies(real_data: Path) -> list[tuple[Competition, pd.DataFrame | None]]:
    """The folder of each study, and a table of predicted points where it has no labels."""
    train, test = (open_competition(real_data / "rsna-full", split=split) for split in ("train", "test"))
    found = load_predictor(ROOT / "weights" / "default").predict(read_study(test.studies[0]))
    return [(train, None), (test, found.to_frame())]
