"""What the chapter on elliptic parts claims beyond its worked examples."""

import dataclasses

import pytest
import torch

from partbook.core import InputError, generator
from partbook.data.sample import Batch
from partbook.drawn.faces import Faces
from partbook.evaluation.protocols import centres_in_view
from partbook.methods.lorenz import (
    Lorenz,
    LorenzSettings,
    carried_back,
    coloured_views,
    covariance_equivariance,
    feature_slices,
    heat_maps,
    inverse_factor,
    mean_equivariance,
    moments,
    near_parts,
    part_appearance,
    partners,
    reconstruction_loss,
    round_heat,
    shares_of_heat,
    spatial_softmax,
)
from partbook.methods.method import Step, load_method, save_method
from partbook.parts.warps import cell_centres, random_affine, solved_spline

TINY = dict(size=32, painted=32, parts=3, batch_size=4, steps=4, looks=4, width=32)


@pytest.fixture(scope="module")
def batch():
    faces = Faces("train", 32).batch(range(4))
    return Batch(faces.images, [], faces.masks)


@pytest.fixture
def method():
    return Lorenz.build(LorenzSettings(**TINY)).train()


def example_maps(B=2, K=3, size=(7, 5), seed=0):
    return spatial_softmax(torch.randn(B, K, *size, generator=generator(seed)) * 2)


def test_moments_are_those_of_a_library():
    p = example_maps()
    mean, covariance = moments(p, cell_centres((7, 5)))
    places = cell_centres((7, 5)).flatten(0, 1)
    for b, k in ((0, 0), (1, 2)):
        weights = p[b, k].flatten().double()
        expected = torch.cov(places.T.double(), aweights=weights, correction=0)
        assert torch.allclose(covariance[b, k].double(), expected, atol=1e-5)
        assert torch.allclose(mean[b, k].double(), weights @ places.double(), atol=1e-5)


def test_each_map_sums_to_one():
    assert torch.allclose(example_maps().sum((2, 3)), torch.ones(2, 3))


def test_the_factor_takes_the_ellipse_to_a_circle():
    half = torch.randn(6, 2, 2, generator=generator(1))
    sigma = half @ half.mT + 0.01 * torch.eye(2)
    inverse = inverse_factor(sigma, 1.0)
    assert torch.allclose(inverse @ sigma @ inverse.mT, torch.eye(2).expand(6, 2, 2), atol=1e-2)
    assert torch.allclose(inverse_factor(sigma), 0.8 * inverse)
    assert (inverse[:, 0, 1] == 0).all()


def test_a_map_in_one_cell_has_a_finite_ellipse_and_gradient():
    sigma = torch.zeros(1, 1, 2, 2, requires_grad=True)
    heat = heat_maps(torch.zeros(1, 1, 2), inverse_factor(sigma), (5, 5))
    heat.sum().backward()
    assert heat[0, 0, 2, 2] == 1 and sigma.grad.isfinite().all()


def test_heat_by_hand():
    inverse = torch.tensor([[[[2.0, 0.0], [1.0, 1.0]]]])
    heat = heat_maps(torch.tensor([[[0.5, -0.5]]]), inverse, (2, 2))
    # at (0.5, 0.5) the way is (0, 1), which L takes to (0, 1); at (-0.5, -0.5) it is (-1, 0)
    assert heat[0, 0, 1, 1].item() == pytest.approx(1 / 2)
    assert heat[0, 0, 0, 0].item() == pytest.approx(1 / (1 + 4 + 1))
    assert heat[0, 0, 0, 1].item() == 1
    assert round_heat(torch.tensor([[[0.1, 0.0]]]), (1, 1)).item() == pytest.approx(1 / 2)


def test_shares_leave_the_ground_its_own():
    heat = torch.rand(2, 4, 3, 3, generator=generator(2))
    left = 1 - shares_of_heat(heat).sum(1)
    assert torch.allclose(left, 1 / (1 + heat.sum(1)))


def test_appearance_of_a_sharp_map_is_the_feature_there():
    maps = torch.zeros(1, 1, 3, 3)
    maps[0, 0, 1, 2] = 1
    features = torch.randn(1, 5, 3, 3, generator=generator(3))
    assert torch.equal(part_appearance(maps, features)[0, 0], features[0, :, 1, 2])


def test_weights_of_the_reconstruction():
    means = torch.tensor([[[0.0, 0.0], [0.9, 0.9]]], requires_grad=True)
    weights = near_parts(means, (41, 41))
    assert not weights.requires_grad
    assert weights.sum().item() == pytest.approx(1, rel=1e-5)
    assert weights[0, 20, 20] == weights.max() and weights[0, 0, 0] == 0
    # one part alone: 1/(1 + d²/.01) is over .2 as long as d < .2
    alone = near_parts(torch.zeros(1, 1, 2), (101, 101))[0] > 0
    assert torch.equal(alone, cell_centres(101).norm(dim=-1) < 0.2)
    one, other = torch.zeros(1, 3, 41, 41), torch.full((1, 3, 41, 41), 0.5)
    assert reconstruction_loss(one, other, weights).item() == pytest.approx(0.25, rel=1e-5)


def test_moments_under_affine_warps():
    warp = random_affine(2, generator(4), rotation=50)
    p = example_maps()
    mean, covariance = moments(p, cell_centres((7, 5)))
    back, shape = carried_back(p, warp)
    A, t = warp.affine[:, :, :2], warp.affine[:, None, :, 2]
    assert torch.allclose(back, mean @ A.mT + t, atol=1e-5)
    assert torch.allclose(shape, A[:, None] @ covariance @ A[:, None].mT, atol=1e-5)


def test_area_counts_under_splines():
    "A function on the picture, seen in a warped view and carried back, keeps its mean."
    warp = solved_spline(1, generator(5), rotation=10, zoom=(0.7, 0.8), jitter=0.15)
    blob = torch.exp(-cell_centres(96).sub(torch.tensor([0.2, -0.1])).square().sum(-1) / 0.08)
    blob = blob[None, None]
    seen = warp(blob)
    back, _ = carried_back(seen / seen.sum(), warp)
    assert torch.allclose(back[0, 0], torch.tensor([0.2, -0.1]), atol=5e-3)


def test_equivariance_by_hand():
    zero = torch.zeros(1, 1, 2)
    assert mean_equivariance(zero, torch.tensor([[[3.0, 4.0]]])).item() == 12.5
    eye = torch.eye(2)[None, None]
    assert covariance_equivariance(eye, 4 * eye).item() == pytest.approx(18**0.5, rel=1e-4)
    same = eye.clone().requires_grad_()
    covariance_equivariance(same, eye).backward()
    assert same.grad.isfinite().all()


def test_partners():
    assert partners(torch.tensor([1, 1, 2, 1]), 4).tolist() == [1, 3, 2, 0]
    assert partners(torch.tensor([1, 2]), 2).tolist() == [0, 1]


def test_views_trade_colours(batch):
    s = LorenzSettings(**TINY)
    v = coloured_views(batch, Step(3), s)
    assert v.others.tolist() == [4, 5, 6, 7, 0, 1, 2, 3]
    again = coloured_views(batch, Step(3), s)
    assert torch.equal(v.seen, again.seen) and torch.equal(v.targets, again.targets)
    # grey values of shape stay: where the views' colours agree nothing else may differ
    assert not torch.equal(v.seen, v.targets)
    species = dataclasses.replace(batch, categories=torch.tensor([0, 0, 1, 2]))
    moving = dataclasses.replace(s, static=False)
    assert coloured_views(species, Step(3), moving).others.tolist() == [5, 4, 6, 7, 1, 0, 2, 3]
    assert coloured_views(batch, Step(3), moving).others.tolist() == v.others.tolist()


def test_slices():
    assert [(s.start, s.stop) for s in feature_slices(5, (1, 2))] == [(0, 1), (1, 3), (3, 5)]


def test_landmark_errors_are_measured_at_the_means(method, batch):
    method.eval()
    maps = method.distributions(batch.images)
    mean, _ = moments(maps, cell_centres(maps.shape[-2:]))
    expected = (mean + 1) * 16
    assert torch.allclose(centres_in_view(method, batch), expected, atol=1e-4)


def test_labels_are_ellipses(method, batch):
    with torch.no_grad():
        shape = method.eval().shape(batch.images)
        found = method.logits(batch.images)
    heat = heat_maps(shape[..., :2], shape[..., 2:].unflatten(-1, (2, 2)), found.shape[-2:])
    away = (1 / heat.amax(1) - 1).sqrt() / 0.8  # in standard deviations
    assert torch.equal(found.argmax(1) > 0, away < 2)


def test_transfer_between_pictures(method, batch):
    with torch.no_grad():
        looks, shape = method.appearance(batch.images), method.shape(batch.images)
        painted = method.render(looks, shape)
    assert looks.shape == (4, 4, 4) and (looks[:, 0] == 0).all()
    assert painted.shape == (4, 3, 32, 32) and painted.min() >= 0 and painted.max() <= 1
    with torch.no_grad():
        other = method.render(looks.flip(0), shape)
    assert not torch.allclose(painted, other)


def test_a_short_training_lowers_the_loss_of_views_not_seen(method, batch):
    def total():
        with torch.no_grad():
            return sum(sum(method.losses(batch, Step(100 + i)).values()).item() for i in range(3))

    before = total()
    optimiser = torch.optim.Adam(method.parameters(), 3e-3)
    for i in range(12):
        optimiser.zero_grad()
        sum(method.losses(batch, Step(i)).values()).backward()
        optimiser.step()
    assert total() < 0.97 * before


def test_save_and_load(method, batch, tmp_path):
    method.eval()
    again, _ = load_method(save_method(method, tmp_path / "model"))
    assert torch.equal(again.logits(batch.images), method.logits(batch.images))
    shape = method.shape(batch.images)
    one, two = (m.render(m.appearance(batch.images), shape) for m in (method, again))
    assert torch.equal(one, two)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"reconstruction": -1.0}, "none may be negative"),
        ({"reconstruction": 0.0, "equivariance": 0.0, "covariance": 0.0}, "one must be positive"),
        ({"scale": 0.0}, "must be positive"),
        ({"painted": 48}, "choose 4, 8, 16"),
        ({"painted": 4}, "fewer than the decoder has sizes"),
        ({"coarse": (-1,)}, "give counts of parts"),
        ({"padding": "none"}, "choose border, zeros or reflection"),
        ({"width": 8}, "width at least 16"),
    ],
)
def test_settings_that_make_no_sense(changes, sentence):
    with pytest.raises(InputError, match=sentence):
        LorenzSettings(**changes)


def test_published_settings():
    s = LorenzSettings.published(parts=8)
    assert (s.reconstruction, s.equivariance, s.covariance, s.scale) == (1.0, 5.0, 0.1, 0.8)
    assert (s.size, s.looks, s.batch_size, s.lr, s.parts) == (256, 64, 32, 1e-3, 8)
