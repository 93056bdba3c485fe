"""Two processes train as one does, over gloo on the CPU as over NCCL on two GPUs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = """
import dataclasses, sys
from pathlib import Path
from pipeline.training.loop import fit
from tests.training.test_loop import Plain
from tests.training.toy import SETTINGS

class Cut(Plain):
    # one process runs out of memory once: all must halve together
    def loss(self, model, batch):
        import os
        if os.environ.get("RANK") == "1" and len(batch["target"]) > 2:
            import torch
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().loss(model, batch)

task = (Cut if sys.argv[2] == "cut" else Plain)()
result = fit(task, dataclasses.replace(SETTINGS, epochs=2), Path(sys.argv[1]))
print("score", result.best_score)
"""


def train(tmp_path, name, processes, kind="plain"):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    root = Path(__file__).parents[2]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    done = subprocess.run(
        [sys.executable, *launcher, str(script), str(tmp_path / name), kind],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return load_file(tmp_path / name / "last.safetensors")


@pytest.mark.slow
def test_two_processes_give_the_weights_of_one(tmp_path):
    one, two, cut = train(tmp_path, "one", 1), train(tmp_path, "two", 2), train(tmp_path, "cut", 2, "cut")
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(one[name], cut[name], rtol=1e-4, atol=1e-5)
    assert "micro-batch halved" in (tmp_path / "cut" / "log.txt").read_text()
