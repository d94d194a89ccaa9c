"""What every method that paints has to do, whichever way it does it."""

import pytest
import torch

from partbook.data.sample import Batch
from partbook.drawn.faces import Faces
from partbook.evaluation.transfer import has_decoder
from partbook.methods.method import Step, methods

SMALL = dict(size=32, parts=3, batch_size=4, steps=6)
SMALLER = {
    "disentangling": dict(numbers=8, widths=(8, 8, 8, 8)),
    "imm": dict(widths=(8, 8, 8)),
    "lorenz": dict(painted=32, looks=4, width=32),
    "zhang": dict(channels=8, decoder_widths=(16, 16)),
    "autolink": dict(widths=(8, 16)),
}


@pytest.fixture(scope="module")
def batch():
    faces = Faces("train", 32).batch(range(4))
    return Batch(faces.images, [], faces.masks)


def built(name):
    cls = methods[name]
    return cls.build(cls.Settings(features="equivariant", **SMALL, **SMALLER[name])).train()


def total(method, batch, number):
    return sum(method.losses(batch, Step(number)).values())


def test_every_painter_is_here():
    able = {name for name in methods.names() if has_decoder(methods[name])}
    assert able - {"uld"} == set(SMALLER)  # ULD paints only when asked to


@pytest.mark.parametrize("name", SMALLER)
def test_gradients_reach_every_parameter(name, batch):
    method = built(name)
    total(method, batch, 0).backward()
    lost = [n for n, p in method.named_parameters() if p.requires_grad and p.grad is None]
    assert not lost


@pytest.mark.parametrize("name", SMALLER)
def test_one_step_learned_by_heart_costs_less(name, batch):
    method = built(name)
    optimiser = torch.optim.Adam(method.parameters(), 3e-3)
    before = total(method, batch, 0).item()
    for _ in range(10):
        optimiser.zero_grad()
        total(method, batch, 0).backward()
        optimiser.step()
    assert total(method, batch, 0).item() < 0.9 * before


@pytest.mark.parametrize("name", SMALLER)
def test_the_same_seed_has_the_same_losses(name, batch):
    one, two = (built(name).losses(batch, Step(1)) for _ in range(2))
    assert all(torch.equal(one[k], two[k]) for k in one)


@pytest.mark.parametrize("name", SMALLER)
def test_dressed_pictures_are_in_range_and_depend_on_the_looks(name, batch):
    method = built(name).eval()
    painted = method.transferred(batch.images, batch.images)
    other = method.transferred(batch.images.flip(0), batch.images)
    assert painted.shape[:2] == (4, 3) and 0 <= painted.min() and painted.max() <= 1
    assert not torch.allclose(painted, other)


def test_the_bare_networks_are_all_that_learns_but_the_directions(batch):
    method = built("disentangling")
    method.bare_networks(batch.images)
    lost = [n for n, p in method.named_parameters() if p.requires_grad and p.grad is None]
    assert lost == ["W"]
