"""Charts are looked at, so only their size and that they show what they are given is checked."""

from __future__ import annotations

import numpy as np

from pipeline.scoring.figures import level_figures
from pipeline.training.charts import confusion_chart


def figures(predicted):
    grades = np.tile([0, 1, 2], 10)
    levels = np.repeat(range(5), 6)
    return level_figures(np.log(np.eye(3)[predicted] * 0.9 + 0.03), grades, levels)


def test_a_confusion_chart_shows_every_level_and_differs_with_the_matrix():
    right, wrong = (confusion_chart(figures(np.tile(order, 10))) for order in ([0, 1, 2], [1, 2, 0]))
    assert right.dtype == np.uint8
    assert right.shape == wrong.shape == (192, 6 * 176, 3)
    panels = np.abs(right.astype(int) - wrong).sum((0, 2)).reshape(6, -1).sum(1)
    assert (panels > 10_000).all()
