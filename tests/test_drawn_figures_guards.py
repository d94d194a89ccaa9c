"""What the drawn figures promise: profiles, arms, clothes, and the same bits everywhere."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.cluster import MiniBatchKMeans
from sklearn.metrics import normalized_mutual_info_score

from partbook.core import InputError, small
from partbook.data.sample import (
    collections,
)
from partbook.drawn.engine import (
    Stream,
)
from partbook.drawn.figures import (
    ARMS,
    COVERING,
    HAIR,
    LANDMARKS,
    LOWER,
    OUTFITS,
    SHOES,
    SKIN,
    UPPER,
    Figures,
    bent_arm,
    figure_parameters,
    figure_skeleton,
    pose_figure,
    profile,
    tube,
)


def at(*points):
    "Coordinates (1,1,N) of single points."
    return torch.tensor(points).T[:, None, None].unbind(0)


def point(*v):
    return torch.tensor([v])


def test_a_profile_by_hand():
    down = point(0.0, 0.0), point(0.0, 2.0)
    widths = torch.tensor([[1.0, 0.5, 2.0]])
    d, t, s = profile(
        *at((0.0, 1.0), (0.9, 1.0), (-1.5, 2.0), (0.0, -0.5), (1.3, -0.4), (0.0, 0.5)),
        *down,
        widths,
    )
    torch.testing.assert_close(d.flatten(), torch.tensor([-0.5, 0.4, 0.0, 0.5, 0.5, -0.5]))
    torch.testing.assert_close(t.flatten(), torch.tensor([0.5, 0.5, 1.0, 0.0, 0.0, 0.25]))
    torch.testing.assert_close(
        s.flatten(), torch.tensor([0.0, -1.0, 0.75, 0.0, -1.0, 0.0])
    )  # across is positive on the right of who walks down
    half_way = profile(*at((0.75, 0.5), (-1.25, 1.5)), *down, widths)[0]
    torch.testing.assert_close(
        half_way.flatten(), torch.zeros(2), atol=1e-6, rtol=0
    )  # between two places, their mean
    tilted = profile(
        *at((0.5, 2.1), (-0.5, 1.9), (0.5, 1.9)),
        *down,
        torch.ones(1, 2),
        0.0,
        torch.tensor([[0.0, 0.4]]),
    )[0].flatten()
    assert (
        tilted[0] < 0.01 and tilted[1] > 0.05 and tilted[2] < -0.1
    )  # the lower end slopes down to the right
    bowed = profile(*at((-0.4, 1.0), (0.0, 1.0)), *down, widths, 0.4)[0]
    torch.testing.assert_close(bowed.flatten(), torch.tensor([-0.5, -0.1]))


def test_a_tube_by_hand():
    bones = point(0.0, 0.0), point(0.0, 1.0), point(1.0, 1.0)
    places = at((0.0, 0.25), (0.0, 0.75), (0.25, 1.0), (0.75, 1.0), (1.05, 1.0))
    for reach, covered in (
        (0.0, "00000"),
        (0.5, "10000"),
        (1.0, "11000"),
        (1.5, "11100"),
        (1.9, "11110"),
        (2.0, "11111"),
    ):
        d, t, s = tube(*places, bones, (0.1, 0.1, 0.1), torch.tensor([reach]))
        assert "".join(str(int(v < 0)) for v in d.flatten()) == covered, reach
    torch.testing.assert_close(t.flatten(), torch.tensor([0.125, 0.375, 0.625, 0.875, 1.0]))
    d, _, s = tube(
        *at((0.07, 0.5), (0.5, 1.2)), bones, (0.2, 0.1, 0.3), torch.tensor([2.5]), (0.05, 0.0)
    )
    torch.testing.assert_close(
        d.flatten(), torch.tensor([0.07 - 0.2, 0.2 - 0.2])
    )  # thinner towards the knee, a bulge above it, thicker towards the foot
    assert s[0, 0, 0] < 0 < s[0, 0, 1] and s[0, 0, 1] == 1


def test_habits():
    p = figure_parameters(Stream(0, torch.arange(small(2000, 500))))
    n = len(p["yaw"])
    assert abs(float((p["facing"] < 0).float().mean()) - 0.25) < 0.05
    assert (
        torch.bincount(p["framing"], minlength=3) / n - torch.tensor([0.15, 0.40, 0.45])
    ).abs().max() < 0.06
    assert (
        torch.bincount(p["stance"], minlength=4) / n - torch.tensor([0.35, 0.33, 0.22, 0.10])
    ).abs().max() < 0.06
    often = torch.tensor([0.1 if k in COVERING else 0.05 for k in range(len(OUTFITS))])
    assert (torch.bincount(p["outfit"], minlength=len(OUTFITS)) / n - often).abs().max() < 0.04
    bare = p["leg"] * p["skirt"]
    assert (bare == 0).all() and (
        (p["leg"] > 0) | (p["skirt"] > 0)
    ).all()  # trousers or a skirt, never both, never neither
    assert (
        torch.equal(p["one cloth"] > 0, p["outfit"] >= 10)
        and (torch.bincount(p["left arm"], minlength=len(ARMS)) > 0).all()
    )
    assert p["sway"][p["stance"] == 1].min() >= 0.5 and p["sway"][p["stance"] != 1].max() <= 0.25


def test_bent_arms():
    shoulder = point(0.0, 0.0)
    three, four = torch.tensor([3.0]), torch.tensor([4.0])
    elbow, wrist = bent_arm(
        shoulder, point(5.0, 0.0), three, four, 1.0
    )  # the right-angled triangle 3, 4, 5
    torch.testing.assert_close(elbow, point(1.8, 2.4))
    torch.testing.assert_close(wrist, point(5.0, 0.0))
    torch.testing.assert_close(
        bent_arm(shoulder, point(5.0, 0.0), three, four, -1.0)[0], point(1.8, -2.4)
    )
    straight, far = bent_arm(
        shoulder, point(0.0, 100.0), three, four, 1.0
    )  # out of reach: as far as it goes
    torch.testing.assert_close(far, point(0.0, 6.993))
    stream = Stream(0, torch.arange(200))
    hand, first, second = (
        stream.uniform("hand", -1, 1, (2,)),
        stream.uniform("first", 0.3, 0.5),
        stream.uniform("second", 0.3, 0.5),
    )
    elbow, wrist = bent_arm(torch.zeros(200, 2), hand, first, second, 1.0)
    far_enough = hand.norm(dim=1) > 0.25
    torch.testing.assert_close(
        elbow.norm(dim=1)[far_enough], first[far_enough]
    )  # bones keep their lengths
    torch.testing.assert_close(
        (wrist - elbow).norm(dim=1)[far_enough], second[far_enough], atol=1e-3, rtol=0
    )


def test_skeletons():
    p = figure_parameters(Stream(0, torch.arange(small(2000, 500))))
    j = figure_skeleton(p)
    heights = [
        j[name][:, 1] for name in ("head top", "chin", "neck", "pelvis", "left knee", "left ankle")
    ]
    assert all((a < b).all() for a, b in zip(heights, heights[1:]))
    assert all((j[f"left {k}"][:, 0] > j[f"right {k}"][:, 0]).all() for k in ("shoulder", "hip"))
    upper_arm = (j["left elbow"] - j["left shoulder"]).norm(dim=1) / p["arms"]
    assert ((upper_arm - 0.29).abs() < 1e-3)[(p["left arm"] != 4) & (p["left arm"] != 5)].all()
    down = j["left wrist"][:, 1]
    assert (down[p["left arm"] == 0] > -0.05).all() and (
        down[p["left arm"] == 3] < j["neck"][p["left arm"] == 3, 1]
    ).all()
    out = j["left wrist"][:, 0] - j["left shoulder"][:, 0]
    assert out[p["left arm"] == 6].min() > 0.15 and out[p["left arm"] == 4].max() < 0
    free = torch.where(
        p["free leg"] > 0,
        j["left hip"][:, 1] - j["right hip"][:, 1],
        j["right hip"][:, 1] - j["left hip"][:, 1],
    )
    assert (free[p["stance"] == 1] > 0).all()  # the hip sinks over the leg that bears no weight


def test_the_same_alone_and_together():
    figures = Figures.open(split="test", size=64)
    batch = figures.batch([3, 200, 7])
    for i, index in enumerate((3, 200, 7)):
        alone = figures[index]
        assert (
            torch.equal(alone.image, batch.images[i])
            and torch.equal(alone.parts, batch.parts[i])
            and torch.equal(alone.landmarks, batch.landmarks[i])
        )
    listed = figures.take([7, 3])
    assert (
        torch.equal(listed[1].image, batch.images[0])
        and figures.take([]) == []
        and next(iter(figures)).name == figures[0].name == "figure 0-test-0"
    )
    for other in (Figures.open(split="train"), Figures.open(split="test", seed=1)):
        assert not torch.equal(other[7].image, alone.image)


def test_the_same_at_every_size():
    a, b = (Figures.open(split="val", size=size).batch(range(small(6, 3))) for size in (32, 96))
    torch.testing.assert_close(a.landmarks * 3, b.landmarks, atol=1e-3, rtol=0)
    assert torch.equal(a.visible, b.visible) and torch.equal(a.categories, b.categories)
    same = F.max_pool2d(
        (
            F.interpolate(b.parts[:, None].float(), (32, 32), mode="nearest-exact")
            != a.parts[:, None]
        ).float(),
        1,
    )
    assert same.mean() < 0.06


def test_the_same_next_year():
    figures = Figures.open(split="test", size=64)
    pinned = figures.batch(range(4))
    assert pinned.categories.tolist() == [2, 6, 9, 11] and pinned.visible.sum() == 43
    counted = torch.bincount(pinned.parts.flatten(), minlength=6) - torch.tensor(
        [12122, 289, 395, 1916, 1655, 7]
    )
    assert counted.abs().max() <= 2  # another processor may round a border pixel the other way
    assert float(pinned.images.double().mean()) == pytest.approx(0.457847, abs=1e-4)
    assert float(pinned.images.double().std()) == pytest.approx(0.176039, abs=1e-4)
    assert float(pinned.landmarks.double().mean()) == pytest.approx(37.8181, abs=1e-3)


def test_labels_masks_and_boxes_agree():
    figures = Figures.open(split="test", size=64)
    batch = figures.batch(range(small(96, 12)))
    assert torch.equal(batch.parts > 0, batch.masks) and batch.masks.flatten(1).any(1).all()
    for sample in batch.samples()[:20]:
        y, x = sample.mask.nonzero().unbind(1)
        assert sample.box.tolist() == [
            x.min(),
            y.min(),
            x.max() + 1 - x.min(),
            y.max() + 1 - y.min(),
        ]


def test_joints_lie_on_what_they_may():
    figures = Figures.open(split="test", size=64)
    batch = figures.batch(range(small(96, 12)))
    may = {
        "top": (HAIR, SKIN),
        "neck": (HAIR, SKIN, UPPER),
        "shoulder": (SKIN, UPPER),
        "elbow": (SKIN, UPPER),
        "wrist": (SKIN, UPPER),
        "hip": (SKIN, UPPER, LOWER),
        "knee": (SKIN, LOWER, SHOES),
        "ankle": (SKIN, LOWER, SHOES),
    }
    x, y = batch.landmarks.floor().long().clamp(0, 63).unbind(-1)
    under = batch.parts[torch.arange(len(batch))[:, None], y, x]
    fits = torch.stack(
        [
            torch.isin(under[:, i], torch.tensor(may[name.split()[-1]]))
            for i, name in enumerate(LANDMARKS)
        ],
        1,
    )
    assert fits[batch.visible].float().mean() > 0.98
    for name, seen in zip(LANDMARKS, (100 * batch.visible.float().mean(0)).round().int().tolist()):
        print(
            f"{name:15s} visible in {seen:3d} %", end="\n" if LANDMARKS.index(name) % 2 else "    "
        )


def test_shares_of_parts():
    figures = Figures.open(split="test", size=64)
    batch = figures.batch(range(small(96, 12)))
    shares = (
        torch.stack([(batch.parts == k).float().sum() for k in range(1, 6)]) / batch.masks.sum()
    )
    assert (
        shares[:4].min() > 0.03
        and shares[UPPER - 1] < 0.6
        and 0.12 < batch.masks.float().mean() < 0.5
    )


def test_wrong_input():
    figures = Figures.open(split="test", size=64)
    for wrong, sentence in (
        (lambda: Figures.open(size=8), "at least 16"),
        (lambda: Figures.open(split="dev"), "no split 'dev'"),
        (lambda: Figures.open(seed=-1), "seed is -1"),
        (lambda: figures[500], "indices go from 0 to 499"),
        (lambda: figures[-1], "no figure"),
        (lambda: figures.batch([]), "at least one index"),
        (lambda: figures.scene([0], hat=1.0), "no parameter 'hat'"),
    ):
        with pytest.raises(InputError, match=sentence):
            wrong()
    assert [len(Figures.open(split=s)) for s in Figures.splits] == [2000, 300, 500] and collections[
        "figures"
    ].__name__ == "Figures"
    assert figures.counts() == {"samples": 500, "outfits": 12, "landmarks": 14, "parts": 5}


def test_colours_do_not_tell():
    guard = Figures.open(split="train", size=64).batch(range(small(128, 12)))
    rgb = guard.images.permute(0, 2, 3, 1)[guard.masks].numpy()
    truth = guard.parts[guard.masks].numpy()
    for K in (4, 6):
        scores = [
            100
            * normalized_mutual_info_score(
                truth, MiniBatchKMeans(K, n_init=1, random_state=s).fit_predict(rgb)
            )
            for s in range(3)
        ]
        print(f"FG-NMI of {K} RGB clusters, three seeds:", [round(s, 1) for s in scores])
        assert max(scores) <= 20


def test_colours_tell_within_one_picture():
    guard = Figures.open(split="train", size=64).batch(range(small(128, 12)))
    rgb = guard.images.permute(0, 2, 3, 1)[guard.masks].numpy()
    truth = guard.parts[guard.masks].numpy()
    for K in (4, 6):
        scores = [
            100
            * normalized_mutual_info_score(
                truth, MiniBatchKMeans(K, n_init=1, random_state=s).fit_predict(rgb)
            )
            for s in range(3)
        ]
        print(f"FG-NMI of {K} RGB clusters, three seeds:", [round(s, 1) for s in scores])
        assert max(scores) <= 20
    own = []
    for i in range(small(30, 4)):
        pixels, parts = (
            guard.images[i].permute(1, 2, 0)[guard.masks[i]].numpy(),
            guard.parts[i][guard.masks[i]].numpy(),
        )
        own.append(
            100
            * normalized_mutual_info_score(
                parts, MiniBatchKMeans(4, n_init=1, random_state=0).fit_predict(pixels)
            )
        )
    assert np.mean(own) > max(scores) + 10


def test_dressed_and_posed():
    front, back = pose_figure(), pose_figure(behind=True)
    shoulder, knee, wrist = (
        LANDMARKS.index(f"left {joint}") for joint in ("shoulder", "knee", "wrist")
    )
    assert (
        front.landmarks[shoulder, 0] > 64 > back.landmarks[shoulder, 0]
    )  # seen from behind, left is left
    face = [int((s.parts == SKIN)[:30].sum()) for s in (front, back)]
    assert face[0] > 1.5 * face[1]  # who turns away has no face
    gown, suit = (
        pose_figure("long dress", plain=True),
        pose_figure("shirt and trousers", plain=True),
    )
    assert (
        (gown.parts == LOWER).sum() > (suit.parts == LOWER).sum()
        and not gown.visible[knee]
        and suit.visible[knee]
    )
    assert (pose_figure("tee and jeans").parts == SKIN).sum() > (
        pose_figure("jumper and jeans").parts == SKIN
    ).sum()
    assert (
        (pose_figure(framing="to the thighs").parts == SHOES).sum()
        == 0
        < (pose_figure().parts == SHOES).sum()
    )
    hands = [
        pose_figure(left_arm="behind the back", behind=behind).visible[wrist]
        for behind in (False, True)
    ]
    assert hands == [False, True]
    with pytest.raises(InputError, match="no outfit 'toga'"):
        pose_figure("toga")
