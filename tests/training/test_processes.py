"""Two processes train as one does, over gloo on the CPU as over NCCL on two GPUs."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.training.loop import fit
from tests.training.test_loop import Plain
from tests.training.toy import SETTINGS

SCRIPT = """
import dataclasses, os, sys
from pathlib import Path
import torch
from pipeline.training.loop import fit
from tests.training.test_loop import Plain
from tests.training.toy import SETTINGS

class Cut(Plain):
    # the second process alone runs out of memory: both must halve
    def loss(self, model, batch):
        if os.environ["RANK"] == "1" and len(batch["target"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().loss(model, batch)

for task in (Plain(), Cut()):
    fit(task, dataclasses.replace(SETTINGS, epochs=2), Path(sys.argv[1]) / type(task).__name__)
"""


@pytest.mark.slow
def test_two_processes_give_the_weights_of_one_and_run_out_of_memory_together(tmp_path):
    fit(Plain(), dataclasses.replace(SETTINGS, epochs=2), tmp_path / "one")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node=2",
            str(script),
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one = load_file(tmp_path / "one" / "last.safetensors")
    for name in ("Plain", "Cut"):
        two = load_file(tmp_path / name / "last.safetensors")
        for tensor in one:
            torch.testing.assert_close(one[tensor], two[tensor], rtol=1e-4, atol=1e-5)
    assert "micro-batch halved" in (tmp_path / "Cut" / "log.txt").read_text()
