"""Backbones from timm, from files with timm's names, and from files with other names; no network is asked."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from pipeline.weights.backbones import BackboneError, check_backbone, create_backbone

NAME = "tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def donor():
    torch.manual_seed(0)
    model = timm.create_model(NAME, pretrained=False)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
    return model.eval()


def foreign(tensors, drop=0):
    """The same tensors under names that only keep the last part."""
    names = list(tensors)[: len(tensors) - drop]
    return {f"layer{number}.{name.rsplit('.', 1)[-1]}": tensors[name] for number, name in enumerate(names)}


@pytest.fixture
def image():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", ["named", "foreign", "wrapped", "safetensors"])
def test_a_file_gives_the_network_it_was_made_from(tmp_path, donor, image, kind):
    tensors = donor.state_dict()
    path = tmp_path / ("weights.safetensors" if kind == "safetensors" else "weights.pth")
    if kind == "safetensors":
        save_file(tensors, path)
    else:
        torch.save({"named": tensors, "foreign": foreign(tensors), "wrapped": {"state_dict": tensors}}[kind], path)
    model = create_backbone(NAME, path, in_chans=3).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(image), donor.forward_head(donor.forward_features(image), pre_logits=True))


def test_a_file_without_head_fits_too(tmp_path, donor, image):
    torch.save(foreign(donor.state_dict(), drop=2), tmp_path / "body.pth")
    model = create_backbone(NAME, tmp_path / "body.pth", in_chans=3).eval()
    with torch.no_grad():
        torch.testing.assert_close(model.forward_features(image), donor.forward_features(image))


def test_one_channel_sees_what_three_equal_channels_saw(tmp_path, donor, image):
    torch.save(foreign(donor.state_dict()), tmp_path / "weights.pth")
    grey = image[:, :1]
    model = create_backbone(NAME, tmp_path / "weights.pth", in_chans=1).eval()
    with torch.no_grad():
        expected = donor.forward_features(grey.expand(-1, 3, -1, -1))
        torch.testing.assert_close(model.forward_features(grey), expected, atol=1e-4, rtol=1e-3)


def test_feature_maps_come_from_the_file(tmp_path, donor, image):
    torch.save(foreign(donor.state_dict()), tmp_path / "weights.pth")
    model = create_backbone(NAME, tmp_path / "weights.pth", in_chans=3, features_only=True, out_indices=(1, 3)).eval()
    assert model.feature_info.channels() == [24, 112]
    with torch.no_grad():
        shapes = [tuple(feature.shape) for feature in model(image)]
    assert shapes == [(2, 24, 16, 16), (2, 112, 4, 4)]
    assert torch.equal(model.conv_stem.weight, donor.conv_stem.weight)


def test_tensors_out_of_order_are_refused_by_shape_and_by_kind(tmp_path, donor):
    tensors = donor.state_dict()
    names = list(tensors)
    wide, narrow = names.index("blocks.0.0.conv_dw.weight"), names.index("conv_stem.weight")
    names[wide], names[narrow] = names[narrow], names[wide]
    torch.save(foreign({name: tensors[name] for name in names}), tmp_path / "order.pth")
    with pytest.raises(BackboneError, match=r"tensor 1, layer0\.weight \(32, 1, 3, 3\), does not fit|does not fit"):
        create_backbone(NAME, tmp_path / "order.pth")
    names = list(tensors)
    mean, bias = names.index("bn1.running_mean"), names.index("bn1.bias")
    names[mean], names[bias] = names[bias], names[mean]
    torch.save(foreign({name: tensors[name] for name in names}), tmp_path / "kind.pth")
    with pytest.raises(BackboneError, match=r"running_mean.* does not fit bn1\.bias"):
        create_backbone(NAME, tmp_path / "kind.pth")


def test_a_file_of_another_network_is_refused(tmp_path, donor):
    torch.save(donor.state_dict(), tmp_path / "weights.pth")
    with pytest.raises(BackboneError, match=r"tensors beside counters; expected .*another network"):
        create_backbone("resnet18", tmp_path / "weights.pth")
    (tmp_path / "broken.pth").write_bytes(b"nothing")
    with pytest.raises(BackboneError, match="not a readable weights file"):
        create_backbone(NAME, tmp_path / "broken.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(BackboneError, match="expected named tensors, found list"):
        create_backbone(NAME, tmp_path / "list.pth")
    with pytest.raises(BackboneError, match="no such weights file"):
        create_backbone(NAME, tmp_path / "nowhere.pth")


def test_an_unknown_name_is_refused_with_names_near_it():
    with pytest.raises(
        BackboneError, match=r"Invalid pretrained tag \(in99k\) for resnet18.* It has .*resnet18.a1_in1k"
    ):
        check_backbone("resnet18.in99k", "random")
    with pytest.raises(BackboneError, match=r"no network 'resnet19'; near it: .*resnet"):
        create_backbone("resnet19")


def test_random_weights_differ_and_need_no_file():
    model = create_backbone("mobilenetv2_100", "random", num_classes=3)
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 3)


def test_pretrained_without_a_network_says_what_to_do(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("offline")

    monkeypatch.setattr("timm.create_model", refuse)
    with pytest.raises(BackboneError, match=r"offline, set `initial` .* model.initial=FILE"):
        create_backbone(NAME, "pretrained")
