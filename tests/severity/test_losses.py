"""The losses against values worked out by hand, and against the metric."""

import numpy as np
import pytest
import torch

from pipeline.scoring.metric import weighted_log_loss
from pipeline.severity.losses import severity_loss
from pipeline.severity.settings import LossSettings

LOGITS = torch.tensor([[2.0, 0.5, -1.0], [0.1, 0.4, 0.2], [-1.0, 0.0, 1.5], [0.3, 0.3, 0.3]])
GRADES = torch.tensor([0, 1, 2, -1])


def test_weighted_is_the_metric():
    p = torch.softmax(LOGITS, 1).numpy()
    expected = weighted_log_loss(np.array([0, 1, 2, np.nan]), p)
    assert float(severity_loss(LOGITS, GRADES, LossSettings())) == pytest.approx(expected, rel=1e-5)


def test_cells_drawn_by_weight_are_not_weighted_again():
    drawn = torch.tensor([0, 1, 1, 2, 2, 2, 2])
    repeated = LOGITS[drawn]
    once = severity_loss(LOGITS[:3], GRADES[:3], LossSettings())
    again = severity_loss(repeated, GRADES[drawn], LossSettings(), reweighted=True)
    torch.testing.assert_close(once, again)


def test_focal_without_gamma_is_cross_entropy_with_alpha():
    settings = LossSettings(kind="focal", gamma=0.0, alpha=(1.0, 1.0, 1.0))
    plain = severity_loss(LOGITS, GRADES, LossSettings(kind="plain"))
    torch.testing.assert_close(severity_loss(LOGITS, GRADES, settings), plain)
    assert severity_loss(LOGITS, GRADES, LossSettings(kind="focal", alpha=(1.0, 1.0, 1.0))) < plain


def test_ordinal_prefers_the_neighbour_to_the_far_grade():
    settings = LossSettings(kind="ordinal")
    severe = torch.tensor([2])
    near, far = torch.tensor([[0.0, 3.0, 0.0]]), torch.tensor([[3.0, 0.0, 0.0]])
    assert severity_loss(near, severe, settings) < severity_loss(far, severe, settings)


@pytest.mark.parametrize("kind", ["weighted", "plain", "focal", "ordinal"])
def test_every_loss_has_a_finite_gradient_even_when_sure_and_wrong(kind):
    logits = torch.tensor([[60.0, 0.0, -60.0], [-60.0, 0.0, 60.0]], requires_grad=True)
    loss = severity_loss(logits, torch.tensor([2, 2]), LossSettings(kind=kind, any_severe=0.5))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_a_batch_without_grades_costs_nothing():
    logits = LOGITS.clone().requires_grad_()
    loss = severity_loss(logits, torch.full((4,), -1), LossSettings())
    loss.backward()
    assert loss.item() == 0.0
    assert not logits.grad.any()


def test_the_any_severe_term_pushes_severe_up():
    logits = LOGITS.clone().requires_grad_()
    severity_loss(logits, torch.tensor([0, 1, 2, 2]), LossSettings(any_severe=2.0)).backward()
    assert logits.grad[2, 2] < 0
    assert logits.grad[0, 2] > 0
