"""Learning rates over a run."""

import pytest
import torch

from pipeline.training.schedule import apply_schedule, momentum, rate_factor


def test_cosine_warms_up_peaks_and_ends_at_nothing():
    rates = [rate_factor("cosine", step / 100, 0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.01)
    assert rates.index(max(rates)) == 10
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] < 0.001
    assert rate_factor("cosine", 0.55, 0.1) == pytest.approx(0.5)


def test_constant_stays():
    assert {rate_factor("constant", position, 0.1) for position in (0.1, 0.5, 0.99)} == {1.0}
    assert rate_factor("constant", 0.0, 0.0) == 1.0


def test_onecycle_is_torch_s():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], lr=1.0)
    steps = 101
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=steps, pct_start=30 / 100)
    for step in range(steps - 1):
        group = optimizer.param_groups[0]
        # torch's phases end one step early; compare at the same phase
        position = step / 29 * 0.3 if step <= 29 else 0.3 + (step - 29.3) / 70.7 * 0.7
        assert rate_factor("onecycle", position, 0.0) == pytest.approx(group["lr"], abs=0.02)
        assert momentum("onecycle", position) == pytest.approx(group["betas"][0], abs=0.005)
        optimizer.step()
        scheduler.step()


def test_groups_keep_their_own_factor():
    slow, fast = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    optimizer = torch.optim.AdamW([{"params": [slow], "lr_factor": 0.1}, {"params": [fast]}], lr=1.0)
    assert apply_schedule(optimizer, "cosine", 0.5, 0.5, 0.0) == pytest.approx(0.25)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.025, 0.25])
