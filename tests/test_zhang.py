"""What the chapter on structural representations claims beyond its worked examples."""

import pytest
import torch

from partbook.core import InputError, generator
from partbook.data.sample import Batch
from partbook.drawn.faces import Faces
from partbook.evaluation.protocols import centres_in_view
from partbook.methods.method import Step, load_method, save_method
from partbook.methods.uld import gaussian_maps, landmark_positions
from partbook.methods.zhang import (
    FIVE,
    Hourglass,
    HourglassSegmenter,
    Zhang,
    ZhangSettings,
    pooled_descriptors,
    spread_descriptors,
    told_at_widths,
)

TINY = dict(size=32, parts=3, batch_size=4, steps=6, channels=8, decoder_widths=(16, 16))


@pytest.fixture(scope="module")
def batch():
    faces = Faces("train", 32).batch(range(4))
    return Batch(faces.images, [], faces.masks)


@pytest.fixture
def method():
    return Zhang.build(ZhangSettings(**TINY)).train()


def test_descriptors_the_long_way_round():
    maps = torch.rand(2, 3, 4, 5, generator=generator(0))
    f = torch.randn(2, 6, 4, 5, generator=generator(1))
    narrow = torch.randn(3, 2, 6, generator=generator(2))
    found = pooled_descriptors(maps, f, narrow)
    for b, k in ((0, 0), (1, 2)):
        mean = (maps[b, k] * f[b]).sum((1, 2)) / maps[b, k].sum()
        assert torch.allclose(found[b, k], narrow[k] @ mean, atol=1e-5)
    # how much mass a map has does not matter
    assert torch.allclose(pooled_descriptors(3 * maps, f, narrow), found, atol=1e-5)


def test_spreading_the_long_way_round():
    maps = torch.rand(2, 3, 4, 5, generator=generator(0))
    d = torch.randn(2, 3, 2, generator=generator(1))
    widen = torch.randn(3, 6, 2, generator=generator(2))
    found = spread_descriptors(maps, d, widen)
    expected = sum(maps[1, k, 2, 3] * (widen[k] @ d[1, k]) for k in range(3))
    assert torch.allclose(found[1, :, 2, 3], expected, atol=1e-5)


def test_five_widths():
    assert len(FIVE) == 5 and FIVE[0] == 1 / 16 and FIVE[4] == 1 / 4
    assert [b / a for a, b in zip(FIVE, FIVE[1:])] == pytest.approx([2**0.5] * 4, rel=1e-3)
    x = torch.tensor([[[0.2, 0.4], [-0.5, 0.0]]])
    d, widen = torch.ones(1, 3, 2), torch.ones(3, 4, 2)
    told = told_at_widths(x, d, widen, (6, 6))
    assert told.shape == (1, 5 * (3 + 4), 6, 6)
    assert torch.equal(told[:, 7:10], gaussian_maps(x, (6, 6), FIVE[1]))
    assert torch.allclose(told[:, 3:7], torch.full((1, 4, 6, 6), 2.0))  # equal tones stay


def test_hourglass_sees_all_sizes():
    glass = Hourglass(2, (8, 8, 16), 3)
    x = torch.randn(1, 2, 13, 9, generator=generator(0), requires_grad=True)
    y = glass(x)
    assert y.shape == (1, 3, 13, 9)
    y[0, 0, 0, 0].backward()
    assert x.grad[0, :, 12, 8].abs().sum() > 0  # from one corner to the other
    pair = torch.cat([x, 2 * x]).detach()
    assert torch.allclose(glass(pair)[0], y[0], atol=1e-5)


def test_the_detector():
    net = HourglassSegmenter(4)
    assert net(torch.rand(1, 3, 40, 32)).shape == (1, 4, 10, 8)
    with pytest.raises(InputError, match="no weights for the hourglass"):
        HourglassSegmenter(4, weights="some.pth")


def test_landmark_errors_are_measured_at_the_landmarks(method, batch):
    method.eval()
    x = landmark_positions(method.part_maps(batch.images)[:, 1:])
    assert torch.allclose(centres_in_view(method, batch), (x + 1) * 16, atol=1e-4)


def test_weight_of_the_reconstruction_grows(method, batch):
    one, two, three = (method.losses(batch, Step(n))["L_rec"].item() for n in (0, 2, 4))
    assert 5 < two / one < 20 and 5 < three / two < 20
    none = Zhang.build(ZhangSettings(**TINY, reconstruction=0.0))
    assert set(none.losses(batch, Step(0))) == {"L_con", "L_sep", "L_eqv"}
    only = dict(concentration=0.0, separation=0.0, equivariance=0.0)
    assert set(Zhang.build(ZhangSettings(**TINY, **only)).losses(batch, Step(0))) == {"L_rec"}


def test_the_picture_pulls_at_places(method, batch):
    positions = torch.zeros(4, 3, 2, requires_grad=True)
    looks = torch.randn(4, 4, 8, generator=generator(4))
    method.render(looks, positions).square().mean().backward()
    assert positions.grad.abs().sum() > 0


def test_transfer_between_pictures(method, batch):
    with torch.no_grad():
        looks, shape = method.appearance(batch.images), method.shape(batch.images)
        painted, other = method.render(looks, shape), method.render(looks.flip(0), shape)
    assert looks.shape == (4, 4, 8) and painted.shape == (4, 3, 16, 16)
    assert not torch.allclose(painted, other)


@pytest.mark.parametrize("network", ["auto", "hourglass"])
def test_save_and_load(network, batch, tmp_path):
    method = Zhang.build(ZhangSettings(**TINY, network=network)).eval()
    again, _ = load_method(save_method(method, tmp_path / "model"))
    assert torch.equal(again.logits(batch.images), method.logits(batch.images))
    one, two = (m.appearance(batch.images) for m in (method, again))
    assert torch.equal(one, two)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"separation": -1.0}, "none may be negative"),
        ({"bandwidth": 0.0}, "must be positive"),
        ({"widths": ()}, "must be positive"),
        ({"numbers": 0}, "must be at least 1"),
        ({"decoder_widths": ()}, "must be at least 1"),
        ({"warp": "bent"}, "choose affine or spline"),
    ],
)
def test_settings_that_make_no_sense(changes, sentence):
    with pytest.raises(InputError, match=sentence):
        ZhangSettings(**changes)


def test_published_settings(batch):
    s = ZhangSettings.published()
    assert (s.concentration, s.separation, s.equivariance) == (100.0, 20.0, 1e4)
    assert (s.size, s.parts, s.numbers, s.network) == (80, 10, 8, "hourglass")
    small = ZhangSettings.published(size=32, channels=8, decoder_widths=(8, 16), batch_size=4)
    terms = Zhang.build(small).losses(batch, Step(0))
    assert all(v.isfinite() for v in terms.values())
