"""Linked keypoints: lines by hand, weights, blocks, bad settings, saving, a short training."""

import math

import pytest
import torch

from partbook.core import InputError, generator
from partbook.data.sample import Batch
from partbook.drawn.faces import Faces
from partbook.methods.autolink import (
    AutoLink,
    AutoLinkSettings,
    edge_maps,
    edge_weights,
    hidden_blocks,
    pairs_of,
    segment_distance,
    skeleton_map,
)
from partbook.methods.method import Step, load_method, save_method
from partbook.parts.maps import part_centres
from partbook.parts.warps import cell_centres

SMALL = dict(parts=3, size=32, batch_size=4, steps=3, widths=(8, 16, 16))


@pytest.fixture(scope="module")
def images():
    return Faces("train", 32).batch(range(8)).images


@pytest.fixture
def method():
    return AutoLink.build(AutoLinkSettings(**SMALL))


def test_distance_is_the_least_over_the_segment():
    a, b = (torch.rand(2, 3, 2, generator=generator(i)) * 2 - 1 for i in (0, 1))
    t = torch.linspace(0, 1, 2001)[:, None, None, None]
    on = a + t * (b - a)
    away = cell_centres((5, 6))[None, None, None] - on[:, :, :, None, None]
    expected = away.square().sum(-1).amin(0)
    assert torch.allclose(segment_distance(a, b, (5, 6)), expected, atol=1e-5)
    assert torch.allclose(segment_distance(a, b, (5, 6)), segment_distance(b, a, (5, 6)), atol=1e-5)


def test_edges_have_gradients_also_where_they_have_no_length():
    x = torch.zeros(1, 3, 2, requires_grad=True)
    edge_maps(x, (6, 6), 0.1).sum().backward()
    assert x.grad.isfinite().all()


def test_the_strongest_edge_wins():
    x = torch.rand(2, 4, 2, generator=generator(2)) * 2 - 1
    w = torch.rand(6, generator=generator(3))
    expected = (edge_maps(x, (8, 8)) * w[:, None, None]).max(1).values
    assert torch.equal(skeleton_map(x, w, (8, 8))[:, 0], expected)
    first, second = pairs_of(4)
    assert list(zip(first.tolist(), second.tolist())) == [
        (0, 1),
        (0, 2),
        (0, 3),
        (1, 2),
        (1, 3),
        (2, 3),
    ]


def test_weights_are_softplus():
    raw = torch.tensor([-0.02, 0.0, 0.01])
    expected = [math.log1p(math.exp(512 * v)) for v in raw.tolist()]
    assert edge_weights(raw).tolist() == pytest.approx(expected, rel=1e-4)
    assert (edge_weights(raw, 1.0) > 0).all()


def test_blocks_are_whole_and_as_many_as_asked():
    M = hidden_blocks(200, (32, 32), generator(0), 8, 0.8)
    assert M.mean().item() == pytest.approx(0.2, abs=0.01)
    cells = M.view(200, 8, 4, 8, 4)
    assert torch.equal(cells.amax((2, 4)), cells.amin((2, 4)))
    assert hidden_blocks(2, (8, 8), generator(0), 4, 0.0).min() == 1


def test_landmarks_are_the_centres_of_the_maps(method, images):
    method.eval()
    with torch.no_grad():
        maps, expected = method.part_maps(images), (method.shape(images) + 1) * 16
    assert maps.shape == (8, 4, 8, 8)
    assert torch.allclose(method.landmarks(images), expected, atol=1e-4)
    assert torch.allclose(part_centres(maps[:, 1:], (32, 32)), expected, atol=1e-3)


def test_weights_start_low_and_the_same(method):
    w = edge_weights(method.raw, method.settings.scale)
    assert 0.01 < w.min() and w.max() < 0.03
    again = AutoLink.build(AutoLinkSettings(**SMALL))
    assert torch.equal(again.raw, method.raw)


def test_losses_are_the_same_again_and_depend_on_the_step(images):
    batch = Batch(images[:4], [])
    runs = [
        AutoLink.build(AutoLinkSettings(**SMALL)).train().losses(batch, Step(n))["L_rec"]
        for n in (3, 3, 4)
    ]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


def test_every_part_learns(method, images):
    method.train().losses(Batch(images[:4], []), Step(0))["L_rec"].backward()
    assert method.raw.grad.abs().max() > 0
    assert method.network.head[-1].weight.grad.abs().max() > 0
    assert method.painter.strength.grad.abs() > 0
    grouped = {id(p) for ps, _ in method.parameter_groups().values() for p in ps}
    assert grouped == {id(p) for p in method.parameters() if p.requires_grad}


def test_a_short_training_paints_better(images):
    method = AutoLink.build(AutoLinkSettings(**SMALL)).train()
    optimiser = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=3e-3)
    seen = []
    for number in range(25):
        optimiser.zero_grad()
        loss = method.losses(Batch(images, []), Step(number))["L_rec"]
        loss.backward()
        optimiser.step()
        seen.append(loss.item())
    assert sum(seen[-5:]) < 0.8 * sum(seen[:5])


def test_saved_and_loaded(method, images, tmp_path):
    save_method(method.eval(), tmp_path)
    again, _ = load_method(tmp_path)
    with torch.no_grad():
        assert torch.equal(again.logits(images), method.logits(images))
        look, shape = method.appearance(images), method.shape(images)
        assert torch.equal(again.appearance(images), look)
        assert torch.equal(again.render(look, shape), method.render(look, shape))


def test_published_networks():
    s = AutoLinkSettings.published()
    assert (s.size, s.lr, s.steps, s.batch_size, s.scale) == (128, 1e-4, 20_000, 64, 512.0)
    assert (s.weight_decay, s.thickness, s.blocks, s.hidden) == (1e-3, 2.5e-3, 16, 0.8)
    method = AutoLink.build(AutoLinkSettings.published(parts=3, size=64)).eval()
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert method.logits(x).shape == (1, 4, 16, 16)
        assert method.render(method.appearance(x), method.shape(x)).shape == (1, 3, 64, 64)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"hidden": 1.0}, "below 1"),
        ({"hidden": -0.1}, "below 1"),
        ({"thickness": 0.0}, "must be positive"),
        ({"scale": -1.0}, "must be positive"),
        ({"widths": (8,)}, "at least two"),
        ({"paint": 0}, "paint is 0"),
        ({"size": 50}, "multiple of 16"),
        ({"blocks": 0}, "blocks is 0"),
        ({"blocks": 99}, "give 1 to 32"),
    ],
)
def test_settings_that_make_no_sense(changes, sentence):
    with pytest.raises(InputError, match=sentence):
        AutoLinkSettings(**changes)
