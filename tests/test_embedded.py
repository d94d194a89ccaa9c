"""The embedded default, held-out birds, three seeds: descriptors find parts and colours do not."""

import pytest

from partbook.data.sample import Kept, View, collections
from partbook.evaluation.protocols import PixelOverlap
from partbook.features.equivariant import Recipe, read_facts, shipped_weights
from partbook.features.extractor import load_extractor
from partbook.methods.kmeans import KMeans, KMeansSettings


@pytest.fixture(scope="module")
def birds():
    "Birds to learn from, and held-out ones that the shipped weights never saw."
    return [
        Kept(View(collections["birds"].open(split=split, size=64), indices=range(n)))
        for split, n in (("train", 320), ("test", 200))
    ]


def fg_nmi(features, birds, seed):
    method = KMeans(
        KMeansSettings(features=features, parts=6, seed=seed, steps=10), load_extractor(features)
    ).fit(birds[0])
    return PixelOverlap().evaluate(method, *birds)["fg_nmi"]


def test_descriptors_find_parts(birds):
    assert sum(fg_nmi("equivariant", birds, seed) for seed in range(3)) / 3 >= 40


def test_colours_do_not(birds):
    assert sum(fg_nmi("rgb", birds, seed) for seed in range(3)) / 3 <= 20


def test_shipped_weights_say_how_they_were_made():
    facts = read_facts(shipped_weights())
    assert facts["recipe"]["steps"] == Recipe().steps and len(facts["first_losses"]) == 8
    assert shipped_weights().stat().st_size < 2_000_000
