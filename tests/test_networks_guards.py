"""What the chapter on segmenters claims, in every corner that its worked examples leave out."""

import functools
import urllib.error
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from partbook.core import InputError, generator
from partbook.parts.networks import (
    DeepLab,
    DINOv2,
    Network,
    ParallelHead,
    SqueezeSegmenter,
    dilated_resnet50,
    multiply_adds,
    networks,
    vision_transformer,
)


class Colours(Network):
    stride = 4

    def __init__(self, channels):
        super().__init__(channels)
        self.backbone = nn.AvgPool2d(4)
        self.head = nn.Conv2d(3, channels, 1)

    def scores(self, pictures):
        return self.head(self.backbone(pictures))


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 64, 96, generator=generator(0))


@pytest.fixture(scope="module")
def photo():
    return torch.rand(1, 3, 65, 97, generator=generator(3))


def test_a_network_resizes_to_whole_cells_and_normalises_inside(images):
    toy = Colours(5)
    assert toy(images).shape == (2, 5, 16, 24)
    assert toy(images[..., :62, :93]).shape == (2, 5, 16, 23)
    grey = toy.mean.expand(1, 3, 8, 8)  # the mean colour is zero inside: only the bias is left
    torch.testing.assert_close(toy(grey), toy.head.bias.view(1, 5, 1, 1).expand(1, 5, 2, 2))
    assert {k: len(v) for k, v in toy.parameter_groups().items()} == {"backbone": 0, "head": 2}


def test_a_network_says_what_is_no_picture(images):
    toy = Colours(5)
    with pytest.raises(InputError, match=r"shape \(B,3,H,W\), not \(3, 64, 96\); add the batch"):
        toy(images[0])
    with pytest.raises(InputError, match="not torch.uint8; divide"):
        toy((images * 255).byte())
    with pytest.raises(InputError, match="at least one channel, not 0"):
        Colours(0)


def test_the_resnet_is_torchvisions_with_the_dilations_of_the_paper(photo):
    strided = dilated_resnet50("random", dilate=(False, False, False))
    dilated = dilated_resnet50("random")
    with torch.device("meta"):
        network = torchvision.models.resnet50(weights=None)
    network = network.to_empty(device="cpu").eval()
    network.load_state_dict(strided.state_dict(), strict=False)
    network.avgpool = nn.Identity()
    network.fc = nn.Identity()
    with torch.no_grad():
        coarse = strided.eval()(photo)
        torch.testing.assert_close(network(photo).view_as(coarse), coarse)
    dilations = {
        name: sorted({m.dilation[0] for m in stage.modules() if isinstance(m, nn.Conv2d)})
        for name, stage in dilated.named_children()
    }
    assert [dilations[f"layer{i}"] for i in (1, 2, 3, 4)] == [[1], [1], [1, 2], [1, 2, 4]]


def test_a_single_one_is_seen_by_nine_cells():
    head = ParallelHead(1, 1, dilations=(2,))
    one = torch.zeros(1, 1, 7, 7)
    one[0, 0, 3, 3] = 1
    expected = torch.zeros(7, 7)
    expected[1::2, 1::2] = head.branches[0].weight[0, 0].flip(0, 1)
    assert torch.equal(head(one)[0, 0], expected)


def test_a_step_of_deeplab_moves_what_it_should(photo):
    net = DeepLab(4, "random", half=True)
    before = net.backbone.layer1[0].bn1.running_mean.clone()
    net(photo).square().mean().backward()
    assert not torch.equal(net.backbone.layer1[0].bn1.running_mean, before)
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    affine = {id(p) for m in norms for p in m.parameters()}
    for p in net.parameters():
        assert (id(p) in affine) == (p.grad is None)
        assert p.requires_grad == (id(p) not in affine)
    groups = net.parameter_groups()
    grouped = [id(p) for group in groups.values() for p in group]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in net.parameters()} - affine
    assert {id(p) for p in groups["head"]} == {id(p) for p in net.head.parameters()}


def test_half_is_the_first_half_and_no_other():
    head = DeepLab(4, "random", half=True).head
    x = torch.randn(1, 2048, 5, 5, generator=generator(6)).requires_grad_()
    (used,) = torch.autograd.grad(head(x).square().sum(), x)
    assert (used.abs().amax((0, 2, 3)) > 0).tolist() == [True] * 1024 + [False] * 1024


def test_frozen_statistics_stay_frozen_in_training_mode():
    net = DeepLab(4, "random", half=True)
    pair = torch.rand(2, 3, 65, 65, generator=generator(7))
    with torch.no_grad():
        alone = net.train()(pair[:1])
        together = net(pair)[:1]
        assert (alone - together).abs().max() > 0.05 * together.std()
        net.norm = "frozen"
        alone = net.train()(pair[:1])
        together = net(pair)[:1]
        near = 1e-3 * together.std().item()
        torch.testing.assert_close(alone, together, rtol=1e-3, atol=near)
        assert torch.equal(alone, net.eval()(pair[:1]))
    assert net.train().training and net.backbone.layer4[0].conv1.training


@pytest.mark.parametrize("grid, cells", [("cells", 8), ("plain", 8), ("ceil", 9)])
def test_the_grids_counted(grid, cells):
    net = DeepLab(4, "random", grid=grid).eval()
    with torch.no_grad():
        assert net(torch.rand(1, 3, 64, 64)).shape == (1, 4, cells, cells)


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"norm": "group"}, "no normalisation 'group'; choose one of: batch, frozen"),
        ({"grid": "33"}, "no grid '33'"),
    ],
)
def test_deeplab_says_what_it_has(options, sentence):
    with pytest.raises(InputError, match=sentence):
        DeepLab(4, "random", **options)


def test_the_squeezenet_is_torchvisions(images):
    light = networks["squeezenet"](5, "random")
    with torch.no_grad():
        reference = torchvision.models.squeezenet1_1(weights=None).features.eval()
        reference.load_state_dict(light.backbone.state_dict())
        torch.testing.assert_close(light.backbone(images), reference(images))
    pools = [type(stage).__name__ for stage in light.backbone[5:9:3]]
    assert pools == ["MaxPool2d"] * 2 and light.taps == (4, 7, 12)  # the last before each pooling


def test_the_squeezenet_looks_at_a_picture_alone_whatever_its_size_and_scale(images):
    light = networks["squeezenet"](5, "random")
    grids = []
    with torch.no_grad():
        with light.head.register_forward_pre_hook(lambda head, inputs: grids.extend(inputs)):
            light(images)
        scaled = light.head(*(g * scale for g, scale in zip(grids, (50, 1, 0.2))))
        torch.testing.assert_close(scaled, light.head(*grids), rtol=1e-2, atol=1e-3)
        torch.testing.assert_close(light(images)[1:], light(images[1:]), rtol=1e-4, atol=1e-5)
        assert torch.equal(light.train()(images), light.eval()(images))
        for size, cells in (((64, 96), (16, 24)), ((45, 71), (11, 18)), ((3, 130), (1, 32))):
            assert light(torch.zeros(1, 3, *size)).shape[2:] == cells


def test_gradients_reach_all_of_the_squeezenet_unless_it_is_frozen(images):
    light = networks["squeezenet"](5, "random")
    light(images).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in light.parameters())
    free = light.parameter_groups()
    frozen = networks["squeezenet"](5, "random", freeze=True).parameter_groups()
    assert len(free["backbone"]) == len(list(light.backbone.parameters()))
    assert frozen["backbone"] == []
    assert len(frozen["head"]) == len(free["head"]) == len(list(light.head.parameters()))
    with pytest.raises(InputError, match="width is 20; it must be a multiple of 8"):
        SqueezeSegmenter(5, "random", width=20)


def test_counting_leaves_the_mode_alone():
    with torch.device("meta"):
        network = torchvision.models.squeezenet1_1(weights=None)
    multiply_adds(network, 64)
    assert network.training


@pytest.fixture
def shallow(monkeypatch):
    "Two blocks of twelve."
    timm = pytest.importorskip("timm", reason="dinov2 needs timm")
    monkeypatch.setattr(timm, "create_model", functools.partial(timm.create_model, depth=2))


def test_tokens_are_folded_the_right_way_round(shallow):
    vit = networks["dinov2"](3, "random")
    wide = torch.rand(2, 3, 42, 70, generator=generator(8))
    changed = wide.clone()
    changed[:, :, 14:28, 42:56] += 1
    with torch.no_grad():
        base = vit.tokens(wide)
        moved = (vit.tokens(changed) - base).norm(dim=1)
        assert (moved.flatten(1).argmax(1) == 1 * 5 + 3).all()  # second row, fourth of five
        torch.testing.assert_close(vit(wide), vit.head(vit.tokens((wide - vit.mean) / vit.std)))
    groups = vit.parameter_groups()
    assert groups["backbone"] == [] and len(groups["head"]) == 2


def test_without_company_and_place_a_token_is_a_convolution(shallow):
    vit = networks["dinov2"](3, "random")
    wide = torch.rand(2, 3, 42, 70, generator=generator(8))
    bare = vit.backbone
    bare.blocks = nn.Sequential()
    bare.norm = nn.Identity()
    nn.init.zeros_(bare.pos_embed)
    patches = bare.patch_embed.proj
    with torch.no_grad():
        expected = F.conv2d(wide, patches.weight, patches.bias, stride=14)
        torch.testing.assert_close(vit.tokens(wide), expected)


def test_a_file_of_the_authors_or_of_timm_gives_the_same_transformer(shallow, tmp_path):
    whole = networks["dinov2"](3, "random").backbone.state_dict()
    torch.save(whole | {"mask_token": torch.zeros(1, 384)}, tmp_path / "authors.pth")
    torch.save(whole, tmp_path / "timm.pth")
    for file in ("authors.pth", "timm.pth"):
        loaded = vision_transformer("small", tmp_path / file)
        assert all(torch.equal(v, whole[k]) for k, v in loaded.state_dict().items())
    with pytest.raises(InputError, match=r"timm.pth has shape .* where dinov2 \(base\) needs"):
        vision_transformer("base", tmp_path / "timm.pth")


def test_without_a_network_the_missing_file_is_named(shallow, tmp_path: Path):
    nowhere = mock.patch(
        "torch.hub.download_url_to_file", side_effect=urllib.error.URLError("no route")
    )
    sentence = (
        r"dinov2_vits14_pretrain.pth\) could not be downloaded \(no route\); .* with --weights FILE"
    )
    with mock.patch("torch.hub.get_dir", lambda: str(tmp_path)), nowhere:
        with pytest.raises(InputError, match=sentence):
            DINOv2(3)


def test_without_timm_the_command_that_installs_it_is_named():
    sentence = "needs the package timm, which is not installed here; run: pip install timm"
    with mock.patch.dict("sys.modules", {"timm": None}):
        with pytest.raises(InputError, match=sentence):
            networks["dinov2"](3, "random")
    with pytest.raises(InputError, match="dinov2 has no size 'giant'; choose small or base"):
        vision_transformer("giant")
