"""What the engine does for a graphics card, as far as it can be seen without one."""

import pytest
import torch

from partbook.core import generator
from partbook.methods.contrastive import energy, energy_at_once, feature_loss
from partbook.methods.scops import (
    concentration_loss,
    literal_concentration_loss,
    literal_semantic_loss,
    semantic_loss,
)
from partbook.parts.maps import as_on_card
from partbook.parts.warps import uniform, uniforms
from partbook.training.engine import Launches


def some(count=2, K=3, size=24, C=5, cells=6, seed=0):
    "Scores (B,K,H,W), features (B,C,h,w), a basis (K,C) and a saliency (B,H,W)."
    g = generator(seed)
    scores = torch.randn(count, K + 1, size, size, generator=g)
    features = torch.rand(count, C, cells, cells, generator=g)
    return scores, features, torch.rand(K, C, generator=g), torch.rand(count, size, size, generator=g)


def both(form, scores):
    "A loss and its gradient, on the processor and as on a card."
    found = []
    for card in ((), ("cpu",)):
        x = scores.clone().requires_grad_()
        if card:
            with as_on_card():
                loss = form(x.softmax(1)[:, 1:])
                slope = torch.autograd.grad(loss.sum(), x)[0]
        else:
            loss = form(x.softmax(1)[:, 1:])
            slope = torch.autograd.grad(loss.sum(), x)[0]
        found.append((loss.detach(), slope))
    return found


@pytest.mark.parametrize("cells", [(6, 6), (5, 7), (24, 24)])
def test_energy_of_a_card(cells):
    g = generator(1)
    mask = torch.rand(2, 24, 30, generator=g, dtype=torch.float64)
    features = torch.randn(2, 5, *cells, generator=g, dtype=torch.float64)
    torch.testing.assert_close(energy_at_once(mask, features), energy(mask, features))


@pytest.mark.parametrize(
    "form",
    [
        lambda f, w, D: lambda maps: concentration_loss(maps),
        lambda f, w, D: lambda maps: semantic_loss(maps, [f], w, D),
        lambda f, w, D: lambda maps: semantic_loss(maps, [f[:, :2], f[:, 2:, ::2, ::2]], w),
        lambda f, w, D: lambda maps: feature_loss(maps, [f, f[:, :, ::2, ::2]]),
    ],
    ids=["concentration", "semantic", "two grids", "feature"],
)
def test_losses_of_a_card(form):
    scores, features, basis, D = some()
    (here, slope), (there, its) = both(form(features, basis, D), scores)
    torch.testing.assert_close(there, here, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(its, slope, rtol=1e-4, atol=1e-6)


def launches(form, scores):
    "Kernels of a loss and its gradient, as on a card."
    x = scores.clone().requires_grad_()
    form(x.softmax(1)[:, 1:])  # tables that are kept
    maps = x.softmax(1)[:, 1:]
    with as_on_card(), Launches() as seen:
        form(maps).sum().backward()
    return sum(seen.kernels.values())


@pytest.mark.parametrize("count", [1, 4])
def test_no_more_kernels_than_the_literal_form(count):
    scores, features, basis, D = some(count)
    pairs = {
        "concentration": (concentration_loss, literal_concentration_loss),
        "semantic": (
            lambda maps: semantic_loss(maps, [features], basis, D),
            lambda maps: literal_semantic_loss(maps, features, basis, D),
        ),
    }
    for name, forms in pairs.items():
        ours, literal = (launches(form, scores) for form in forms)
        print(name, count, ours, literal)
        assert ours <= literal, name


def test_large_semantic_loss_of_a_card_is_the_fast_one(monkeypatch):
    scores, features, basis, D = some()
    monkeypatch.setattr("partbook.methods.scops.FEW", 0)
    form = lambda maps: semantic_loss(maps, [features], basis, D)
    (here, slope), (there, its) = both(form, scores)
    torch.testing.assert_close(there, here, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(its, slope, rtol=1e-4, atol=1e-6)


def test_one_draw_is_several():
    wanted = (((7,), -60.0, 60.0), ((7,), 0.5, 2.0), ((7,), 0, 1), ((7, 25, 2), -0.01, 0.01))
    g = generator(5)
    apart = [uniform(shape, g, low, high) for shape, low, high in wanted]
    for one, other in zip(uniforms(generator(5), *wanted), apart):
        assert torch.equal(one, other)
