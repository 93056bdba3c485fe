"""Small tables that several tests of the ensemble use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.labels import CELL_COLUMNS, GRADE_NAMES


@pytest.fixture
def write_labels(tmp_path: Path) -> Callable[..., Path]:
    """Write grades (studies, 25), NaN for none, as a ``train.csv``."""

    def write(grades: np.ndarray, study_ids: list[str] | None = None, name: str = "train.csv") -> Path:
        ids = study_ids or [str(1000 + number) for number in range(len(grades))]
        text = [["" if np.isnan(g) else GRADE_NAMES[int(g)] for g in row] for row in grades]
        frame = pd.DataFrame(text, columns=list(CELL_COLUMNS))
        frame.insert(0, "study_id", ids)
        path = tmp_path / name
        frame.to_csv(path, index=False)
        return path

    return write
