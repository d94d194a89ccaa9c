"""Guesses of the foreground against mutations: moments, cuts, both kinds, maps on disk."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from partbook.core import InputError, generator
from partbook.data.saliency import saliency
from partbook.data.sample import Kept, Sample, View
from partbook.features.extractor import load_extractor
from partbook.features.foreground import (
    Border,
    Component,
    Estimate,
    Estimated,
    Foreground,
    Moments,
    Robust,
    border,
    find_axis,
    foregrounds,
    learn_inside,
    otsu,
    principal_axis,
    step_width,
)


class Discs(Kept):
    "Discs of one texture in the middle of noise of another, or the other way round."

    def __init__(self, swap=False, size=32):
        y, x = torch.meshgrid(torch.arange(size) + 0.5, torch.arange(size) + 0.5, indexing="ij")
        self.inside = (x - size / 2) ** 2 + (y - size / 2) ** 2 < (size / 3.2) ** 2
        colours = torch.tensor([[0.8, 0.3, 0.2], [0.2, 0.4, 0.7]])
        noise = 0.1 * torch.rand(8, 3, size, size, generator=generator(0))
        self.images = colours[(self.inside ^ swap).long()].permute(2, 0, 1) * 0.9 + noise

    def __len__(self):
        return 8

    def take(self, indices):
        return [Sample(self.images[i], f"disc {i}") for i in indices]


class Undecided(Estimate):
    how = "nothing"

    def saliency(self, images):
        return 0.5 * torch.ones_like(images[:, 0])


class Signed(torch.nn.Module):
    dim = 3

    def forward(self, images):
        return 2 * images - 1


RGB = load_extractor("rgb")
KINDS = (Component, Border)


def test_moments():
    g = generator(0)
    planted = F.normalize(torch.randn(5, generator=g), dim=0)
    cloud = torch.randn(4000, 5, generator=g) + 3 * torch.randn(4000, 1, generator=g) * planted + 2
    moments = Moments.empty(5)
    for chunk in cloud.split(700):
        moments.add(chunk)
    mean, covariance = moments.covariance()
    assert torch.allclose(covariance.float(), torch.cov(cloud.T, correction=0), atol=1e-3)
    assert torch.allclose(mean.float(), cloud.mean(0), atol=1e-4)
    assert abs(principal_axis(moments)[1] @ planted) > 0.995
    far = 100 + 0.01 * torch.randn(5000, 3, generator=g)  # a mean 10 000 times the deviation
    moments = Moments.empty(3)
    moments.add(far)
    spread = moments.covariance()[1].diagonal().float()
    assert torch.allclose(spread, far.double().var(0).float(), rtol=0.01)


def test_otsu():
    values = torch.tensor([0.5] * 6 + [1.5] * 3 + [6.5] * 2 + [7.5] * 5 + [8.5])

    def gain(t):
        low, high = values[values < t], values[values >= t]
        if not len(low) or not len(high):
            return 0.0
        return len(low) * len(high) * float((low.mean() - high.mean()) ** 2)

    counts = torch.histc(values, 10, 0, 10)
    assert otsu(counts, torch.arange(10) + 0.5) == max(range(1, 10), key=gain) == 2
    assert otsu(torch.tensor([9, 0, 0, 1]), torch.arange(4.0)) == 0.5


def test_step_width():
    centres = torch.linspace(-6, 6, 1201, dtype=torch.float64)
    low, high = (torch.exp(-(centres - m).square() / 2) for m in (-3, 3))
    t = otsu(low + high, centres)
    curve = torch.sigmoid((centres - t) / step_width(low + high, centres, t))
    assert abs(t) < 0.01 and (curve - high / (low + high)).abs().max() < 0.01
    two = torch.tensor([1, 2, 1, 0, 1, 2, 1])
    assert step_width(two, torch.arange(7.0), 3.0) == pytest.approx(0.5 / 4)
    # what lies on the cut is below
    assert step_width(two, torch.arange(7.0), 2.0) == pytest.approx(0.5 / 4)
    # no spread at all is still a step, not a division by zero
    assert step_width(torch.tensor([3, 0, 2]), torch.arange(3.0), 1.0) == 1e-6


def test_by_hand():
    pooled = lambda images: F.avg_pool2d(images, 2)
    grey, red_axis = torch.full((3,), 0.5), torch.tensor([1.0, 0, 0])
    by_hand = Foreground(pooled, grey, red_axis, threshold=0.2, width=0.1)
    red = torch.zeros(1, 3, 2, 4)
    red[:, 0] = torch.tensor([0.8, 0.8, 0.4, 0.4])
    assert torch.allclose(by_hand.score(red), torch.tensor([[[0.1, -0.3]]]))
    expected = torch.sigmoid(torch.tensor([1.0, 0, -2, -3]))
    assert torch.allclose(by_hand.saliency(red)[0, 1], expected, atol=1e-5)
    assert not Undecided().masks(red).any()  # one half is not more than one half


def test_border():
    cells = [0, 1, 2, 3, 8, 9, 10, 11, 0, 4, 8, 3, 7, 11]
    assert border(torch.arange(12).view(3, 4)).tolist() == cells  # corners twice


@pytest.mark.parametrize("swap, by", list(product((False, True), KINDS)))
def test_planted_discs(swap, by):
    planted = Discs(swap)
    found = by.fitted(planted, RGB)
    assert (found.masks(planted.images) == planted.inside).float().mean() > 0.98
    soft = found.saliency(planted.images)
    assert torch.equal(soft > 0.5, found.masks(planted.images))
    assert soft[:, planted.inside].mean() > 0.9 > 0.1 > soft[:, ~planted.inside].mean()


def test_too_little_to_see():
    one_pixel = View(Discs(), lambda s: replace(s, image=s.image[:, :1, :1]), [0])
    with pytest.raises(InputError, match="1 descriptors of 3 numbers, too few for a principal"):
        Component.fitted(one_pixel, RGB)
    # the covariance of three has rank two at most
    three_pixels = View(Discs(), lambda s: replace(s, image=s.image[:, :1, :3]), [0])
    with pytest.raises(InputError, match="3 descriptors of 3 numbers, too few for a principal"):
        Component.fitted(three_pixels, RGB)
    with pytest.raises(InputError, match="'component' is read.*choose robust, which needs none"):
        Component.fitted(Discs())


@pytest.mark.parametrize("by", KINDS)
def test_batches_do_not_matter(by):
    planted = Discs(True)
    vectors = RGB(planted.images).permute(0, 2, 3, 1).flatten(1, 2)
    longest = vectors.norm(dim=2).amax(1)  # it comes first, and must not be forgotten
    ordered = View(planted, indices=longest.argsort(descending=True).tolist())
    one, other = (by.fitted(ordered, RGB, batch_size=n) for n in (3, 8))
    assert torch.allclose(one.axis, other.axis, atol=1e-5)
    assert one.threshold == pytest.approx(other.threshold, abs=1e-4)
    _, _, limit = find_axis(one.describe, by.direction, ordered, one.mean, 3)
    assert limit == pytest.approx(float(longest.max() + vectors.mean((0, 1)).norm()), rel=1e-5)
    p = (vectors.flatten(0, 1) - other.mean) @ other.axis
    low, high = p[p < other.threshold], p[p >= other.threshold]
    within = (len(low) * low.var(correction=0) + len(high) * high.var(correction=0)) / len(p)
    assert other.width == pytest.approx(float(within / (high.mean() - low.mean())), rel=0.02)


@pytest.mark.parametrize("by", KINDS)
def test_signed_descriptors(by):
    "The rarer of two opposite ones is farther from the mean than any is long."
    planted = Discs()
    black_and_white = planted.inside.float().expand(3, -1, -1)
    bright = View(planted, lambda s: replace(s, image=black_and_white))
    found = by.fitted(bright, Signed()).masks(bright[0].image[None])[0]
    assert torch.equal(found, planted.inside)


def test_where_the_kinds_disagree():
    planted = Discs()
    halves = planted.images * 0 + 0.2
    halves[..., 16:] = 0.8
    halves[:, 2, planted.inside] += 0.15
    lit = View(planted, lambda s: replace(s, image=halves[0]))
    first, second = (by.fitted(lit, RGB).axis for by in KINDS)
    assert first[:2].norm() > 0.7 and first[0] == pytest.approx(float(first[1]), abs=1e-4)
    assert second[2] > 0.95
    plain, scaled = (Component.fitted(lit, RGB, unit=unit) for unit in (False, True))
    assert torch.allclose(scaled.describe(halves).norm(dim=1), torch.ones(8, 32, 32))
    assert plain.describe(halves).norm(dim=1).std() > 0.4
    assert abs(plain.axis[2]) < 0.7 < abs(scaled.axis[2])


def test_maps_on_disk(tmp_path, monkeypatch):
    planted = Discs()
    robust = Robust(folder=tmp_path)
    maps = robust.saliency(planted.images)
    assert ((maps > 0.5) == planted.inside).float().mean() > 0.95
    assert (maps - saliency(planted.images)).abs().max() <= 0.5 / 255 + 1e-3
    entries = sorted(Path(tmp_path).rglob("*.npy"))
    assert len(entries) == 8 and torch.equal(Robust().saliency(planted.images[3:4])[0], maps[3])
    np.save(entries[0], 255 - np.load(entries[0]))  # what is there is taken as it is
    entries[1].write_bytes(b"half a file")
    np.save(entries[2], 1.0 - np.load(entries[2]))  # not bytes
    np.save(entries[3], 255 - np.load(entries[3])[:4])  # another size
    again = robust.saliency(planted.images)
    assert sorted(float((a - b).abs().max() > 0.5) for a, b in zip(again, maps)) == [0] * 7 + [1]
    coarse = Robust(folder=tmp_path, count=50).saliency(planted.images)  # and other entries
    assert torch.equal(coarse, Robust(count=50).saliency(planted.images))
    assert len(list(tmp_path.rglob("*.npy"))) == 16
    monkeypatch.setenv("PARTBOOK_CACHE", str(tmp_path))
    assert Robust.fitted(planted).folder == robust.folder


@pytest.mark.parametrize("how", ["border", "clusters", "component", "robust"])
def test_a_guess_replaces_true_masks(how):
    planted = Discs()
    known = View(Discs(), lambda s: replace(s, mask=~planted.inside))
    seen = learn_inside(known, how, RGB)
    assert (seen[3].mask == planted.inside).float().mean() > 0.95
    assert seen.foreground == foregrounds[how].how
    assert torch.equal(seen.batch([1, 3]).saliency[1], seen[3].saliency)
    assert torch.equal(seen[3].mask, seen[3].saliency > 0.5)
    assert isinstance(seen, Kept) and foregrounds[how].reads_features == (how != "robust")


def test_given_none_and_unknown():
    assert foregrounds.names() == ["border", "clusters", "component", "robust"]
    planted = Discs()
    known = View(Discs(), lambda s: replace(s, mask=~planted.inside))
    undecided = Estimated(known, Undecided())[0]
    assert not undecided.mask.any() and (undecided.saliency == 0.5).all()
    assert learn_inside(known, "given") is known and torch.equal(known[3].mask, ~planted.inside)
    bare = learn_inside(learn_inside(known, "robust"), "none")
    assert bare[0].mask is None and bare[0].saliency is None
    assert bare.foreground == "the whole picture"
    names = "given, none, border, clusters, component, robust"
    with pytest.raises(InputError, match=f"no foreground named 'luck'; choose one of: {names}"):
        learn_inside(known, "luck")


def test_a_map_is_not_made_again():
    calls = []
    counted = Robust()
    counted.bytes_of = lambda image, name: calls.append(name) or np.zeros((32, 32), np.uint8)
    kept = Kept(Estimated(Discs(), counted))
    assert [kept.batch(range(8)).saliency.sum() for _ in range(3)] == [0, 0, 0]
    assert len(calls) == 8
