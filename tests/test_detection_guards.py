"""Detection against mutations: the worked examples and identities of the chapter."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from sklearn.metrics import average_precision_score

from partbook.core import InputError, generator
from partbook.data.sample import Collection, Kept, Sample, View, collections
from partbook.evaluation.detection import (
    LandmarkDetection,
    PartDetection,
    averaged,
    best_iou,
    by_part,
    clipped,
    framed,
    unit_of,
)
from partbook.evaluation.precision import (
    RULES,
    ScoredHits,
    assign,
    average_precision,
    iou,
    peaks,
    shared,
    true_positives,
)
from partbook.methods.method import Method, Settings


def test_iou_by_hand():
    wide = torch.tensor([0.0, 0, 2, 1])
    assert iou(
        wide, torch.tensor([[1.0, 0, 1, 1], [1.5, 0, 1, 1], [2, 0, 1, 1], [0, 0, 0, 0]])
    ).tolist() == [0.5, pytest.approx(0.2), 0, 0]
    a, b = (
        torch.cat(
            [
                torch.rand(30, 2, generator=generator(i)),
                0.1 + torch.rand(30, 2, generator=generator(i + 2)),
            ],
            1,
        )
        for i in range(2)
    )
    corners = [torch.cat([z[:, :2], z[:, :2] + z[:, 2:]], 1) for z in (a, b)]
    assert torch.allclose(iou(a[:, None], b), torchvision.ops.box_iou(*corners), atol=1e-6)


def test_shared():
    square = torch.tensor([0.0, 0, 100, 100])
    assert iou(
        square, torch.tensor([100 * (1 - shared(0.5)), 0, 100, 100])
    ).item() == pytest.approx(0.5) and shared(0.5) == pytest.approx(2 / 3)
    assert iou(square, torch.tensor([10.0, 20, 100, 100])).item() == pytest.approx(
        0.72 / (2 - 0.72)
    ) and shared(0.72 / 1.28) == pytest.approx(0.72)


def literal_hits(detections, truths, threshold=0.5):
    "Whether each detection (score, picture, box) is right, best first; truths: (picture, box)."
    taken, right = set(), []
    for _, picture, box in sorted(detections, key=lambda d: -d[0]):
        here = [(float(iou(box, t)), j) for j, (p, t) in enumerate(truths) if p == picture]
        overlap, j = max(here, default=(0.0, None), key=lambda pair: pair[0])
        right.append(overlap > threshold and j not in taken)
        if right[-1]:
            taken.add(j)
    return right


def test_wheels():
    wheels = torch.tensor([[0.0, 0, 4, 4], [10, 0, 4, 4]])
    boxes = torch.tensor([[1.0, 0, 4, 4], [0, 0, 4, 4], [10, 0, 4, 8], [40, 40, 4, 4]])
    overlap = iou(boxes[:, None], wheels)
    assert (
        overlap[0, 0].item() == pytest.approx(0.6) and overlap[1, 0] == 1 and overlap[2, 1] == 0.5
    )
    assert true_positives(overlap[None, None, :, None], 0.5).flatten().tolist() == [
        True,
        False,
        False,
        False,
    ]
    assert true_positives(overlap[None, None, :, None], 0.5, strict=False).flatten().tolist() == [
        True,
        False,
        True,
        False,
    ]


def test_literal_and_fast():
    g, B, D, J = generator(3), 8, 5, 4
    truth = torch.cat([3 * torch.rand(B, J, 2, generator=g), torch.ones(B, J, 2)], -1)
    found = torch.cat([3 * torch.rand(B, D, 2, generator=g), torch.ones(B, D, 2)], -1)
    score = torch.rand(B, D, generator=g).sort(-1, descending=True).values
    fast = true_positives(iou(found[:, :, None], truth[:, None])[:, None, :, None], 0.2)[:, 0, :, 0]
    listed = [(float(score[b, d]), b, found[b, d]) for b in range(B) for d in range(D)]
    literal = literal_hits(listed, [(b, truth[b, j]) for b in range(B) for j in range(J)], 0.2)
    assert fast.flatten()[score.flatten().argsort(descending=True)].tolist() == literal and 0 < sum(
        literal
    ) < len(literal)


scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
hits = torch.tensor([True, False, True, False, False, True])[:, None]
four = torch.tensor([4])


def test_ap_by_hand():
    assert average_precision(scores, hits, four).item() == pytest.approx(13 / 24, abs=1e-15)
    assert average_precision(scores, hits, four, "eleven").item() == pytest.approx(
        6 / 11, abs=1e-15
    )
    shuffled = torch.tensor([3, 0, 5, 1, 4, 2])
    assert average_precision(scores[shuffled], hits[shuffled], four).item() == pytest.approx(
        13 / 24, abs=1e-15
    )


def test_interpolation():
    late = torch.tensor([True, False, False, True, True])[:, None]
    assert average_precision(scores[:5], late, torch.tensor([3])).item() == pytest.approx(
        (1 + 0.6 + 0.6) / 3, abs=1e-15
    )
    assert average_precision(scores[:5], late, torch.tensor([3]), "none").item() == pytest.approx(
        (1 + 0.5 + 0.6) / 3, abs=1e-15
    )


def test_scikit_learn():
    g = generator(1)
    tied = (torch.rand(3, 400, generator=g) * 25).round() / 25
    right = torch.rand(3, 400, 2, generator=g) < tied[..., None] * torch.tensor([0.9, 0.3])
    ours = average_precision(tied, right, torch.tensor([500, 900]), "none")
    theirs = [
        [
            average_precision_score(right[k, :, p], tied[k]) * float(right[k, :, p].sum()) / n
            for p, n in enumerate((500, 900))
        ]
        for k in range(3)
    ]
    assert torch.allclose(ours, torch.tensor(theirs, dtype=torch.float64), atol=1e-12)


def test_limits():
    every = torch.ones(6, 1, dtype=torch.bool)
    assert average_precision(scores, every, torch.tensor([8])).item() == 6 / 8
    none = torch.full((5,), -torch.inf)
    for rule in RULES:
        padded = average_precision(
            torch.cat([none, scores]), torch.cat([~every[:5], hits]), four, rule
        )
        assert padded.item() == average_precision(scores, hits, four, rule).item()
    assert (
        average_precision(torch.ones(6), hits, four).item()
        == average_precision(torch.ones(6), hits.flip(0), four).item()
        == 3 / 6 * 3 / 4
    )
    assert (
        average_precision(scores, hits, torch.tensor([0])).isnan()
        and average_precision(none[:0], every[:0], four).item() == 0
    )
    with pytest.raises(InputError, match="no rule 'voc'"):
        average_precision(scores, hits, four, "voc")


def literal_ap(right, positives):
    "right: best score first."
    points = [(sum(right[:m]) / positives, sum(right[:m]) / m) for m in range(1, len(right) + 1)]
    area, before = 0.0, 0.0
    for i, (recall, _) in enumerate(points):
        area += (recall - before) * max(p for _, p in points[i:])
        before = recall
    return area


def test_literal_ap():
    for seed in range(3):
        right = torch.rand(60, generator=generator(seed)) < 0.3
        n = int(right.sum()) + seed % 4 + 1
        assert average_precision(
            torch.linspace(1, 0, 60), right[:, None], torch.tensor([n])
        ).item() == pytest.approx(literal_ap(right.tolist(), n), abs=1e-12)


def test_peaks_by_hand():
    row = torch.tensor([0.9, 0.1, 0.5, 0.1, 0.0, 0.2, 0.8]).view(1, 1, 1, 7)
    score, point = peaks(row, 3, torch.tensor([4.0, 1.0]))
    assert score[0, 0].tolist() == pytest.approx([0.9, 0.8, -np.inf]) and point[
        0, 0, :2
    ].tolist() == [
        [0.5, 0.5],
        [6.5, 0.5],
    ]
    assert peaks(row)[0][0, 0].tolist() == pytest.approx([0.9, 0.8, 0.5])
    assert peaks(row, 3, torch.tensor([4.0, 1.0]), overlap=0.4)[0][0, 0].tolist() == pytest.approx(
        [0.9, 0.8, 0.5]
    )
    assert peaks(torch.zeros(1, 1, 3, 3))[0].isinf().all()


def test_torchvision_nms():
    maps = torch.rand(3, 4, 14, 14, generator=generator(0))
    box = torch.tensor([4.5, 6.0])
    score, point = peaks(maps, 40, box)
    b, k, y, x = ((maps == F.max_pool2d(maps, 3, 1, 1)) & (maps > 0)).nonzero(as_tuple=True)
    middle = torch.stack([x, y], -1) + 0.5
    kept = torchvision.ops.batched_nms(
        torch.cat([middle - box / 2, middle + box / 2], 1), maps[b, k, y, x], b * 4 + k, 0.3
    )
    for map_ in range(12):
        own = kept[(b * 4 + k)[kept] == map_]
        n = int(score.flatten(0, 1)[map_].isfinite().sum())
        assert len(own) == n < 40 and torch.equal(point.flatten(0, 1)[map_, :n], middle[own])


def test_batches():
    g = generator(7)
    scores, right = torch.rand(50, 6, 2, generator=g), torch.rand(50, 6, 2, 3, generator=g) < 0.3
    number = torch.full((50, 3), 2)
    whole = ScoredHits().update(scores, right, number)
    parts = ScoredHits()
    for b in (slice(0, 7), slice(7, 8), slice(8, 50)):
        parts.update(scores[b], right[b], number[b])
    table = whole.ap()
    assert (
        table.shape == (6, 3)
        and torch.equal(table, parts.ap())
        and torch.equal(table, whole.ap(budget=1))
    )
    named = ScoredHits(torch.tensor([4, 4, -1])).update(scores, right, number).ap()
    assert named[:2].tolist() == pytest.approx(table[4, :2].tolist(), abs=1e-12) and named[2] == 0
    assert table[5, 2].item() == pytest.approx(
        average_precision(
            scores[:, 5].flatten(), right[:, 5, :, 2:].flatten(0, 1), torch.tensor([100])
        ).item()
    )
    with pytest.raises(InputError, match="No picture"):
        ScoredHits().ap()


def test_assign():
    table = torch.tensor([[0.9, 0.8, torch.nan], [0.6, 0.1, torch.nan]])
    assert assign(table).tolist() == [0, 0, -1]
    assert assign(table, one_to_one=True).tolist() == [1, 0, -1]  # .6 + .8 beats .9 + .1
    assert assign(table[:1], one_to_one=True).tolist() == [0, -1, -1]


def test_averaged():
    flat = torch.zeros(1, 1, 9, 9)
    flat[..., 2:7, 2:7] = 1.0
    assert peaks(flat, 1)[1].flatten().tolist() == [2.5, 2.5] and peaks(averaged(flat, 0.6), 1)[
        1
    ].flatten().tolist() == [4.5, 4.5]
    assert (
        averaged(flat, 0.6)[0, 0, 0, 4] == pytest.approx(5 / 25)
        and averaged(flat, 0.2) is flat
        and averaged(flat, 0.34)[0, 0, 1, 1] == pytest.approx(1 / 9)
    )


class One(Collection):
    "A wide picture with a landmark in the middle; a second one, hidden."

    landmark_names, eyes = ("seen", "hidden"), (0, 1)

    def __len__(self):
        return 1

    def __getitem__(self, i):
        points = torch.tensor([[20.0, 10.0], [30.0, 10.0]])
        return Sample(
            torch.zeros(3, 20, 40),
            "one",
            landmarks=points,
            visible=torch.tensor([True, False]),
            box=torch.tensor([10.0, 0, 20, 20]),
        )


BATCH, FRAME = next(framed(One(), 20))


POINTS = torch.tensor([[12.0, 10], [13, 10]])[None, None] * FRAME / 20


def test_frame_and_distance():
    batch, frame, points = BATCH, FRAME, POINTS
    assert (
        batch.images.shape[2:] == (20, 20)
        and frame.tolist() == [[448, 224]]
        and batch.landmarks[0].tolist() == [[10, 10], [15, 10]]
    )
    points = torch.tensor([[12.0, 10], [13, 10]])[None, None] * frame / 20
    right, number = LandmarkDetection(unit="image").match(points, batch, frame, One())
    assert right[0, 0].tolist() == [[True, False], [False, False]] and number.tolist() == [[1, 0]]


def hits_in(unit, threshold):
    return (
        LandmarkDetection(unit=unit, threshold=threshold)
        .match(POINTS, BATCH, FRAME, One())[0][0, 0, :, 0]
        .tolist()
    )


def test_units():
    assert (
        hits_in("box", 0.1) == hits_in(None, 0.1) == [False, False]
        and hits_in("box", 0.21) == [True, False]
        and hits_in("box", 0.31) == [True, False]
    )
    assert hits_in("eyes", 0.39) == [False, False] and hits_in("eyes", 0.41) == [True, False]
    with pytest.raises(InputError, match="no unit 'pupil'"):
        hits_in("pupil", 0.1)


def test_reach_of_a_grid():
    g = generator(0)
    thrown = 16 * torch.rand(100_000, 2, generator=g)
    reached = ((thrown - 8).norm(dim=1) <= 4.8).float().mean()
    assert abs(float(reached) - np.pi * 4.8**2 / 16**2) < 0.01


def test_receptive_field():
    field, pitch = 1, 1
    for convolutions in (
        2,
        2,
        3,
        3,
    ):  # VGG-16 up to pool4: 3x3 convolutions, then a 2x2 pooling of stride 2
        field += convolutions * 2 * pitch + pitch
        pitch *= 2
    assert (field, pitch) == (100, 16)


def test_clipped():
    over = torch.tensor([[-10.0, 5, 30, 10], [90, -5, 20, 70], [120, 0, 5, 5]])
    assert clipped(over, torch.tensor([100.0, 50])).tolist() == [
        [0, 5, 20, 10],
        [90, 0, 10, 50],
        [120, 0, 0, 5],
    ]


def test_best_iou():
    square = torch.tensor([70.0, 71, 141, 142])
    inner = torch.stack([500 - square / 2, 500 - square / 2, square, square], 1)
    assert (best_iou(inner) > 0.5).tolist() == [False, True, True, False]
    assert torch.allclose(
        best_iou(inner), best_iou(inner, frame=torch.full((2,), 1000.0)), atol=1e-5
    )
    g, frame = generator(0), torch.tensor([300.0, 224])
    true = clipped(
        torch.cat(
            [torch.rand(60, 2, generator=g) * frame, 5 + 150 * torch.rand(60, 2, generator=g)], 1
        ),
        frame,
    )
    grid = torch.cartesian_prod(torch.linspace(0, 300, 151), torch.linspace(0, 224, 113))
    tried = iou(
        clipped(torch.cat([grid - 50, torch.full_like(grid, 100)], 1), frame), true[:, None]
    ).amax(1)
    best = best_iou(true, frame=frame)
    assert (
        (tried <= best + 1e-5).all()
        and (tried > best - 0.03).all()
        and ((best > 0.5) & (best > tried + 1e-4)).any()
    )


def test_by_part():
    listed = torch.arange(1.0, 17).view(1, 4, 4).repeat(2, 1, 1)
    boxes, there = by_part(listed, torch.tensor([[2, 1, 2, 2], [3, 0, 0, 0]]), 3)
    assert there.tolist() == [
        [[True, False, False], [True] * 3, [False] * 3],
        [[False] * 3, [False] * 3, [True, False, False]],
    ]
    assert (
        boxes[0, 1, :, 0].tolist() == [1, 9, 13]
        and boxes[0, 0, 0].tolist() == [5, 6, 7, 8]
        and boxes[1, 2, 0, 3] == 4
    )
    assert by_part(torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64), 3)[1].shape == (
        2,
        3,
        1,
    )
    with pytest.raises(InputError, match="is of part 3, but the collection names only 2"):
        by_part(listed, torch.tensor([[2, 1, 2, 2], [3, 0, 0, 0]]), 2)


class Carts(Collection):
    "Wide pictures of carts: a body, two or three dark wheels, a bright lamp."

    part_names = ("wheel", "lamp")
    skies = ((0.55, 0.75, 0.9), (0.75, 0.7, 0.85), (0.6, 0.8, 0.65))

    def __init__(self, numbers):
        self.numbers = list(numbers)

    def __len__(self):
        return len(self.numbers)

    def __getitem__(self, i):
        g = generator(self.numbers[i])
        x0, y0 = (
            torch.rand(2, generator=g) * torch.tensor([12.0, 10]) + torch.tensor([2.0, 12])
        ).tolist()
        n = 2 + int(torch.rand(1, generator=g) < 0.4)
        y, x = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(96) + 0.5, indexing="ij")
        image = torch.tensor(self.skies[self.numbers[i] % 3])[:, None, None] + 0.08 * torch.randn(
            3, 64, 96, generator=g
        )
        image[:, (x > x0) & (x < x0 + 76) & (y > y0) & (y < y0 + 24)] = torch.tensor(
            [[0.85], [0.3], [0.2]]
        )
        parts = torch.zeros(64, 96, dtype=torch.int64)
        circles = [(x0 + 14 + (47 / (n - 1)) * k, y0 + 26, 11.5, 0.12, 1) for k in range(n)] + [
            (x0 + 72, y0 + 8, 5, 0.98, 2)
        ]
        for cx, cy, r, grey, part in circles:
            inside = (x - cx) ** 2 + (y - cy) ** 2 < r * r
            image[:, inside], parts[inside] = grey, part
        boxes = torch.tensor([[cx - r, cy - r, 2 * r, 2 * r] for cx, cy, r, _, _ in circles])
        return Sample(
            image.clamp(0, 1),
            f"cart {self.numbers[i]}",
            parts=parts,
            part_boxes=boxes,
            box_parts=torch.tensor([c[4] for c in circles]),
        )


carts = Carts(range(100, 112))
protocol = PartDetection()
half = len(carts) // 2
learn = View(carts, indices=range(half))
hold = View(carts, indices=range(half, len(carts)))


def test_carts():
    batch, frame = next(framed(carts, 64, 8))
    true, there = protocol.truths(batch, frame, 2)
    assert frame[0].tolist() == [336, 224] and true[0, 0, 0, 2:].tolist() == pytest.approx(
        [80.5, 80.5], rel=1e-4
    )
    assert protocol.ceiling(carts).tolist() == [1, 0] and PartDetection(truth="squares").ceiling(
        carts
    ).tolist() == [1, 1]


class Cheat(Method):
    "A spike at the centre of each true box, in channel 2 for wheels and 1 for lamps."

    def __init__(self, collection, size=64):
        super().__init__(Settings(parts=2, size=size))
        self.known = {}
        for batch, _ in framed(collection, size, len(collection)):
            for image, boxes, parts in zip(batch.images, batch.part_boxes, batch.box_parts):
                self.known[float(image.double().sum())] = boxes[parts > 0], parts[parts > 0]

    def part_maps(self, images):
        maps = torch.zeros(len(images), 2, 64, 64)
        for i, image in enumerate(images):
            boxes, parts = self.known[float(image.double().sum())]
            x, y = (boxes[:, :2] + boxes[:, 2:] / 2).long().unbind(1)
            maps[i, 2 - parts, y, x] = 0.9 + 0.01 * torch.arange(len(parts))
        return maps


cheat = Cheat(carts)


def test_a_cheat_finds_everything():
    found = protocol.measure(protocol.detector(cheat), learn, hold, 64)
    assert found.channel[0] == 1 and found.average_precision.tolist() == [1, 0]
    assert protocol.evaluate(cheat, learn, hold) == {"map_iou": 50.0}
    assert PartDetection(truth="squares").evaluate(cheat, learn, hold) == {"map_iou": 100.0}
    assert PartDetection(truth="squares", most=1).measure(
        protocol.detector(cheat), learn, hold, 64
    ).average_precision.tolist() == [1, 1]
    single = PartDetection(most=1)
    wheels = int(found.scored.positives[0])
    assert single.measure(single.detector(cheat), learn, hold, 64).average_precision[
        0
    ].item() == pytest.approx(half / wheels)


def test_wrong_input():
    birds = Kept(View(collections["birds"].open(split="test", size=64), indices=range(2)))
    batch, frame = next(framed(carts, 64, 2))
    with pytest.raises(InputError, match="needs part_boxes annotations"):
        PartDetection().evaluate(cheat, birds, birds)
    with pytest.raises(InputError, match="no truth 'centres'; choose one of: annotated, squares"):
        PartDetection(truth="centres")
    with pytest.raises(InputError, match="pictures have none; choose unit='image'"):
        unit_of(batch, frame, "box")
    with pytest.raises(InputError, match="does not say which landmarks are eyes"):
        unit_of(batch, frame, "eyes")
    with pytest.raises(InputError, match="an overlap lies in"):
        peaks(torch.ones(1, 1, 2, 2), overlap=1.0)
    with pytest.raises(InputError, match="shape \\(B,K,h,w\\), not \\(2, 2\\)"):
        peaks(torch.ones(2, 2))


def test_pictures_are_not_averaged():
    one, other = (torch.tensor([0.2, 0.1]), torch.tensor([0.9, 0.8]))
    right = torch.tensor([True, False])[:, None]
    assert (
        average_precision(one, right, torch.tensor([1]))
        == average_precision(other, right, torch.tensor([1]))
        == 1
    )
    assert average_precision(
        torch.cat([one, other]), torch.cat([right, right]), torch.tensor([2])
    ).item() == pytest.approx((1 + 2 / 3) / 2)


def test_reachable_squares():
    sides = torch.linspace(1, 300, 2991)
    boxes = torch.stack([500 - sides / 2, 500 - sides / 2, sides, sides], 1)
    possible = sides[best_iou(boxes) > 0.5]
    assert possible.min().item() == pytest.approx(
        100 * 0.5**0.5, abs=0.1
    ) and possible.max().item() == pytest.approx(100 / 0.5**0.5, abs=0.1)
