"""The census of parts against mutations: literal loops, limits, sentences, methods on birds."""

import math

import pytest
import torch

from partbook.core import InputError, generator
from partbook.data.sample import Kept, View, collections
from partbook.evaluation.census import Census, census, confidence, effective_parts, listed
from partbook.evaluation.protocols import object_view, protocols
from partbook.features.extractor import load_extractor
from partbook.methods.kmeans import KMeans, KMeansSettings
from partbook.methods.method import Method, Settings
from partbook.parts.maps import argmax_labels, label_rule, softmax_maps


def test_confidence():
    even = torch.zeros(1, 4, 2, 2)
    assert confidence(even, 4).tolist() == [[1.0] * 4] and confidence(even, 3).tolist() == [
        [1.0] * 3
    ]  # three parts and background
    even[0, 2, 1, 1] = math.log(3)
    assert torch.allclose(
        confidence(even, 4), torch.tensor([[1.0, 1.0, 2.0, 1.0]])
    )  # 3 against 1, 1, 1: half, two even shares

    logits = 3 * torch.randn(5, 6, 12, 12, generator=generator(0))
    labels = argmax_labels(logits)
    there = torch.stack([(labels == k).any(2).any(1) for k in range(1, 7)], 1)
    assert bool(
        (confidence(logits, 6)[there] >= 1).all()
    )  # the winner of a pixel has an even share at least


LABELS = torch.tensor(
    [[[1, 1, 1, 0], [2, 2, 0, 0]], [[1, 1, 1, 1], [0, 0, 1, 1]], [[0, 0, 0, 0], [0, 0, 0, 0]]]
)
COUNTED = Census(3).update(LABELS)


def test_worked_example():
    labels, counted = LABELS, COUNTED
    assert (
        counted.pictures.tolist() == [2, 1, 0]
        and counted.pixels.tolist() == [9, 2, 0]
        and (counted.seen, int(counted.empty)) == (3, 1)
    )
    strict = Census(3, least=0.5).update(labels)  # part 2 has two fifths of the first picture
    assert strict.pictures.tolist() == [2, 0, 0] and strict.pixels.tolist() == [9, 0, 0]
    exactly = Census(2, least=0.5).update(torch.tensor([[[1, 1, 2, 2]]]))
    assert exactly.pictures.tolist() == [1, 1]  # half is at least half
    doubted = Census(3).update(
        labels, torch.tensor([[1.0, 0.4, 1.0], [0.5, 1.0, 1.0], [1.0, 1.0, 1.0]])
    )
    assert doubted.pictures.tolist() == [2, 0, 0]  # half an even share is enough, 0.4 is not


def numbers(c):
    return c.pixels.tolist(), c.pictures.tolist(), int(c.empty), c.seen


def test_any_batches_and_literal_loops():
    labels = torch.randint(0, 300, (7, 20, 30), generator=generator(1)).clamp(
        max=6
    )  # mostly part 6; the others one pixel in 300
    labels[3] = 0
    whole = Census(6).update(labels)
    parts = (
        Census(6)
        .update(labels[:3])
        .merge(Census(6).update(labels[3:4]))
        .merge(Census(6).update(labels[4:]))
    )
    assert numbers(whole) == numbers(parts)
    literal = [[int((i == k).sum()) for k in range(1, 7)] for i in labels]
    occurs = [[0 < n and n >= 0.005 * sum(row) for n in row] for row in literal]
    assert whole.pictures.tolist() == [sum(o) for o in zip(*occurs)] != [6] * 6
    assert (
        whole.pixels.tolist()
        == [sum(n * o for n, o in zip(*pair)) for pair in zip(zip(*literal), zip(*occurs))]
        and int(whole.empty) == 1
    )
    with pytest.raises(InputError, match="A census of 6 parts and one of 5 cannot be merged"):
        whole.merge(Census(5))


def test_shares_and_the_dead():
    counted = COUNTED
    assert (
        counted.shares == [9 / 11, 2 / 11, 0.0]
        and counted.dead == [3]
        and Census(2).update(torch.zeros(1, 2, 2).long()).shares == [0.0, 0.0]
    )
    rare = Census(2, least=0)
    rare.pictures += torch.tensor([2, 1])
    rare.seen = 100
    assert rare.dead == [2]  # 2 of 100 is alive, 1 of 100 is not
    assert Census(2, rare=0).update(torch.tensor([[[1, 1]]])).dead == [
        2
    ]  # what never occurs is dead in any case


def test_effective_parts():
    assert (
        effective_parts([0.125] * 8) == pytest.approx(8)
        and effective_parts([0, 7, 0]) == 1
        and effective_parts([0, 0]) == 0
    )
    assert effective_parts([0.5, 0.25, 0.25]) == pytest.approx(2**1.5) == effective_parts([2, 1, 1])
    p = torch.rand(6, generator=generator(2))
    assert effective_parts((p / 2).repeat(2)) == pytest.approx(2 * effective_parts(p), rel=1e-6)
    assert effective_parts([0.93] + [0.01] * 7) < 1.5 < effective_parts([0.8, 0.2])


def of_shares(pixels):
    "A census in which every part occurs in each of 100 pictures."
    c = Census(len(pixels))
    c.pixels += torch.tensor(pixels)
    c.pictures += 100
    c.seen = 100
    return c


def test_who_has_swallowed_the_others():
    assert (
        of_shares([85, 15]).swallower is None
        and of_shares([13, 87]).swallower == 2
        and of_shares([5]).swallower is None
    )


def test_sentences():
    eight = of_shares([30, 20, 0, 20, 20, 10, 1, 20])
    eight.pictures[2], eight.pictures[6] = 0, 1
    assert [listed(n) for n in ([], [4], [4, 5], [4, 5, 9])] == ["", "4", "4 and 5", "4, 5 and 9"]
    assert str(eight) == (
        "2 of 8 parts are dead: 3 (no picture), 7 (in 1 of 100 pictures); "
        "they are worth 5.9 equal ones."
    )
    assert str(of_shares([1, 97, 1, 1])) == "All 4 parts are alive; part 2 has 97 % of the pixels."
    assert (
        str(Census(4).update(torch.zeros(9, 2, 2).long()))
        == "All 4 parts are dead: nothing is labelled in any of 9 pictures."
    )
    with pytest.raises(
        InputError, match="Labels run from 0 to 4, but this census is of the parts 1 to 3"
    ):
        Census(3).update(torch.tensor([[[0, 4]]]))
    with pytest.raises(InputError, match="seen no picture"):
        str(Census(3))


SIZE = 32
BIRDS = Kept(View(collections["birds"].open(split="train", size=SIZE), indices=range(24)))


class Sheep(Method):
    "Brightness says background, part 1 or 2; part 3 is never sure, but SCOPS' rule helps it."

    has_background = True

    def logits(self, images):
        x = images.mean(1, keepdim=True)
        return torch.cat([0 * x, 20 * (x - 0.5), 20 * (0.4 - x), 0 * x - 12], 1)

    def read_labels(self, logits, masks=None, background=True):
        return (
            label_rule(logits.softmax(1)[:, 1:])
            if masks is None
            else label_rule(logits.softmax(1)[:, 1:]).where(masks, 0)
        )


def test_methods_on_birds():
    size, birds = SIZE, BIRDS
    method = KMeans(KMeansSettings(parts=8, size=size, steps=0), load_extractor("equivariant")).fit(
        birds
    )
    alive = census(method, birds)
    method.centres[[2, 6]] += 100
    killed = census(method, birds)
    assert alive.dead == [] and killed.dead == [3, 7] and killed.shares[2] == killed.shares[6] == 0
    assert 1 < killed.effective < alive.effective <= 8 and sum(alive.shares) == pytest.approx(1)
    batch = birds.batch(range(len(birds)))
    assert numbers(killed) == numbers(
        Census(8).update(method.labels(batch.images, batch.masks))
    )  # inside the foreground
    sheep = Sheep(Settings(parts=3, size=size))
    found, trusting = census(sheep, birds), Census(3).update(sheep.labels(batch.images))
    assert (
        trusting.dead == []
        and found.dead == [3]
        and numbers(found)[0][:2] == numbers(trusting)[0][:2]
    )  # over whole pictures: it has a background of its own
    method.centres[[2, 6]] -= 100
    method.centres[[0, 1, 2, 3, 5, 6, 7]] *= 2.3
    swallowed = census(method, birds)
    assert swallowed.swallower == 5 and len(swallowed.dead) >= 3
    found = protocols["census"]().evaluate(method, birds, birds)
    larger = View(collections["birds"].open(split="train", size=2 * size), indices=range(4))
    assert (
        protocols["census"]().evaluate(sheep, larger, larger)["parts_effective"]
        == census(sheep, object_view(larger, size)).effective
    )
    assert found == {"parts_alive": 8 - len(swallowed.dead), "parts_effective": swallowed.effective}


def test_the_label_rule_hides_the_dead():
    axis = torch.linspace(-1, 1, 32)
    blobs = [
        (-8 * ((axis[:, None] - y) ** 2 + (axis - x) ** 2)) for y, x in ((-0.4, -0.3), (0.4, 0.3))
    ]
    logits = torch.stack(
        [torch.full((32, 32), -4.0), *blobs, torch.full((32, 32), math.log(1e-6))]
    )[None]  # background, parts 1 to 3
    labels = label_rule(softmax_maps(logits)[:, 1:])
    trusting, asking = Census(3).update(labels), Census(3).update(labels, confidence(logits, 3))
    assert trusting.dead == [] and asking.dead == [3] and asking.pictures.tolist() == [1, 1, 0]
