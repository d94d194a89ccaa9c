"""What the chapter on SCOPS claims beyond its worked examples: limits, options, reductions."""

import pytest
import torch
import torch.nn.functional as F

from partbook.core import InputError, generator
from partbook.data.sample import Kept, View, collections
from partbook.features.extractor import rectified
from partbook.features.foreground import learn_inside
from partbook.methods.kmeans import lloyd, seed_centres
from partbook.methods.method import Step
from partbook.methods.scops import (
    OUTSIDE,
    Scops,
    ScopsSettings,
    carried,
    centre_equivariance,
    code_centres,
    concentration_loss,
    equivariances,
    literal_concentration_loss,
    literal_equivariance_loss,
    literal_semantic_loss,
    map_equivariance,
    moved_centres,
    orthonormal_loss,
    saliency_constraint,
    semantic_loss,
)
from partbook.parts.maps import divergence, label_rule, part_centres, upsample
from partbook.parts.warps import solved_spline


@pytest.fixture(scope="module")
def pictures():
    birds = View(collections["birds"].open(split="train", size=64), indices=range(12))
    return Kept(learn_inside(birds, "robust"))


@pytest.fixture(scope="module")
def settings():
    return ScopsSettings(
        **{**Scops.defaults("equivariant"), "parts": 6, "steps": 3, "batch_size": 4}
    )


@pytest.fixture
def method(settings):
    return Scops.build(settings).train()


@pytest.fixture
def scored(method):
    "A method whose scores are worth comparing."
    torch.nn.init.normal_(method.network.head[-1].weight, std=0.5, generator=generator(6))
    return method


@pytest.fixture
def batch(pictures, settings):
    return pictures.batch(range(settings.batch_size))


def like(method, **changes):
    "An untrained method with the same settings, but for some."
    return Scops.build(ScopsSettings(**{**vars(method.settings), **changes})).train()


def sharing(method, **changes):
    "The same with the network of the method."
    other = like(method, **changes)
    other.network.load_state_dict(method.network.state_dict())
    return other


def nearest_distance(vectors, centres):
    "Mean squared distance to the nearest centre."
    return torch.cdist(vectors, centres).square().amin(1).mean().item()


def test_concentration_does_not_change_with_the_place():
    two = torch.zeros(1, 1, 4, 4)
    two[0, 0, 1, [0, 3]] = 1.0
    assert torch.allclose(concentration_loss(two, 0.0), torch.tensor([[0.75**2]]))
    assert torch.allclose(concentration_loss(torch.zeros(1, 1, 4, 4)), torch.tensor([[2 * 0.3125]]))
    shifted = torch.roll(two, 1, 2)
    assert torch.allclose(concentration_loss(shifted, 0.0), concentration_loss(two, 0.0))


def test_centres_by_hand():
    R = torch.randn(2, 4, 24, 20, generator=generator(0)).mul(3).softmax(1)[:, 1:]
    share = (R + 1e-3) / (R + 1e-3).sum((2, 3), keepdim=True)
    u = 2 * torch.arange(20) / 20 - 1
    v = 2 * torch.arange(24) / 24 - 1
    by_hand = torch.stack([(share * u).sum((2, 3)), (share * v[:, None]).sum((2, 3))], -1)
    assert torch.allclose(code_centres(R), by_hand, atol=1e-6)


def blobs():
    "Scores of two pictures with two blobs, and a warp that shifts."
    g = generator(3)
    warp = solved_spline(2, g, jitter=0.0, rotation=0.0, zoom=(1.0, 1.0), shift=0.2)
    blob = -((torch.arange(32) - 14)[:, None].square() + (torch.arange(32) - 17).square()) / 10.0
    scores = torch.stack([torch.zeros(32, 32), 6 + blob, 2 + blob.flip(1)])
    return scores.expand(2, -1, -1, -1).contiguous(), warp, g


@pytest.mark.parametrize("outside", OUTSIDE)
@pytest.mark.parametrize("direction", ["code", "paper"])
def test_maps_that_obey_pay_nothing(outside, direction):
    scores, warp, _ = blobs()
    moved, counts = carried(scores, warp, outside)
    warped = warp(scores, padding="border" if outside == "border" else "zeros")
    each = map_equivariance(moved, warped, direction)
    assert (each * counts).abs().max() < 1e-6
    assert counts.eq(1).all() == (outside != "ignored")


def test_centres_that_obey_pay_nothing():
    scores, warp, _ = blobs()
    plain = scores.softmax(1)[:, 1:]
    obeying = warp(scores, padding="border").softmax(1)[:, 1:]
    target = moved_centres(plain, warp, 0.0)
    coded = centre_equivariance(obeying, code_centres(warp(plain, padding="border")))
    assert coded.max() < 1e-4
    assert centre_equivariance(obeying, target, 0.0).max() < 1e-4
    assert centre_equivariance(plain, target, 0.0).min() > 1e-3


def test_centres_without_a_place_do_not_count():
    folded = solved_spline(2, generator(1), jitter=0.8, rotation=0.0, zoom=(1.0, 1.0), shift=0.0)
    many = torch.rand(2, 40, 32, 32, generator=generator(2)) ** 40
    lost = folded.points(part_centres(many), (32, 32)).isnan().any(-1)
    assert (
        lost.any()
        and not lost.all()
        and centre_equivariance(many, moved_centres(many, folded, 0.0), 0.0)[lost].eq(0).all()
    )


def test_outside_the_frame():
    scores, _, g = blobs()
    other = torch.randn(2, 3, 32, 32, generator=g)
    shrunk = solved_spline(2, g, jitter=0.0, rotation=0.0, zoom=(0.53, 0.53), shift=0.0)
    found = {o: carried(scores, shrunk, o) for o in OUTSIDE}
    corner = {o: map_equivariance(moved, other)[0, 0, 0].item() for o, (moved, _) in found.items()}
    frame = shrunk(torch.ones(2, 32, 32))
    assert ((frame > 0.01) & (frame < 0.99)).any() and found["ignored"][1][
        frame < 0.99
    ].sum() == 0  # half a pixel is none
    assert (
        found["ignored"][1].mean().item() == pytest.approx(0.53**2, abs=0.07)
        and found["ignored"][1][0, 0, 0] == 0
    )
    assert (
        corner["uniform"]
        == pytest.approx(divergence(torch.zeros(1, 3, 1, 1), other[:1, :, :1, :1]).item(), rel=1e-4)
        and corner["border"] != corner["uniform"]
    )


def test_semantic_loss_by_hand():
    W = torch.rand(3, 9, generator=generator(1))
    hard = torch.eye(3).repeat_interleave(8, 1).view(1, 3, 24, 1).expand(1, 3, 24, 20)
    exact = torch.einsum("bkhw,kc->bchw", hard, W.detach())
    assert semantic_loss(hard, [exact], W.detach()).abs() < 1e-3 * exact.square().sum()
    assert torch.allclose(semantic_loss(0 * hard, [exact], W), exact.square().sum().view(1))
    nothing = torch.zeros(1, 24, 20)
    assert (
        torch.allclose(semantic_loss(hard, [exact], W, nothing), exact.square().sum().view(1))
        and semantic_loss(0 * hard, [exact], W, nothing) == 0
    )


def test_orthonormal_loss_does_not_know_lengths():
    assert orthonormal_loss(torch.eye(4)[:3] * 7) < 1e-10
    pair = torch.tensor([[2.0, 0.0], [0.5, 0.75**0.5]])
    assert orthonormal_loss(pair).item() == pytest.approx(0.5, abs=1e-6)
    assert orthonormal_loss(torch.ones(5, 3)).item() == pytest.approx(20, rel=1e-5)


def test_terms_are_their_literal_forms(method, settings, batch):
    still = dict(jitter=False, bend=0.0, rotation=0.0, zoom=(1.0, 1.0), shift=0.0)
    plain = like(method, **still)
    with torch.no_grad():
        for p in plain.network.head.parameters():  # scores worth comparing
            p.add_(0.3 * torch.randn(p.shape, generator=generator(5)))
        v = plain.pair(batch, Step(0))
        terms = plain.losses(batch, Step(0))
        R = upsample(plain.network(batch.images), (64, 64)).softmax(1)[:, 1:]
        V = plain.levels(batch.images)[0]
        semantic = literal_semantic_loss(R, V, plain.basis.relu(), v.masks[:, 0]).mean() / 64**2
        concentration = literal_concentration_loss(R).sum(1).mean()
        literal = {
            "L_sc": settings.semantic * semantic,
            "L_on": settings.orthonormal * orthonormal_loss(plain.basis),
            "L_con": settings.concentration * concentration,
            "L_eqv^s": torch.zeros(()),
            "L_eqv^c": torch.zeros(()),
        }
    assert torch.equal(v.masks[:, 0], (batch.saliency > 0.5).float())
    assert torch.equal(like(method, saliency="soft").saliency(batch), batch.saliency)
    assert torch.allclose(v.both[: len(batch)], v.both[len(batch) :], atol=1e-4)
    for name, value in literal.items():
        assert torch.allclose(terms[name], value, rtol=1e-3, atol=2e-3), name


def test_options_change_their_own_terms(scored, batch):
    def terms_with(**changes):
        return sharing(scored, **changes).losses(batch, Step(0))

    first = terms_with()
    without = terms_with(concentration=0.0, centres=0.0)
    assert set(without) == {"L_sc", "L_on", "L_eqv^s"}
    assert torch.equal(terms_with(concentration=0.0)["L_sc"], first["L_sc"])
    about = {
        "saliency": ("none", "L_sc"),
        "direction": ("paper", "L_eqv^s"),
        "outside": ("uniform", "L_eqv^s"),
        "warped_centres": (True, "L_eqv^c"),
        "unit_features": (False, "L_sc"),
    }
    for name, (value, expected) in about.items():
        found = terms_with(**{name: value})
        changed = [k for k in first if not torch.allclose(found[k], first[k], rtol=1e-6)]
        assert changed == expected.split(), (name, changed)


@pytest.mark.parametrize("name", ["L_eqv^s", "L_eqv^c"])
def test_a_fixed_target_carries_no_gradient(name, scored, batch):
    def slope(**changes):
        other = sharing(scored, **changes)
        weight = other.network.head[-1].weight
        return torch.autograd.grad(other.losses(batch, Step(0))[name], weight)[0]

    assert not torch.allclose(slope(), slope(fixed_target=False), rtol=1e-3)


def test_the_second_view_is_turned_and_recoloured(method, batch):
    still = dict(bend=0.0, zoom=(1.0, 1.0), shift=0.0)
    turned = like(method, jitter=False, **still)
    recoloured = like(method, rotation=0.0, **still)
    a, b = turned.pair(batch, Step(0)).both.chunk(2)
    assert (a - b).abs().mean((1, 2, 3)).min() > 0.01
    for number in range(6):
        a, b = recoloured.pair(batch, Step(number)).both.chunk(2)
        colour = [(x.amax(1) - x.amin(1)).mean((1, 2)) for x in (a, b)]
        assert (a - b).abs().mean((1, 2, 3)).min() > 1e-3
        assert (colour[1] > 0.3 * colour[0]).all()


def test_a_basis_below_zero_counts_as_zero(method, batch):
    clipped, below = like(method), like(method)
    with torch.no_grad():
        clipped.basis[:, ::2] = 0.0
        below.basis[:, ::2] = -1.0
    a, b = clipped.losses(batch, Step(0)), below.losses(batch, Step(0))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_features_are_kept_only_if_asked(method, batch):
    fresh, kept = like(method, once=False), like(method)
    apart = [m.losses(batch, Step(0))["L_sc"] for m in (fresh, kept)]
    assert torch.allclose(*apart)
    assert "levels" not in vars(fresh.extractor) and "levels" in vars(kept.extractor)


def test_reductions_are_units(scored, settings, batch):
    K, C, B = settings.parts, scored.basis.shape[1], len(batch)
    reductions = ("pixel", "sum", "mean")
    per_pixel, summed, mean = (
        sharing(scored, reduction=r).losses(batch, Step(0)) for r in reductions
    )
    units = {
        "L_sc": (64**2, C),
        "L_eqv^s": (64**2, K + 1),
        "L_eqv^c": (1, 2 * K),
        "L_con": (1, B),
    }
    for name, (pixels, channels) in units.items():
        assert torch.allclose(summed[name], per_pixel[name] * pixels, rtol=1e-3), name
        assert torch.allclose(mean[name] * channels, per_pixel[name], rtol=1e-3), name
    other = like(scored, reduction="mean", equivariance=0.0, centres=0.0)
    one, two = (other.losses(batch, Step(0, world=w))["L_con"] for w in (1, 2))
    assert torch.allclose(one, 2 * two, rtol=1e-4)


def test_the_code_s_numbers(pictures):
    big = Scops.build(
        ScopsSettings.published(size=64, batch_size=2, network_weights="random"), "random"
    ).train()
    two = pictures.batch(range(2))
    terms = big.losses(two, Step(0))
    with torch.no_grad():
        scores = upsample(big.network(big.pair(two, Step(0)).both), (64, 64)).chunk(2)[0]
        expected = (
            1e4
            * semantic_loss(
                scores.softmax(1)[:, 1:], big.levels(two.images), big.basis.relu(), two.saliency
            ).mean()
            / (64**2 * 1024)
        )
    assert [tuple(f.shape[1:]) for f in big.levels(two.images)] == [
        (512, 4, 4)
    ] * 2 and big.basis.shape == (8, 1024)
    assert torch.allclose(terms["L_sc"], expected, rtol=1e-3) and big.parameter_groups()["basis"][
        1:
    ] == (1e-2 / 1e-4, 0.0)


def test_centres_of_the_map_or_of_the_warped_map(method, settings, batch):
    v = method.pair(batch, Step(0))
    scores = [torch.randn(settings.batch_size, 7, 64, 64, generator=generator(i)) for i in (1, 2)]
    here, there = (x.softmax(1)[:, 1:] for x in scores)
    targets = (
        code_centres(v.warp(scores[0]).softmax(1)[:, 1:], settings.smoothing),
        moved_centres(here, v.warp, settings.smoothing),
    )
    for printed, target in zip((False, True), targets):
        s = like(method, warped_centres=printed).settings
        found = equivariances(v, *scores, Step(0), s)["L_eqv^c"]
        expected = centre_equivariance(there, target, settings.smoothing).sum(1).mean()
        assert torch.allclose(found, expected)
    assert not torch.allclose(*targets)


def test_prepare_starts_from_clusters(method, pictures, settings, batch):
    few = pictures
    everything = few.batch(range(len(few)))
    ready = like(method, start="kmeans", mean_off="collection")
    ready.prepare(few)
    assert torch.allclose(
        ready.levels(batch.images)[0].norm(dim=1), torch.ones(1)
    ) and not torch.allclose(
        like(method, unit_features=False, mean_off="collection").levels(batch.images)[0],
        ready.levels(batch.images)[0],
    )
    centred = ready.extractor(everything.images) - ready.feature_mean[:, None, None]
    D = F.interpolate((everything.saliency > 0.5).float()[:, None], centred.shape[-2:], mode="area")
    assert (
        (D * centred).sum((0, 2, 3)).div(D.sum()).norm() < 0.02
        and (ready.basis >= 0).all()
        and method.feature_mean.eq(0).all()
    )
    several = like(method, start="kmeans", mean_off="collection", starts=5)
    several.prepare(few)
    vectors = several.salient_vectors(everything)
    g = generator(settings.seed)
    runs = [lloyd(vectors, seed_centres(vectors, 6, g), 20)[0] for _ in range(5)]
    best = min(range(5), key=lambda i: nearest_distance(vectors, runs[i]))
    assert torch.equal(several.basis, runs[best]) and torch.equal(ready.basis, runs[0])
    some = pictures.batch(range(4))
    cells = (
        F.interpolate((some.saliency > 0.5).float()[:, None], centred.shape[-2:], mode="area")
        >= 0.5
    )
    assert (
        ready.salient_vectors(some).shape == (int(cells.sum()), ready.basis.shape[1])
        and 0 < cells.sum() < cells.numel()
    )
    method.described(batch.images)  # from now on features are kept, picture by picture
    own = like(method, mean_off="picture", unit_features=False).levels(batch.images)[0]
    C = own.shape[1] // 2  # the negative half follows
    assert torch.equal(
        like(method, unit_features=False).levels(batch.images)[0],
        rectified(method.extractor(batch.images), True),
    )  # nothing is taken off
    assert (own[:, :C] - own[:, C:]).mean(
        (2, 3)
    ).abs().max() < 1e-5  # every picture has lost its mean
    nearest = [orthonormal_loss(m.basis.relu()).item() for m in (method, ready)]
    assert nearest[1] < nearest[0]  # clusters lie further apart than noise


def test_the_parts_of_a_label(method, settings):
    seen = collections["birds"].open(split="val", size=64).batch(range(8))
    ready = like(method).eval()
    maps = upsample(ready.logits(seen.images), (64, 64)).softmax(1).detach()
    assert (
        torch.equal(ready.labels(seen.images), label_rule(maps[:, 1:], 0.1))
        and (ready.read_labels(maps.log(), background=False) > 0).all()
    )
    weak = (
        torch.tensor([[0.05, 0.977], [0.9, 0.02], [0.05, 0.003]]).log().view(1, 3, 1, 2)
    )  # the second pixel is weak in either part
    relative = torch.tensor(
        [[0.1, 0.1], [1.0, 0.02 / 0.9], [1.0, 0.06]]
    )  # by hand: background, part 1, part 2
    assert torch.allclose(ready.shares(weak)[0, :, 0], relative / relative.sum(0))
    ready.settings.background = 0.3
    assert torch.allclose(
        ready.shares(weak)[0, 0, 0], torch.tensor([0.3 / 2.3, 0.3 / (0.3 + 0.02 / 0.9 + 0.06)])
    )
    ready.settings.background = 0.1
    assert ready.read_labels(weak).tolist() == [[[1, 0]]] and ready.read_labels(
        weak, background=False
    ).tolist() == [[[1, 2]]]
    shares, chosen = ready.shares(maps.log()), ready.labels(seen.images)[:, None]
    assert (shares.gather(1, chosen)[:, 0] >= shares.amax(1) - 1e-6).all() and torch.allclose(
        ready.shares(weak).sum(1), torch.ones(1)
    )
    ready.settings.rule = "argmax"
    assert torch.allclose(ready.shares(maps.log()), maps, atol=1e-6)
    assert torch.equal(ready.labels(seen.images), maps.argmax(1)) and torch.equal(
        ready.labels(seen.images, seen.masks), maps.argmax(1).where(seen.masks, 0)
    )
    ready.settings.rule = "relative"


def test_one_pixel_of_a_shared_basis_vector():
    w, pixel = torch.tensor([[0.6, 0.8]]), torch.tensor([0.3, 0.9]).view(1, 2, 1, 1)
    shared, alone = (
        torch.tensor([0.5, 0.5]).view(1, 2, 1, 1),
        torch.tensor([1.0, 0.0]).view(1, 2, 1, 1),
    )
    assert torch.allclose(
        semantic_loss(shared, [pixel], w.repeat(2, 1)),
        semantic_loss(alone, [pixel], w.repeat(2, 1)),
    )
    assert orthonormal_loss(w.repeat(2, 1)).item() == pytest.approx(2, abs=1e-5)
    cost = semantic_loss(
        torch.full((1, 4, 1, 1), 1 / 5),
        [torch.rand(1, 7, 1, 1)],
        torch.eye(7)[:4],
        torch.zeros(1, 1, 1),
    )
    assert cost.item() == pytest.approx(4 / 25, rel=1e-4)


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        (dict(reduction="median"), "choose one of: pixel, mean, sum"),
        (dict(semantic=-1.0), "none may be negative"),
        (dict(starts=0), "choose at least 1"),
        (dict(smoothing=-1.0), "smoothing is -1.0; it must not be negative"),
        (dict(background=1.0), "not including, 1"),
    ],
)
def test_settings_that_make_no_sense(wrong, sentence):
    with pytest.raises(InputError, match=sentence):
        ScopsSettings(**wrong)


def test_equation_3_by_hand():
    "Two pixels with shares (1/2, 1/2) and (3/4, 1/4) for the only part; centres 0.3 and 0.4 apart."
    ours = torch.tensor([[0.5, 0.5]])
    moved = torch.tensor([[0.75, 0.25]])
    scores, warped = (torch.stack([1 - p, p], 1)[:, :, None].log() for p in (moved, ours))
    target, centres = torch.zeros(1, 1, 2), torch.tensor([[[0.3, 0.4]]])
    each = (
        0.5 * torch.tensor([0.5 / 0.75, 0.5 / 0.25]).log().sum()
    )  # one pixel; the other mirrors it
    found = literal_equivariance_loss(scores, warped, target, centres, (2.0, 10.0))
    torch.testing.assert_close(found, 2 * 2 * each + torch.tensor([2.5]))
    maps = map_equivariance(scores, warped, direction="paper").sum((1, 2))
    alone = literal_equivariance_loss(scores, warped, target, target)
    torch.testing.assert_close(maps, alone)


def test_equation_3_is_the_sum_of_its_two_terms():
    g = generator(5)
    scores, warped = torch.randn(2, 3, 4, 8, 8, generator=g)
    target = torch.rand(3, 3, 2, generator=g) - 0.5
    own = warped.softmax(1)[:, 1:]
    found = literal_equivariance_loss(scores, warped, target, code_centres(own), (0.7, 1.3))
    maps = map_equivariance(scores, warped, "paper").sum((1, 2))
    torch.testing.assert_close(found, 0.7 * maps + 1.3 * centre_equivariance(own, target).sum(1))


def test_equation_6_is_what_equation_4_asks_for_without_saliency():
    g = generator(6)
    maps = torch.rand(2, 3, 4, 4, generator=g)
    basis = torch.rand(3, 5, generator=g)
    features = torch.rand(2, 5, 4, 4, generator=g)
    nothing = torch.zeros(2, 4, 4)
    found = saliency_constraint(maps, basis, nothing)
    torch.testing.assert_close(found, literal_semantic_loss(maps, features, basis, nothing))
    one = torch.ones(2, 4, 4)
    one[:, 1, 2] = 0.0
    by_hand = (maps[:, :, 1, 2] @ basis).square().sum(1)
    torch.testing.assert_close(saliency_constraint(maps, basis, one), by_hand)
    maps[:, :, 1, 2] = 0.0  # the background takes the pixel
    assert saliency_constraint(maps, basis, one).eq(0).all()
