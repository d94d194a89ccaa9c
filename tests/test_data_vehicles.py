"""Drawn vehicles: boxes frame what is seen of a part, seeds fix the bits, colours tell no parts."""

import numpy as np
import pytest
import torch

from partbook.core import InputError
from partbook.data.sample import Kept, View, batches, collections, crop, resize
from partbook.drawn.engine import Stream
from partbook.drawn.vehicles import (
    DOOR,
    FRONT,
    KINDS,
    LEAST,
    PARTS,
    REAR,
    ROOF,
    WHEEL,
    WINDOW,
    WING,
    Vehicles,
    draw_vehicles,
    facet,
    instance_boxes,
    polygon,
    pose_vehicle,
    vehicle_ride,
)
from partbook.evaluation.protocols import PixelOverlap, default_protocols
from partbook.features.extractor import load_extractor
from partbook.methods.kmeans import KMeans, KMeansSettings


@pytest.fixture(scope="module")
def mixed():
    "A batch with every kind in it."
    batch = Vehicles.open(split="val", size=64, categories="all").batch(range(18))
    assert len(batch.categories.unique()) == len(KINDS)
    return batch


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_by_hand(kind):
    "Boxes recomputed pixel by pixel from the map of instances."
    ride = vehicle_ride(Stream(5, torch.arange(3)), KINDS.index(kind))
    _, top, parts = draw_vehicles(ride, 64)
    boxes, labels = instance_boxes(top, parts)
    for b in range(3):
        expected = []
        for number in range(1, len(parts)):
            ys, xs = np.nonzero((top[b] == number).numpy())
            if len(ys) >= LEAST * 64 * 64:
                expected.append(
                    (
                        parts[number],
                        [xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1],
                    )
                )
        expected.sort(key=lambda pair: pair[0])
        n = len(expected)
        assert labels[b, :n].tolist() == [part for part, _ in expected] and not labels[b, n:].any()
        assert boxes[b, :n].tolist() == [box for _, box in expected] and not boxes[b, n:].any()


def test_annotations_agree(mixed):
    assert torch.equal(mixed.masks, mixed.parts > 0) and mixed.parts.max() <= len(PARTS)
    for s in mixed.samples():
        x, y, w, h = s.box.int().tolist()
        rows, columns = s.mask.any(1).nonzero()[:, 0], s.mask.any(0).nonzero()[:, 0]
        assert [x, y, x + w, y + h] == [
            int(columns[0]),
            int(rows[0]),
            int(columns[-1]) + 1,
            int(rows[-1]) + 1,
        ]
        assert (s.part_boxes[:, :2] >= 0).all() and (
            s.part_boxes[:, :2] + s.part_boxes[:, 2:] <= 64
        ).all()
        assert set(s.box_parts.tolist()) <= set(s.parts.unique().tolist())
        for place in s.landmarks[s.visible]:
            column, row = place.long().clamp(0, 63).tolist()
            assert s.mask[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2].any()


def test_several_instances():
    "Wheels, windows and doors come in numbers; the mean is far above one."
    batch = Vehicles.open(categories="car").batch(range(24))
    counts = (
        torch.stack([(batch.box_parts == part).sum(1) for part in (WHEEL, WINDOW, DOOR)], 1)
        .float()
        .mean(0)
    )
    assert (counts > torch.tensor([1.7, 2.8, 1.6])).all() and (
        counts < torch.tensor([4.0, 5.1, 2.01])
    ).all()


@pytest.mark.parametrize(
    "kind, expected",
    [
        ("aeroplane", {WING}),
        ("bicycle", {WHEEL}),
        ("bus", {WHEEL, WINDOW, DOOR}),
        ("car", {WHEEL, WINDOW, DOOR}),
        ("motorbike", {WHEEL}),
        ("train", {WHEEL, WINDOW, DOOR}),
    ],
)
def test_each_kind_repeats_parts(kind, expected):
    found = torch.bincount(pose_vehicle(kind, rise=0.3).box_parts, minlength=len(PARTS) + 1)
    assert all(found[part] >= 2 for part in expected)


def test_bits():
    mixed, order = Vehicles.open(split="test", size=32, categories="all"), [9, 2, 14, 2]
    for index, s in zip(order, mixed.take(order)):
        alone, own = (
            mixed[index],
            Vehicles.open(split="test", size=32, categories=KINDS[s.category])[index],
        )
        for other in (alone, own):
            assert other.name == s.name
            for field in (
                "image",
                "parts",
                "mask",
                "landmarks",
                "visible",
                "box",
                "part_boxes",
                "box_parts",
            ):
                assert torch.equal(getattr(other, field), getattr(s, field)), field


def test_pinned():
    "Other numbers would draw other vehicles, and yesterday's results be about other pictures."
    s = Vehicles.open(size=32, seed=3)[7]
    counts, front = (
        torch.bincount(s.parts.flatten(), minlength=14).tolist(),
        [round(v, 3) for v in s.landmarks[0].tolist()],
    )
    assert PINNED == (s.box_parts.tolist(), s.box.tolist(), counts, front)


PINNED = (
    [1, 1, 2, 2, 2, 2, 3, 4, 4, 5, 5, 5, 6, 7, 8],
    [4.0, 3.0, 28.0, 18.0],
    [684, 47, 78, 35, 65, 6, 35, 36, 38, 0, 0, 0, 0, 0],
    [4.054, 16.567],
)


def test_splits_and_seeds_differ():
    first = [
        Vehicles.open(split=split, size=32, seed=seed)[0].image
        for split, seed in (("train", 0), ("val", 0), ("test", 0), ("train", 1))
    ]
    assert all(not torch.equal(a, b) for i, a in enumerate(first) for b in first[:i])
    assert [len(Vehicles.open(split=split)) for split in Vehicles.splits] == [2000, 300, 500]


def test_sizes_show_the_same_vehicle():
    small, large = (Vehicles.open(size=size, categories="bus")[4] for size in (48, 96))
    torch.testing.assert_close(2 * small.landmarks, large.landmarks, atol=1e-3, rtol=1e-5)
    assert (large.parts[::2, ::2] == small.parts).float().mean() > 0.9


def test_turning():
    "A turn brings the front into view or the rear, a raised camera the roof."
    ahead, behind, high = (
        pose_vehicle("car", **view).parts
        for view in ({"yaw": 0.5}, {"yaw": -0.5}, {"yaw": 0.5, "rise": 0.4})
    )
    assert (ahead == FRONT).sum() > 1.2 * (behind == FRONT).sum() and (
        behind == REAR
    ).sum() > 1.2 * (ahead == REAR).sum()
    assert (high == ROOF).sum() > 1.2 * (
        pose_vehicle("car", yaw=0.5, rise=0.05).parts == ROOF
    ).sum()


def test_distances():
    "Both polygon distances against the distances to sampled points of the outline."
    corners = torch.tensor([[[-0.8, -0.5], [0.6, -0.7], [0.9, 0.4], [-0.5, 0.8]]])
    t = torch.linspace(0, 1, 2000)[:, None]
    outline = torch.cat(
        [corners[0, i - 1] + t * (corners[0, i] - corners[0, i - 1]) for i in range(4)]
    )
    line = torch.linspace(-1.2, 1.2, 25)
    y, x = torch.meshgrid(line, line, indexing="ij")
    true = torch.cdist(torch.stack([x, y], -1).view(-1, 2), outline).amin(1).view(25, 25)
    d = polygon(x[None], y[None], corners)[0]
    torch.testing.assert_close(d.abs(), true, atol=2e-3, rtol=0)
    assert (d < 0).sum() == (facet(x[None], y[None], corners)[0] < 0).sum() and abs(
        float((d < 0).float().mean()) * 2.5**2 - 1.815
    ) < 0.2
    torch.testing.assert_close(
        facet(x[None], y[None], corners)[0][d < 0], d[d < 0], atol=1e-5, rtol=0
    )


def test_samples_travel(mixed):
    "Cropped, resized, stacked and kept like any other."
    s = mixed.samples()[0]
    half, inner = resize(s, 32), crop(s)
    torch.testing.assert_close(half.part_boxes, s.part_boxes * 0.5)
    assert inner.size == (int(s.box[3]), int(s.box[2])) and len(inner.part_boxes) <= len(
        s.part_boxes
    )
    view = Kept(View(Vehicles.open(size=32, categories="all"), indices=range(5)))
    assert (
        sum(len(b) for b in batches(view, 2)) == 5
        and view.part_names == PARTS
        and "pixels" in default_protocols(view)
    )


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        (
            lambda: Vehicles.open(split="dev"),
            "The vehicles have no split 'dev'; choose one of: train, val, test.",
        ),
        (
            lambda: Vehicles.open(size=15),
            "Vehicles of 15 pixels cannot be drawn; choose a size of at least 16.",
        ),
        (lambda: Vehicles.open(seed=-2), "The seed is -2; it must be zero or a positive integer."),
        (
            lambda: Vehicles.open(categories="boat"),
            "There are no vehicles of the category 'boat'; choose one of: aeroplane, bicycle, "
            "bus, car, motorbike, train, or all.",
        ),
        (
            lambda: Vehicles.open(split="test")[500],
            "There is no vehicle [500] in the split 'test'; indices go from 0 to 499.",
        ),
        (
            lambda: Vehicles.open().take([0, -1]),
            "There is no vehicle [-1] in the split 'train'; indices go from 0 to 1999.",
        ),
        (lambda: Vehicles.open().batch([]), "A batch needs at least one index."),
        (
            lambda: pose_vehicle("boat"),
            "There is no vehicle 'boat'; choose one of: aeroplane, bicycle, bus, car, "
            "motorbike, train.",
        ),
        (lambda: pose_vehicle(facing="up"), "A vehicle cannot face 'up'; choose left or right."),
    ],
)
def test_wrong_input(wrong, sentence):
    with pytest.raises(InputError) as error:
        wrong()
    assert str(error.value) == sentence


@pytest.fixture(scope="module")
def cars():
    "The default, to learn from and held out."
    return [
        Kept(View(collections["vehicles"].open(split=split, size=64), indices=range(n)))
        for split, n in (("train", 240), ("test", 120))
    ]


@pytest.mark.parametrize("features, least, most", [("equivariant", 30, 60), ("rgb", 2, 20)])
def test_promise(cars, features, least, most):
    "Descriptors find parts, colours do not: FG-NMI of k-means, K=6, held-out cars, three seeds."
    extractor, scores = load_extractor(features), []
    for seed in range(3):
        method = KMeans(
            KMeansSettings(features=features, parts=6, seed=seed, steps=10), extractor
        ).fit(cars[0])
        scores.append(PixelOverlap().evaluate(method, *cars)["fg_nmi"])
    assert least <= sum(scores) / 3 <= most, scores
