"""Drawn figures: the same bits always, joints on limbs; descriptors tell parts, colours do not."""

import pytest
import torch

from partbook.core import InputError
from partbook.data.sample import Kept, View, collections
from partbook.drawn.figures import (
    ARMS,
    COVERING,
    HAIR,
    HAIRSTYLES,
    LANDMARKS,
    LOWER,
    OUTFITS,
    PARTS,
    SHOES,
    SKIN,
    UPPER,
    Figures,
    Stream,
    figure_parameters,
    figure_skeleton,
    pose_figure,
    profile,
    tube,
)
from partbook.evaluation.protocols import PixelOverlap
from partbook.features.extractor import load_extractor
from partbook.methods.kmeans import KMeans, KMeansSettings


@pytest.fixture(scope="module")
def batch():
    return Figures.open(split="test", size=64).batch(range(8))


def test_registered_with_the_fields_of_its_twin(batch):
    assert collections["figures"].__module__ == "partbook.drawn.figures"
    assert (
        batch.images.shape == (8, 3, 64, 64)
        and batch.parts.max() <= len(PARTS)
        and batch.landmarks.shape == (8, 14, 2)
        and len(LANDMARKS) == 14
    )
    assert (
        torch.equal(batch.masks, batch.parts > 0)
        and batch.boxes.shape == (8, 4)
        and batch.categories.max() < len(OUTFITS)
    )
    assert all(len(row) == 12 for row in OUTFITS.values()) and len(COVERING) == 8


@pytest.mark.parametrize("order", [[5], [5, 0], [7, 6, 5, 4]])
def test_the_same_bits_in_any_batch(batch, order):
    again = Figures.open(split="test", size=64).batch(order)
    at = order.index(5)
    for name in ("images", "parts", "landmarks", "visible", "boxes"):
        assert torch.equal(getattr(again, name)[at], getattr(batch, name)[5]), name


def test_size_changes_nothing_but_pixels(batch):
    large = Figures.open(split="test", size=128).batch(range(8))
    torch.testing.assert_close(large.landmarks, batch.landmarks * 2, atol=1e-3, rtol=0)
    assert torch.equal(large.visible, batch.visible)
    middle = large.parts[:, ::2, ::2]
    assert (middle == batch.parts).float().mean() > 0.95


def test_splits_and_seeds_differ(batch):
    others = [
        Figures.open(split=split, size=64, seed=seed)[0].image
        for split, seed in (("train", 0), ("val", 0), ("test", 1))
    ]
    assert all(
        not torch.equal(a, b) for k, a in enumerate(others) for b in [*others[:k], batch.images[0]]
    )


def test_bones_and_sides():
    p = figure_parameters(Stream(3, torch.arange(400)))
    j = figure_skeleton(p)
    for side in ("left", "right"):
        straight = (p[f"{side} arm"] != ARMS.index("before the belly")) & (
            p[f"{side} arm"] != ARMS.index("behind the back")
        )
        arm = (j[f"{side} elbow"] - j[f"{side} shoulder"]).norm(dim=1) / p["arms"]
        torch.testing.assert_close(
            arm[straight], torch.full_like(arm[straight], 0.29), atol=1e-3, rtol=0
        )
        thigh = (j[f"{side} knee"] - j[f"{side} hip"]).norm(dim=1) / p["legs"]
        assert thigh.max() < 0.4301 and thigh.min() > 0.41
    assert (j["left hip"][:, 0] > j["right hip"][:, 0]).all() and (
        j["head top"][:, 1] < j["neck"][:, 1] - 0.2
    ).all()


def test_what_is_worn_is_labelled():
    counts = {
        name: torch.bincount(
            pose_figure(name, size=64, plain=True, seed=1).parts.flatten(), minlength=6
        )
        for name in OUTFITS
    }
    assert all(
        (c[[HAIR, SKIN, UPPER, LOWER, SHOES]] > 0).all()
        for name, c in counts.items()
        if "long" not in name
    )
    assert (
        counts["tee and shorts"][SKIN]
        > counts["tee and jeans"][SKIN]
        > counts["jumper and jeans"][SKIN]
    )
    assert (
        counts["long dress"][LOWER] > counts["summer dress"][LOWER]
        and counts["long jacket and trousers"][UPPER] > counts["tee and jeans"][UPPER]
    )


@pytest.mark.parametrize("hair", HAIRSTYLES)
def test_hair_is_seen_from_both_sides(hair):
    front, back = (
        int(
            (
                pose_figure(
                    hair=hair, size=64, behind=behind, framing="to the thighs", plain=True
                ).parts
                == HAIR
            ).sum()
        )
        for behind in (False, True)
    )
    assert 20 < front and 1.2 * front < back


def test_landmarks_follow_the_person():
    front, back = pose_figure(), pose_figure(behind=True)
    left, right = LANDMARKS.index("left shoulder"), LANDMARKS.index("right shoulder")
    assert (
        front.landmarks[left, 0] > front.landmarks[right, 0]
        and back.landmarks[left, 0] < back.landmarks[right, 0]
    )
    assert front.visible.all()
    wrist = LANDMARKS.index("left wrist")
    assert (
        not pose_figure(left_arm="behind the back").visible[wrist]
        and not pose_figure(left_arm="before the belly", behind=True).visible[wrist]
    )
    assert not pose_figure(framing="to the thighs").visible[LANDMARKS.index("left ankle")]
    assert not pose_figure("long dress").visible[LANDMARKS.index("left knee")]


def test_shapes_by_hand():
    down = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    x, y = torch.tensor([[[0.0, 0.9, 0.0]]]), torch.tensor([[[1.0, 1.0, 2.5]]])
    torch.testing.assert_close(
        profile(x, y, *down, torch.tensor([[1.0, 0.5, 2.0]]))[0].flatten(),
        torch.tensor([-0.5, 0.4, 0.5]),
    )
    bones = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 2.0]])
    for reach, inside in ((0.0, 0), (0.5, 1), (1.5, 2), (2.0, 3)):
        y = torch.tensor([[[0.25, 1.25, 1.75]]])
        assert (
            tube(0 * y, y, bones, (0.1, 0.1, 0.1), torch.tensor([reach]))[0] < 0
        ).sum() == inside


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        (lambda: Figures.open(size=8), "at least 16"),
        (lambda: Figures.open(split="dev"), "no split 'dev'"),
        (lambda: Figures.open(seed=-1), "seed is -1"),
        (lambda: Figures.open()[2000], "indices go from 0 to 1999"),
        (lambda: Figures.open()[-1], "no figure"),
        (lambda: Figures.open().batch([]), "at least one"),
        (lambda: Figures.open().scene([0], hat=1.0), "no parameter 'hat'"),
        (lambda: pose_figure("toga"), "no outfit 'toga'"),
        (lambda: pose_figure(left_arm="akimbo"), "no left arm 'akimbo'"),
        (lambda: pose_figure(framing="half"), "no framing 'half'"),
    ],
)
def test_wrong_input(wrong, sentence):
    with pytest.raises(InputError, match=sentence):
        wrong()


@pytest.fixture(scope="module")
def figures():
    return [
        Kept(View(Figures.open(split=split, size=64), indices=range(n)))
        for split, n in (("train", 256), ("test", 160))
    ]


def fg_nmi(features, figures, parts):
    extractor = load_extractor(features)
    scores = [
        PixelOverlap().evaluate(
            KMeans(
                KMeansSettings(features=features, parts=parts, seed=seed, steps=8), extractor
            ).fit(figures[0]),
            *figures,
        )["fg_nmi"]
        for seed in range(3)
    ]
    return sum(scores) / 3


@pytest.mark.parametrize("parts", [4, 6])
def test_descriptors_find_parts(figures, parts):
    assert fg_nmi("equivariant", figures, parts) >= 30


@pytest.mark.parametrize("parts", [4, 6])
def test_colours_do_not(figures, parts):
    assert fg_nmi("rgb", figures, parts) <= 20
