"""A converted part gives PyTorch's numbers, is converted once, and is not believed where it gives others."""

import pytest
import torch
from torch import nn

from pipeline.labels import Family, SeriesKind
from pipeline.landmarks.model import FeatureNet, PointModelSettings, PointNet
from pipeline.severity.model import SeverityModel
from pipeline.severity.predict import convert_encoders
from pipeline.severity.settings import NetworkSettings, SeveritySettings
from pipeline.weights import converted
from pipeline.weights.backbones import create_backbone
from pipeline.weights.manifest import Member
from pipeline.weights.runtime import RuntimeFailedError

pytest.importorskip("openvino")

SHAPE = (3, 1, 32, 32)
MEMBER = Member("a", "canal", "a", "0" * 64)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("LUMBAR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def part():
    torch.manual_seed(0)
    return create_backbone("test_efficientnet", "random", in_chans=1).eval()


@pytest.mark.parametrize("count", [1, 3, 7])
def test_any_number_of_images_gives_what_pytorch_gives(part, count):
    images = torch.rand(count, 1, 32, 32, generator=torch.Generator().manual_seed(count))
    found = converted.convert(part, SHAPE, MEMBER)(images.to(memory_format=torch.channels_last))
    with torch.inference_mode():
        assert torch.allclose(found, part(images), atol=1e-5)


def test_it_is_converted_once_and_a_damaged_copy_anew(part, cache, monkeypatch):
    convert, made = converted._converted, []
    monkeypatch.setattr(converted, "_converted", lambda *given: made.append(given) or convert(*given))
    for expected in (1, 1):
        converted.convert(part, SHAPE, MEMBER)
        assert len(made) == expected
    (kept,) = (path for path in cache.iterdir() if path.suffix == ".0")
    kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    converted.convert(part, SHAPE, MEMBER)
    converted.convert(part, SHAPE, MEMBER)
    assert len(made) == 2


def test_a_cache_that_cannot_be_written_costs_only_the_time(part, cache):
    cache.write_text("a file of somebody's")
    assert converted.convert(part, SHAPE, MEMBER)(torch.rand(SHAPE)).shape == (3, part.num_features)
    assert cache.read_text() == "a file of somebody's"


class _Halved(nn.Module):
    def __init__(self, part):
        super().__init__()
        self.part = part

    def forward(self, images):
        return self.part(images) * 0.5


def test_other_numbers_than_pytorchs_are_refused_when_converted_and_when_loaded(part, cache, monkeypatch):
    convert = converted._converted
    monkeypatch.setattr(converted, "_converted", lambda one, example: convert(_Halved(one), example))
    with pytest.raises(RuntimeFailedError, match="differs from PyTorch"):
        converted.convert(part, SHAPE, MEMBER)
    assert not cache.exists(), "what is wrong was kept"
    monkeypatch.setattr(converted, "_compare", lambda *_: None)
    converted.convert(part, SHAPE, MEMBER)  # on another machine, say, where it was right
    monkeypatch.undo()
    monkeypatch.setenv("LUMBAR_CACHE", str(cache))
    with pytest.raises(RuntimeFailedError, match="differs from PyTorch"):
        converted.convert(part, SHAPE, MEMBER)


def test_a_layer_that_openvino_does_not_know_is_named():
    class Eigenvalues(nn.Module):
        def forward(self, images):
            return torch.linalg.eigvals(images[:, 0]).real

    with pytest.raises(RuntimeFailedError, match="OpenVINO"):
        converted.convert(Eigenvalues(), SHAPE, MEMBER)


def test_a_point_network_gives_the_same_points_maps_and_visibilities():
    """Of batches of several images, too, whose softmax OpenVINO computes wrongly."""
    torch.manual_seed(0)
    settings = PointModelSettings("test_efficientnet", "random", channels=10, size_px=64, width=8)
    network = PointNet(settings).eval()
    images = torch.rand(8, 1, 64, 64)
    with torch.inference_mode():
        expected = network(images)
        network.convert(converted.convert(FeatureNet(network), (3, 1, 64, 64), MEMBER))
        found = network(images)
    assert sum(parameter.numel() for parameter in network.parameters()) < 1000, "the layers are still there"
    for name, values in expected.items():
        assert torch.allclose(found[name], values, atol=1e-4), name


@pytest.mark.parametrize("encoder", ["sequence", "multichannel", "3d"])
def test_a_classifier_gives_the_same_probabilities_with_slices_absent(encoder):
    torch.manual_seed(0)
    network = NetworkSettings("test_efficientnet", encoder=encoder, width=16)
    views = SeveritySettings(network=network).views_of(Family.CANAL)
    model = SeverityModel(network, views).eval()
    generator = torch.Generator().manual_seed(1)
    names = {kind: kind.name.lower() for kind in (SeriesKind.SAGITTAL_T2, SeriesKind.AXIAL_T2)}
    views_of = {names[view.kind]: view for view in views}
    pixels = {name: torch.rand(4, v.slices, v.pixels, v.pixels, generator=generator) for name, v in views_of.items()}
    present = {name: torch.ones(4, view.slices, dtype=torch.bool) for name, view in views_of.items()}
    present["axial_t2"][1] = False
    present["sagittal_t2"][2, 0] = False
    level = torch.arange(4)
    with torch.inference_mode():
        expected = model.log_probabilities(pixels, present, level).exp()
        convert_encoders(model, views, MEMBER)
        found = model.log_probabilities(pixels, present, level).exp()
    assert torch.allclose(found, expected, atol=1e-4)
