"""The drawn birds: habits, landmarks that fit the drawing, the same bits everywhere."""

from dataclasses import fields

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.cluster import MiniBatchKMeans
from sklearn.metrics import normalized_mutual_info_score

from partbook.core import InputError, small
from partbook.data.sample import (
    Batch,
    collections,
)
from partbook.drawn.birds import (
    BEAK,
    BODY,
    HEAD,
    LANDMARKS,
    LEGS,
    SPECIES,
    TAIL,
    WING,
    Birds,
    bird_landmarks,
    bird_layers,
    bird_parameters,
    bird_scene,
    brightness,
    coat_colours,
    plumage,
    pose_bird,
    role,
    skeleton,
)
from partbook.drawn.engine import (
    Stream,
    polar,
    six_colours,
)


def grid(n, reach=1.0):
    "(1,n,n) coordinates of pixel centres on [-reach, reach]."
    line = ((torch.arange(n) + 0.5) / n * 2 - 1) * reach
    y, x = torch.meshgrid(line, line, indexing="ij")
    return x[None], y[None]


def test_habits():
    p = bird_parameters(Stream(0, torch.arange(small(2000, 500))))
    flying = p["stance"] == 2
    shares = torch.tensor([0.50, 0.36, 0.14])
    assert (torch.bincount(p["stance"], minlength=3) / len(flying) - shares).abs().max() < 0.06
    assert (
        p["wing"][flying].min() >= 0.8
        and p["tuck"][flying].min() >= 0.8
        and p["wing"][~flying].max() <= 0.7
    )
    assert (
        p["pitch"][p["stance"] == 1].mean() > p["pitch"][p["stance"] == 0].mean() + 0.1
    )  # perching, they sit upright
    assert p["roll"][flying].std() > p["roll"][~flying].std() + 0.03
    typical = torch.tensor([row[0] for row in SPECIES.values()])[
        p["species"]
    ]  # the length of the beak
    assert (
        (p["beak"] / typical).min() >= 0.879
        and (p["beak"] / typical).max() <= 1.121
        and len(p["species"].unique()) == len(SPECIES)
    )


def test_skeletons():
    p = bird_parameters(Stream(0, torch.arange(small(2000, 500))))
    flying = p["stance"] == 2
    level = skeleton(p | {"pitch": torch.zeros_like(p["pitch"])})
    torch.testing.assert_close(level["chest"], torch.tensor([0.2, 0.02]).expand_as(level["chest"]))
    j = skeleton(p)
    assert (j["chest"][:, 1] < level["chest"][:, 1])[
        p["pitch"] > 0.1
    ].all()  # y points down: the chest is raised
    assert (((j["upper tip"] - j["head"]) * j["look"]).sum(-1) > p["head"] + p["beak"]).all()
    assert (((j["upper tip"] - j["lower tip"]) * j["up"]).sum(-1) > 0).all() and (
        ((j["crest"] - j["head"]) * j["up"]).sum(-1) > 0
    ).all()
    assert (j["near toe"][:, 1] > j["near hip"][:, 1])[~flying].all() and (
        j["tail tip"][:, 0] < j["tail root"][:, 0]
    )[~flying].all()
    up_beat = flying & (p["flap"] > 0)
    assert (j["near wing tip"][:, 1] < j["near wing root"][:, 1])[up_beat].all() and (
        j["near wing tip"][:, 1] > 0
    )[flying & ~up_beat].all()


def test_layers_cover_their_joints():
    p = bird_parameters(Stream(0, torch.arange(small(2000, 500))))
    j = skeleton(p)
    x, y = (torch.stack([j[name][:, c] for name in j], -1)[:, None] for c in (0, 1))  # (B,1,J)
    for layer in bird_layers(p, j, x, y):
        for name in layer.ends:
            assert (layer.distance[:, 0, list(j).index(name)] < 0.04).all(), (layer.name, name)
    order = "far wing, far leg, tail, near leg, body, beak, head, near wing"
    assert order == ", ".join(layer.name for layer in bird_layers(p, j, x, y))


def test_colours_have_tendencies():
    stream = Stream(0, torch.arange(small(2000, 500)))
    kind = bird_parameters(stream)
    palette = six_colours(stream, kind["hue"], kind["saturation"])
    coat = coat_colours(stream, palette)
    light = palette.amax(-1)  # the value of a colour
    assert (
        (light[:, 1:] > light[:, :-1]).float().mean() > 0.9
        and light.min() >= 0.06
        and palette.max() <= 1
    )
    assert coat[:, WING].amax(-1).mean() < coat[:, BODY].amax(-1).mean() - 0.2
    feathered = (coat[:, [HEAD, BODY, WING, TAIL], None] == palette[:, None]).all(-1).any(-1)
    assert (
        feathered.all()
        and not (coat[:, [BEAK], None] == palette[:, None]).all(-1).any(-1).float().mean() > 0.3
    )
    assert (
        abs(float((coat[:, BEAK] == coat[:, LEGS]).all(-1).float().mean()) - 0.35) < 0.08
    )  # half of 0.8 * 0.8, and chance


def test_scenes_by_chance():
    scene = bird_scene(Stream(0, torch.arange(small(600, 200))))
    stance = torch.bincount(scene.pose["stance"], minlength=3) / len(scene.landmarks)
    assert (stance - torch.tensor([0.50, 0.36, 0.14])).abs().max() < 0.09
    assert abs(float((scene.pose["facing"] > 0).float().mean()) - 0.5) < 0.09
    assert abs(float(scene.front.there.any(1).float().mean()) - 0.5) < 0.09


def test_scenes_as_told():
    scene = bird_scene(Stream(0, torch.arange(small(600, 200))))
    left = scene.pose["facing"] < 0
    assert (
        not (scene.visible[:, LANDMARKS.index("right eye")] & left).any()
        and not (scene.visible[:, LANDMARKS.index("left eye")] & ~left).any()
    )
    with pytest.raises(InputError, match="no parameter 'plumage'"):
        bird_scene(Stream(0, torch.arange(1)), plumage=1.0)
    told = bird_scene(Stream(0, torch.arange(20)), clear=True, neck_angle=0.5)
    assert (
        (told.pose["neck angle"] == 0.5).all()
        and torch.equal(told.pose["tail angle"], scene.pose["tail angle"][:20])
        and not told.front.there.any()
    )
    assert (
        bird_scene(Stream(0, torch.arange(20)), clear=True).visible >= scene.visible[:20]
    ).all()  # an occluder can only hide
    dyed, plain = (
        bird_scene(Stream(0, torch.arange(20)), colours)
        for colours in (Stream(5, torch.arange(20)), None)
    )
    assert torch.equal(dyed.landmarks, plain.landmarks) and not torch.equal(
        dyed.palette, plain.palette
    )
    cut = bird_scene(
        Stream(0, torch.arange(20)), clear=True, fill=0.6, x=2.5
    )  # half out of the picture
    inside = ((cut.landmarks >= 0) & (cut.landmarks < 1)).all(-1)
    assert (
        not (cut.visible & ~inside).any()
        and (cut.visible & inside).any()
        and (~inside).float().mean() > 0.2
    )


def test_patterns():
    coat = plumage(Stream(0, torch.arange(64)), *(v.expand(64, 40, 40) for v in grid(40)))
    assert coat.shape == (64, 2, 40, 40) and coat.min() >= 0 and coat.max() <= 1
    assert (coat.flatten(2).std(-1) > 0.1).float().mean() > 0.6 and not torch.equal(
        coat[:, 0], coat[:, 1]
    )


def test_brightness_by_hand():
    green = torch.zeros(1, 7, 3)
    green[:, BODY, 1] = green[:, HEAD, 0] = 1.0
    assert brightness(green).item() == pytest.approx(0.5 * 0.6 + 0.25 * 0.3)


def test_the_same_alone_and_together():
    birds = Birds.open(split="test", size=64)
    five = birds.batch([7, 3, 200, 3, 9])
    alone = birds[3]
    for sample in (five.samples()[1], five.samples()[3], Birds("test", 64, seed=0)[3]):
        for field in ("image", "mask", "parts", "landmarks", "visible", "box"):
            assert torch.equal(getattr(sample, field), getattr(alone, field)), field
        assert sample.category == alone.category and sample.name == alone.name


def test_the_same_in_pieces():
    birds = Birds.open(split="test", size=64)
    birds.budget = 3 * 64**2
    pieces = birds.batch(range(7))
    del birds.budget
    for field in fields(Batch):  # drawn three at a time and joined, or all at once
        whole, joined = getattr(birds.batch(range(7)), field.name), getattr(pieces, field.name)
        assert (
            whole == joined
            if field.name == "names" or whole is None
            else torch.equal(whole, joined)
        ), field.name


def test_others_differ():
    birds = Birds.open(split="test", size=64)
    alone = birds[3]
    for other in (Birds("test", 64, seed=1)[3], Birds("train", 64)[3], birds[4]):
        assert not torch.equal(other.image, alone.image) and not torch.equal(
            other.landmarks, alone.landmarks
        )


def test_the_same_at_every_size():
    n = range(small(24, 4))
    scenes = {size: Birds("test", size).batch(n) for size in (64, 128)}
    assert torch.equal(scenes[128].landmarks, 2 * scenes[64].landmarks) and torch.equal(
        scenes[128].visible, scenes[64].visible
    )
    torch.testing.assert_close(Birds("test", 96).batch(n).landmarks, 1.5 * scenes[64].landmarks)
    larger = F.interpolate(scenes[64].parts[:, None].float(), scale_factor=2, mode="nearest-exact")[
        :, 0
    ].long()
    assert (larger == scenes[128].parts).float().mean() > 0.97
    assert (F.avg_pool2d(scenes[128].images, 2) - scenes[64].images).abs().mean() < 0.04


def test_the_same_next_year():
    birds = Birds.open(split="test", size=64)
    few = birds.batch(range(8))
    assert few.categories.tolist() == [2, 1, 5, 6, 7, 5, 0, 4] and few.visible.sum() == 96
    assert torch.bincount(few.parts.flatten()).tolist() == pytest.approx(
        [26368, 247, 1123, 1782, 1393, 1151, 704], abs=2
    )
    assert [float(few.landmarks.mean()), float(few.boxes.mean())] == pytest.approx(
        [30.6477, 28.3125], abs=0.001
    )
    assert few.images.mean((0, 2, 3)).tolist() == pytest.approx(
        [0.49552, 0.51286, 0.47641], abs=1e-4
    )
    assert float(few.images.double().std((2, 3)).mean()) == pytest.approx(0.14102, abs=1e-4)
    green = [float(few.images[:, 1][few.parts == k].mean()) for k in range(1, 7)]
    assert green == pytest.approx([0.34924, 0.39506, 0.53293, 0.45082, 0.32080, 0.33182], abs=2e-4)


def test_labels_masks_and_boxes_agree():
    birds = Birds.open(split="test", size=64)
    batch = birds.batch(range(small(200, 16)))
    assert torch.equal(batch.parts > 0, batch.masks) and (batch.parts.flatten(1).amax(1) > 0).all()
    for sample in batch.samples()[:20]:
        y, x = sample.mask.nonzero().unbind(1)
        assert sample.box.tolist() == [
            x.min(),
            y.min(),
            x.max() + 1 - x.min(),
            y.max() + 1 - y.min(),
        ]


def test_landmarks_lie_on_their_parts():
    birds = Birds.open(split="test", size=64)
    batch = birds.batch(range(small(200, 16)))
    home = {
        "beak": BEAK,
        "tail": TAIL,
        "back": BODY,
        "belly": BODY,
        "breast": BODY,
        "leg": LEGS,
        "wing": WING,
    }
    home = torch.tensor([home.get(name.split()[-1], HEAD) for name in LANDMARKS])
    x, y = batch.landmarks.floor().long().clamp(0, 63).unbind(-1)
    rows = torch.arange(len(batch))[:, None]
    around = F.max_pool2d(
        (batch.parts[:, None] == home[None, :, None, None]).float(), 3, 1, 1
    )  # (B,15,64,64): own part within a pixel
    near = around[rows, torch.arange(15), y, x] > 0
    assert near[batch.visible].float().mean() > 0.995


def test_a_list_of_samples():
    birds = Birds.open(split="test", size=64)
    alone = birds[3]
    listed = birds.take([3, 200])
    assert (
        torch.equal(listed[0].image, alone.image)
        and birds.take([]) == []
        and birds.counts()["samples"] == len(birds)
    )
    assert next(iter(birds)).name == birds[0].name


def test_wrong_input():
    birds = Birds.open(split="test", size=64)
    for wrong, sentence in (
        (lambda: Birds.open(size=8), "at least 16"),
        (lambda: Birds.open(split="dev"), "no split 'dev'"),
        (lambda: Birds.open(seed=-1), "seed is -1"),
        (lambda: birds[500], "indices go from 0 to 499"),
        (lambda: birds[-1], "no bird"),
        (lambda: birds.batch([]), "at least one index"),
    ):
        with pytest.raises(InputError, match=sentence):
            wrong()
    assert [len(Birds.open(split=s)) for s in Birds.splits] == [2000, 300, 500] and collections[
        "birds"
    ].__name__ == "Birds"


def test_colours_do_not_tell():
    birds = Birds.open(split="test", size=64)
    guard = birds.batch(range(small(300, 24)))
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


def test_colours_tell_within_one_bird():
    birds = Birds.open(split="test", size=64)
    guard = birds.batch(range(small(300, 24)))
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
    for i in range(small(40, 5)):
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


def test_a_mirror_image():
    facing = [
        pose_bird("duck", f, palette=31, size=160, fill=0.62, plain=True) for f in ("right", "left")
    ]
    a, b = facing  # a mirror image in everything but the words left and right
    mirrored = b.landmarks[LANDMARKS.index("tail")] * torch.tensor([-1.0, 1.0]) + torch.tensor(
        [160.0, 0.0]
    )
    torch.testing.assert_close(a.landmarks[LANDMARKS.index("tail")], mirrored, atol=0.01, rtol=0)
    assert a.visible[LANDMARKS.index("right eye")] and b.visible[LANDMARKS.index("left eye")]
    assert (a.parts.flip(1) == b.parts).float().mean() > 0.99
    torch.testing.assert_close(a.image[:, 0, 0], torch.full((3,), 0.96))  # on white, or nearly


@pytest.mark.parametrize(
    "change",
    [
        {"neck": 0.2},
        {"wing": 0.8},
        {"tail": 0.4},
        {"palette": 3},
        {"facing": "left"},
        {"species": "heron"},
    ],
)
def test_every_setting_changes_the_picture(change):
    assert not torch.equal(pose_bird(**change).image, pose_bird().image)


def test_a_spread_wing_is_larger():
    assert pose_bird(wing=1.0).parts.eq(WING).sum() > pose_bird(wing=0.0).parts.eq(WING).sum()


def test_no_dodo():
    with pytest.raises(InputError, match="no species 'dodo'"):
        pose_bird("dodo")


def test_landmarks_lie_on_their_layers():
    p = bird_parameters(Stream(0, torch.arange(small(2000, 500))))
    j = skeleton(p)
    marks = bird_landmarks(p, j)
    x, y = (torch.stack([place[:, c] for place, _ in marks.values()], -1)[:, None] for c in (0, 1))
    layers = {layer.name: layer.distance[:, 0] for layer in bird_layers(p, j, x, y)}
    for i, (name, (_, own)) in enumerate(marks.items()):
        assert not own or (layers[own][:, i] < 0.005).float().mean() > 0.98, (
            name
        )  # on its own layer, whatever lies in front of that
    height = {
        name: (place * polar(torch.full_like(p["pitch"], 1.5708) - p["pitch"])).sum(-1)
        for name, (place, _) in marks.items()
    }
    assert (height["back"] < height["belly"]).all() and (
        marks["crown"][0] - marks["throat"][0]
    ).mul(j["up"]).sum(-1).min() > 0


def test_near_and_far():
    assert (
        role("left wing", "left") == "near wing"
        and role("left wing", "right") == "far wing"
        and role("tail", "left") == "tail"
    )
    assert len(LANDMARKS) == 15 and sorted(LANDMARKS) == list(
        LANDMARKS
    )  # CUB lists them alphabetically
