"""What the drawn faces promise: charts, pieces, light, and the same bits everywhere."""

import math

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
    SPLITS,
    Stream,
    on_grid,
    ramp,
)
from partbook.drawn.faces import (
    CLOTHES,
    DEPTH,
    HOME,
    LANDMARKS,
    LONG,
    LOWER,
    MIDDLE,
    NECK,
    PEOPLE,
    PERSONS,
    SHORT,
    UPPER,
    Chart,
    Faces,
    chart,
    face_landmarks,
    face_scene,
    features,
    front_most,
    lamps,
    lit,
    look,
    mouth_lines,
    outline,
    own_colours,
    own_hair,
    own_head,
    photograph,
    pieces,
    pose_face,
    relief,
    strands,
    turn,
    worn,
)


def person(n=1, **numbers):
    "The numbers of persons 0 to n-1, frontal and neutral unless told."
    own = Stream(0, torch.arange(n))
    p = own_head(own) | own_hair(own) | look(own) | worn(own)
    return turn(
        p
        | {
            k: torch.full((n,), float(numbers.get(k, 0.0)))
            for k in ("yaw", "pitch", "roll", "smile", "open")
        }
    )


def grid(n, reach=1.5):
    "(1,n,n) coordinates of pixel centres on [-reach, reach]."
    line = ((torch.arange(n) + 0.5) / n * 2 - 1) * reach
    y, x = torch.meshgrid(line, line, indexing="ij")
    return x[None], y[None]


def pictures_of(number, n, size):
    "One person of the training split in n pictures."
    who = torch.full((n,), number)
    return photograph(
        face_scene(Stream(5, torch.arange(n)), Stream(0, who + PERSONS), who), size, [""] * n
    )


def test_ramps():
    between = ramp(
        ((0.0, 0.0, 0.0), (1.0, 0.5, 0.0), (1.0, 1.0, 1.0)),
        torch.tensor([0.0, 0.25, 0.5, 0.9, 1.0]),
    )
    torch.testing.assert_close(
        between, torch.tensor([[0, 0, 0], [0.5, 0.25, 0], [1, 0.5, 0], [1, 0.9, 0.8], [1, 1, 1]])
    )


def test_habits():
    many = Stream(0, torch.arange(small(3000, 800)))
    hair, pose, clothes, dyes = own_hair(many), look(many), worn(many), own_colours(many)
    man = many.chance("man", 0.5)
    assert (
        not hair["beard"][~man].any()
        and abs(float((hair["beard"][man] > 0).float().mean()) - 0.45) < 0.06
    )
    assert (
        abs(float((hair["style"] == LONG)[~man].float().mean()) - 0.18) < 0.05
        and (hair["style"] == LONG)[man].float().mean() < 0.07
    )
    assert (
        abs(float(clothes["hand"].mean()) - 0.13) < 0.04
        and (clothes["sun"] <= clothes["glasses"]).all()
    )
    assert (
        pose["yaw"].abs().max() <= 0.7
        and pose["yaw"].abs().median() < 0.3
        and pose["roll"].abs().max() <= 0.55
    )
    assert all(0 <= c.min() and c.max() <= 1.05 for c in dyes.values())


def test_the_outline_is_where_it_should_be():
    def grid(n, reach=1.5):
        "(1,n,n) coordinates of pixel centres on [-reach, reach]."
        line = ((torch.arange(n) + 0.5) / n * 2 - 1) * reach
        y, x = torch.meshgrid(line, line, indexing="ij")
        return x[None], y[None]

    def person(n=1, **numbers):
        "The numbers of persons 0 to n-1, frontal and neutral unless told."
        own = Stream(0, torch.arange(n))
        p = own_head(own) | own_hair(own) | look(own) | worn(own)
        return turn(
            p
            | {
                k: torch.full((n,), float(numbers.get(k, 0.0)))
                for k in ("yaw", "pitch", "roll", "smile", "open")
            }
        )

    p = person(40)
    y = torch.linspace(-1.0, 0.9, 60).expand(40, 1, 60)
    edge = outline(p, 0 * y, y)
    for side in (-1, 1):  # on the outline, κ a(y) to either side, the distance is zero
        assert (
            outline(p, side * edge.half * edge.root * on_grid(p["stretch"]), y).distance.abs().max()
            < 1e-4
        )
    crown, chin = (
        outline(p, 0 * y, on_grid(p[k]) * s + 0 * y).distance
        for k, s in (("skull", -1), ("chin", 1))
    )
    assert crown.abs().max() < 1e-5 and chin.abs().max() < 1e-5


def test_the_outline_s_distance_has_slope_one():
    x, y = (v.clone().requires_grad_() for v in grid(80))
    d = outline(
        person(), x, y
    ).distance  # a distance grows at slope one: nearly so close to the outline
    gx, gy = torch.autograd.grad(d.sum(), (x, y))
    slope = (gx**2 + gy**2).sqrt()[d.abs() < 0.05]
    assert (slope - 1).abs().max() < 0.15 and abs(float(slope.mean()) - 1) < 0.03


def test_a_turned_ellipse_by_hand():
    p = person(1, yaw=0.5)
    edge = outline(p, torch.zeros(1, 1, 9), torch.full((1, 1, 9), -0.4))
    a, phi = (edge.half * edge.root)[0, 0, 0], torch.linspace(-1.5, 0.9, 9)
    seen = a * (
        phi.sin() * math.cos(0.5) + DEPTH * phi.cos() * math.sin(0.5)
    )  # the ellipse, turned and looked at
    torch.testing.assert_close(
        chart(p, seen[None, None], torch.full((1, 1, 9), -0.4)).u[0, 0],
        a * phi.sin(),
        atol=1e-4,
        rtol=0,
    )
    x, y = grid(60)
    flat = chart(person(), x, y)
    torch.testing.assert_close(flat.u, x, atol=1e-4, rtol=0)
    torch.testing.assert_close(flat.v, y)


def test_pieces_are_in_order():
    x, y = (v.expand(40, -1, -1) for v in grid(60, 2.0))
    p, own = person(40), Stream(0, torch.arange(40))
    layers, at = pieces(p, own, x, y)
    order = (
        "back hair, neck, clothes, ear, ear, head, nose, mouth, near ear, near ear, front hair, "
        "locks, hat, hand"
    )
    assert order == ", ".join(layer.name for layer in layers)
    for layer in layers:  # pieces of the face do not leave the head, and only hands are no part
        assert layer.name not in ("nose", "mouth") or (layer.distance >= at.edge).all()
        assert (layer.part == 0) == (layer.name == "hand")
    labels = front_most(layers)
    middle = [
        (y * (labels == k)).sum((1, 2)) / (labels == k).sum((1, 2)).clamp(min=1)
        for k in (UPPER, MIDDLE, LOWER, NECK, CLOTHES)
    ]
    assert all(
        (a < b).float().mean() > 0.9 for a, b in zip(middle, middle[1:])
    )  # from forehead to clothes, downwards


def test_there_and_back_through_the_chart():
    index = torch.arange(small(400, 120))
    scene = face_scene(Stream(0, index), Stream(0, index), index)
    at = chart(
        scene.pose,
        *scene.frame.to_object(scene.landmarks[:, None, :, 0], scene.landmarks[:, None, :, 1]),
    )
    missed = (torch.stack([at.u[:, 0], at.v[:, 0]], -1) - face_landmarks(scene.pose)).norm(dim=-1)
    assert missed[scene.visible].max() < 0.02 and (missed < 1e-4).float().mean() > 0.995
    for name, seen in zip(LANDMARKS, (100 * scene.visible.float().mean(0)).round().int().tolist()):
        print(f"{name:18s} visible in {seen:3d} %")


def test_scenes_as_told():
    index = torch.arange(small(400, 120))
    scene = face_scene(Stream(0, index), Stream(0, index), index)
    sample = slice(0, 40)
    clear = face_scene(
        Stream(0, index[sample]), Stream(0, index[sample]), index[sample], clear=True, hat=0.0
    )
    assert (clear.visible >= scene.visible[sample]).all() and not clear.pose[
        "hand"
    ].any()  # a hand and a hat can only hide
    told = face_scene(
        Stream(0, index[sample]), Stream(0, index[sample]), index[sample], smile=1.0, hand_up=0.1
    )
    assert (told.pose["smile"] == 1).all() and torch.equal(
        told.pose["yaw"], scene.pose["yaw"][sample]
    )
    other = face_scene(
        Stream(9, index[sample]), Stream(0, index[sample]), index[sample]
    )  # the same people in other pictures
    assert torch.equal(other.pose["wide"], scene.pose["wide"][sample]) and torch.equal(
        other.colours["hair"], scene.colours["hair"][sample]
    )
    assert not torch.equal(other.pose["yaw"], scene.pose["yaw"][sample])
    with pytest.raises(InputError, match="no parameter 'tail'"):
        face_scene(Stream(0, index), Stream(0, index), index, tail=1.0)


def test_relief_is_the_slope_of_its_bumps():
    x, y = (
        v.clone().requires_grad_() for v in grid(90, 1.2)
    )  # the slopes against automatic differentiation of the heights
    p = person()
    height = 0.0
    for bump in features(p):
        cu, cv, ru, rv, h = (on_grid(v) for v in bump)
        height = (
            height + h * (1 - ((x.abs() - cu) / ru) ** 2 - ((y - cv) / rv) ** 2).clamp(min=0) ** 2
        )
    gx, gy = torch.autograd.grad(height.sum(), (x, y))
    across, down = relief(p, Chart(x, y, x, y, x, (x, x, x)))
    torch.testing.assert_close(across, gx, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(down, gy, atol=1e-5, rtol=1e-4)


def test_lamps():
    light = lamps(Stream(0, torch.arange(50)))
    lx, ly, lz = light.direction
    toward, h, graze = lit(light, lx, ly, lz)
    torch.testing.assert_close(
        toward, torch.full_like(toward, 1.25)
    )  # facing the lamp, all of it, whatever the ambient light
    torch.testing.assert_close(
        lit(light, -lx, -ly, -lz)[0], light.ambient
    )  # turned away, the ambient light
    assert (lz > 0).all() and graze.max() == 0


def test_strands_are_combed():
    x, y = (v.expand(24, -1, -1) for v in grid(64, 1.2))
    p, own = person(24), Stream(0, torch.arange(24))
    straight = p | {
        "style": torch.full((24,), SHORT),
        "wavy": torch.zeros(24),
        "part": torch.zeros(24),
    }
    fine, gloss = strands(straight, own, x, y)
    row, column = fine[:, 16].diff(dim=-1).abs().mean(), fine[:, :, 32].diff(dim=-1).abs().mean()
    assert (
        0 <= fine.min() and fine.max() <= 1 and gloss.min() >= 0 and row > 3 * column
    )  # combed: across the strands it changes, along them it does not


def test_lines_of_a_mouth():
    for smile, gape in ((0.0, 0.0), (1.0, 0.0), (0.4, 1.0)):
        p = person(1, smile=smile, open=gape)
        x = p["mouth width"] * torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0])
        m = mouth_lines(p, Chart(*[v[None, None] for v in (x, x, x, x, x)], ()))
        assert (
            (m.upper <= m.top).all()
            and (m.top <= m.middle).all()
            and (m.middle <= m.bottom).all()
            and (m.bottom <= m.lower).all()
        )
        corners = face_landmarks(p)[
            0, 3:, 1
        ]  # the corners, where all five lines meet, are the landmarks
        torch.testing.assert_close(m.middle[0, 0, [0, 4]], corners, atol=1e-5, rtol=0)
        torch.testing.assert_close(m.lower[0, 0, [0, 4]], m.upper[0, 0, [0, 4]])
        assert (m.middle[0, 0, 2] > corners[0]) == (
            smile > 0
        )  # a smile lifts the corners over the middle


def test_aligned_eyes_lie_still():
    eyes = [
        Faces(aligned=a).batch(range(small(64, 12))).landmarks[:, :2].std(0).mean().item()
        for a in (False, True)
    ]
    assert eyes[1] < 0.6 * eyes[0] and Faces.open(aligned=True).aligned


def test_people_stay_in_their_split():
    same = pictures_of(3, 8, 32)
    assert (same.categories == 3).all() and not torch.equal(same.images[0], same.images[1])
    members = {
        split: set(Faces(split).scene(range(len(Faces(split)))).identity.tolist())
        for split in SPLITS
    }
    assert not members["train"] & members["test"] and not members["val"] & (
        members["train"] | members["test"]
    )
    assert [len(members[s]) >= 0.95 * PEOPLE[s][1] for s in SPLITS] == [True] * 3 and max(
        members["test"]
    ) < len(Faces.category_names) == 400


def test_the_same_alone_and_together():
    test = Faces.open(split="test", size=64)
    alone = test[3]
    for sample in (
        test.batch([7, 3, 200]).samples()[1],
        test.take([3])[0],
        Faces("test", 64, seed=0)[3],
    ):
        for field in ("image", "mask", "parts", "landmarks", "visible", "box"):
            assert torch.equal(getattr(sample, field), getattr(alone, field)), field
        assert sample.category == alone.category and sample.name == alone.name
    for other in (Faces("test", 64, seed=1)[3], Faces("train", 64)[3], test[4]):
        assert not torch.equal(other.image, alone.image) and not torch.equal(
            other.landmarks, alone.landmarks
        )


def test_the_same_in_pieces():
    test = Faces.open(split="test", size=64)
    test.budget = 3 * 64**2
    pieces_of_three = test.batch(range(7))
    del test.budget
    for field in (
        "images",
        "parts",
        "landmarks",
        "visible",
        "boxes",
        "categories",
        "names",
    ):  # three at a time and joined, or all at once
        whole, joined = getattr(test.batch(range(7)), field), getattr(pieces_of_three, field)
        assert whole == joined if field == "names" else torch.equal(whole, joined), field


def test_the_same_at_every_size():
    n = range(small(16, 4))
    scenes = {size: Faces("test", size).batch(n) for size in (64, 128)}
    assert torch.equal(scenes[128].landmarks, 2 * scenes[64].landmarks) and torch.equal(
        scenes[128].visible, scenes[64].visible
    )
    larger = F.interpolate(scenes[64].parts[:, None].float(), scale_factor=2, mode="nearest-exact")[
        :, 0
    ].long()
    assert (larger == scenes[128].parts).float().mean() > 0.97
    assert (F.avg_pool2d(scenes[128].images, 2) - scenes[64].images).abs().mean() < 0.04


def test_the_same_next_year():
    test = Faces.open(split="test", size=64)
    few = test.batch(range(8))
    assert (
        few.categories.tolist() == [385, 376, 373, 300, 362, 369, 308, 312]
        and few.visible.sum() == 40
    )
    assert torch.bincount(few.parts.flatten()).tolist() == pytest.approx(
        [19945, 2483, 2126, 2106, 1333, 855, 3920], abs=2
    )
    assert [float(few.landmarks.mean()), float(few.boxes.mean())] == pytest.approx(
        [34.60304, 25.53125], abs=0.001
    )
    assert few.images.mean((0, 2, 3)).tolist() == pytest.approx(
        [0.49557, 0.47315, 0.41647], abs=1e-4
    )
    assert float(few.images.double().std((2, 3)).mean()) == pytest.approx(0.16390, abs=1e-4)
    green = [float(few.images[:, 1][few.parts == k].mean()) for k in range(1, 7)]
    assert green == pytest.approx([0.45807, 0.56218, 0.55269, 0.45497, 0.43640, 0.67497], abs=2e-4)


def test_annotations_fit_one_another():
    test = Faces.open(split="test", size=64)
    batch = test.batch(range(small(100, 24)))
    assert torch.equal(batch.parts > 0, batch.masks)
    for sample in batch.samples()[:20]:
        y, x = ((sample.parts > 0) & (sample.parts < NECK)).nonzero().unbind(1)
        assert sample.box.tolist() == [
            x.min(),
            y.min(),
            x.max() + 1 - x.min(),
            y.max() + 1 - y.min(),
        ]
    x, y = batch.landmarks.floor().long().clamp(0, 63).unbind(-1)
    rows, home = torch.arange(len(batch))[:, None], torch.tensor(HOME)
    around = F.max_pool2d(
        (batch.parts[:, None] == home[None, :, None, None]).float(), 3, 1, 1
    )  # own part within a pixel
    exact, near = batch.parts[rows, y, x] == home, around[rows, torch.arange(5), y, x] > 0
    assert near[batch.visible].all() and exact[batch.visible].float().mean() > 0.97


def test_landmarks_lie_where_things_are_drawn():
    def changed(n, **values):
        """Where pictures of one scene differ for two values of a parameter:
        (B,128,128), and the annotations."""
        ((name, pair_),) = values.items()
        a, b = (
            Faces("test", 128).batch(
                range(n), **{name: v}, glasses=0.0, sun=0.0, hat=0.0, clear=True
            )
            for v in pair_
        )
        return (a.images - b.images).abs().sum(1), a.landmarks

    def centre(weight):
        "The mean place (B,2) under (B,H,W) weights."
        line = torch.arange(weight.shape[-1]) + 0.5
        return (
            torch.stack([(weight.sum(1) * line).sum(1), (weight.sum(2) * line).sum(1)], 1)
            / weight.sum((1, 2)).clamp(min=1e-6)[:, None]
        )

    n = small(10, 6)
    for name, values, places in (("lids", (1.0, 0.06), (0, 1)), ("lips", (0.7, 1.5), (3, 4))):
        change, points = changed(n, **{name: values})
        unit = (points[:, 0] - points[:, 1]).norm(dim=-1)
        away = (centre(change) - points[:, places].mean(1)).norm(dim=-1) / unit
        print(
            f"{name}: what changes lies around the middle of its two landmarks, "
            f"{100 * float(away.median()):.0f} % of the distance of the eyes away"
        )
        assert away.median() < 0.15


def test_wrong_input():
    test = Faces.open(split="test", size=64)
    for wrong, sentence in (
        (lambda: Faces.open(size=8), "at least 16"),
        (lambda: Faces.open(split="dev"), "no split 'dev'"),
        (lambda: Faces.open(seed=-1), "seed is -1"),
        (lambda: test[500], "indices go from 0 to 499"),
        (lambda: test[-1], "no face"),
        (lambda: test.batch([]), "at least one index"),
    ):
        with pytest.raises(InputError, match=sentence):
            wrong()
    assert (
        [len(Faces.open(split=s)) for s in Faces.splits] == [2000, 300, 500]
        and collections["faces"].__name__ == "Faces"
        and test.take([]) == []
    )
    assert test.counts() == {"samples": 500, "people": 100, "landmarks": 5, "parts": 6}


def test_colours_do_not_tell():
    guard = Faces.open(size=64).batch(range(small(120, 24)))
    rgb = guard.images.permute(0, 2, 3, 1)[guard.masks][::2].numpy()  # every other pixel is plenty
    truth = guard.parts[guard.masks][::2].numpy()
    scores = [
        100
        * normalized_mutual_info_score(
            truth, MiniBatchKMeans(6, n_init=1, random_state=s).fit_predict(rgb)
        )
        for s in range(3)
    ]
    assert max(scores) <= 20


def test_colours_tell_within_one_picture():
    guard = Faces.open(size=64).batch(range(small(120, 24)))
    rgb = guard.images.permute(0, 2, 3, 1)[guard.masks][::2].numpy()  # every other pixel is plenty
    truth = guard.parts[guard.masks][::2].numpy()
    scores = [
        100
        * normalized_mutual_info_score(
            truth, MiniBatchKMeans(6, n_init=1, random_state=s).fit_predict(rgb)
        )
        for s in range(3)
    ]
    own = []
    for i in range(small(40, 6)):
        pixels, parts = (
            guard.images[i].permute(1, 2, 0)[guard.masks[i]].numpy(),
            guard.parts[i][guard.masks[i]].numpy(),
        )
        own.append(
            100
            * normalized_mutual_info_score(
                parts, MiniBatchKMeans(6, n_init=1, random_state=0).fit_predict(pixels)
            )
        )
    assert np.mean(own) > max(scores) + 5


def test_place_tells():
    guard = Faces.open(size=64).batch(range(small(120, 24)))
    truth = guard.parts[guard.masks][::2].numpy()
    scene = Faces.open(size=64).scene(range(len(guard)))
    line = (torch.arange(64) + 0.5) / 64
    Y, X = (v.expand(len(guard), 64, 64) for v in torch.meshgrid(line, line, indexing="ij"))
    place = {}
    for name, (x, y) in {"picture": (X, Y), "head": scene.frame.to_object(X, Y)}.items():
        labels = MiniBatchKMeans(6, n_init=1, random_state=0).fit_predict(
            torch.stack([x, y], -1)[guard.masks][::2].numpy()
        )
        place[name] = 100 * normalized_mutual_info_score(truth, labels)
        print(f"FG-NMI of clusters of {name} coordinates: {place[name]:.1f}")
    assert place["picture"] + 5 < place["head"]


def test_they_are_not_aligned():
    train = Faces.open(size=64).scene(range(small(400, 60))).landmarks
    points = Faces.open(split="test", size=64).scene(range(small(200, 40))).landmarks
    unit = (points[:, 0] - points[:, 1]).norm(dim=-1)
    error = 100 * float(((points - train.mean(0)).norm(dim=-1) / unit[:, None]).mean())
    assert error > 40


def test_poses():
    a, b = (
        pose_face(24, yaw=t, hat=0.0) for t in (-0.5, 0.5)
    )  # turning to the right moves the nose to the right, over the eyes
    middle = [float(s.landmarks[2, 0] - s.landmarks[:2, 0].mean()) for s in (a, b)]
    assert middle[0] < -1.5 and middle[1] > 1.5
    up, down = (pose_face(24, pitch=t).landmarks for t in (-0.2, 0.2))
    assert (down[:, 1] > up[:, 1]).all()
    neutral, rolled = pose_face(24).landmarks, pose_face(24, roll=0.4).landmarks
    assert (
        rolled[1, 1] > rolled[0, 1] + 5 and abs(float(neutral[1, 1] - neutral[0, 1])) < 0.01
    )  # clockwise: the right eye is the lower one
    torch.testing.assert_close(
        (rolled[0] - rolled[1]).norm(), (neutral[0] - neutral[1]).norm(), atol=0.01, rtol=0
    )  # and as far from the other as before
    with pytest.raises(InputError, match="no person 400"):
        pose_face(400)


def test_no_landmark_turns_away():
    far = person(200, yaw=0.7)
    x, y = (face_landmarks(far)[..., i][:, None] for i in (0, 1))
    edge = outline(far, x, y)
    share = (x / (edge.half * edge.root)).amax((1, 2)) / far["turn cos"]
    assert share.max() < 1


@pytest.mark.parametrize(
    "change",
    [{"yaw": 0.5}, {"pitch": 0.2}, {"roll": -0.3}, {"smile": 1.0}, {"open": 0.8}, {"person": 7}],
)
def test_every_setting_changes_the_picture(change):
    assert not torch.equal(pose_face(size=48, **change).image, pose_face(size=48).image)
