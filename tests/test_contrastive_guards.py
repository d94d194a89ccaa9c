"""Contrastive reconstruction: what a changed line of the chapter would break."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from partbook.core import InputError, generator
from partbook.data.pictures import lab
from partbook.data.sample import View, collections
from partbook.methods.contrastive import (
    Contrastive,
    ContrastiveSettings,
    contrastive_loss,
    draw_partners,
    equivariance_loss,
    feature_loss,
    foreground,
    from_partners,
    literal_descriptors,
    literal_feature_loss,
    literal_visual_loss,
    part_descriptors,
)
from partbook.methods.method import Step
from partbook.parts.maps import upsample


def example(B=2, K=3, C=5, size=(40, 28), grid=(5, 7), seed=0):
    "Random features, and part maps that are zero outside a mask."
    g = generator(seed)
    D = torch.rand(B, 1, *size, generator=g) < 0.6
    maps = torch.randn(B, K, *size, generator=g).mul(2).softmax(1) * D
    return maps, torch.randn(B, C, *grid, generator=g) + 1


def literal_contrastive_loss(z, partner, temperature, own):
    N, K, _ = z.shape
    loss = torch.zeros(N, K)
    for n in range(N):
        for k in range(K):
            positive = (z[n, k] @ z[partner[n, k], k] / temperature).exp()
            negative = sum(
                (z[n, k] @ z[i, j] / temperature).exp()
                for i in range(N)
                for j in range(K)
                if j != k and (own or i != n)
            )
            loss[n, k] = -(positive / (positive + negative)).log()
    return loss


def settings(**changes):
    return ContrastiveSettings(**{"parts": 6, "size": 32, "steps": 3, "batch_size": 4, **changes})


def untrained(**changes):
    return Contrastive.build(settings(**changes)).train()


@pytest.fixture(scope="module")
def birds():
    return View(collections["birds"].open(split="train", size=32), indices=range(16))


@pytest.fixture(scope="module")
def batch(birds):
    return birds.batch(range(4))


@pytest.fixture(scope="module")
def first(batch):
    return untrained().losses(batch, Step(0))


@pytest.fixture(scope="module")
def plain():
    return untrained(jitter=False, first_mirror=1.0, level_weights=(0.5,))


def test_feature_loss_of_three_pixels_with_an_empty_part_and_far_from_zero():
    values = torch.tensor([0.0, 2.0, 10.0]).view(1, 1, 1, 3)
    apart = torch.tensor([[1.0, 1, 0], [0, 0, 1]]).view(1, 2, 1, 3)
    together = torch.tensor([[1.0, 1, 1], [0, 0, 0]]).view(1, 2, 1, 3)
    assert feature_loss(apart, [values]).item() == pytest.approx(2, abs=1e-4)
    assert feature_loss(together, [values]).item() == pytest.approx(56, abs=1e-3)
    M, f = example()
    assert torch.allclose(feature_loss(M, [f + 300.0]), feature_loss(M, [f]), rtol=1e-4)


def test_partners():
    drawn = torch.stack([draw_partners(4, 3, generator(i)) for i in range(600)])
    assert (drawn != torch.arange(4)[:, None]).all()
    often = (drawn == 2)[:, 0, 1].float().mean()  # picture 2 as a partner of part 1 of picture 0
    assert abs(often - 1 / 3) < 0.06
    with pytest.raises(InputError, match="needs a batch of at least 2"):
        draw_partners(1, 3, generator(0))


def test_descriptors_at_unit_length():
    z = torch.randn(4, 3, 5, generator=generator(2))
    partner = torch.tensor([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])
    expected = literal_contrastive_loss(F.normalize(z, dim=-1), partner, 0.2, True)
    found = contrastive_loss(z, from_partners(z, partner), 0.2)
    assert torch.allclose(found, expected, atol=1e-5)


def test_equivariance_without_a_fixed_target():
    p, q = (torch.tensor(v).log().view(1, 2, 1, 1) for v in ([0.5, 0.5], [0.25, 0.75]))
    reference = F.kl_div(q.log_softmax(1), p.softmax(1), reduction="sum")
    reference = reference + F.kl_div(p.log_softmax(1), q.softmax(1), reduction="sum")
    found = equivariance_loss(p, q, symmetrised=True, fixed_target=False).sum()
    assert torch.allclose(found, reference)


def test_settings():
    paper = ContrastiveSettings.published()
    weights = (paper.feature, paper.contrastive, paper.visual, paper.equivariance)
    assert weights == (5, 2300, 30, 5700) and paper.temperature == 0.19 and paper.parts == 4
    assert ContrastiveSettings.published(steps=60_000).steps == 60_000
    listed = ContrastiveSettings(zoom=[0.5, 2.0], level_weights=[1.0])
    assert listed.zoom == (0.5, 2.0) and listed.level_weights == (1.0,)
    for change, sentence in {
        "visual=-1": "none may be negative",
        "compare='cosine'": "no comparison 'cosine'; choose pictures, l2 or views",
        "colour='hsv'": "no colour space 'hsv'; choose lab or rgb",
        "temperature=0.0": "The temperature is 0.0; it must be positive",
        "batch_size=1": "needs a batch of at least 2",
    }.items():
        with pytest.raises(InputError, match=sentence):
            eval(f"ContrastiveSettings({change})")


def test_before_training(first):
    assert set(first) == {"L_f", "L_c", "L_v", "L_e"} and first["L_e"] < 0.05
    assert first["L_c"] / settings().contrastive > np.log(settings().parts - 1)


@pytest.mark.parametrize(
    "name, value",
    [
        ("compare", "l2"),
        ("colour", "rgb"),
        ("own_negatives", False),
        ("feature_sum", True),
        ("symmetrised", True),
    ],
)
def test_a_setting_changes_its_term_alone(first, batch, name, value):
    other = untrained(**{name: value}).losses(batch, Step(0))
    assert sum(not torch.equal(other[k], first[k]) for k in first) == 1


def test_a_term_without_weight_is_absent_and_nothing_else_changes(first, batch):
    without = untrained(visual=0.0).losses(batch, Step(0))
    assert set(without) == {"L_f", "L_c", "L_e"}
    assert all(torch.equal(without[k], first[k]) for k in without)


def test_the_views_are_what_they_say(plain, batch):
    v = plain.views(batch, Step(2))
    assert torch.allclose(v.images, batch.images.flip(-1), atol=1e-4)
    assert torch.allclose(v.masks[:, 0], batch.masks.flip(-1).float(), atol=1e-3)
    assert torch.equal(v.warped, v.warp(v.images, padding="border"))
    assert torch.equal(v.warped_masks, v.warp(v.masks))
    assert torch.equal(v.both, torch.cat([v.images, v.warped]))
    assert not torch.equal(v.warped, v.images)


@torch.no_grad()
def test_each_term_is_its_literal_form_on_the_views(plain, batch):
    s = settings()
    v = plain.views(batch, Step(2))
    terms = plain.losses(batch, Step(2))
    a, b = upsample(plain.network(v.both), tuple(v.images.shape[-2:])).chunk(2)
    R, area, f = a.softmax(1) * v.masks, v.masks.sum((1, 2, 3)), 0.5 * plain.extractor(v.images)
    target = v.warp(a, padding="border").softmax(1)
    each = F.kl_div(b.log_softmax(1), target, reduction="none").sum(1) * v.warped_masks[:, 0]
    z = literal_descriptors(R, upsample(f, tuple(R.shape[-2:])))
    partner = draw_partners(len(z), s.parts, Step(2).stream("partners"))
    unit = F.normalize(z, dim=-1)
    literal = {
        "L_f": s.feature * (literal_feature_loss(R, f) / area).mean(),
        "L_c": s.contrastive * literal_contrastive_loss(unit, partner, s.temperature, True).mean(),
        "L_v": s.visual * (literal_visual_loss(R, lab(v.images)) / area).mean(),
        "L_e": s.equivariance * each.sum() / v.warped_masks.sum(),
    }
    assert all(torch.allclose(terms[k], literal[k], rtol=1e-3) for k in literal), (terms, literal)
    with torch.autocast("cpu", torch.bfloat16):
        rough = plain.losses(batch, Step(2))
    for k, value in rough.items():
        assert value.dtype == torch.float32
        assert torch.allclose(value, terms[k], rtol=0.05, atol=0.01)
    views = untrained(jitter=False, first_mirror=1.0, level_weights=(0.5,), compare="views")
    found = views.losses(batch, Step(2))["L_c"]
    features = upsample(0.5 * plain.extractor(v.warped), tuple(R.shape[-2:]))
    second = literal_descriptors(b.softmax(1) * v.warped_masks, features)
    expected = s.contrastive * contrastive_loss(z, second, s.temperature).mean()
    assert torch.allclose(found, expected, rtol=1e-3)


def test_the_published_feature_loss_is_a_sum_over_the_batch():
    small = dict(size=64, batch_size=2, network_weights="random", first_mirror=0.0, first_crop=0.0)
    big = Contrastive.build(ContrastiveSettings.published(**small), "random").train()
    pair = collections["birds"].open(split="train", size=64).batch(range(2))
    terms = big.losses(pair, Step(0))
    with torch.no_grad():
        both = big.views(pair, Step(0)).both
        D = foreground(pair)
        maps = upsample(big.network(both), (64, 64)).chunk(2)[0].softmax(1) * D
        levels = big.levels(pair.images)
        expected = 5 * (feature_loss(maps, levels) / D.sum((1, 2, 3))).sum()
    assert [tuple(f.shape[1:]) for f in levels] == [(256, 16, 16), (512, 4, 4)]
    assert torch.allclose(terms["L_f"], expected, rtol=1e-3)
    assert all(v.isfinite() for v in terms.values())


def test_centring_takes_off_the_mean_of_the_foreground(birds):
    centred = untrained(mean_off="collection", unit_features=False)
    centred.prepare(birds)
    everything = birds.batch(range(len(birds)))
    D = foreground(everything)
    mean = part_descriptors(D, centred.levels(everything.images)[0])[0][:, 0]
    areas = D.sum((1, 2, 3))[:, None]
    assert ((mean * areas).sum(0) / areas.sum()).abs().max() < 1e-4
    plain = untrained()
    plain.prepare(birds)
    assert plain.feature_mean.eq(0).all()


def test_level_weights_are_one_for_each_layer(batch):
    with pytest.raises(InputError, match="There are 1 layers of features but 2 level_weights"):
        untrained(level_weights=(1.0, 2.0)).levels(batch.images)
