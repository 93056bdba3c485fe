"""The classifier: every head and encoder, missing views, and that it gives logits and not probabilities."""

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from pipeline.cubes import ViewSettings
from pipeline.labels import SeriesKind
from pipeline.severity.heads import make_head
from pipeline.severity.model import SeverityModel
from pipeline.severity.settings import NetworkSettings

VIEWS = (
    ViewSettings(SeriesKind.SAGITTAL_T2, pixels=32, slices=3),
    ViewSettings(SeriesKind.AXIAL_T2, pixels=32, slices=5),
)
SMALL = NetworkSettings(backbone="test_resnet.r160_in1k", width=32, level_width=4)
NAMES = ("sagittal_t2", "axial_t2")


def batch(count=4):
    generator = torch.Generator().manual_seed(0)
    pixels = {n: torch.rand(count, v.slices, 32, 32, generator=generator) for n, v in zip(NAMES, VIEWS, strict=True)}
    present = {n: torch.ones(count, v.slices, dtype=torch.bool) for n, v in zip(NAMES, VIEWS, strict=True)}
    return pixels, present, torch.arange(count) % 5


@pytest.mark.parametrize("head", ["mean", "attention", "lstm", "transformer"])
def test_absent_tokens_have_no_say_in_a_head(head):
    torch.manual_seed(0)
    module = make_head(head, 16).eval()
    tokens, present = torch.randn(3, 6, 16), torch.ones(3, 6, dtype=torch.bool)
    present[:, 4:] = False
    changed = tokens.clone()
    changed[:, 4:] = 100.0
    if head == "lstm":  # its weights see zeros where a token is absent
        assert torch.isfinite(module(changed, present)).all()
    torch.testing.assert_close(module(tokens, present), module(changed, present))
    assert torch.isfinite(module(tokens, torch.zeros(3, 6, dtype=torch.bool))).all()


@pytest.mark.parametrize("encoder", ["sequence", "multichannel", "3d"])
@pytest.mark.parametrize("head", ["mean", "transformer"])
def test_every_encoder_answers_for_any_subset_of_views(encoder, head):
    torch.manual_seed(0)
    model = SeverityModel(replace(SMALL, encoder=encoder, head=head), VIEWS).eval()
    pixels, present, level = batch()
    whole = model(pixels, present, level)
    assert whole.shape == (4, 1, 3)
    present["axial_t2"][:] = False
    without = model(pixels, present, level)
    pixels["axial_t2"] = torch.rand_like(pixels["axial_t2"])
    torch.testing.assert_close(model(pixels, present, level), without)
    assert not torch.allclose(whole, without)


def test_it_gives_logits_and_one_softmax():
    model = SeverityModel(SMALL, VIEWS).eval()
    model.start_at([0.7, 0.2, 0.1])
    pixels, present, level = batch()
    logits = model(pixels, present, level)
    assert not torch.allclose(logits.sum(-1), torch.ones(4, 1))
    log_p = model.log_probabilities(pixels, present, level)
    torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(4, 1))
    np.testing.assert_allclose(log_p.exp().mean((0, 1)).detach().numpy(), [0.7, 0.2, 0.1], atol=0.1)


def test_further_families_have_logits_of_their_own_from_the_same_vector():
    model = SeverityModel(SMALL, VIEWS, families=3).eval()
    model.start_at([0.7, 0.2, 0.1, 0.1, 0.2, 0.7, 0.2, 0.6, 0.2])
    log_p = model.log_probabilities(*batch())
    assert log_p.shape == (4, 3, 3)
    np.testing.assert_allclose(log_p.exp().mean(0).detach().numpy()[1], [0.1, 0.2, 0.7], atol=0.1)


def test_views_are_dropped_in_training_but_never_the_last_one():
    model = SeverityModel(replace(SMALL, view_drop=0.9), VIEWS).train()
    masks = [torch.ones(200, 3, dtype=torch.bool), torch.ones(200, 5, dtype=torch.bool)]
    masks[1][:50] = False
    kept = model._kept(masks)
    there = torch.stack([mask.any(1) for mask in kept], 1)
    assert there.any(1).all()
    assert not there.all(1)[50:].all()
    assert kept[0][:50].all()
    assert [m.all() for m in model.eval()._kept([masks[0]])] == [True]


def test_a_shared_encoder_is_one_set_of_weights():
    same = (VIEWS[0], replace(VIEWS[1], slices=3))
    shared = SeverityModel(replace(SMALL, share_encoder=True, encoder="multichannel"), same)
    apart = SeverityModel(replace(SMALL, encoder="multichannel"), same)
    assert sum(p.numel() for p in shared.parameters()) < 0.7 * sum(p.numel() for p in apart.parameters())
    assert len(shared.state_dict()) < 0.7 * len(apart.state_dict()), "nor is it stored twice"


@pytest.mark.parametrize("encoder", ["sequence", "multichannel"])
def test_a_shared_encoder_normalises_in_training_as_it_will_in_evaluation(encoder):
    """Batch norm that took each view by itself in training would answer otherwise by its running means."""
    torch.manual_seed(0)
    settings = replace(SMALL, share_encoder=True, encoder=encoder, dropout=0.0, view_drop=0.0)
    model = SeverityModel(settings, (VIEWS[0], replace(VIEWS[1], slices=3))).train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # what is kept is this batch's
    pixels = {name: number + torch.rand(8, 3, 32, 32) for number, name in enumerate(NAMES)}
    present = dict.fromkeys(NAMES, torch.ones(8, 3, dtype=torch.bool))
    present[NAMES[0]] = present[NAMES[0]].clone()
    present[NAMES[0]][0] = False
    level = torch.arange(8) % 5
    with torch.no_grad():
        trained = model(pixels, present, level)
        evaluated = model.eval()(pixels, present, level)
    assert trained.std(0).min() > 0
    torch.testing.assert_close(trained, evaluated, rtol=0, atol=0.05 * float(trained.std()))


def test_batch_norm_is_not_shared_between_views_of_two_sizes():
    sizes = (replace(VIEWS[0], pixels=64), replace(VIEWS[1], pixels=96))
    with pytest.raises(ValueError, match="has batch norm, which has to see all views"):
        SeverityModel(replace(SMALL, share_encoder=True), sizes)


def test_settings_refuse_nonsense():
    with pytest.raises(ValueError, match="dropout"):
        NetworkSettings(dropout=1.5)
    with pytest.raises(ValueError, match="at least one view"):
        SeverityModel(SMALL, ())


@pytest.mark.parametrize("encoder", ["sequence", "multichannel"])
def test_shapes_are_fixed_on_a_gpu_and_the_answers_are_the_same(monkeypatch, encoder):
    """The CPU stands in for the GPU: what is absent is computed there, masked, and changes nothing."""
    torch.manual_seed(0)
    view = ViewSettings(SeriesKind.AXIAL_T2, size_mm=32, pixels=32, slices=3)
    settings = NetworkSettings("test_resnet.r160_in1k", encoder=encoder, head="attention", width=16)
    model = SeverityModel(settings, (view,)).eval()
    present = torch.tensor([[True, True, True], [False, True, True], [False, False, False], [False, True, False]])
    pixels = torch.rand(4, 3, 32, 32) * present[:, :, None, None]
    batch = {"axial_t2": pixels}, {"axial_t2": present}, torch.zeros(4, dtype=torch.long)
    seen = []
    backbone = model.encoders["axial_t2"].backbone
    backbone.register_forward_hook(lambda module, images, result: seen.append(len(images[0])))
    with torch.no_grad():
        compact = model(*batch)
        monkeypatch.setattr("pipeline.severity.encoders.fixed_shapes", lambda pixels: True)
        torch.testing.assert_close(model(*batch), compact)
    assert seen == ([6, 12] if encoder == "sequence" else [3, 4])


@pytest.mark.parametrize(
    ("encoder", "head"), [("sequence", "transformer"), ("multichannel", "attention"), ("3d", "mean")]
)
def test_on_a_gpu_the_network_compiles_as_one_graph(monkeypatch, encoder, head):
    """With every view there or not; an LSTM is the one part that PyTorch does not trace."""
    monkeypatch.setattr("pipeline.severity.encoders.fixed_shapes", lambda pixels: True)
    torch.manual_seed(0)
    model = SeverityModel(replace(SMALL, encoder=encoder, head=head, view_drop=0.0), VIEWS).train()
    pixels, present, level = batch()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for there in (True, False):
        present["axial_t2"][:2] = there
        answers = []
        for one in (model, compiled):
            torch.manual_seed(1)  # dropout
            answers.append(one(pixels, present, level))
        torch.testing.assert_close(*answers)


@pytest.mark.parametrize("backbone", ["test_vit", "test_maxvit", "test_coatnet", "test_convnext"])
def test_every_kind_of_backbone_takes_a_window_of_any_size(backbone, tmp_path):
    """The first three take images of one size alone, and 160 px unless told; their weights are timm's all the same."""
    torch.manual_seed(0)
    file = tmp_path / "initial.safetensors"
    tensors = timm.create_model(backbone).state_dict()
    save_file({name: values.contiguous() for name, values in tensors.items()}, file)
    views = (replace(VIEWS[0], pixels=50), replace(VIEWS[1], pixels=64, slices=3))
    for encoder, shared in (("sequence", False), ("multichannel", backbone in ("test_vit", "test_convnext"))):
        settings = NetworkSettings(backbone, str(file), encoder=encoder, share_encoder=shared, width=16)
        model = SeverityModel(settings, views, pretrained=True).eval()
        kept = {
            name.removeprefix("backbone.").removeprefix("network."): values
            for name, values in model.encoders["sagittal_t2"].state_dict().items()
        }
        same = [name for name, values in tensors.items() if name in kept and torch.equal(kept[name], values)]
        assert len(same) > 0.8 * len(kept), "all but the first filters and tables of places"
        pixels = {name: torch.rand(2, 3, view.pixels, view.pixels) for name, view in zip(NAMES, views, strict=True)}
        present = dict.fromkeys(NAMES, torch.ones(2, 3, dtype=torch.bool))
        changed = {name: values.roll(7, -1) for name, values in pixels.items()}
        with torch.inference_mode():
            before, after = (model(some, present, torch.arange(2)) for some in (pixels, changed))
        assert before.isfinite().all()
        assert not torch.allclose(before, after), "the windows are looked at"
