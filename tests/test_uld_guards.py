"""What the chapter on landmarks without labels claims beyond its worked examples."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from partbook.core import InputError, generator
from partbook.data.sample import Batch
from partbook.drawn.faces import Faces
from partbook.methods.method import Step
from partbook.methods.scops import concentration_loss
from partbook.methods.uld import (
    ULD,
    Painter,
    ULDSettings,
    entropy_concentration,
    expected_equivariance,
    gaussian_maps,
    landmark_equivariance,
    landmark_positions,
    overlap_loss,
    separation_loss,
    still_seen,
    variances,
)
from partbook.parts.maps import part_centres
from partbook.parts.warps import affine_warp, cell_centres, solved_spline


def example_maps(B=2, K=3, size=(12, 10), seed=0):
    "Part maps with a background, from random scores."
    return torch.randn(B, K + 1, *size, generator=generator(seed)).mul(3).softmax(1)


R = example_maps()[:, 1:]
p = R / R.sum((2, 3), keepdim=True)
warps = solved_spline(3, generator(2), rotation=20, zoom=(0.9, 1.1), jitter=0.05)


@pytest.fixture(scope="module")
def settings():
    return ULDSettings(size=32, steps=3, batch_size=4, lr=4e-3)


@pytest.fixture
def method(settings):
    return ULD.build(settings).train()


@pytest.fixture(scope="module")
def batch():
    wild = Faces("train", 32).batch(range(4))
    return Batch(wild.images, [], wild.masks)


@pytest.fixture
def start(method, batch):
    return method.losses(batch, Step(0))


def like(method, **changes):
    "An untrained method with the same settings, but for some."
    return ULD.build(ULDSettings(**{**vars(method.settings), **changes})).train()


def test_positions_are_means():
    expected = torch.einsum("bkhw,hwc->bkc", p, cell_centres((12, 10)))
    assert torch.allclose(landmark_positions(R), expected, atol=1e-6)


def test_entropy_and_variance():
    ratio = entropy_concentration(R) / concentration_loss(R, 0.0)
    assert torch.allclose(variances(R).sum(-1), concentration_loss(R, 0.0), atol=1e-6)
    assert (ratio <= math.pi * math.e / 4 + 1e-5).all() and (ratio > math.pi * math.e / 8).all()
    line, disc = torch.zeros(1, 1, 9, 9), (cell_centres(9).norm(dim=-1) < 0.6).float()[None, None]
    line[..., 4, :] = 1.0
    assert torch.allclose(
        entropy_concentration(line) / concentration_loss(line, 0.0),
        torch.tensor(math.pi * math.e / 8),
        rtol=1e-3,
    )
    assert torch.allclose(
        entropy_concentration(disc) / concentration_loss(disc, 0.0),
        torch.tensor(math.pi * math.e / 4),
        rtol=1e-5,
    )
    density = torch.distributions.MultivariateNormal(
        torch.zeros(2), 0.3**2 * torch.eye(2)
    )  # the library's entropy
    wide = torch.exp(-cell_centres(200).mul(4).square().sum(-1) / (2 * 0.3**2))[
        None, None
    ]  # drawn on a square four times as large
    assert torch.allclose(entropy_concentration(wide) * 64, density.entropy().exp(), rtol=1e-3)


def test_separation_by_hand():
    x = (torch.rand(3, 6, 2, generator=generator(0)) - 0.5).requires_grad_()
    pair = torch.tensor([[[0.1, 0.2], [0.1, 0.2 + 2 * 0.05]]])  # a twentieth of the side apart
    assert separation_loss(pair, 0.08).item() == pytest.approx(
        2 * math.exp(-(0.05**2) / (2 * 0.08**2)), rel=1e-5
    )
    assert torch.allclose(separation_loss(torch.zeros(1, 8, 2)), torch.tensor([8.0 * 7]))
    c, s = math.cos(0.7), math.sin(0.7)
    turned = x @ torch.tensor([[c, s], [-s, c]]) + 0.3
    assert torch.allclose(
        separation_loss(turned), separation_loss(x), atol=1e-4
    ) and torch.allclose(separation_loss(x.flip(1)), separation_loss(x), atol=1e-4)


def test_separation_pushes():
    x = (torch.rand(3, 6, 2, generator=generator(0)) - 0.5).requires_grad_()
    force = torch.autograd.grad(separation_loss(x, 0.2).sum(), x)[0]
    away = (x[:, :, None] - x[:, None]) / 2
    expected = (
        -(2 / 0.2**2)
        * (away * torch.exp(-away.square().sum(-1, keepdim=True) / (2 * 0.2**2))).sum(2)
        / 2
    )  # the last half: x is in half sides
    assert torch.allclose(force, expected, atol=1e-5)
    d = torch.linspace(0, 0.5, 501)[1:]
    pairs = torch.stack([torch.zeros(500, 2), torch.stack([2 * d, 0 * d], -1)], 1).requires_grad_()
    push = torch.autograd.grad(separation_loss(pairs, 0.08).sum(), pairs)[0][:, 0, 0]
    assert abs(d[push.argmax()].item() - 0.08) < 2e-3 and push[-1] < 1e-5


def test_gradient_of_separation():
    def literal_separation_loss(positions, bandwidth):
        B, K, _ = positions.shape
        loss = torch.zeros(B)
        for k in range(K):
            for j in range(K):
                if j != k:
                    loss = loss + torch.exp(
                        -((positions[:, k] - positions[:, j]) / 2).square().sum(-1)
                        / (2 * bandwidth**2)
                    )
        return loss

    x = (torch.rand(3, 6, 2, generator=generator(0)) - 0.5).requires_grad_()
    fast, slow = separation_loss(x), literal_separation_loss(x, 0.08)
    assert torch.allclose(fast, slow, atol=1e-5)
    assert torch.allclose(*(torch.autograd.grad(v.sum(), x)[0] for v in (fast, slow)), atol=1e-4)


def test_overlap():
    two = torch.zeros(1, 2, 4, 4)
    two[0, 0, 0, 0] = two[0, 1, 0, 1] = 1.0  # neighbours
    assert overlap_loss(two).item() == 0 and overlap_loss(two, 2).item() == 1
    assert torch.allclose(
        overlap_loss(R[:, :1].expand(-1, 5, -1, -1)), torch.full((2,), 4.0), atol=1e-5
    )
    assert torch.allclose(overlap_loss(R), 3 - p.amax(1).sum((1, 2)), atol=1e-5) and torch.allclose(
        overlap_loss(R * 7), overlap_loss(R)
    )
    assert torch.allclose(
        overlap_loss(R, 3), overlap_loss(F.pad(R, (0, 2, 0, 0)), 3), atol=1e-5
    )  # windows at the border lose nothing


def test_points_carried_along_pay_nothing():
    warps = solved_spline(3, generator(2), rotation=20, zoom=(0.9, 1.1), jitter=0.05)
    still = 0.5 * torch.rand(3, 6, 2, generator=generator(3)) - 0.25
    carried = (
        warps.points(still + 1, (2, 2)) - 1
    )  # positions are pixels of a picture of 2x2, but for the origin
    assert torch.allclose(
        landmark_equivariance(still, carried, warps), torch.zeros(3, 6), atol=1e-5
    )
    shift = affine_warp(torch.zeros(1), torch.ones(1), torch.tensor([[0.3, 0.4]]), torch.ones(1))
    assert torch.allclose(
        landmark_equivariance(still[:1], still[:1], shift), torch.full((1, 6), 0.25), atol=1e-6
    )


def test_gaussians_compete():
    at = cell_centres((5, 7))[1, 2]  # a landmark exactly on a cell
    D = gaussian_maps(at.view(1, 1, 2), (5, 7), 0.05)
    assert D.shape == (1, 2, 5, 7) and torch.allclose(D.sum(1), torch.ones(1, 5, 7))
    assert D[0, 1].argmax() == 1 * 7 + 2 and D[0, 1, 1, 2].item() == pytest.approx(1 / 1.1)
    N = torch.exp(-((cell_centres((5, 7)) - at) / 2).square().sum(-1) / (2 * 0.05**2))
    assert torch.allclose(D[0, 1], N / (0.1 + N), atol=1e-6)
    same = gaussian_maps(torch.zeros(1, 2, 2), (6, 6))
    assert (
        torch.equal(same[:, 1], same[:, 2]) and same[:, 1].max() < 0.5
    )  # two in one place share it


def test_painter_describes_what_lies_under_its_gaussians():
    painter = Painter(3)
    images = torch.rand(2, 3, 32, 24, generator=generator(5))
    places = torch.tensor([[[-0.5, 0.0], [0.5, 0.0], [0.0, 0.5]]]).repeat(2, 1, 1).requires_grad_()
    painted, target = painter.repaint(images, places)
    assert painted.shape == target.shape == (2, 3, 16, 12) and torch.allclose(
        target, F.avg_pool2d(images, 2), atol=1e-6
    )
    pull = torch.autograd.grad((painted - target).square().mean(), places)[0]
    assert pull.isfinite().all() and (pull.abs().sum(-1) > 0).all()
    f = painter.look((images - 0.5) / 0.25)
    share = gaussian_maps(places, (8, 6), 0.04)
    for k in range(
        4
    ):  # a descriptor is the landmark's own linear map of the mean under its Gaussian
        mean = (share[0, k] * f[0]).sum((1, 2)) / share[0, k].sum()
        assert torch.allclose(
            painter.describe(images, places)[0][0, k], painter.narrow[k] @ mean, atol=1e-5
        )


def test_settings_that_make_no_sense():
    with pytest.raises(InputError, match="choose distance or overlap"):
        ULDSettings(separation_form="far")
    with pytest.raises(InputError, match="none may be negative"):
        ULDSettings(reconstruction=(1.0, -1.0))
    with pytest.raises(InputError, match="bandwidth and widths must be positive"):
        ULDSettings(bandwidth=0.0)
    assert ULDSettings(reconstruction=0.0).reconstruction == (0.0,) and ULDSettings(
        zoom=[0.9, 1.1]
    ).zoom == (0.9, 1.1)


def test_published_settings():
    own = ULDSettings.published("zhang")
    assert (
        own.parts == 10
        and own.concentration_form == "entropy"
        and own.widths[2] == 0.25
        and (own.concentration, own.separation, own.bandwidth) == (100, 20, 0.08)
    )
    assert np.allclose(np.array(own.reconstruction) / (3 * 80 * 80), (0.1, 1, 10))
    assert (
        ULDSettings.published(steps=10).network == "deeplab"
        and ULDSettings.published(steps=10).steps == 10
    )
    with pytest.raises(InputError, match="choose scops or zhang"):
        ULDSettings.published("thewlis")


def test_the_landmark_paper_s_settings_run():
    assert (
        ULD.defaults("vgg19")["network"] == "deeplab" and ULD.defaults("equivariant")["size"] == 64
    )
    own = ULD.build(ULDSettings.published("zhang", size=32, batch_size=2)).train()
    terms = own.losses(Batch(torch.rand(2, 3, 32, 32, generator=generator(6)), []), Step(200_000))
    assert {k: v.isfinite().item() for k, v in terms.items()} == dict.fromkeys(
        ("L_con", "L_sep", "L_eqv", "L_rec"), True
    )
    assert own.reconstruction_weight(200_000) == 100 * own.reconstruction_weight(0) and own.logits(
        torch.rand(1, 3, 32, 32)
    ).shape == (1, 11, 8, 8)


def test_options_change_their_own_terms(method, batch, start):
    for name, term in {
        "concentration": "L_con",
        "separation": "L_sep",
        "equivariance": "L_eqv",
        "reconstruction": "L_rec",
    }.items():
        found = like(method, **{name: 0.0}).losses(batch, Step(0))
        assert set(found) == set(start) - {term} and all(
            torch.equal(found[k], start[k]) for k in found
        )
    for name, value in {
        "concentration_form": "entropy",
        "separation_form": "overlap",
        "equivariance_form": "expected",
        "bandwidth": 0.2,
        "widths": (0.1,),
    }.items():
        found = like(method, **{name: value}).losses(batch, Step(0))
        assert sum(not torch.equal(found[k], start[k]) for k in start) == 1, name
    assert (
        like(method, reconstruction=0.0).painter is None
        and "painter" not in like(method, reconstruction=0.0).parameter_groups()
    )


def test_terms_are_their_equations(method, batch):
    plain = like(
        method,
        jitter=False,
        concentration_form="entropy",
        warp="spline",
        zoom=(1.5, 2.0),
        reconstruction=(2.0, 30.0),
        steps=10,
    )
    with torch.no_grad():
        v = plain.views(batch, Step(5))
        warp, both = v.warp, v.both
        scores, terms = plain.network(both), plain.losses(batch, Step(5))
        again = plain.terms(scores.softmax(1)[:, 1:], warp, batch.images, Step(5))
    assert warp.control and torch.equal(
        both, torch.cat([batch.images, warp(batch.images, padding="border")])
    )
    assert all(torch.allclose(terms[k], again[k], rtol=1e-4) for k in again)
    assert [plain.reconstruction_weight(t) for t in (0, 4, 5, 9)] == [2, 2, 30, 30]
    with torch.no_grad():
        maps = gaussian_maps(
            1.6 * torch.rand(len(both), 8, 2, generator=generator(7)) - 0.8, (12, 12), 0.05
        )[:, 1:]  # landmarks anywhere
        terms, (a, b) = (
            plain.terms(maps, warp, batch.images, Step(5)),
            landmark_positions(maps).chunk(2),
        )
        seen, (painted, target) = still_seen(a, warp), plain.painter.repaint(batch.images, a)
        literal = {
            "L_con": 100 * entropy_concentration(maps).sum() / len(maps),
            "L_sep": 20 * separation_loss(torch.cat([a, b]), 0.08).mean(),
            "L_eqv": 1e4 * ((warp.at(b) - a).square().sum(-1) * seen).sum(1).mean(),
            "L_rec": 30 * (painted - target).square().mean(),
        }
        older = like(plain, equivariance_form="expected").terms(maps, warp, batch.images, Step(5))[
            "L_eqv"
        ]
    assert 0 < seen.float().mean() < 1 and all(
        torch.allclose(terms[k], literal[k], rtol=1e-4) for k in literal
    ), (terms, literal)
    assert torch.allclose(
        older, 1e4 * (expected_equivariance(*maps.chunk(2), warp) * seen).sum(1).mean(), rtol=1e-4
    )


def test_views_are_recoloured_differently(method, batch):
    still = like(method, rotation=0.0, zoom=(1.0, 1.0), shift=0.0)
    one, other = still.views(batch, Step(0)).both.chunk(2)
    assert ((one - other).abs().mean((1, 2, 3)) > 0.01).float().mean() > 0.5


def test_inside_masks(method, settings, batch, start):
    inside = like(method, foreground=True)
    assert not torch.equal(inside.losses(batch, Step(0))["L_con"], start["L_con"])
    everything = Batch(batch.images, batch.names, torch.ones_like(batch.masks))
    v = inside.views(everything, Step(0))
    assert (
        torch.equal(v.masks, torch.ones_like(v.masks)) and v.warped_masks.min() == 0
    )  # beyond the border there is no foreground
    R = method.eval().part_maps(batch.images)
    assert R.shape[1] == 9 and torch.allclose(
        method.landmarks(batch.images), part_centres(R[:, -8:], (settings.size,) * 2)
    )
    labels = method.labels(batch.images)
    assert labels.min() >= 0 and labels.max() <= 8
    method.train()


def test_two_processes_share_a_batch(method, batch):
    with torch.no_grad():
        halves = [Batch(batch.images[i : i + len(batch) // 2], []) for i in (0, len(batch) // 2)]
        parts = [
            method.losses(half, Step(1, rank=rank, world=2)) for rank, half in enumerate(halves)
        ]
        whole = method.losses(Batch(batch.images, []), Step(1))
    assert all(torch.allclose((parts[0][k] + parts[1][k]) / 2, whole[k], rtol=1e-3) for k in whole)


def test_mixed_precision(method, batch, start):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rough = method.losses(batch, Step(0))
    assert all(
        v.dtype == torch.float32 and torch.allclose(v, start[k], rtol=0.1, atol=5)
        for k, v in rough.items()
    )
