"""What the drawn vehicles promise: outlines, faces, boxes, and the same bits in any mix."""

import numpy as np
import pytest
import torch
from sklearn.cluster import MiniBatchKMeans
from sklearn.metrics import normalized_mutual_info_score

from partbook.core import InputError, small
from partbook.data.sample import (
    collections,
)
from partbook.drawn.vehicles import (
    BODY,
    DOOR,
    FRONT,
    KINDS,
    LANDMARKS,
    LEAST,
    REAR,
    ROOF,
    WHEEL,
    WINDOW,
    Plan,
    Vehicles,
    facet,
    instance_boxes,
    polygon,
    pose_vehicle,
    vehicle_plan,
    vehicle_ride,
    within,
)


def grid(n, reach=1.5):
    "(1,n,n) coordinates of pixel centres on [-reach, reach]."
    line = ((torch.arange(n) + 0.5) / n * 2 - 1) * reach
    y, x = torch.meshgrid(line, line, indexing="ij")
    return x[None], y[None]


def flat(turn=0.0, rise=0.0, **more):
    "Parameters of one vehicle without any deviation."
    p = {
        "width": 0.5,
        "turn": turn,
        "rise": rise,
        "long": 1.0,
        "tall": 1.0,
        "spin": 0.0,
        "holes": 1.0,
        "wheel": 1.0,
        "style": 0.0,
        "shape a": 0.5,
        "shape b": 0.5,
        "many": 2.0,
    } | more
    return {k: torch.tensor([float(v)]) for k, v in p.items()}


def test_squares_by_hand():
    def grid(n, reach=1.5):
        "(1,n,n) coordinates of pixel centres on [-reach, reach]."
        line = ((torch.arange(n) + 0.5) / n * 2 - 1) * reach
        y, x = torch.meshgrid(line, line, indexing="ij")
        return x[None], y[None]

    x, y = grid(60)
    square = torch.tensor(
        [[[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]]
    )  # clockwise, as y points down
    inside, outside = (
        torch.maximum(x.abs(), y.abs()) - 1,
        ((x.abs() - 1).clamp(min=0) ** 2 + (y.abs() - 1).clamp(min=0) ** 2).sqrt(),
    )
    torch.testing.assert_close(
        polygon(x, y, square), torch.where(inside < 0, inside, outside)
    )  # the exact distance
    torch.testing.assert_close(facet(x, y, square), inside)  # by the lines through its edges
    torch.testing.assert_close(polygon(x, y, square, 0.25), polygon(x, y, square) - 0.25)
    assert (facet(x, y, square, 0.3) >= inside).all() and (
        facet(x, y, square, 0.3) > inside
    ).any()  # rounding takes corners away


def test_an_arrow_with_a_notch():
    x, y = grid(60)
    arrow = torch.tensor([[[-1.0, -1.0], [0.0, -0.2], [1.0, -1.0], [0.0, 1.0]]])  # with a notch
    d = polygon(x, y, arrow)
    notch = (y < -0.5) & (x.abs() < 0.1)
    assert (d[notch] > 0).all() and (d[(y.abs() < 0.1) & (x.abs() < 0.1)] < 0).all()
    assert (
        abs(float((d < 0).float().mean()) * 9 - 1.2) < 0.05
    )  # area: half of base 2 times height 2, less the notch of 0.8


def test_shares_of_a_panel():
    square = torch.tensor(
        [[[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]]
    )  # clockwise, as y points down
    assert within(square, 0.5, 0.0, 1.0, 0.25).tolist() == [
        [[0, -1], [1, -1], [1, -0.5], [0, -0.5]]
    ]
    torch.testing.assert_close(within(square, 0.0, 0.0, 1.0, 1.0), square)


def test_faces_of_a_box():
    def flat(turn=0.0, rise=0.0, **more):
        "Parameters of one vehicle without any deviation."
        p = {
            "width": 0.5,
            "turn": turn,
            "rise": rise,
            "long": 1.0,
            "tall": 1.0,
            "spin": 0.0,
            "holes": 1.0,
            "wheel": 1.0,
            "style": 0.0,
            "shape a": 0.5,
            "shape b": 0.5,
            "many": 2.0,
        } | more
        return {k: torch.tensor([float(v)]) for k, v in p.items()}

    x, y = grid(200)
    seen = {}
    for turn in (
        -0.6,
        0.0,
        0.6,
    ):  # a box of height one, seen from behind, from the side, from before
        plan = Plan(flat(turn, 0.2), x, y)
        q = plan.corners((-1, 0), (-1, 1), (1, 1), (1, 0)).unbind(1)
        for name, (a, b) in {"rear": q[0:2], "roof": q[1:3], "front": q[2:4]}.items():
            plan.face(plan.instance(BODY), a, b, "paint")
            seen[name, turn] = float((plan.pieces[-1].distance < 0).float().sum()) * (3 / 200) ** 2
    assert (
        seen["rear", 0.6] == seen["front", -0.6] == 0
        and abs(seen["front", 0.6] - 0.3) < 0.01
        and abs(seen["rear", -0.6] - 0.3) < 0.01
    )
    assert all(
        abs(seen["roof", turn] - 0.2) < 0.03 for turn in (-0.6, 0.0, 0.6)
    )  # base 2 times height w * rise


def test_a_row_of_windows():
    plan = Plan(flat(), *grid(300))
    plan.windows(-1.0, 0.0, 1.0, 0.5, torch.tensor([4.0]), 6, 0.2)
    row = torch.where(plan.pieces[0].distance < 0, plan.pieces[0].number, 0)[0]
    for k in range(1, 5):  # four windows of width 0.5 less a fifth, by hand
        columns = (row == k).any(0).nonzero()[:, 0]
        left, right = (
            (int(v) + d) / 300 * 3 - 1.5 for v, d in ((columns.min(), 0), (columns.max(), 1))
        )
        assert (
            abs(left - (-1 + 0.5 * (k - 1) + 0.05)) < 0.011
            and abs(right - (-1 + 0.5 * k - 0.05)) < 0.011
        )
    assert (
        row.unique().tolist() == [0, 1, 2, 3, 4] and plan.parts == [0] + [WINDOW] * 6
    )  # two of the six numbers stay unused


def test_every_plan():
    wheels = {}
    for kind, name in enumerate(KINDS):
        plan = vehicle_plan(kind, flat(0.3, 0.2) | {"flying": torch.tensor([False])}, *grid(8))
        used = {n for piece in plan.pieces for n in torch.as_tensor(piece.number).unique().tolist()}
        rows = [n for n, part in enumerate(plan.parts) if part == WINDOW]
        assert set(range(1, len(plan.parts))) - used <= set(rows) and set(plan.marks) == set(
            LANDMARKS
        )
        assert (
            plan.marks["front"][0][0, 0] > 0.8
            and plan.marks["rear"][0][0, 0] < -0.8
            and plan.marks["top"][0][0, 1] < -0.6
        )
        assert all(0 < number < len(plan.parts) for _, number in plan.marks.values())
        wheels[name] = plan.parts.count(WHEEL)
    assert wheels == {"aeroplane": 3, "bicycle": 2, "bus": 4, "car": 4, "motorbike": 2, "train": 8}


def test_boxes_by_hand():
    top = torch.zeros(1, 64, 64, dtype=torch.int64)
    top[0, 10:20, 5:15], top[0, 30:34, 40:60], top[0, 12:16, 8:12], top[0, 0, 0:3] = 1, 2, 3, 4
    boxes, labels = instance_boxes(top, [0, 4, 4, 2, 4])
    assert labels.tolist() == [[2, 4, 4]]
    assert boxes.tolist() == [
        [[8, 12, 4, 4], [5, 10, 10, 10], [40, 30, 20, 4]]
    ]  # a hole does not shrink the box around it
    top[0, 0, 3] = 4
    assert instance_boxes(top, [0, 4, 4, 2, 4])[1].tolist() == [
        [2, 4, 4, 4]
    ]  # four pixels of 64 x 64 are one in 1024
    assert instance_boxes(0 * top, [0, 4])[0].shape == (1, 0, 4)


def test_boxes_fit_the_label_map():
    every = Vehicles.open(size=80, categories="all").batch(range(small(32, 8)))

    def span(mask: np.ndarray) -> list[int]:
        ys, xs = np.nonzero(mask)
        return [xs.min(), ys.min(), xs.max() + 1 - xs.min(), ys.max() + 1 - ys.min()]

    single = 0
    for s in every.samples():
        labels = s.parts.numpy()
        for part in s.box_parts.unique().tolist():
            mine = s.part_boxes[s.box_parts == part].int()
            union = np.zeros_like(labels, dtype=bool)
            for x0, y0, w, h in mine.tolist():
                inside = labels[y0 : y0 + h, x0 : x0 + w] == part
                assert (
                    inside[0].any()
                    and inside[-1].any()
                    and inside[:, 0].any()
                    and inside[:, -1].any()
                )  # every side touches the part
                union[y0 : y0 + h, x0 : x0 + w] = True
            assert (
                (labels == part) & ~union
            ).sum() < 8 * 80 * 80 * LEAST  # what has no box are slivers
            if len(mine) == 1 and ((labels == part) & ~union).sum() == 0:
                assert mine[0].tolist() == span(labels == part)
                single += 1
    assert single > 2 * len(every)
    both = every.parts[(every.parts > 0) != every.masks]
    assert both.numel() == 0 and every.part_boxes.shape[:2] == every.box_parts.shape


def test_the_same_alone_and_mixed():
    mixed = Vehicles.open(split="test", size=32, categories="all")
    together = mixed.take([5, 0, 17, 3])
    for index, s in zip((5, 0, 17, 3), together):
        alone = mixed[index]
        assert (
            alone.name == s.name
            and torch.equal(alone.image, s.image)
            and torch.equal(alone.parts, s.parts)
        )
        assert torch.equal(alone.part_boxes, s.part_boxes) and torch.equal(
            alone.landmarks, s.landmarks
        )
        same = Vehicles.open(split="test", size=32, categories=KINDS[s.category])[index]
        assert torch.equal(same.image, s.image)  # the mix shows each kind's own vehicles
    large = Vehicles.open(split="test", size=64, categories="all")[5]
    torch.testing.assert_close(large.landmarks, 2 * together[0].landmarks, atol=1e-3, rtol=1e-5)
    assert (large.parts[::2, ::2] == together[0].parts).float().mean() > 0.85


def test_kinds_and_wrong_input():
    mixed = Vehicles.open(split="test", size=32, categories="all")
    cars = Vehicles.open(size=32)
    assert (
        cars.categories == "car"
        and len(cars) == 2000
        and cars.counts()["categories"] == 1
        and cars.take([]) == []
    )
    assert (
        not torch.equal(cars[0].image, Vehicles.open(size=32, seed=1)[0].image)
        and collections["vehicles"].__name__ == "Vehicles"
    )
    kinds = torch.bincount(torch.tensor(mixed.kinds(range(500))), minlength=6)
    assert kinds.min() > 50  # all six are about as frequent
    for wrong, sentence in (
        (lambda: Vehicles.open(size=8), "at least 16"),
        (lambda: Vehicles.open(split="dev"), "no split 'dev'"),
        (lambda: Vehicles.open(seed=-1), "seed is -1"),
        (lambda: Vehicles.open(categories="boat"), "category 'boat'"),
        (lambda: mixed[500], "from 0 to 499"),
        (lambda: mixed[-1], "no vehicle"),
        (lambda: mixed.batch([]), "at least one index"),
        (lambda: vehicle_ride(cars.stream([0]), 3, wings=2), "no parameter 'wings'"),
    ):
        with pytest.raises(InputError, match=sentence):
            wrong()
    assert next(iter(cars)).name == "car 0-train-0"


def test_colours_do_not_tell():
    def colour_scores(category: str, n: int, seeds: int = 3) -> list[float]:
        guard = Vehicles.open(size=64, categories=category).batch(range(n))
        rgb = guard.images.permute(0, 2, 3, 1)[guard.masks][::4].numpy()
        truth = guard.parts[guard.masks][::4].numpy()
        return [
            100
            * normalized_mutual_info_score(
                truth, MiniBatchKMeans(6, n_init=1, random_state=s).fit_predict(rgb)
            )
            for s in range(seeds)
        ]

    scores = colour_scores("car", small(100, 16))
    assert max(scores) <= 20


def test_turning():
    a, b = (pose_vehicle("bus", facing, yaw=0.3, plain=True) for facing in ("right", "left"))
    assert (a.parts.flip(1) == b.parts).float().mean() > 0.99  # mirror images
    torch.testing.assert_close(a.landmarks[:, 0], 128 - b.landmarks[:, 0], atol=0.05, rtol=0)
    count = {
        yaw: torch.bincount(pose_vehicle("car", yaw=yaw, rise=0.0).box_parts, minlength=14).tolist()
        for yaw in (-0.5, 0.0, 0.5)
    }
    assert (
        count[0.0][DOOR] == 2
        and count[0.0][WINDOW] == 3
        and count[0.5][WINDOW] == 4 == count[-0.5][WINDOW]
    )  # a screen comes into view
    ahead, behind = (pose_vehicle("car", yaw=yaw).parts for yaw in (0.5, -0.5))
    assert (ahead == FRONT).sum() > (behind == FRONT).sum() and (ahead == REAR).sum() < (
        behind == REAR
    ).sum()
    assert (
        pose_vehicle("car", rise=0.4).parts.eq(ROOF).sum()
        > pose_vehicle("car", rise=0.0).parts.eq(ROOF).sum()
    )
    assert (
        pose_vehicle("aeroplane", flying=True).box_parts.eq(WHEEL).sum()
        == 0
        < pose_vehicle("aeroplane", flying=False).box_parts.eq(WHEEL).sum()
    )
    for wrong, sentence in (
        (lambda: pose_vehicle("boat"), "no vehicle 'boat'"),
        (lambda: pose_vehicle(facing="up"), "cannot face 'up'"),
    ):
        with pytest.raises(InputError, match=sentence):
            wrong()


@pytest.mark.parametrize(
    "change", [{"yaw": -0.4}, {"rise": 0.4}, {"style": 0.9}, {"roll": 0.2}, {"kind": "train"}]
)
def test_every_setting_changes_the_picture(change):
    assert not torch.equal(pose_vehicle(size=48, **change).image, pose_vehicle(size=48).image)
