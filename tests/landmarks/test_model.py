"""The point network and its loss."""

import pytest
import torch

from pipeline.landmarks.model import PointLossSettings, PointModelSettings, PointNet, map_grid, point_loss

SETTINGS = PointModelSettings(backbone="test_efficientnet", initial="random", channels=3, size_px=64, width=16)
LOSS = PointLossSettings()


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return PointNet(SETTINGS).eval()


def output_looking_at(points, side=16, stride=4, sharpness=0.05):
    """What a network that is sure of these (B, C, 2) points gives."""
    grid = map_grid((side, side), stride, torch.device("cpu"))
    heat = -sharpness * (grid[None, None] - points[:, :, None]).square().sum(-1)
    expected = torch.einsum("bcp,pk->bck", heat.softmax(-1), grid)
    shape = (*points.shape[:2], side, side)
    return {"heat": heat.reshape(shape), "points": expected, "visible": torch.zeros(points.shape[:2])}


def loss_of(output, points, weight=None, visible=None, visible_weight=None):
    ones = torch.ones(points.shape[:2])
    weight, visible, visible_weight = (ones if value is None else value for value in (weight, visible, visible_weight))
    return point_loss(output, points, weight, visible, visible_weight, 4, LOSS)[0]


def test_shapes(model):
    output = model(torch.rand(2, 1, 64, 64))
    assert output["points"].shape == (2, 3, 2)
    assert output["visible"].shape == (2, 3)
    assert output["heat"].shape == (2, 3, 64 // model.stride, 64 // model.stride)
    assert model.stride == 4
    assert ((output["points"] >= 0) & (output["points"] <= 63)).all()


def test_the_points_are_the_expectation_of_the_maps(model):
    output = model(torch.rand(1, 1, 64, 64))
    grid = map_grid(output["heat"].shape[-2:], model.stride, torch.device("cpu"))
    expected = torch.einsum("bcp,pk->bck", output["heat"].flatten(2).softmax(-1), grid)
    assert torch.allclose(output["points"], expected, atol=1e-4)


def test_half_precision_does_not_round_the_points_to_whole_pixels(model):
    images = torch.rand(4, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        output = model(images)
    grid = map_grid(output["heat"].shape[-2:], model.stride, torch.device("cpu"))
    expected = torch.einsum("bcp,pk->bck", output["heat"].flatten(2).softmax(-1), grid)
    assert output["points"].dtype == torch.float32
    assert (output["points"] - expected).abs().max() < 1e-3


def test_map_cells_are_where_their_pixels_are():
    grid = map_grid((3, 5), 4, torch.device("cpu")).reshape(3, 5, 2)
    assert grid[0, 0].tolist() == [1.5, 1.5]  # the middle of pixels 0 to 3
    assert grid[2, 4].tolist() == [17.5, 9.5]  # x along the columns, y along the rows


def test_a_sharp_peak_gives_its_point_exactly():
    points = torch.tensor([[[21.5, 33.5], [9.5, 50.25], [30.0, 12.75]]])
    output = output_looking_at(points)
    assert (output["points"] - points).abs().max() < 0.02
    assert loss_of(output, points) < loss_of(output, points + 3)


def test_the_maps_border_on_the_image():
    """A peak in the corner cell stays there: nothing is shifted by half a cell between map and image."""
    output = output_looking_at(torch.tensor([[[1.5, 61.5]]]), sharpness=2.0)
    assert (output["points"] - torch.tensor([[[1.5, 61.5]]])).abs().max() < 0.01


def test_exchanged_x_and_y_cost():
    points = torch.tensor([[[10.0, 50.0], [20.0, 44.0], [33.0, 21.0]]])
    output = output_looking_at(points)
    assert loss_of(output, points.flip(-1)) > 2 * loss_of(output, points)


def test_a_missing_point_says_nothing(model):
    torch.manual_seed(1)
    images = torch.rand(2, 1, 64, 64)
    points = torch.rand(2, 3, 2) * 60
    weight = torch.ones(2, 3)
    weight[0, 1] = 0
    output = model(images)
    base = loss_of(output, points, weight, visible_weight=weight)
    for value in (-1e6, float("nan"), float("inf")):
        changed = points.clone()
        changed[0, 1] = value
        assert loss_of(output, changed, weight, visible_weight=weight) == base
    moved = points.clone()
    moved[0, 0] += 5
    assert loss_of(output, moved, weight, visible_weight=weight) != base


def test_a_missing_point_has_no_gradient():
    heat = torch.randn(1, 3, 16, 16, requires_grad=True)
    grid = map_grid((16, 16), 4, torch.device("cpu"))
    visible = torch.zeros(1, 3, requires_grad=True)
    output = {
        "heat": heat,
        "points": torch.einsum("bcp,pk->bck", heat.flatten(2).softmax(-1), grid),
        "visible": visible,
    }
    weight = torch.tensor([[1.0, 0.0, 0.3]])
    points = torch.tensor([[[20.0, 20.0], [float("nan"), 3.0], [40.0, 8.0]]])
    loss_of(output, points, weight, visible_weight=weight).backward()
    used = heat.grad.abs().sum((0, 2, 3))
    assert used[1] == 0
    assert used[0] > used[2] > 0
    assert torch.isfinite(heat.grad).all()
    assert visible.grad[0, 1] == 0


def test_a_batch_without_any_point_has_a_finite_loss(model):
    nothing = torch.zeros(2, 3)
    loss = loss_of(model(torch.rand(2, 1, 64, 64)), torch.zeros(2, 3, 2), nothing, nothing, nothing)
    assert loss == 0


def test_visibility_is_asked_only_where_it_is_known():
    points = torch.full((1, 2, 2), 30.0)
    output = output_looking_at(points) | {"visible": torch.tensor([[4.0, -4.0]])}
    right = loss_of(output, points, visible=torch.tensor([[1.0, 0.0]]))
    wrong = loss_of(output, points, visible=torch.tensor([[0.0, 1.0]]))
    half = loss_of(output, points, visible=torch.tensor([[1.0, 1.0]]), visible_weight=torch.tensor([[1.0, 0.0]]))
    assert wrong > right + 1
    assert half == pytest.approx(float(right), abs=0.02)


def test_every_part_of_the_network_learns():
    torch.manual_seed(0)
    model = PointNet(SETTINGS).train()
    points = torch.rand(2, 3, 2) * 60
    ones = torch.ones(2, 3)
    loss, parts = point_loss(model(torch.rand(2, 1, 64, 64)), points, ones, ones, ones, model.stride, LOSS)
    loss.backward()
    stuck = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # timm's last stages may hold weights that a feature pyramid does not use; nothing of the decoder may be idle
    assert not [name for name in stuck if not name.startswith("encoder.")]
    assert len(stuck) < 0.2 * len(list(model.parameters()))
    assert set(parts) == {"heat", "coordinate", "visible"}


def test_a_few_steps_find_a_dot():
    """The network can learn where something is: x, y and the stride are consistent from end to end."""
    torch.manual_seed(0)
    model = PointNet(PointModelSettings("test_efficientnet", "random", channels=1, size_px=32, width=16)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(0)
    grid = map_grid((32, 32), 1, torch.device("cpu"))
    errors = []
    for _ in range(40):
        points = 6 + 20 * torch.rand(8, 1, 2, generator=generator)
        images = (-(grid[None] - points).square().sum(-1) / 18).exp().reshape(8, 1, 32, 32)
        ones = torch.ones(8, 1)
        output = model(images)
        loss, _ = point_loss(output, points, ones, ones, ones, model.stride, LOSS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(float((output["points"] - points).norm(dim=-1).mean().detach()))
    assert sum(errors[-5:]) / 5 < 0.4 * errors[0]
