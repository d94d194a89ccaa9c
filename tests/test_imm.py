"""Conditional image generation: equations by hand, bad settings, saving, a short training."""

import pytest
import torch

from partbook.core import InputError, generator
from partbook.data.sample import Batch
from partbook.drawn.faces import Faces
from partbook.methods.imm import (
    IMM,
    IMMSettings,
    gaussian_landmarks,
    marginal_positions,
    marginals,
    point_logits,
    product_map,
    smooth_mask,
)
from partbook.methods.method import Step, load_method, save_method
from partbook.parts.maps import part_centres

SMALL = dict(parts=3, size=32, batch_size=4, steps=3)


@pytest.fixture(scope="module")
def images():
    return Faces("train", 32).batch(range(8)).images


@pytest.fixture
def method():
    return IMM.build(IMMSettings(**SMALL))


def scores(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed)).mul(3)


def test_marginals_are_not_those_of_the_softmax_over_cells():
    s = scores(2, 3, 5, 6)
    x, y = marginals(s)
    assert torch.allclose(x.exp().sum(-1), torch.ones(2, 3)) and x.shape == (2, 3, 6)
    assert torch.allclose(y, s.mean(3).log_softmax(-1)) and y.shape == (2, 3, 5)
    whole = part_centres(s.flatten(2).softmax(-1).view_as(s), (2, 2)) - 1
    assert (whole - marginal_positions(s)).abs().max() > 0.05


def test_the_product_has_the_landmark_as_its_centre():
    s = scores(2, 3, 5, 6)
    assert torch.allclose(product_map(s).exp().sum((2, 3)), torch.ones(2, 3), atol=1e-5)
    centres = part_centres(product_map(s).exp(), (2, 2)) - 1
    assert torch.allclose(centres, marginal_positions(s), atol=1e-6)
    turned = marginal_positions(s.mT)
    assert torch.allclose(turned, marginal_positions(s).flip(-1), atol=1e-6)


def test_a_constant_does_not_move_a_landmark_and_a_slope_does():
    s = scores(1, 2, 4, 4)
    assert torch.allclose(marginal_positions(s + 7), marginal_positions(s), atol=1e-6)
    slope = s + torch.arange(4.0)
    moved = marginal_positions(slope) - marginal_positions(s)
    assert (moved[..., 0] > 0).all() and moved[..., 1].abs().max() < 1e-6


def test_gaussians_against_their_formula():
    x = torch.rand(2, 3, 2, generator=generator(1)) * 2 - 1
    from partbook.parts.warps import cell_centres

    away = cell_centres((6, 8)) - x[:, :, None, None]
    expected = torch.exp(-away.square().sum(-1) / 0.3**2)
    assert torch.allclose(gaussian_landmarks(x, (6, 8), 0.3), expected, atol=1e-6)


def test_the_mask_of_the_paper():
    m = smooth_mask(128)
    assert m.shape == (128, 128) and torch.equal(m, m.T) and torch.allclose(m, m.flip(0))
    assert (m[9] == 0).all() and m[10, 64] > 0 and m[30, 64] == 1 and m[29, 64] < 1
    assert m[20, 20].item() == pytest.approx(m[20, 64].item() ** 2)
    with pytest.raises(InputError, match="no room"):
        smooth_mask(50)


def test_maps_of_points_share_a_cell_with_a_background():
    log_p = scores(2, 3, 4, 5).flatten(2).log_softmax(-1).view(2, 3, 4, 5)
    R = point_logits(log_p).softmax(1)
    assert torch.allclose(R[:, 0].amin((1, 2)), torch.tensor(0.01), atol=1e-5)
    ratio = R[:, 1:] / log_p.exp()
    for row in ratio:
        assert torch.allclose(row, row[0, 0, 0].expand_as(row), rtol=1e-4)
    sharp = torch.full((1, 2, 4, 4), -200.0)
    sharp[..., 0, 0] = 0
    assert point_logits(sharp).isfinite().all()


def test_landmarks_are_the_centres_of_the_maps(method, images):
    method.eval()
    with torch.no_grad():
        maps = method.part_maps(images)
        expected = (method.shape(images) + 1) * 16
    assert maps.shape == (8, 4, 8, 8)
    assert torch.allclose(method.landmarks(images), expected, atol=1e-4)
    assert torch.allclose(part_centres(maps[:, 1:], (32, 32)), expected, atol=1e-3)
    labels = method.labels(images)
    assert labels.max() <= 3 and method.read_labels(maps.log(), background=False).min() >= 1


def test_the_protocol_measures_the_landmarks_themselves(method, images):
    from partbook.evaluation.protocols import centres_in_view

    masks = torch.zeros(8, 32, 32, dtype=torch.bool)
    masks[:, :4, :4] = True
    found = centres_in_view(method.eval(), Batch(images, [], masks))
    assert torch.equal(found, method.landmarks(images))


def test_losses_are_the_same_again(images):
    batch = Batch(images[:4], [])
    once, twice = (IMM.build(IMMSettings(**SMALL)).train().losses(batch, Step(3)) for _ in range(2))
    assert once.keys() == {"L_rec"} and torch.equal(once["L_rec"], twice["L_rec"])


@pytest.mark.parametrize(
    "changes", [{"warp": "spline"}, {"views": "chained"}, {"mask": False}, {"gaussian": 0.2}]
)
def test_options_train(images, changes):
    method = IMM.build(IMMSettings(**SMALL, **changes)).train()
    loss = method.losses(Batch(images[:4], []), Step(0))["L_rec"]
    loss.backward()
    assert method.network.head[-1].weight.grad.abs().max() > 0


def test_a_short_training_paints_better(images):
    method = IMM.build(IMMSettings(**SMALL)).train()
    optimiser = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=3e-3)
    seen = []
    for number in range(25):
        optimiser.zero_grad()
        method.losses(Batch(images, []), Step(number))["L_rec"].backward()
        optimiser.step()
        seen.append(method.likeness.raw[0].item())
    assert sum(seen[-5:]) < 0.8 * sum(seen[:5])


def test_saved_and_loaded(method, images, tmp_path):
    method.train().losses(Batch(images[:4], []), Step(0))
    save_method(method.eval(), tmp_path)
    again, _ = load_method(tmp_path)
    assert torch.equal(again.likeness.averages, method.likeness.averages)
    with torch.no_grad():
        assert torch.equal(again.logits(images), method.logits(images))
        look = method.appearance(images)
        assert torch.equal(
            again.render(look, again.shape(images)), method.render(look, method.shape(images))
        )


def test_published_networks(images):
    s = IMMSettings.published(parts=5, size=64)
    assert (s.lr, s.batch_size, s.steps, s.grad_clip) == (1e-3, 50, 200_000, 1.0)
    method = IMM.build(s).eval()
    with torch.no_grad():
        x = torch.rand(1, 3, 64, 64)
        look = method.appearance(x)
        assert look.shape == (1, 256, 8, 8) and method.logits(x).shape == (1, 6, 8, 8)
        assert method.render(look, method.shape(x)).shape == (1, 3, 64, 64)
    assert IMMSettings.published().size == 128


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"warp": "bent"}, "choose one of: affine, spline"),
        ({"views": "both"}, "choose one of: independent, chained"),
        ({"gaussian": 0.0}, "gaussian must be positive"),
        ({"widths": (8, 8)}, "odd number"),
        ({"widths": ()}, "odd number"),
        ({"zoom": (2.0, 1.0)}, "smaller first"),
        ({"widths": (8.5,)}, "whole number"),
    ],
)
def test_settings_that_make_no_sense(changes, sentence):
    with pytest.raises(InputError, match=sentence):
        IMMSettings(**changes)
