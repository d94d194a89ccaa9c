"""Disentangling (Liu et al. 2021) and what it shares with other painters."""

import math

import pytest
import torch
import torch.nn.functional as F

from partbook.core import InputError, generator
from partbook.data.sample import Kept, View, collections
from partbook.features.extractor import load_extractor
from partbook.features.perceptual_loss import PerceptualLoss, layer_losses, seen_layers
from partbook.methods.disentangling import (
    LAMBDAS,
    WEIGHTS,
    Disentangling,
    DisentanglingSettings,
    UponColours,
    background_concentration,
    boundary_distance,
    exchanged,
    expand,
    foreground_concentration,
    looks_settings,
    normalisation_term,
    part_centre,
    part_classification_loss,
    resnet_trunk,
    squeeze,
    with_colours,
)
from partbook.methods.method import Step, load_method, save_method
from partbook.methods.rendering import LIGHT, Renderer, stronger_spline, two_views, with_coordinates
from partbook.training.fit import fit

SMALL = dict(parts=3, size=32, steps=3, batch_size=4, numbers=8, widths=(8, 8, 8, 8))


def birds(count=8, size=32):
    return Kept(View(collections["birds"].open(split="train", size=size), indices=range(count)))


@pytest.fixture(scope="module")
def trained():
    method = Disentangling.build(DisentanglingSettings(**SMALL))
    log = fit(method, birds(), look=0)
    return method, log


# --- equations -----------------------------------------------------------------------------


def test_squeeze_forgets_where_things_are():
    g = generator(1)
    S = torch.rand(2, 3, 4, 4, generator=g)
    A = torch.rand(2, 5, 4, 4, generator=g)
    order = torch.randperm(16, generator=g)
    moved = [x.flatten(2)[..., order].unflatten(2, (4, 4)) for x in (S, A)]
    assert torch.allclose(squeeze(S, A), squeeze(*moved), atol=1e-5)


def test_squeeze_does_not_depend_on_the_mass_of_a_map():
    S = torch.rand(1, 2, 4, 4)
    A = torch.rand(1, 3, 4, 4)
    assert torch.allclose(squeeze(S, A), squeeze(0.25 * S, A), atol=1e-5)


def test_expand_is_a_mixture_of_looks():
    S = torch.rand(1, 3, 2, 2).softmax(1)
    looks = torch.tensor([[[1.0], [10.0], [100.0]]])
    expected = S[:, 0] + 10 * S[:, 1] + 100 * S[:, 2]
    assert torch.allclose(expand(looks, S)[:, 0], expected)


def test_exchange_twice_gives_back():
    looks = torch.arange(4.0).view(4, 1, 1)
    assert exchanged(looks).flatten().tolist() == [2, 3, 0, 1]
    assert torch.equal(exchanged(exchanged(looks)), looks)


@pytest.mark.parametrize("c", [-0.4, 0.0, 0.5, 0.8])
@pytest.mark.parametrize("K", [2, 4, 8])
def test_arcface_of_equal_cosines(K, c):
    W = torch.eye(K + 1)
    W[:, 0] = 1.0
    W = W[1:]
    # a direction at the same angle to all rows of W
    W = F.normalize(W, dim=1)
    target = torch.zeros(K + 1)
    target[0] = 1.0
    same = (target @ W.T)[0].item()
    value = part_classification_loss(target.expand(1, K, -1), W).item()
    by_hand = math.log(1 + (K - 1) * math.exp(20 * (same - math.cos(math.acos(same) + 0.5))))
    assert value == pytest.approx(by_hand, rel=1e-4)
    assert c is not None


def test_arcface_falls_with_the_own_cosine_even_beyond_the_margin():
    W = torch.eye(3)[:2]
    angles = torch.linspace(0.01, math.pi - 0.01, 200)
    looks = torch.stack([angles.cos(), 0 * angles, angles.sin()], -1)  # cos to the other is 0
    both = torch.stack([looks, torch.tensor([0.0, 1.0, 0.0]).expand(200, 3)], 1)
    each = torch.stack([part_classification_loss(x[None], W) for x in both])
    assert (each.diff() > -1e-5).all()
    assert each[-1] > each[-2]


def test_arcface_ignores_length_and_empty_parts():
    looks = torch.randn(2, 3, 4, generator=generator(2))
    W = torch.randn(3, 4, generator=generator(3))
    assert torch.allclose(
        part_classification_loss(5 * looks, W), part_classification_loss(looks, 3 * W), atol=1e-5
    )
    mass = torch.tensor([[5.0, 5.0, 5.0], [0.0, 0.0, 0.0]])
    some = part_classification_loss(looks, W, mass=mass, least=0.5)
    assert torch.allclose(some, part_classification_loss(looks[:1], W), atol=1e-5)


def test_readings_of_equation_nine():
    S = torch.full((1, 2, 4, 4), 0.01)
    S[:, 1] = 1.0
    assert normalisation_term(S).flatten().tolist() == pytest.approx([1.0, 16.0])
    assert normalisation_term(S, "min").flatten().tolist() == pytest.approx([0.16, 1.0])
    assert normalisation_term(S, "eps").flatten().tolist() == pytest.approx([0.161, 16.001])


def test_printed_reading_of_a_square():
    square = torch.zeros(1, 1, 32, 32)
    square[..., 4:12, 20:28] = 1.0
    centre = part_centre(square, normalisation_term(square, "min"))
    assert centre.flatten().tolist() == pytest.approx([32.0, -32.0])
    true = part_centre(square, normalisation_term(square))
    assert true.flatten().tolist() == pytest.approx([0.5, -0.5])


def test_foreground_concentration_does_not_care_where_a_part_is():
    S = torch.zeros(2, 1, 16, 16)
    S[0, :, 2:6, 2:6] = 1.0
    S[1, :, 9:13, 7:11] = 1.0
    one, other = foreground_concentration(S).tolist()
    assert one == pytest.approx(other, rel=1e-4)
    assert one == pytest.approx(2 * (16 - 1) / 12 * (2 / 16) ** 2, rel=1e-4)


def test_a_faint_part_is_cheap():
    S = torch.full((1, 1, 16, 16), 0.001)
    assert foreground_concentration(S) < foreground_concentration(100 * S) / 2


def test_border_distance_treats_all_borders_alike():
    h = boundary_distance((6, 10))
    assert torch.allclose(h, h.flip(0)) and torch.allclose(h, h.flip(1))
    assert h[0, 0] == pytest.approx(0.1) and h.max() < 1


def test_background_gradient_pushes_it_to_the_border():
    S0 = torch.full((1, 8, 8), 0.5, requires_grad=True)
    background_concentration(S0).sum().backward()
    assert S0.grad[0, 3, 3] > 0 > S0.grad[0, 0, 0]


@pytest.mark.parametrize("depth", [18, 34])
@pytest.mark.parametrize("stride", ["pool", "layer2"])
def test_paper_resolution(depth, stride):
    trunk = resnet_trunk(depth, stride).eval()
    with torch.no_grad():
        assert trunk(torch.zeros(1, 3, 128, 128)).shape == (1, 256, 32, 32)


# --- views, decoder, perceptual loss ----------------------------------------------------------


def test_warp_has_the_size_of_the_paper():
    from partbook.parts.warps import cell_centres, random_spline

    places = cell_centres((32, 32))
    moved = random_spline(512, generator(0)).grid((32, 32)) - places
    assert moved.square().sum(-1).mean().sqrt().item() == pytest.approx(0.18, abs=0.015)
    outside = ((moved + places).abs() > 1 - 1 / 32).any(-1).float().mean().item()
    assert outside == pytest.approx(0.136, abs=0.015)
    stronger = stronger_spline(512, generator(0)).grid((32, 32)) - places
    assert stronger.square().sum(-1).mean() > moved.square().sum(-1).mean()


def test_chained_views_differ_from_independent_ones():
    images = birds(4).batch(range(4)).images
    one = two_views(images, Step(0), "independent").both
    other = two_views(images, Step(0), "chained").both
    assert torch.equal(one[:4], other[:4]) and not torch.equal(one[4:], other[4:])


def test_views_are_those_of_the_step():
    images = birds(4).batch(range(4)).images
    assert torch.equal(two_views(images, Step(3)).both, two_views(images, Step(3)).both)
    assert not torch.equal(two_views(images, Step(3)).both, two_views(images, Step(4)).both)


def test_outside_is_as_asked():
    white = torch.ones(4, 3, 32, 32)
    assert two_views(white, Step(0), outside="border").both.min() > 0.999
    assert two_views(white, Step(0), outside="zeros").both.min() < 0.5
    masked = two_views(white, Step(0), outside="masked")
    assert torch.allclose(masked.weight, masked.both[:, :1])


def test_coordinates_are_those_of_cells():
    maps = with_coordinates(torch.zeros(2, 1, 2, 2))
    assert maps[0, 1].tolist() == [[-0.5, 0.5], [-0.5, 0.5]]
    assert maps[1, 2].tolist() == [[-0.5, -0.5], [0.5, 0.5]]


@pytest.mark.parametrize("bad", [dict(widths=(8, 8)), dict(enlarge="twice")])
def test_renderer_refuses(bad):
    with pytest.raises(InputError):
        Renderer(4, **bad)


def test_averages_from_every_so_many_steps():
    loss = PerceptualLoss(load_extractor("rgb"), every=3)
    x = torch.zeros(1, 3, 16, 16)
    values = [loss(x, torch.full_like(x, v)).item() for v in (1.0, 2.0, 3.0, 3.0)]
    mean = (1 + 4 + 9) / 3
    assert values == pytest.approx([1.0, 4.0, 9.0 / mean, 9.0 / mean], rel=1e-4)


def test_evaluation_moves_no_average():
    loss = PerceptualLoss(load_extractor("rgb"))
    x = torch.zeros(1, 3, 16, 16)
    loss(x, x + 1)
    before = loss.averages.clone()
    loss.eval()
    assert loss(x, x + 2).item() == pytest.approx(4.0)
    assert torch.equal(before, loss.averages)


def test_a_sum_over_layers_is_their_number_times_the_mean():
    x = birds(2).batch(range(2)).images
    e = load_extractor("equivariant")
    mean, total = (PerceptualLoss(e, reduction=r)(x, 0 * x) for r in ("mean", "sum"))
    assert total == pytest.approx(len(seen_layers(e, x)) * mean.item())


def test_stages_end_in_the_descriptor():
    x = birds(2).batch(range(2)).images
    e = load_extractor("equivariant")
    assert torch.allclose(e.stages(x)[-1], e(x))


def test_weights_say_where_a_difference_counts():
    x = torch.zeros(1, 3, 8, 8)
    y = x.clone()
    y[..., :4] = 1.0
    weight = torch.zeros(1, 1, 8, 8)
    weight[..., :4] = 1.0
    assert layer_losses([x], [y], weight).item() == pytest.approx(1.0)
    assert layer_losses([x], [y], 1 - weight).item() == 0


@pytest.mark.parametrize("bad", [dict(decay=1.0), dict(every=0), dict(reduction="max")])
def test_perceptual_loss_refuses(bad):
    with pytest.raises(InputError):
        PerceptualLoss(load_extractor("rgb"), **bad)


# --- the method -----------------------------------------------------------------------------


def test_terms_are_the_four_losses(trained):
    _, log = trained
    assert {"L_rec", "L_cls", "L_fg", "L_bg"} <= set(log.rows[0])


def test_reconstruction_is_two_times_its_weight_at_the_start(trained):
    method, log = trained
    assert log.rows[0]["L_rec"] == pytest.approx(2 * method.settings.reconstruction, rel=1e-4)


@pytest.mark.parametrize("name", LAMBDAS)
def test_a_weight_of_zero_leaves_its_term_out(name):
    method = Disentangling.build(DisentanglingSettings(**{**SMALL, name: 0.0})).train()
    terms = method.losses(birds(4).batch(range(4)), Step(0))
    assert len(terms) == 3


@pytest.mark.parametrize("name", LAMBDAS)
def test_terms_are_linear_in_their_weights(name):
    batch = birds(4).batch(range(4))
    found = []
    for value in (1.0, 2.0):
        method = Disentangling.build(DisentanglingSettings(**{**SMALL, name: value})).train()
        found.append(method.losses(batch, Step(0)))
    changed = [k for k in found[0] if not torch.allclose(2 * found[0][k], found[1][k], rtol=1e-4)]
    assert len(changed) == 3


def test_reconstruction_moves_both_encoders_and_the_decoder():
    only = dict.fromkeys(LAMBDAS, 0.0) | {"reconstruction": 1.0}
    method = Disentangling.build(DisentanglingSettings(**{**SMALL, **only})).train()
    sum(method.losses(birds(4).batch(range(4)), Step(0)).values()).backward()
    for module in (method.network.head, method.looks.head, method.decoder):
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in module.parameters())
    assert method.W.grad is None
    assert all(p.grad is None for p in method.extractor.parameters())


def test_training_learns_to_paint():
    torch.manual_seed(0)
    settings = DisentanglingSettings(**{**SMALL, "steps": 60, "lr": 5e-3})
    method = Disentangling.build(settings)
    x = birds().batch(range(8)).images
    before = (method.eval().transferred(x, x) - x).square().mean()
    fit(method, birds(), look=0)
    after = (method.transferred(x, x) - x).square().mean()
    assert after < 0.8 * before


def test_same_settings_same_numbers(trained):
    method, log = trained
    again = Disentangling.build(DisentanglingSettings(**SMALL))
    rows = fit(again, birds(), look=0).rows
    assert [r["L"] for r in rows] == [r["L"] for r in log.rows]


def test_resumes_to_the_same_numbers(tmp_path, trained):
    method, _ = trained

    class Stop(Exception):
        pass

    def stop(step, *_):
        if step == 1:
            raise Stop

    with pytest.raises(Stop):
        fit(
            Disentangling.build(DisentanglingSettings(**SMALL)),
            birds(),
            tmp_path,
            every=1,
            watch=stop,
            look=0,
        )
    again = Disentangling.build(DisentanglingSettings(**SMALL))
    fit(again, birds(), tmp_path, every=1, resume=True, look=0)
    for (name, a), b in zip(method.state_dict().items(), again.state_dict().values()):
        assert torch.equal(a, b), name


def test_saved_and_loaded(tmp_path, trained):
    method, _ = trained
    save_method(method, tmp_path / "model")
    again, _ = load_method(tmp_path / "model")
    x = birds().batch(range(4)).images
    assert torch.equal(method.part_maps(x), again.part_maps(x))
    assert torch.equal(method.transferred(x, x.flip(0)), again.transferred(x, x.flip(0)))


def test_swapping_all_parts_is_a_transfer(trained):
    method, _ = trained
    x = birds().batch(range(4)).images
    looks = method.appearance(x).clone()
    for part in range(method.parts + 1):
        looks[:, part] = method.appearance(x.flip(0))[:, part]
    assert torch.allclose(method.render(looks, method.shape(x)), method.transferred(x.flip(0), x))
    one = method.swapped(x, x.flip(0), 1)
    assert one.min() >= 0 and one.max() <= 1


@pytest.mark.parametrize("part", [-1, 4])
def test_swapping_a_part_that_is_none(trained, part):
    x = birds().batch(range(2)).images
    with pytest.raises(InputError, match="There is no part"):
        trained[0].swapped(x, x, part)


@pytest.mark.parametrize(
    "bad",
    [
        dict(reading="mean"),
        dict(stride="layer1"),
        dict(views="three"),
        dict(outside="mirror"),
        dict(classification=-1.0),
        dict.fromkeys(LAMBDAS, 0.0),
        dict(numbers=0),
        dict(head_std=-0.1),
        dict(decay=1.0),
        dict(every=0),
        dict(optimiser="lion"),
    ],
)
def test_settings_refuse(bad):
    with pytest.raises(InputError):
        DisentanglingSettings(**bad)


@pytest.mark.parametrize("dataset", WEIGHTS)
def test_published_settings(dataset):
    s = DisentanglingSettings.published(dataset)
    assert tuple(getattr(s, name) for name in LAMBDAS) == WEIGHTS[dataset]
    assert (s.size, s.batch_size, s.lr, s.weight_decay) == (128, 32, 1e-4, 5e-4)


def test_published_settings_of_another_set():
    with pytest.raises(InputError, match="choose one of: CelebA"):
        DisentanglingSettings.published("ImageNet")


def test_papers_networks_take_a_step():
    settings = DisentanglingSettings.published(
        "CUB", features="equivariant", layers=None, size=32, batch_size=2, steps=1
    )
    method = Disentangling.build(settings).train()
    terms = method.losses(birds(2).batch(range(2)), Step(0))
    sum(terms.values()).backward()
    assert method.part_maps(birds(2).batch(range(2)).images).shape == (2, 5, 8, 8)
    names = {name.split(".")[0] for name, p in method.named_parameters() if p.grad is not None}
    assert names == {"network", "looks", "decoder", "W"}


def test_vgg19_brings_the_settings_of_the_paper():
    s = DisentanglingSettings(**Disentangling.defaults("vgg19"))
    assert s == DisentanglingSettings.published("CUB")


def test_colours_are_painted_upon_and_each_part_has_its_own():
    picture = torch.rand(1, 3, 32, 32)
    maps = torch.zeros(1, 2, 8, 8)
    maps[:, 0, :, :4] = 1.0
    maps[:, 1, :, 4:] = 1.0
    looks = squeeze(maps, with_colours(torch.zeros(1, 1, 8, 8), picture))
    decoder = UponColours(6, LIGHT, "bilinear").eval()
    torch.nn.init.zeros_(decoder.last.weight)
    torch.nn.init.zeros_(decoder.last.bias)
    painted = decoder(with_coordinates(expand(looks, maps)))
    for part, columns in ((slice(0, 16), 4), (slice(16, 32), 28)):
        mean = picture[..., part].mean((2, 3))
        assert torch.allclose(painted[..., 10, columns], mean, atol=1e-4)


def test_the_background_is_ahead_at_the_start_by_what_is_asked():
    plain, ahead = (
        Disentangling.build(DisentanglingSettings(features="equivariant", ground_start=b)).eval()
        for b in (0.0, 2.5)
    )
    x = torch.rand(2, 3, 64, 64)
    apart = (ahead.logits(x) - plain.logits(x)).mean((0, 2, 3))
    assert torch.allclose(apart, torch.tensor([2.5, 0.0, 0.0, 0.0, 0.0]), atol=1e-4)


def test_weights_of_one_encoder_are_not_given_to_the_other():
    same = DisentanglingSettings(network_weights="random")
    assert looks_settings(same) is same
    other = looks_settings(
        DisentanglingSettings(network_weights="random", appearance_network="resnet34")
    )
    assert (other.network, other.network_weights) == ("resnet34", None)


def test_the_paper_has_no_helps_of_ours():
    s = DisentanglingSettings.published("CelebA")
    assert (s.colours, s.ground_start, s.enlarge) == (False, 0.0, "transposed")


def test_more_parts_press_no_harder_on_each():
    weights = [DisentanglingSettings(parts=K).foreground_concentration for K in (2, 4, 8)]
    assert weights == [2.0, 1.0, 0.5]
    assert (
        DisentanglingSettings(parts=8, foreground_concentration=0.0).foreground_concentration == 0
    )
    assert DisentanglingSettings.published("CUB", parts=8).foreground_concentration == 0.3
