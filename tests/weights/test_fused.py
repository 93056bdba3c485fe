"""Folding batch norms changes the time of a network and not its output."""

import torch
from torch import nn

from pipeline.weights.backbones import create_backbone
from pipeline.weights.fused import fuse


def _settled(model: nn.Module) -> nn.Module:
    """The model with running statistics that are not the initial zeros and ones."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator) * 0.1)
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
    return model.eval()


def _norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def test_a_fused_network_gives_the_same_output_with_fewer_layers():
    model = _settled(create_backbone("mobilenetv2_035", "random", in_chans=1))
    example = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    other = torch.rand(3, 1, 64, 64, generator=torch.Generator().manual_seed(2))
    assert _norms(model) > 0
    with torch.inference_mode():
        expected = model(other)
        result = fuse(model, example)
        assert _norms(result) == 0
        assert torch.allclose(expected, result(other), atol=1e-4)


class _ReadInAnotherOrder(nn.Module):
    """Its children follow each other in order, but the norm is applied first."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(4, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.convolution(torch.relu(self.norm(images)))


def test_a_network_that_fusing_would_change_is_left_alone():
    model = _settled(_ReadInAnotherOrder())
    before = dict(model.named_modules())
    fuse(model, torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert dict(model.named_modules()) == before
