"""What the drawing engine promises, by hand and against references."""

import colorsys
import math

import pytest
import torch

from partbook.core import InputError, small
from partbook.data.sample import (
    Batch,
)
from partbook.drawn.birds import (
    bird_parameters,
    frame_bird,
    skeleton,
)
from partbook.drawn.engine import (
    Drawn,
    Stream,
    axial,
    blend,
    cos_sin,
    cover,
    distractors,
    fan,
    fractal,
    greenery,
    grid_noise,
    ground_colours,
    hashed,
    hsv,
    lattice_noise,
    limb,
    mix,
    natural_hue,
    occluders,
    on_grid,
    paint,
    polar,
    scramble,
    six_colours,
    smoothstep,
    tight_boxes,
    turned,
    undo,
    unit,
    wave,
)


def at(*points):
    "Coordinates (1,1,N) of single points."
    return torch.tensor(points).T[:, None, None].unbind(0)


def point(*v):
    return torch.tensor([v])


def grid(n, reach=1.0):
    "(1,n,n) coordinates of pixel centres on [-reach, reach]."
    line = ((torch.arange(n) + 0.5) / n * 2 - 1) * reach
    y, x = torch.meshgrid(line, line, indexing="ij")
    return x[None], y[None]


class Discs(Drawn):
    noun, ranges, splits, part_names = (
        "disc",
        {"train": (0, 9), "test": (50, 4)},
        ("train", "test"),
        ("disc",),
    )

    def scene(self, indices, radius=0.2):
        return self.stream(indices).uniform("place", 0.3, 0.7, (2,)), radius

    def draw(self, scene, names):
        place, radius = scene
        line = (torch.arange(self.size) + 0.5) / self.size
        Y, X = (v.expand(len(names), -1, -1) for v in torch.meshgrid(line, line, indexing="ij"))
        d = ((X - on_grid(place[:, 0])) ** 2 + (Y - on_grid(place[:, 1])) ** 2).sqrt() - radius
        return Batch(
            cover(d, 1 / self.size)[:, None].expand(-1, 3, -1, -1),
            names,
            d < 0,
            (d < 0).long(),
            boxes=tight_boxes(d < 0),
        )


def test_every_bit_moves_every_bit():
    x = torch.arange(small(2**16, 2**14))
    assert len(scramble(x).unique()) == len(x)  # a bijection loses nothing
    flips = [(scramble(x) ^ scramble(x ^ (1 << bit))) for bit in range(32)]
    share = torch.stack(
        [((f[:, None] >> torch.arange(32)) & 1).float().mean(0) for f in flips]
    )  # (in, out)
    assert (
        (share - 0.5).abs().max() < 0.03
    )  # the avalanche: every bit of the input moves every bit of the output half of the time


def test_the_numbers_are_pinned():
    assert scramble(torch.tensor(0)) == 0 and hashed(0) != 0 and hashed(7, 3) != hashed(3, 7)
    assert [int(hashed(*words)) for words in ((0,), (7, 3), (3, 7))] == [
        1684164658,
        2573870787,
        33198041,
    ]


def test_uniform_numbers_know_nothing_of_each_other():
    many = Stream(0, torch.arange(small(4000, 1000)))
    u = many.uniform("worked example", -1, 1, (4,))
    assert (
        abs(float(u.mean())) < 0.05 and abs(float(u.var()) - 1 / 3) < 0.02
    )  # a uniform on [-1,1) has variance 1/3
    assert (
        abs(float(torch.corrcoef(u.T)[0, 1])) < 0.08
    )  # neighbouring elements know nothing of each other
    one = Stream(0, torch.tensor([17])).uniform("worked example", -1, 1, (4,))
    assert torch.equal(one[0], u[17])  # alone or among thousands
    assert not torch.equal(
        one, Stream(1, torch.tensor([17])).uniform("worked example", -1, 1, (4,))
    )
    distant = Stream(2**32, torch.tensor([17, 2**32 + 17])).uniform("worked example", -1, 1, (4,))
    assert not torch.equal(distant[0], one[0]) and not torch.equal(
        distant[0], distant[1]
    )  # the upper words count


def test_coins_and_dice():
    many = Stream(0, torch.arange(small(4000, 1000)))
    assert abs(float(many.chance("coin", 0.2).float().mean()) - 0.2) < 0.05
    share = torch.bincount(many.choice("die", 6), minlength=6) / len(many)
    assert len(share) == 6 and (share - 1 / 6).abs().max() < 0.05


def test_steps_and_waves():
    x = torch.tensor([-1.0, 0.0, 0.25, 0.5, 1.0, 2.0])
    assert smoothstep(x).tolist() == [0, 0, 0.15625, 0.5, 1, 1]
    assert wave(x).tolist() == [1, 1, 0.5, 0, 1, 1]  # a crest at every whole number
    assert mix(2.0, 4.0, x[1:5]).tolist() == [2, 2.5, 3, 4]


def test_our_sine_is_the_sine():
    angle = torch.linspace(-20, 20, 4001)
    c, s = cos_sin(angle)
    assert (c - angle.double().cos()).abs().max() < 1e-5 and (
        s - angle.double().sin()
    ).abs().max() < 1e-5


def test_directions():
    angle = torch.linspace(-20, 20, 4001)
    right = turned(
        torch.tensor([1.0, 0.0]), torch.tensor(math.pi / 2)
    )  # y points down: turning goes clockwise on the screen
    torch.testing.assert_close(right, torch.tensor([0.0, 1.0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        turned(polar(angle, 2.0), -angle),
        torch.tensor([2.0, 0.0]).expand(4001, 2),
        atol=1e-4,
        rtol=0,
    )
    torch.testing.assert_close(
        unit(torch.tensor([[3.0, 4.0], [0.0, 0.0]])), torch.tensor([[0.6, 0.8], [0.0, 0.0]])
    )


def test_coordinates_along_an_axis():
    def point(*v):
        return torch.tensor([v])

    def at(*points):
        "Coordinates (1,1,N) of single points."
        return torch.tensor(points).T[:, None, None].unbind(0)

    u, v, length = axial(
        *at((1.0, 2.0), (0.0, 1.0)), point(1.0, 1.0), point(1.0, 4.0)
    )  # an axis that points down
    assert u.flatten().tolist() == [1, 0] and v.flatten().tolist() == [0, 1] and length.item() == 3


def test_a_limb_by_hand():
    places = at((0.0, 0.0), (1.4, 0.0), (0.5, 0.3), (0.5, 0.6), (0.5, 0.2))
    plain, t, across = limb(*places, point(0.0, 0.0), point(1.0, 0.0), 0.2, 0.1, 0.05, 0.3)
    torch.testing.assert_close(plain.flatten(), torch.tensor([-0.2, 0.3, -0.2, 0.1, -0.1]))
    torch.testing.assert_close(t.flatten(), torch.tensor([0.0, 1.0, 0.5, 0.5, 0.5]))
    torch.testing.assert_close(across.flatten(), torch.tensor([0.0, 0.0, 0.0, 1.0, -0.5]))
    wider = limb(
        *places, point(0.0, 0.0), point(1.0, 0.0), 0.2, 0.1, 0.05, 0.3, torch.tensor([2.0])
    )[0]
    torch.testing.assert_close(
        wider.flatten(), torch.tensor([-0.2, 0.3, -0.2, 0.1, -0.3])
    )  # only the last lies on the trailing side


def test_a_fan_by_hand():
    numbers = [torch.tensor([v]) for v in (0.2, 0.2, 0.4)]
    places = at(
        (0.9, 0.0), (1.1, 0.19), (0.5, 0.3), (-0.3, -0.6)
    )  # in the fork; in an outer feather; beside; off a corner
    forked, t, across = fan(*places, point(0.0, 0.0), point(1.0, 0.0), *numbers)
    torch.testing.assert_close(forked.flatten(), torch.tensor([0.1, -0.01, 0.1, 0.5]))
    torch.testing.assert_close(across.flatten(), torch.tensor([0.0, 0.95, 1.0, -1.0]))


def test_blends():
    def grid(n, reach=1.0):
        "(1,n,n) coordinates of pixel centres on [-reach, reach]."
        line = ((torch.arange(n) + 0.5) / n * 2 - 1) * reach
        y, x = torch.meshgrid(line, line, indexing="ij")
        return x[None], y[None]

    x, y = grid(200)
    disc, _, _ = limb(x, y, point(0.0, 0.0), point(1e-5, 0.0), 0.6, 0.6)
    torch.testing.assert_close(
        disc, (x**2 + y**2).sqrt() - 0.6, atol=1e-4, rtol=0
    )  # the limit of a limb without length
    torch.testing.assert_close(
        blend(disc, disc, 0.2), disc - 0.05
    )  # a blend of a shape with itself swells it by k/4
    torch.testing.assert_close(
        blend(disc, disc + 0.2, 0.2), disc
    )  # where one is nearer by more than k, it is alone
    torch.testing.assert_close(blend(disc + 0.2, disc, 0.2), disc)


def test_distances_have_slope_one():
    x, y = (v.clone().requires_grad_() for v in grid(41))
    ends = point(-0.4, -0.3), point(0.5, 0.2)
    capsule = limb(x, y, *ends, 0.2, 0.2)[0]
    bent = limb(x, y, *ends, 0.25, 0.1, 0.05, 0.1)[0]
    straight = fan(x, y, *ends, *(torch.tensor([v]) for v in (0.2, 0.2, 0.0)))[0]
    for distance, slack, least in (
        (capsule, 1e-4, -0.05),
        (bent, 0.6, -0.05),
        (straight, 1e-4, 0.0),
    ):
        gx, gy = torch.autograd.grad(distance.sum(), (x, y))
        slope = (gx**2 + gy**2).sqrt()[(distance > least) & (distance < 0.3)]
        assert (slope - 1).abs().max() < slack and abs(float(slope.mean()) - 1) < 0.1


def test_smooth_edges_measure_areas():
    x, y = grid(50)
    disc = (x**2 + y**2).sqrt() - 0.6
    area = cover(disc, 2 / 50).sum() * (2 / 50) ** 2
    assert abs(float(area) / (math.pi * 0.36) - 1) < 0.002  # antialiased edges measure areas
    once = paint(
        torch.zeros(1, 3, 1, 3), torch.ones(1, 3, 1, 1), torch.tensor([[[0.0, 0.25, 1.0]]])
    )
    assert once[0, 0, 0].tolist() == [0, 0.25, 1]


def test_hsv_is_the_library_s():
    triples = torch.rand(50, 3, generator=torch.Generator().manual_seed(0))
    reference = torch.tensor([colorsys.hsv_to_rgb(*t) for t in triples.tolist()])
    torch.testing.assert_close(hsv(*triples.unbind(-1)), reference, atol=1e-5, rtol=0)


def test_natural_hues():
    torch.testing.assert_close(
        natural_hue(torch.tensor([0.0, 0.25, 0.5, 0.6, 0.965])),
        torch.tensor([0.0, 0.07, 0.14, 0.26, 0.83]),
    )


def test_noise_at_lattice_points_is_the_table():
    table = Stream(0, torch.arange(2)).uniform("table", shape=(5, 5))
    x, y = torch.tensor([[[0.0, 2.0, 7.0]]] * 2), torch.tensor([[[0.0, 1.0, 6.0]]] * 2)
    torch.testing.assert_close(
        lattice_noise(table, x, y)[:, 0], table[:, [0, 1, 1], [0, 2, 2]]
    )  # at lattice points, the table, repeated


def test_both_forms_of_noise_agree():
    table = Stream(0, torch.arange(2)).uniform("table", shape=(5, 5))
    line = (torch.arange(20) + 0.5) * (4 / 20)
    y, x = (v.expand(2, 20, 20) for v in torch.meshgrid(line, line, indexing="ij"))
    torch.testing.assert_close(grid_noise(table, 20), lattice_noise(table, x, y))


def test_octaves_average_out():
    clouds = fractal(Stream(0, torch.arange(50)), "clouds", 32)
    assert (
        0.45 < float(clouds.mean()) < 0.55 and 0 <= float(clouds.min()) and float(clouds.max()) <= 1
    )
    assert (
        clouds.std() < 0.9 * fractal(Stream(0, torch.arange(50)), "clouds", 32, (3,)).std()
    )  # octaves average out, in part


def test_there_and_back_through_the_frame():
    stream = Stream(0, torch.arange(64))
    pose = bird_parameters(stream)
    frame = frame_bird(pose, skeleton(pose))
    b = stream.uniform("points", -1, 1, (9, 2))
    q = frame.to_picture(b)
    back = torch.stack(frame.to_object(q[:, None, :, 0], q[:, None, :, 1]), -1)[:, 0]
    torch.testing.assert_close(back, b, atol=1e-4, rtol=0)
    torch.testing.assert_close(frame.to_picture(frame.centre[:, None])[:, 0], frame.place)
    torch.testing.assert_close(frame.scale, torch.linalg.det(frame.matrix).abs().sqrt())


def test_occluders_and_distractors():
    stream = Stream(0, torch.arange(small(2000, 500)))
    n = len(stream)
    before = occluders(stream, torch.full((n, 2), 0.5), torch.ones(n))
    shares = torch.bincount(before.there.sum(1), minlength=3) / n
    assert (shares - torch.tensor([0.5, 0.3, 0.2])).abs().max() < 0.05  # none, one, two
    palette = torch.rand(n, 6, 3, generator=torch.Generator().manual_seed(0))
    behind = distractors(stream, palette)
    like = (behind.colour[:, :, None] == palette[:, None]).all(-1).any(-1)
    assert (
        abs(float(like.float().mean()) - 0.4) < 0.05
        and abs(float(behind.there.float().mean()) - 0.35) < 0.05
    )
    away = before.distance(0, torch.full((n, 1, 1), 0.5), torch.full((n, 1, 1), 0.5))[0].flatten()
    assert (away[~before.there[:, 0]] == 9).all() and (away[before.there[:, 0]] < 1).all()


def test_the_ground_is_apart():
    stream = Stream(0, torch.arange(small(2000, 500)))
    n = len(stream)
    kind = bird_parameters(stream)
    palette = six_colours(stream, kind["hue"], kind["saturation"])
    for bright, sign in ((0.1, 1), (0.9, -1)):
        apart = ground_colours(stream, palette, torch.full((n,), bright)).amax(-1) - bright
        assert (
            sign * apart > 0.1
        ).float().mean() > 0.7  # dark birds before light ground, light birds before dark ground


def test_reeds_stand():
    stream = Stream(0, torch.arange(small(2000, 500)))
    n = len(stream)
    white = torch.zeros(n, 5, 3)
    white[:, 3] = 1.0
    level, (x, y) = torch.full((n, 24, 24), 0.5), (v.expand(n, 24, 24) for v in grid(24, 0.5))
    reeds = greenery(
        stream, torch.zeros(n, 3, 24, 24), white, level, level, torch.ones(n, 1, 1), x, y
    )[:, 0]
    assert (
        abs(float((reeds.amax((1, 2)) > 0).float().mean()) - 0.35) < 0.06
    )  # so many pictures have reeds
    assert (
        reeds.diff(dim=2).abs().mean() > 2 * reeds.diff(dim=1).abs().mean()
    )  # and they stand more or less upright


def test_boxes_are_tight():
    masks = torch.zeros(2, 6, 8, dtype=torch.bool)
    masks[0, 2:5, 1:7] = True
    assert tight_boxes(masks).tolist() == [[1, 2, 6, 3], [0, 0, 8, 6]]


def test_a_collection_of_discs():
    discs = Discs("test", 32)
    assert (
        discs.counts() == {"samples": 4, "categories": 0, "landmarks": 0, "parts": 1}
        and [s.name for s in discs][2] == "disc 0-test-2"
    )
    assert (
        discs.batch([0], radius=0.3).masks.sum() > discs.batch([0]).masks.sum()
        and Discs.open().size == 64
    )
    later = Discs.open(split="test", size=32, seed=1)
    assert not torch.equal(later[0].image, discs[0].image) and not torch.equal(
        Discs("train", 32)[0].image, discs[0].image
    )
    assert torch.equal(
        discs.scene([3])[0], Stream(0, torch.tensor([53])).uniform("place", 0.3, 0.7, (2,))
    )  # the fourth of the test split


def test_pieces_and_wrong_input():
    discs = Discs("test", 32)
    together = discs.batch([3, 0, 2, 1, 3])
    for discs.budget in (2 * 32**2, 2 * 32**2 - 1, 1):  # two at a time, and singly
        assert all(
            torch.equal(getattr(discs.batch([3, 0, 2, 1, 3]), k), getattr(together, k))
            for k in ("images", "masks", "parts", "boxes")
        )
    for wrong, sentence in (
        (lambda: discs.batch([]), "at least one index"),
        (lambda: Discs("val"), "The discs have no split 'val'; choose one of: train, test"),
        (lambda: Discs(size=15), "Discs of 15 pixels"),
        (lambda: discs[4], r"no disc \[4\] in the split 'test'; indices go from 0 to 3"),
    ):
        with pytest.raises(InputError, match=sentence):
            wrong()


def test_undoing_a_matrix():
    matrix = torch.tensor([[[1.0, 2.0], [3.0, 5.0]]])
    assert [v.tolist() for v in undo(matrix, torch.tensor([5.0]), torch.tensor([13.0]))] == [
        [1],
        [2],
    ]  # 1 + 2*2 = 5, 3 + 5*2 = 13
