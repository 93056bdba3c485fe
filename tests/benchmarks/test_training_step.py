"""What feeding a classifier costs beside learning, on one thread of the CPU.

``python -m pytest tests/benchmarks/test_training_step.py --benchmark-enable -n 0 -s`` makes phantoms, keeps their
stacks and takes some steps of the ``cpu`` preset.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.competition import open_competition
from pipeline.labels import Family
from pipeline.phantom import make_phantom
from pipeline.preset import load_settings
from pipeline.severity.data import load_data
from pipeline.severity.settings import SeveritySettings
from pipeline.severity.task import SeverityTask
from pipeline.severity.windows import cut_windows, draw_jitter
from pipeline.training.accelerator import open_accelerator
from pipeline.training.learner import Learner
from pipeline.training.memory import keep_freed_memory
from pipeline.training.sampling import Draw, SeededItems
from tests.benchmarks.timing import quickest

ROUNDS = 5
MOST_SHARE = 0.1
"""Of a step, for gathering what is around the windows and cutting them."""

pytestmark = pytest.mark.usefixtures("only_when_measuring")


@pytest.mark.parametrize("family", [Family.FORAMINAL, Family.CANAL])
def test_feeding_takes_a_tenth_of_a_step(family, tmp_path, capsys):
    torch.set_num_threads(1)
    keep_freed_memory()
    phantom = make_phantom(tmp_path / "phantom", studies=8, seed=3, size="small")
    settings = load_settings(SeveritySettings, "cpu", family.value)
    data = load_data([open_competition(phantom, split="train")], family, settings, tmp_path / "cache", [], None, 1)
    cells = data.cells.rows((data.cells.grade >= 0) & data.cells.true)
    task = SeverityTask(family, settings, data.cache, cells, cells, tmp_path, f"{family} fold 0")
    learner = Learner(task, settings.loop, open_accelerator("cpu", "fp32"), print)
    learner.model.train()
    draws = [Draw(int(n), 0) for n in np.random.default_rng(0).integers(len(cells), size=settings.loop.batch_size)]
    items = SeededItems(task.train_set)
    batch = items.__getitems__(draws)

    def cut() -> None:
        for view in task.views:
            change = draw_jitter(len(draws), settings.jitter, torch.Generator().manual_seed(0))
            name = view.kind.name.lower()
            cut_windows(batch[f"around_{name}"], batch[f"place_{name}"], view.pixels, view.spacing_mm, change)

    gathering = quickest(lambda: items.__getitems__(draws), ROUNDS).cpu
    cutting = quickest(cut, ROUNDS).cpu
    step = quickest(lambda: learner.learn(dict(batch), 0, 0, 1), ROUNDS).cpu
    with capsys.disabled():
        print(
            f"\n{family}: {len(draws) / (gathering + step):.1f} cells/s; a batch of {len(draws)}: gathering "
            f"{1e3 * gathering:.1f} ms, cutting {1e3 * cutting:.1f} ms, the whole step {1e3 * step:.0f} ms"
        )
    assert gathering + cutting <= MOST_SHARE * step
