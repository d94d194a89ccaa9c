"""What extractors must never do, case by case (the chapter shows the examples)."""

import pytest
import torch
from torch import nn

from partbook.core import InputError, generator
from partbook.features.extractor import (
    RGB,
    Extractor,
    Position,
    descriptor_colours,
    load_extractor,
    rectified,
)


class Blurred(Extractor):
    "Everything that could thaw: a convolution, batch normalisation, a parameter of its own."

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 5, 3, stride=2, padding=1), nn.BatchNorm2d(5))
        self.scale = nn.Parameter(torch.ones(()))
        self.dim = 5
        self.stride = 2

    def describe(self, images):
        return self.scale * self.net(images)


def test_nothing_thaws_an_extractor():
    noise = torch.rand(2, 3, 24, 36, generator=generator(0))
    method = nn.ModuleDict({"phi": Blurred(), "head": nn.Conv2d(5, 4, 1)}).train()
    before = method["phi"](noise)
    assert method["head"].training
    assert not any(module.training for module in method["phi"].modules())
    learns = {name for name, p in method.named_parameters() if p.requires_grad}
    assert learns == {"head.weight", "head.bias"}
    features = method["phi"](noise.clone().requires_grad_())
    assert not features.requires_grad
    assert torch.equal(features, before)
    (only,) = method["phi"].levels(noise)
    assert torch.equal(only, before)


def test_halves_keep_signed_descriptors():
    f = torch.randn(2, 3, 4, 5, generator=generator(0))
    both = rectified(f, split=True)
    assert both.min() == 0
    assert torch.equal(both[:, :3] - both[:, 3:], f)
    assert torch.equal(rectified(f), both[:, :3])
    assert torch.allclose(both.square().sum(1), f.square().sum(1))


def test_trivial_extractors_have_one_layer_and_a_stride():
    assert load_extractor("rgb", stride=4).stride == 4
    with pytest.raises(InputError, match="'rgb' has one layer"):
        load_extractor("rgb", layers=["relu5_4"])
    for name in ("rgb", "position"):
        with pytest.raises(InputError, match=f"stride of {name!r} is 0"):
            load_extractor(name, stride=0)


def test_positions_are_x_then_y_of_cell_centres_in_every_picture():
    image = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(2, 3, 2, 4)
    expected = [[[-0.75, -0.25, 0.25, 0.75]] * 2, [[-0.5] * 4, [0.5] * 4]]
    assert Position(stride=1)(image).tolist() == [expected] * 2
    assert RGB(stride=2)(image[..., :3]).shape == (2, 3, 1, 2)


def test_images_of_the_wrong_kind_are_refused():
    phi = RGB()
    with pytest.raises(InputError, match=r"shape \(B,3,H,W\), not \(3, 24, 36\); add the batch ax"):
        phi(torch.rand(3, 24, 36))
    with pytest.raises(InputError, match="not torch.uint8; divide bytes by 255"):
        phi(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))


def test_averages_of_whole_cells_average_to_the_average():
    noise = torch.rand(2, 3, 24, 36, generator=generator(0))
    assert torch.equal(RGB()(noise), noise)  # stride 1: the colours themselves
    for s in (1, 2, 3, 4, 6, 12):
        torch.testing.assert_close(RGB(stride=s)(noise).mean((2, 3)), noise.mean((2, 3)))


def test_colours_do_not_see_a_rotation_of_all_descriptors_or_a_common_shift():
    spread = torch.tensor([9.0, 5.0, 3.0, 1, 1, 1, 1, 1]).view(8, 1, 1)
    descriptors = torch.randn(2, 8, 9, 7, generator=generator(4)) * spread
    rotation, _ = torch.linalg.qr(torch.randn(8, 8, generator=generator(5)))
    turned = torch.einsum("dc,bchw->bdhw", rotation, descriptors) + 4
    pairs = zip(descriptor_colours(descriptors).unbind(1), descriptor_colours(turned).unbind(1))
    for one, other in pairs:
        same = torch.allclose(one, other, atol=1e-3)
        inverted = torch.allclose(one, 1 - other, atol=1e-3)
        assert same or inverted


def test_few_cells_are_not_too_much_for_their_colours(monkeypatch):
    "Single precision gave up on eighteen cells of a trained network; double precision does not."
    features = torch.randn(2, 64, 3, 3, generator=generator(1))
    expected = descriptor_colours(features)
    eigh = torch.linalg.eigh

    def gives_up(matrix):
        if matrix.dtype == torch.float32:
            raise torch.linalg.LinAlgError("The algorithm failed to converge")
        return eigh(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", gives_up)
    found = descriptor_colours(features)
    assert found.dtype == features.dtype
    assert torch.allclose(found, expected, atol=1e-3)
